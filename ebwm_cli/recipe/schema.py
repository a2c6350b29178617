"""What a run is: a tree of frozen facts, each with its unit and bounds.

A recipe is data only. It knows no tensor, no file and no device; `load.py` reads it from YAML, `world/build.py` turns
its `model` section into a network. Unknown keys are refused, and a knob lives in the section that reads it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.model import AnyModel, EbtSection
from ebwm_cli.recipe.section import Count, NonNegative, Positive, Section

SIZE_OPTION: dict[str, str] = {"video": "--latent-dim", "text": "--vocab-size"}
UNPREPARED: dict[str, str] = {
    "video": "data.state_dim=128 data.context=16",
    "text": "data.state_dim=4096 data.context=256",
}


Modality = Literal["video", "text"]


class StateSpec(Section):
    """What one state of a prepared set is; stored in its manifest and in every checkpoint."""

    modality: Modality = "video"
    state_dim: Count
    """Numbers per state: latent dimensions, or the tokens of the vocabulary."""
    context: Count
    """States of context in a window; a window holds one more."""

    @property
    def least_width(self) -> int:
        """Of a network: it must see all of a latent state; a token has no numbers to see."""
        return self.state_dim if self.modality == "video" else 1


class DataSection(Section):
    """What the recipe expects of the prepared set."""

    modality: Modality = "video"
    context: Count | None = None
    """States of context per training window; None takes the prepared set's. May be shorter than the set's."""
    state_dim: Count | None = None
    """Numbers per state the recipe is made for; None takes the prepared set's. `--plan` without a set needs it."""
    mix: bool = False
    """Training only: each window is a random rotation of two, cos(theta) * a + sin(theta) * b. For states
    that are linear in what they encode, as principal components are; small sets are then not learned by heart."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Training only: the share of the training part that is learned, the beginning of every clip or document."""


