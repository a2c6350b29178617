"""Reports: one frozen record per thing a command has to say.

Commands yield them, the console draws them, `--json` and the run folder write them; so screen and files can't disagree.
A report knows no terminal and computes nothing. Energies are total energies (anchor included), losses are means over
held-out or training positions, seconds are wall-clock.
"""

from __future__ import annotations

from ebwm_cli.run.report_base import Report
from ebwm_cli.run.report_compare import ComparisonRow
from ebwm_cli.run.report_think import DescentRow as DescentRow
from ebwm_cli.run.report_think import ThinkReport as ThinkReport
from ebwm_cli.run.report_think import TokenChance as TokenChance


class Notice(Report):
    """A sentence worth reading while a command runs: a resume, a partial clip, a skipped step."""

    notice: str


# ---------------------------------------------------------------------------------------------- prepare


class ClipReport(Report):
    """Progress of `prepare`: one clip has been decoded, taken from an earlier run, or set aside."""

    clip: str
    frames: int
    """Frames decoded (not: kept)."""
    states: int
    """Frames kept."""
    reused: bool
    reason: str | None
    """Why it was quarantined, or why it is partial; None where it is whole."""
    quarantined: bool
    done: int
    total: int
    frames_per_second: float
    eta_seconds: float


class WindowCounts(Report):
    """Windows of context + 1 states per split."""

    train: int
    val: int
    test: int


class Quarantined(Report):
    """One file that could not be used."""

    file: str
    reason: str


class PrepareReport(Report):
    """What `ebwm prepare` made."""

    out: str
    clips: int
    frames: int
    """Frames decoded from the clips that were kept."""
    states: int
    windows: WindowCounts
    context: int
    latent_dim: int
    encoder: str
    explained_variance: float | None
    split_by: str
    """`clip` or `time`."""
    quarantined: list[Quarantined]
    reused_clips: int
    seconds: float
    frames_per_second: float
    """Frames decoded in this run over the seconds spent decoding; 0 where nothing was decoded."""


# ---------------------------------------------------------------------------------------------- train


class PlanReport(Report):
    """What `ebwm train --plan` foresees; nothing is written."""

    recipe: str
    kind: str
    params: int
    params_non_embedding: int
    flops_per_step: float
    flops_total: float
    flops_per_state: float
    """Of thinking about one next state with the recipe's think section, context cached."""
    devices: int
    memory_bytes: int
    """Of each device."""
    disk_bytes: int
    steps: int
    windows: int | None
    seconds_estimate: float | None
    """From a few measured steps where a prepared set is there, else None; the deadline, where there is one."""
    matched: str | None = None
    """What the recipe was matched to, and how closely; None where it is as written."""
    deadline: bool = False
    """Whether training ends by the clock; `steps` are then those that fit, where they could be measured."""


class TrainLine(Report):
    """One log line of training, averaged over the updates since the last."""

    step: int
    steps: int
    loss: float
    energy_start: float | None = None
    """Here and below: None where nothing descends."""
    energy_final: float | None = None
    """Energy of the last candidate evaluated, one move before the end."""
    step_size: float | None = None
    grad_norm: float
    learning_rate: float
    states_per_second: float
    seconds: float
    """Training time so far, over all resumes."""
    eta_seconds: float
    skipped: int
    """Updates skipped so far because of a NaN or infinity."""


class ValidationLine(Report):
    """One validation during training."""

    step: int
    val_loss: float
    perplexity: float | None
    """exp(val_loss), where the loss is in nats."""
    reference: str
    """The predictor without a network that is to be beaten, in words."""
    reference_loss: float
    energy_start: float | None
    """Total energy or denoising error; None where the model has none."""
    energy_final: float | None
    best: bool
    seconds: float


class TrainReport(Report):
    """The end of a training run."""

    out: str
    checkpoint: str
    step: int
    val_loss: float
    perplexity: float | None
    reference: str
    reference_loss: float
    params: int
    flops_per_step: float
    seconds: float
    states_per_second: float
    skipped: int
    updating_seconds: float | None = None
    """Seconds spent on updates, over all resumes; without validation and saving. None in reports of earlier versions,
    which didn't count them."""
    one_pass: bool = False
    """Whether the model says the next state in one pass, so that there are no steps to think for. False in reports of
    earlier versions, whatever it does."""


# ---------------------------------------------------------------------------------------------- eval


