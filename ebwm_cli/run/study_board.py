"""How a study stands: every run's latest report, and how much is left.

    time left = FLOPs left / FLOPs ended with * time they took      overhead = 1 - busy / (devices * time with a queue)

Knows outcomes and clocks that are handed to it; starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebwm_cli.run.report_scale import PointReport, ScaleProgress
from ebwm_cli.run.study_points import SECONDS_PER_HOUR, StudyRun
from ebwm_cli.run.study_task import Outcome


class Board:
    """The runs of a study on `devices`, those in `ended` (by key) done before."""

    def __init__(self, study: str, runs: Sequence[StudyRun], ended: Mapping[str, Outcome], devices: int) -> None:
        self._study, self._devices = study, devices
        self.points = {run.point.key: run.point for run in runs}
        for key, outcome in ended.items():
            if key in self.points:
                self.points[key] = settled(self.points[key], outcome)
        self._earlier = {key for key, point in self.points.items() if point.status not in ("queued", "running")}
        self._starts: dict[str, float] = {}
        self._spans: list[tuple[float, float, int]] = []  # begun, ended, devices

    def started(self, key: str, seconds: float) -> ScaleProgress:
        """A run began `seconds` after the call."""
        self.points[key] = self.points[key].model_copy(update={"status": "running"})
        self._starts[key] = seconds
        return self.progress(seconds, self.points[key])

    def ended(self, outcome: Outcome, seconds: float) -> ScaleProgress:
        """A run ended `seconds` after the call."""
        point = settled(self.points[outcome.key], outcome)
        self.points[outcome.key] = point
        self._spans.append((self._starts.get(outcome.key, seconds), seconds, point.devices))
        return self.progress(seconds, point)

    def progress(self, seconds: float, last: PointReport | None = None) -> ScaleProgress:
        """How the study stands `seconds` after the call."""
        points = list(self.points.values())
        done = [point for point in points if point.status == "done"]
        return ScaleProgress(
            study=self._study,
            queued=sum(point.status == "queued" for point in points),
            running=[point.key for point in points if point.status == "running"],
            done=len(done),
            ended_badly=sum(point.status not in ("queued", "running", "done") for point in points),
            best=min(done, key=lambda point: point.loss or 0.0, default=None),
            last=last,
            seconds=seconds,
            eta_seconds=self._left(seconds),
        )

    @property
    def overhead(self) -> float | None:
        """Share of the devices' time, up to the last start, in which no run was on them; None before a second wave."""
        until = max((start for start, _, _ in self._spans), default=0.0)
        available = self._devices * until
        if not available or len(self._spans) <= self._devices:
            return None
        busy = sum(devices * (min(end, until) - min(start, until)) for start, end, devices in self._spans)
        return 1 - busy / available

    def _left(self, seconds: float) -> float | None:
        now = [point for key, point in self.points.items() if key not in self._earlier]
        behind = sum(point.flops for point in now if point.status not in ("queued", "running"))
        ahead = sum(point.flops for point in now if point.status in ("queued", "running"))
        return seconds * ahead / behind if behind else None


def settled(point: PointReport, outcome: Outcome) -> PointReport:
    """The point, with what came of it."""
    changes: dict[str, Any] = {"status": outcome.status, "reason": outcome.reason, "seconds": outcome.seconds}
    if outcome.train is not None:
        trained = outcome.train
        flops, hours = trained["flops_per_step"] * trained["step"], None
        if trained.get("updating_seconds") is not None:
            hours = trained["updating_seconds"] / SECONDS_PER_HOUR * point.devices
        changes |= {"val_loss": trained["val_loss"], "steps": trained["step"], "params": trained["params"]}
        changes |= {"flops": flops, "device_hours": hours}
        changes |= {"x": flops} if point.axis == "flops" else {}
        changes |= {"x": hours} if point.axis == "device_hours" else {}
    if outcome.measure is not None:
        changes["loss"] = outcome.measure["loss"]
    return point.model_copy(update=changes)
