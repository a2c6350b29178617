"""What a network is, kind by kind: the energy-based transformer and its rivals, and the budget one is matched to.

    kind: ebt | transformer | rnn | diffusion

What all kinds share stands in ModelSection, what those on the trunk share in TrunkSection. Data only: `world/build.py`
is where a kind becomes a class.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from ebwm_cli.recipe.section import Count, NonNegative, Positive, Section, Steps


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
    step_control: Literal["learned", "fixed", "spectral"] = "learned"
    """`learned`: alpha is a parameter (System 1). `fixed`: it stays as given. `spectral`: as given, and shortened where
    the energy is so curved that a move would overshoot."""
    spectral_fraction: Annotated[float, Field(gt=0, lt=2)] = 1.0
    """step_control=spectral: alpha * curvature + lambda is brought down to this, per position; 2 is the edge of
    stability."""
    step_size_lr_scale: NonNegative = 3.0
    """Learning rate of alpha = this * alpha * lr (EBT, arXiv 2507.02092)."""
    anchor: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """lambda, the pull back to the start per step (fraction of the distance); 0 is the published form."""
    anchor_fit: bool = False
    """Whether lambda is fitted to the validation windows whenever those are looked at, for thinking; training keeps
    `anchor`, and learns nothing else for it."""
    step_size_jitter: Annotated[float, Field(ge=1)] = 1.0
    """Training only: alpha is drawn log-uniformly from [alpha / j, alpha * j] per position; 1 draws nothing."""
    langevin_noise: NonNegative = 0.0
    """Training only: std of the Gaussian added to a candidate after each move, in state units."""
    gradient_clamp: NonNegative = 0.0
    """Largest norm of dE/dy per position, in energy per state unit; 0 clamps nothing."""
    unroll: bool = False
    """Whether the loss goes back through all trained steps at once; else each is learned by itself, which needs the
    memory of one."""
    loss_on: Literal["all", "last"] = "all"
    """Which of the trained steps carry loss."""
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a batch that is made of windows seen before, whose candidates start where they had arrived."""
    replay_size: Count = 256
    """Windows that are kept for that."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("steps", "free_steps"):
            value = getattr(self, key)
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{key}: the low end {value[0]} is above the high end {value[1]}")
        if self.anchor_fit and not self.anchor:
            raise ValueError("anchor_fit: there is no pull to fit where anchor is 0")
        return self

    @property
    def steps_range(self) -> tuple[int, int]:
        """Trained descent steps as (low, high)."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps, self.steps)


class EnergiesSection(Section):
    """What energies should mean beside leading downhill: weights of terms of the training loss, and their level."""

    regression: NonNegative = 0.0
    """The total energy of random candidates is fitted to half their squared distance to the truth (tokens: to their
    cross-entropy), so that its minimum is the expected state, and its value there the uncertainty."""
    regression_noise: NonNegative = 0.3
    """Std of the Gaussian on those candidates, which lie between start and truth; in state units."""
    contrast: NonNegative = 0.0
    """The total energy of the truth against that of other windows' states, other times' and near misses (InfoNCE)."""
    regularization: NonNegative = 0.0
    """Mean square of the energies of truth and prediction, per number of a state."""
    level: bool = False
    """No term of the loss: whenever a model is kept, what energies are measured in is fitted to training windows, for
    every context its own: where descents end, the error to be expected of a prediction, and how much higher than true
    next states false ones lie. So energies after different contexts compare. No candidate moves otherwise for it:
    predictions stay what they are."""

    @property
    def any(self) -> bool:
        """Whether there is such a term."""
        return bool(self.regression or self.contrast or self.regularization)


class TableSection(Section):
    """How tokens are embedded; text only."""

    table: Literal["shared", "own"] = "shared"
    """Whether the next token is written by the table that observed tokens are read with, or by one of its own: as
    candidates' embedding, and as output layer."""


class TokenSection(TableSection):
    """How logits over a vocabulary move. p = softmax(z) is where the energy is evaluated; text only."""

    rule: Literal["mirror", "logits", "replace"] = "mirror"
    """`mirror`: z <- z - alpha * dE/dp, descent in the geometry of distributions. `logits`: z <- z - alpha * dE/dz,
    which flattens where p is sure. `replace`: z <- p - alpha * dE/dp, the published rule, which forgets z."""


