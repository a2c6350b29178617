"""A row of the comparison that `ebwm eval --against` makes: one checkpoint, or one predictor that needs no network.

All rows are of the same held-out windows. Differences are loss(first row) - loss(this row): below zero where the first
row is better. A row knows no terminal and computes nothing.
"""

from __future__ import annotations

from ebwm_cli.run.report_base import Report


class ComparisonRow(Report):
    """What one predictor reached on the windows all share, and what it cost."""

    name: str
    """As little of the checkpoint's path as tells it from the others; a reference in words."""
    checkpoint: str | None
    """None, here and below, for a predictor that needs no network."""
    kind: str | None
    loss: float
    """With the recipe's own think section."""
    perplexity: float | None
    """exp(loss), where the loss is in nats."""
    difference: float | None
    """loss(first) - loss(this), mean over windows; None, here and below, in the first row."""
    ci95: tuple[float, float] | None
    """Paired bootstrap over windows; None where they are too few."""
    verdict: str | None
    """What that says of the first: `lower`, `higher` or `not told apart`."""
    rollout: list[float]
    """Loss 1, 2, ... states ahead, predictions fed back; of a reference, from the last observed state alone."""
    params: int | None
    train_flops: float | None
    """Of all updates made; where no finished run says, of those its recipe foresees."""
    train_seconds: float | None
    """Spent on updates; None where no finished run says."""
    seconds_per_state: float | None
    """Of thinking about one state, observing included."""