class TrainSection(Section):
    """How weights move."""

    steps: Count = 4000
    """Updates of the weights."""
    batch_size: Count = 32
    """Windows per update."""
    accumulate: Count = 1
    """Parts a batch is cut into, to fit in memory; the update is the same, but for the noise that the recipe draws.
    Several devices make as many parts each, so a batch is cut into the next multiple of their number."""
    learning_rate: Positive = 1e-3
    """Peak, per update."""
    warmup: Annotated[int, Field(ge=0)] = 200
    """Updates of linear warm-up."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    weight_decay: NonNegative = 0.01
    """On matrices only."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Of AdamW: squares of gradients are remembered for about 1 / (1 - beta2) updates. Large ones of the start keep
    later updates small for as long."""
    clip_norm: NonNegative = 1.0
    """Largest norm of the whole gradient; 0 clips nothing."""
    clip_spikes: NonNegative = 0.0
    """The same as a multiple of what it was of late; 0 clips nothing. How large gradients usually are depends on the
    set, and a batch whose gradient is a hundred times as large can undo all that was learned."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the trunk; energies and candidates are fp32 in both."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per update of the averaged weights that are validated and exported; 0 averages nothing."""
    validate_every: Count = 250
    """Updates between validations."""
    validate_windows: Count = 512
    """Most held-out windows looked at per validation, evenly spread over the val split."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better loss after which training ends; 0 never."""
    log_every: Count = 10
    """Updates between log lines."""
    save_every: Count = 500
    """Updates between checkpoints."""
    keep: Count = 2
    """Newest checkpoints kept, beside the best."""
    max_bad_steps: Count = 10
    """Updates in a row with a NaN or infinite loss or gradient after which the run ends."""
    shard: bool = False
    """Spread the weights over the devices. Refused: torch's FSDP2 loses the gradient of what learns by descending."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} must divide batch_size {self.batch_size}")
        return self


class ThinkSection(Section):
    """How candidates move when nothing is trained: validation, `eval` and `think` start from these."""

    steps: Annotated[int, Field(ge=0)] = 4
    """Descent steps."""
    cooling: NonNegative = 0.0
    """Move k, from 0, is 1 / (1 + cooling * k) as long. The energy keeps its bottom, and candidates that would
    overshoot it for ever come to rest; 0 is the published form."""
    samples: Count = 1
    """Starts per position, of which the lowest final energy is kept."""
    start_noise: NonNegative = 0.1
    """Std added to the starts after the first where samples > 1, in state units."""
    select: Literal["energy", "gap", "mean", "random"] = "energy"
    """samples > 1: the prediction is the sample of the lowest final energy, the one whose energy fell most, the mean of
    all, or any one of them."""
    beam: Count = 1
    """samples > 1 and select=energy: futures that a rollout keeps side by side, by the sum of their energies."""
    stop: Literal["fixed", "energy", "still"] = "fixed"
    """Spend all steps, or stop each position when its energy has settled, or when its moves have become small."""
    tolerance: Positive = 0.01
    """stop=energy: a position has settled when a step lowers its energy by less than this fraction of `drop`.
    stop=still: when a move is shorter than this fraction of its first."""
    drop: Literal["own", "typical"] = "own"
    """stop=energy: of the position's own whole drop so far, or of the mean drop in training, the same for all: what
    has farther to fall then thinks longer. Energy models alone keep that mean; others go by their own."""
    patience: Count = 1
    """Steps in a row that must be so."""
    backtrack: bool = False
    """Whether a move that would raise the total energy is halved, then refused; costs one more look per step."""

    @model_validator(mode="after")
    def _beam_has_its_samples(self) -> Self:
        """A beam keeps the lowest sums of energies of several samples, whatever else would be selected."""
        if self.beam > 1 and self.samples == 1:
            raise ValueError(f"beam={self.beam}: futures are kept of several samples, samples=1 has one")
        if self.beam > 1 and self.select != "energy":
            raise ValueError(f"beam={self.beam}: futures are kept by their energies, not by select={self.select}")
        return self


class Recipe(Section):
    """One run, with every default written out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)] = "recipe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    tour: bool = False
    """`ebwm train` first prepares the built-in demo if there is none, and evaluates and thinks afterwards."""
    data: DataSection = DataSection()
    model: AnyModel = EbtSection()
    train: TrainSection = TrainSection()
    think: ThinkSection = ThinkSection()

    @model_validator(mode="after")
    def _fits_modality(self) -> Self:
        """Keys that say nothing about this kind of state are refused rather than ignored."""
        model, usual = self.model, type(self.model).model_fields
        if self.data.modality == "video":
            if model.tokens != usual["tokens"].default:
                raise ValueError("model.tokens: is for data.modality=text")
            return self
        if self.data.mix:
            raise ValueError("data.mix: tokens can't be rotated into one another")
        if isinstance(model, EbtSection) and model.start == "last":
            raise ValueError("model.start: the last token says nothing of the next; zeros, noise or forecast")
        for key in ("appearance", "motion", "context_noise", "residual"):
            if key in usual and getattr(model, key) != usual[key].default:
                raise ValueError(f"model.{key}: is for data.modality=video")
        return self

    def state_spec(self, prepared: StateSpec | None = None) -> StateSpec:
        """The states this recipe is trained on: the prepared set's, or (without one) the recipe's own.

        Raises RecipeError where the two disagree, where neither says, or where a state does not fit the width: an
        energy of a wider state sees only a projection of it, so what descent can't see stays in the prediction.
        """
        if prepared is None:
            if self.data.state_dim is None or self.data.context is None:
                raise RecipeError(
                    f"recipe {self.name} says nothing of data.state_dim and data.context, and there is no prepared set",
                    f"ebwm prepare {self.data.modality}, or add {UNPREPARED[self.data.modality]}",
                )
            prepared = StateSpec(modality=self.data.modality, state_dim=self.data.state_dim, context=self.data.context)
        if self.data.modality != prepared.modality:
            raise RecipeError(
                f"data.modality: the recipe is for {self.data.modality}, the set is {prepared.modality}",
                f"ebwm train {prepared.modality}_ebt_4xs, or --data with a set of {self.data.modality}",
            )
        if self.data.state_dim not in (None, prepared.state_dim):
            raise RecipeError(
                f"data.state_dim: the recipe is for {self.data.state_dim}, the prepared set has {prepared.state_dim}",
                f"ebwm prepare {prepared.modality} --src DIR {SIZE_OPTION[prepared.modality]} {self.data.state_dim}, "
                "or data.state_dim=null",
            )
        context = self.data.context or prepared.context
        if context > prepared.context:
            raise RecipeError(
                f"data.context: the recipe asks for {context} states, the set's windows hold {prepared.context}",
                f"ebwm prepare {prepared.modality} --src DIR --context {context}, or data.context={prepared.context}",
            )
        if prepared.least_width > self.model.width:
            raise RecipeError(
                f"model.width: {self.model.width} is below the state dimension {prepared.state_dim}; the energy would "
                "see only a projection of each candidate",
                f"ebwm prepare video --src DIR --latent-dim {self.model.width}, or model.width={prepared.state_dim}",
            )
        return prepared.model_copy(update={"context": context})
