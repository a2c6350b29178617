"""What a run is: a tree of frozen facts, each with its unit and bounds.

A recipe is data only. It knows no tensor, no file and no device; `load.py` reads it from YAML, `world/build.py` turns
its `model` section into a network. Unknown keys are refused, and a knob lives in the section that reads it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ebwm_cli.errors import RecipeError

SIZE_OPTION: dict[str, str] = {"video": "--latent-dim", "text": "--vocab-size"}
UNPREPARED: dict[str, str] = {
    "video": "data.state_dim=128 data.context=16",
    "text": "data.state_dim=4096 data.context=256",
}


class Section(BaseModel):
    """Base of all sections: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Modality = Literal["video", "text"]


class StateSpec(Section):
    """What one state of a prepared set is; stored in its manifest and in every checkpoint."""

    modality: Modality = "video"
    state_dim: Count
    """Numbers per state: latent dimensions, or the tokens of the vocabulary."""
    context: Count
    """States of context in a window; a window holds one more."""


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


class DescentSection(Section):
    """How a candidate moves: y <- y - alpha * dE/dy - lambda * (y - y0) + sigma * eps."""

    steps: Steps | tuple[Count, Count] = 2
    """Descent steps that carry loss in training; a pair [low, high] is drawn per batch, both ends included. 0 leaves
    the forecast as it is: a plain autoregressive transformer, which needs start=forecast."""
    free_steps: tuple[Steps, Steps] = (0, 4)
    """Descent steps taken without loss before those, drawn per batch, so that training sees candidates that have
    already settled; (0, 0) is the published form."""
    step_size: Positive = 1.0
    """alpha, in state units squared per unit of energy; 1 suits unit-variance latents."""
    learn_step_size: bool = True
    """Whether alpha is a parameter (System 1) or stays as given."""
    step_size_lr_scale: NonNegative = 3.0
    """Learning rate of alpha = this * alpha * lr (EBT, arXiv 2507.02092)."""
    anchor: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """lambda, the pull back to the start per step (fraction of the distance); 0 is the published form."""
    step_size_jitter: Annotated[float, Field(ge=1)] = 1.0
    """Training only: alpha is drawn log-uniformly from [alpha / j, alpha * j] per position; 1 draws nothing."""
    langevin_noise: NonNegative = 0.0
    """Training only: std of the Gaussian added to a candidate after each move, in state units."""
    gradient_clamp: NonNegative = 0.0
    """Largest norm of dE/dy per position, in energy per state unit; 0 clamps nothing."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("steps", "free_steps"):
            value = getattr(self, key)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{key}: the low end {value[0]} is above the high end {value[1]}")
        return self

    @property
    def steps_range(self) -> tuple[int, int]:
        """Trained descent steps as (low, high)."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps, self.steps)


class TokenSection(Section):
    """How logits over a vocabulary move. p = softmax(z) is where the energy is evaluated; text only."""

    rule: Literal["mirror", "logits", "replace"] = "mirror"
    """`mirror`: z <- z - alpha * dE/dp, descent in the geometry of distributions. `logits`: z <- z - alpha * dE/dz,
    which flattens where p is sure. `replace`: z <- p - alpha * dE/dp, the published rule, which forgets z."""
    table: Literal["shared", "own"] = "shared"
    """Whether candidates are embedded by the table that observed tokens are read with, or by one of their own."""