class StepsRow(Report):
    """Held-out loss when thinking for this many steps, from one start. `seconds` is per predicted state."""

    steps: int
    loss: float
    perplexity: float | None
    """exp(loss), where the loss is in nats."""
    energy: float
    """Mean final score, see EvalReport.score, as descents go by it: not levelled, so that it falls from row to row if
    they fall. A level measures each end by where it lies, and so says other things of other numbers of steps."""
    rises: float
    """Share of all moves, of each state by itself, that raised the score."""
    seconds: float


class SamplesRow(Report):
    """Held-out loss with this many starts per state and this way of choosing among them."""

    samples: int
    select: str
    loss: float
    perplexity: float | None
    difference: float | None = None
    """loss - loss of a sample picked blindly; None for that one, and of one sample."""
    ci95: tuple[float, float] | None = None
    """Of it: paired bootstrap over held-out windows; None where they are too few."""


class StopRow(Report):
    """Held-out loss when each state may stop by itself, from one start, and what was then really spent."""

    stop: str
    """What a state waits for: see ThinkSection.stop."""
    steps: int
    """Most descent steps."""
    loss: float
    steps_used: float
    """On average."""
    counts: list[int]
    """States that used 0, 1, 2 .. steps."""
    flops_per_state: float
    """Really spent: who has stopped is computed no more."""


class RolloutRow(Report):
    """Held-out loss this many states ahead, predictions fed back."""

    horizon: int
    loss: float
    reference_loss: float
    """Of the reference, from the last observed state alone."""
    psnr: float | None
    """Of the decoded frames, in dB; None where states are no frames."""


class ReferenceRow(Report):
    """Held-out loss of a predictor that needs no network."""

    name: str
    loss: float
    perplexity: float | None


class Difference(Report):
    """Paired bootstrap over held-out windows of loss(this) - loss(other)."""

    other: str
    mean: float
    ci95: tuple[float, float] | None
    """None where there are too few windows."""


class QuestionsRow(Report):
    """How questions were answered. By energy: the continuation whose tokens have the lowest energies; by likelihood:
    the likeliest. None where there were no such questions, or no energies."""

    questions: int
    multiple_choice: int
    """Questions with choices."""
    chance: float | None
    """Accuracy of picking a choice blindly."""
    accuracy_by_energy: float | None
    accuracy_by_likelihood: float | None
    exact_match_by_energy: float | None
    """Of questions without choices: the continuation picked among those written is the answer."""
    exact_match_by_likelihood: float | None


class EvalReport(Report):
    """What `ebwm eval` measured on held-out windows."""

    checkpoint: str
    data: str
    split: str
    windows: int
    loss: float
    """With the think section's steps and samples."""
    score: str | None
    """What the energies are: energy, or denoising error; None where the model predicts in one pass and has none."""
    steps: int
    """Of thinking; 0 where it predicts in one pass."""
    samples: int = 1
    """Starts of thinking, which `loss` and `flops_per_state` are with, `by_steps` and `by_stop` are not."""
    by_steps: list[StepsRow]
    """Empty, like `by_samples`, where it predicts in one pass."""
    by_stop: list[StopRow]
    """All of the largest number of steps, and stopping before; empty where it predicts in one pass."""
    by_samples: list[SamplesRow]
    references: list[ReferenceRow]
    """Predictors that need no network, the one to beat first."""
    copy_last_loss: float | None
    """The one that copies the last state; None where that means nothing."""
    mean_loss: float
    """The one that predicts the mean training state; for tokens, unigram frequencies."""
    against: list[Difference]
    """Against the reference to beat, and against each other checkpoint."""
    comparison: list[ComparisonRow]
    """This checkpoint, each other, then the references; empty where there is no other."""
    energy_error_spearman: float | None
    """None, here and below, where one side is constant, as where there are no energies."""
    doubt: str
    """The trivial predictor of error: size of the predicted move, or entropy of the prediction."""
    doubt_error_spearman: float | None
    partial_spearman: float | None
    """Of energy with error, given that trivial predictor."""
    rollout: list[RolloutRow]
    stride: int
    """Predictions per window, and states between windows: the last so many of a context."""
    perplexity: float | None
    """exp(loss), where the loss is in nats."""
    bits_per_byte: float | None
    """loss in bits over the bytes of the predicted tokens."""
    questions: QuestionsRow | None
    params: int
    flops_per_state: float
    """With the think section's steps and samples, whether or not states stop before."""
    seconds: float
    files: list[str]
