"""Reports of `ebwm scale`: the plan, every run, what is going on, and what came out. Records only."""

from __future__ import annotations

from typing import Literal

from ebwm_cli.run.report_base import Report

Status = Literal["queued", "running", "done", "out_of_memory", "diverged", "timed_out", "failed"]
"""`done` alone enters fits. A run that was stopped, or whose scheduler died, is queued again."""


class PointReport(Report):
    """One run of a study, as it stands."""

    key: str
    """Names the run in the study, and its folder: `ebt-data-0.25-seed0`."""
    kind: str
    variant: str | None
    """The study's name for what was changed; None where kinds are compared as they are."""
    axis: str
    value: float
    """What the study's recipe says of that axis."""
    x: float | None
    """What fits see: states, parameters, layers, channels, windows, updates, FLOPs, hours; None until it is known."""
    size: str
    """Layers x width."""
    data: int
    """Training states."""
    steps: int
    """Updates: foreseen, then made."""
    params: int
    flops: float
    """Of the whole training, inner steps counted: foreseen, then spent."""
    seed: int
    devices: int
    status: Status
    reason: str | None
    """Why it is no `done`; None where it is, or hasn't ended."""
    loss: float | None
    """On the test split, with the best weights of the training; None until it is done."""
    val_loss: float | None
    """The lowest on the val split."""
    device_hours: float | None
    """Of updating, measured, times devices."""
    seconds: float | None
    """Wall-clock of the run's processes, over all resumes that this study started."""
    out: str

    @property
    def series(self) -> str:
        """What it belongs to on its axis: the variant, of several kinds the kind too, else the kind."""
        return self.kind if self.variant is None else f"{self.kind} {self.variant}"


class PlannedRun(Report):
    """A run, foreseen."""

    point: PointReport
    memory_bytes: int
    hours: float | None
    """Device hours, from a probe of a few steps, or from FLOPs per second; None where neither could be had."""
    device: int | None
    """The first device it is packed onto; None where its hours are not known."""
    start: float | None
    """Hours after the study begins."""


class ScalePlanReport(Report):
    """What `ebwm scale --plan` foresees; nothing is written."""

    study: str
    runs: list[PlannedRun]
    devices: int
    device: str
    flops: float
    device_hours: float | None
    wall_hours: float | None
    """With the runs packed onto the devices, the longest first."""
    timed_by: str
    """Where the hours come from, in words."""


class ScaleProgress(Report):
    """What a study is doing, whenever a run begins or ends."""

    study: str
    queued: int
    running: list[str]
    """Keys."""
    done: int
    ended_badly: int
    best: PointReport | None
    """The lowest loss so far."""
    last: PointReport | None
    """The run that began or ended."""
    seconds: float
    eta_seconds: float | None


class FitReport(Report):
    """L(x) = offset + coefficient * x^(-exponent) over the runs of one series on one axis."""

    axis: str
    kind: str
    """The series: a kind, or kind and variant."""
    points: int
    """Distinct x."""
    runs: int
    exponent: float | None
    coefficient: float | None
    offset: float | None
    ci95: tuple[float, float] | None
    """Of the exponent: bootstrap over seeds and points."""
    reason: str | None
    """Why there is no fit; None where there is one."""
    slope: float | None
    """Of log loss over log x, straight least squares: the papers' way."""
    slope_ci95: tuple[float, float] | None
    left_out: list[str]
    """Keys of runs that did not end well."""


class SlopeRatio(Report):
    """slope(kind) / slope(against), both straight in log-log; "scales X % faster" is value - 1."""

    axis: str
    kind: str
    against: str
    value: float | None
    ci95: tuple[float, float] | None
    reason: str | None


class FrontierPoint(Report):
    """A run that no run of its series beats with as many FLOPs."""

    kind: str
    flops: float
    loss: float
    key: str


class ScaleReport(Report):
    """What came out of a study."""

    study: str
    data: str
    out: str
    points: list[PointReport]
    fits: list[FitReport]
    slope_ratio: list[SlopeRatio]
    frontier: list[FrontierPoint]
    devices: int
    device: str
    seconds: float
    """Wall-clock of this call."""
    overhead: float | None
    """Share of the devices' wall-clock in which, with runs left, no run's process was alive; None where no more
    were run in this call than there are devices."""
    files: list[str]