class EbtSection(Section):
    """The energy-based transformer and the way its candidates move."""

    kind: Literal["ebt"] = "ebt"
    layers: Count = 2
    width: Annotated[int, Field(ge=2)] = 128
    """Channels per position; must be a multiple of heads, and at least the state dimension."""
    heads: Count = 2
    ffn_multiplier: Positive = 1.0
    """Hidden width of SwiGLU as a multiple of width."""
    step_conditioning: Literal["none", "embedding", "adaln"] = "none"
    """How the candidate stream learns which descent step it is in."""
    landscapes: Count = 1
    """Distinct energy functions by descent step, where step_conditioning is on; later steps share the last."""
    start: Literal["noise", "zeros", "last", "forecast"] = "last"
    """The candidate before step 0."""
    start_noise: NonNegative = 0.0
    """Training only: std of the Gaussian added to the start, in state units."""
    appearance: NonNegative = 1.0
    """Weight of an observed state itself in what the network reads of it."""
    motion: NonNegative = 0.0
    """Weight of its difference from the state before it; 0 is the published form."""
    context_noise: NonNegative = 0.0
    """Training only: largest std of the Gaussian added to the observed states the network reads, in state units; each
    window draws its own from 0 to this, and the start stays clean. It keeps small sets from being learned by heart."""
    compatibility: bool = False
    """Whether the energy has a term - <h, c> / sqrt(width): h what the context says, c the embedded candidate. For
    tokens it is a language model's output layer, which the rest of the energy improves on."""
    tokens: TokenSection = TokenSection()
    descent: DescentSection = DescentSection()

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width: {self.width} must be heads ({self.heads}) times an even head size")
        if not (self.appearance or self.motion):
            raise ValueError("appearance: it and motion can't both be 0, the network would read nothing")
        if self.step_conditioning == "none" and self.landscapes > 1:
            raise ValueError("landscapes: more than one needs step_conditioning=embedding or adaln")
        if self.tokens.rule == "replace" and self.descent.anchor:
            raise ValueError("descent.anchor: tokens.rule=replace forgets where it started, so it must be 0")
        if self.descent.steps == 0 and (self.start != "forecast" or any(self.descent.free_steps)):
            raise ValueError("descent.steps: 0 needs start=forecast and free_steps=[0,0]; nothing else is learned")
        return self


class TrainSection(Section):
    """How weights move."""

    steps: Count = 4000
    """Updates of the weights."""
    batch_size: Count = 32
    """Windows per update."""
    accumulate: Count = 1
    """Parts a batch is cut into, to fit in memory; the update is the same."""
    learning_rate: Positive = 1e-3
    """Peak, per update."""
    warmup: Annotated[int, Field(ge=0)] = 200
    """Updates of linear warm-up."""
    final_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the end of the cosine, as a fraction of the peak."""
    weight_decay: NonNegative = 0.01
    """On matrices only."""
    clip_norm: NonNegative = 1.0
    """Largest norm of the whole gradient; 0 clips nothing."""
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

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} must divide batch_size {self.batch_size}")
        return self


class ThinkSection(Section):
    """How candidates move when nothing is trained: validation, `eval` and `think` start from these."""

    steps: Annotated[int, Field(ge=0)] = 4
    """Descent steps."""
    samples: Count = 1
    """Starts per position, of which the lowest final energy is kept."""
    start_noise: NonNegative = 0.1
    """Std added to the starts after the first where samples > 1, in state units."""
    stop: Literal["fixed", "energy"] = "fixed"
    """Spend all steps, or stop each position when its energy has settled."""
    tolerance: Positive = 0.01
    """stop=energy: a position has settled when a step lowers its energy by less than this fraction of its whole
    drop so far."""


class Recipe(Section):
    """One run, with every default written out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)] = "recipe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    tour: bool = False
    """`ebwm train` first prepares the built-in demo if there is none, and evaluates and thinks afterwards."""
    data: DataSection = DataSection()
    model: EbtSection = EbtSection()
    train: TrainSection = TrainSection()
    think: ThinkSection = ThinkSection()

    @model_validator(mode="after")
    def _fits_modality(self) -> Self:
        """Keys that say nothing about this kind of state are refused rather than ignored."""
        model, usual = self.model, EbtSection.model_fields
        if self.data.modality == "video":
            if model.tokens != TokenSection():
                raise ValueError("model.tokens: is for data.modality=text")
            return self
        if self.data.mix:
            raise ValueError("data.mix: tokens can't be rotated into one another")
        if model.start == "last":
            raise ValueError("model.start: the last token says nothing of the next; zeros, noise or forecast")
        for key in ("appearance", "motion", "context_noise"):
            if getattr(model, key) != usual[key].default:
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
        if prepared.modality == "video" and prepared.state_dim > self.model.width:
            raise RecipeError(
                f"model.width: {self.model.width} is below the state dimension {prepared.state_dim}; the energy would "
                "see only a projection of each candidate",
                f"ebwm prepare video --src DIR --latent-dim {self.model.width}, or model.width={prepared.state_dim}",
            )
        return prepared.model_copy(update={"context": context})
