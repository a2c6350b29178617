"""Reports of `ebwm eval --by difficulty`: what a model makes of states of which is known how hard they are.

Frozen pydantic records, also written to the run folder as difficulty.json. They must not know worlds or terminals.
"""

from __future__ import annotations

from ebwm_cli.run.report import Report
from ebwm_cli.run.report_facets import StepsLoss


class DifficultyRow(Report):
    """One class of states that are equally hard to foresee. Where there is none of it, numbers are None."""

    label: int
    name: str
    group: str
    positions: int
    """Predictions that are of this class."""
    reference_loss: float | None
    """Of the predictor that needs no network."""
    loss: float | None
    """Of a model that predicts in one pass; None of one that takes steps."""
    by_steps: list[StepsLoss]
    """Loss when exactly so many steps are spent; empty for one pass."""
    change: float | None
    """Of the loss from `few` steps to `many`, as a fraction of the former."""
    change_ci95: tuple[float, float] | None
    """Its 95 % interval, from resampling windows; None where they are too few to say."""
    steps_used: float | None
    """Mean, where each position stops once its score has settled."""
    stopped_loss: float | None
    """Loss of the same predictions."""


class DifficultyGroup(Report):
    """Classes that are ranked against one another. Correlations are None where they are undefined."""

    group: str
    positions: int
    steps_spearman: float | None
    """Rank correlation of the steps used with difficulty, over positions; of predictions that stop by their score."""
    error_spearman: float | None
    """Rank correlation of the error of the same predictions with difficulty; of one pass, of its error."""
    reference_spearman: float | None
    """Rank correlation of the reference's error with difficulty."""
    steps_error_spearman: float | None
    """Rank correlation of the steps used with the model's own error when the most steps are spent: whether it thinks
    longer where it is wrong, whatever the labels say."""


class DifficultyReport(Report):
    """What `ebwm eval --by difficulty` measured on held-out windows."""

    checkpoint: str
    kind: str
    score: str | None
    """What its steps lower; None where it predicts in one pass."""
    data: str
    split: str
    labels: str
    """What the labels count."""
    windows: int
    stride: int
    """Predictions per window."""
    labelled: int
    """Predictions with a label."""
    reference: str
    """The predictor whose loss stands beside the model's."""
    few: int | None
    """Steps that `change` is from; None for one pass."""
    many: int | None
    """Steps that `change` is to."""
    budget: int | None
    """Steps that a prediction which stops by its score may use at most."""
    tolerance: float | None
    """It stops once a step lowers the score by less than this fraction of `drop`."""
    drop: str | None
    """`own`, its whole drop so far; `typical`, the mean drop in training."""
    patience: int | None
    """Steps in a row that must be so."""
    rows: list[DifficultyRow]
    """By group, the easiest first."""
    groups: list[DifficultyGroup]
    seconds: float
    files: list[str]
