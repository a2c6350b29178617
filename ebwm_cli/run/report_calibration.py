"""Reports about calibration: whether a score means anything, each claim a number that says how it was obtained.

A score is held against the errors that were made, and against true and false next states; beside it stand predictors
that cost nothing. A report computes nothing.
"""

from __future__ import annotations

from ebwm_cli.run.report import Report
from ebwm_cli.run.report_facets import Measured


class Resampled(Measured):
    """One number, and how sure it is."""

    ci95: tuple[float, float] | None
    """Bootstrap over windows, which are kept whole; None where there are too few, or no number."""


class ReliabilityBin(Report):
    """One part of the positions, next in score to each other."""

    mean_score: float
    mean_error: float
    ci95: tuple[float, float] | None
    """Of the mean error: bootstrap over windows, which are kept whole; None where all of them are too few."""
    positions: int
    windows: int
    """Different windows that these positions lie in; the interval says little where they are few."""


class Reliability(Report):
    """How wrong a model is where something is low, and where it is high."""

    by: str
    """What the positions are sorted by."""
    bins: list[ReliabilityBin]
    """From low to high; empty where there is nothing to sort by."""
    how: str
    """How it was obtained, or why there is none; in words that stand alone."""


class FalseStates(Report):
    """What true next states are told from."""

    key: str
    name: str
    """In a word or two."""
    how: str
    """What they are, in words."""


class Telling(Report):
    """One way of telling true next states from false ones."""

    key: str
    name: str
    how: str
    """What number it gives a candidate, in words."""
    auroc: dict[str, Resampled]
    """By the key of what they are told from: P(false > true) over all pairs of positions, 0.5 is chance."""
    same_place: dict[str, Resampled]
    """The same over pairs at the same position, where a score that has no common zero still can tell."""


class CalibrationRow(Report):
    """What the score of one checkpoint means."""

    name: str
    """As little of the checkpoint's path as tells it from the others."""
    checkpoint: str
    kind: str
    score: str | None
    """What it judges a candidate by, low = compatible; None where it judges nothing."""
    loss: float
    """Mean error."""
    score_spearman: Resampled
    """Rank correlation of the final score with the actual error."""
    partial_spearman: Resampled
    """What of it the trivial predictor does not explain."""
    doubt_spearman: Resampled
    """Rank correlation of the trivial predictor itself with the error."""
    reference_spearman: Resampled
    """Rank correlation of a networkless predictor's error with this one's; it knows the truth, and no model does."""
    reliability: Reliability
    """By the score."""
    doubt_reliability: Reliability
    """By the trivial predictor."""
    doubt_gap: Measured
    """How far the trivial predictor is from the error it foresees, where both are in nats; 0 = calibrated."""
    telling: list[Telling]
    """The score, where there is one, and what it is held against."""


class CalibrationReport(Report):
    """What `ebwm eval --calibration` measured on held-out windows, of every checkpoint on the same ones."""

    data: str
    split: str
    windows: int
    stride: int
    """Predictions per window."""
    reference: str
    """The networkless predictor to beat."""
    doubt: str
    """The trivial predictor of error."""
    nats: list[str]
    """What of all this is in nats. A score never is: its zero and its unit are its own."""
    false_states: list[FalseStates]
    resamples: int
    """Of whole windows, for the interval of a correlation or an AUROC."""
    rows: list[CalibrationRow]
    """The checkpoint that was asked about, then those it is held against."""
    seconds: float
    files: list[str]
