"""Reports about facets: what a world model does beyond predicting, each claim a number that says how it was obtained.

They are reports like all others, and stand apart only because a facet is more than one number.
"""

from __future__ import annotations

from ebwm_cli.run.report import Report


class Measured(Report):
    """One number."""

    value: float | None
    """None where it can't be measured; `how` says why."""
    how: str
    """How it was obtained, in words that stand alone."""


class StepsLoss(Report):
    """One budget of thinking."""

    steps: int
    loss: float


class FacetsRow(Report):
    """The four facets of one checkpoint."""

    checkpoint: str
    kind: str
    score: str | None
    """What it judges a candidate by, low = compatible; None where it judges nothing."""
    hidden_change: Measured
    """Facet 1, predictions shape the internal state: relative change of the hidden state when the candidate does."""
    other_auroc: Measured
    """Facet 2, predictions are evaluated: telling true next states from those of other windows by the score."""
    near_auroc: Measured
    """Facet 2: telling true next states from near misses by the score."""
    steps_spearman: Measured
    """Facet 3, computation is dynamic: rank correlation of the steps that were used with difficulty."""
    steps_used: Measured
    """Facet 3: mean steps used, where each position stops once its score has settled."""
    by_steps: list[StepsLoss]
    """Facet 3: held-out loss when exactly so many steps are spent; empty where there are no steps."""
    by_steps_how: str
    """How those losses were obtained, or why there are none."""
    error_spearman: Measured
    """Facet 4, uncertainty is known: rank correlation of the final score with the actual error."""
    context_auroc: Measured
    """Facet 4: telling contexts that are half of another window's from true ones by the final score."""


class FacetsReport(Report):
    """What `ebwm eval --facets` measured on held-out windows, of every checkpoint on the same ones."""

    data: str
    split: str
    windows: int
    stride: int
    """Predictions per window."""
    reference: str
    """The predictor whose one-step error is the difficulty of a position."""
    rows: list[FacetsRow]
    """The checkpoint that was asked about, then those it is held against."""
    seconds: float
    files: list[str]