class MatchSection(Section):
    """The same budget as another recipe: a size, an amount of training, or both."""

    params: Positive | None = None
    """Parameters: a multiple of those of `of`, or a number where there is no `of`. Layers, width and FFN are chosen."""
    flops: Positive | None = None
    """FLOPs of the whole training, inner steps counted: a multiple, or a number. train.steps is chosen, warmup with
    it."""
    seconds: Positive | None = None
    """Seconds of updating: a multiple of what `of` is measured to take here, or a number. Training ends then, whatever
    train.steps says, and the learning rate's schedule runs over it; two such runs are never equal bit for bit."""
    of: str | None = None
    """The recipe whose budget it is: a shipped name or a path."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.params is None and self.flops is None and self.seconds is None:
            raise ValueError("match: name params, flops or seconds")
        if self.flops is not None and self.seconds is not None:
            raise ValueError("match: flops and seconds both end the training; name one")
        return self


class ModelSection(Section):
    """What every kind has."""

    kind: str
    match: MatchSection | None = None
    """The budget that this model's size or training is fitted to; null: as written."""
    layers: Count = 2
    width: Annotated[int, Field(ge=2)] = 128
    """Channels per position; must be a multiple of heads, and at least the state dimension."""
    appearance: NonNegative = 1.0
    """Weight of an observed state itself in what the network reads of it."""
    motion: NonNegative = 0.0
    """Weight of its difference from the state before it; 0 is the published form."""
    context_noise: NonNegative = 0.0
    """Training only: largest std of the Gaussian added to the observed states the network reads, in state units; each
    window draws its own from 0 to this, and the start stays clean. It keeps small sets from being learned by heart."""
    tokens: TableSection = TableSection()

    @model_validator(mode="after")
    def _reads(self) -> Self:
        if not (self.appearance or self.motion):
            raise ValueError("appearance: it and motion can't both be 0, the network would read nothing")
        return self

    @property
    def width_step(self) -> int:
        """Widths to choose from are multiples of this."""
        return 2


class TrunkSection(ModelSection):
    """A stack of attention blocks."""

    heads: Count = 2
    ffn_multiplier: Positive = 1.0
    """Hidden width of SwiGLU as a multiple of width."""

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width: {self.width} must be heads ({self.heads}) times an even head size")
        return self

    @property
    def width_step(self) -> int:
        return 2 * self.heads


class EbtSection(TrunkSection):
    """The energy-based transformer and the way its candidates move."""

    kind: Literal["ebt"] = "ebt"
    step_conditioning: Literal["none", "embedding", "adaln"] = "none"
    """How the candidate stream learns which descent step it is in."""
    landscapes: Count = 1
    """Distinct energy functions by descent step, where step_conditioning is on; later steps share the last."""
    start: Literal["noise", "zeros", "last", "forecast"] = "last"
    """The candidate before step 0."""
    start_noise: NonNegative = 0.0
    """Training only: std of the Gaussian added to the start, in state units."""
    compatibility: bool = False
    """Whether the energy has a term - <h, c> / sqrt(width): h what the context says, c the embedded candidate. For
    tokens it is a language model's output layer, which the rest of the energy improves on."""
    head: Literal["linear", "squares"] = "linear"
    """What reads the energy from a hidden state: a linear map, or half the sum of squares of one, which no candidate
    makes negative."""
    tokens: TokenSection = TokenSection()
    descent: DescentSection = DescentSection()
    energies: EnergiesSection = EnergiesSection()

    @model_validator(mode="after")
    def _descends(self) -> Self:
        if self.step_conditioning == "none" and self.landscapes > 1:
            raise ValueError("landscapes: more than one needs step_conditioning=embedding or adaln")
        if self.tokens.rule == "replace" and self.descent.anchor:
            raise ValueError("descent.anchor: tokens.rule=replace forgets where it started, so it must be 0")
        if self.head == "squares" and self.compatibility:
            raise ValueError("head: squares are bounded below, which the term of compatibility is not; choose one")
        if self.descent.steps == 0 and (self.start != "forecast" or any(self.descent.free_steps)):
            raise ValueError("descent.steps: 0 needs start=forecast and free_steps=[0,0]; nothing else is learned")
        return self


class TransformerSection(TrunkSection):
    """The same trunk, which says the next state in one pass: an autoregressive transformer (Transformer++)."""

    kind: Literal["transformer"] = "transformer"
    residual: bool = True
    """Whether the head predicts the difference from the last state; video only."""


class RnnSection(ModelSection):
    """A recurrent network, which says the next state in one pass and remembers a vector."""

    kind: Literal["rnn"] = "rnn"
    cell: Literal["gru", "lstm"] = "gru"
    """Gated recurrent units, or long short-term memory."""
    residual: bool = True
    """Whether the head predicts the difference from the last state; video only."""


class DiffusionSection(TrunkSection):
    """The same trunk, whose candidate stream holds a noisy next state and says the clean one."""

    kind: Literal["diffusion"] = "diffusion"
    residual: bool = True
    """Whether the head predicts the clean state's difference from the last state; video only."""


KINDS: dict[str, type[ModelSection]] = {
    "ebt": EbtSection,
    "transformer": TransformerSection,
    "rnn": RnnSection,
    "diffusion": DiffusionSection,
}
DEFAULT_KIND = "ebt"


def kind_of(model: Any) -> Any:
    """The kind that a model section, read or still a tree, is of."""
    return model.get("kind", DEFAULT_KIND) if isinstance(model, dict) else getattr(model, "kind", None)


AnyModel = Annotated[
    Annotated[EbtSection, Tag("ebt")]
    | Annotated[TransformerSection, Tag("transformer")]
    | Annotated[RnnSection, Tag("rnn")]
    | Annotated[DiffusionSection, Tag("diffusion")],
    Discriminator(kind_of),
]
"""A model section of any kind; one without a kind is the default's."""
