"""Reports of studies that never ran: losses drawn around laws that are known."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from ebwm_cli.run.power_law import fit_power_law
from ebwm_cli.run.report_scale import (
    FitReport,
    FrontierPoint,
    PlannedRun,
    PointReport,
    ScalePlanReport,
    ScaleProgress,
    ScaleReport,
    SlopeRatio,
)

LAWS = {"ebt": (0.52, 1.9, 0.081), "transformer": (0.41, 1.3, 0.095)}
"""Exponent, coefficient, offset."""
HOSTILE = "<script>alert('x')</script>&\"\x1b[31m"


def point(key_series: tuple[str, str | None], axis: str, value: float, seed: int, **changes: object) -> PointReport:
    """A run that ended well, its loss by the law of its kind and 2 % of noise."""
    kind, variant = key_series
    key = "-".join([kind, *([variant] if variant else []), axis, f"{value:g}", f"seed{seed}"])
    x = 4096 * value if axis == "data" else value
    exponent, coefficient, offset = LAWS.get(kind, (0.3, 1.0, 0.1))
    noise = 1 + 0.02 * np.random.default_rng(sum(map(ord, key))).standard_normal()
    share = value if axis in ("data", "device_hours") else 1.0
    flops = value if axis == "flops" else 3e12 * share * (3.0 if kind == "ebt" else 1.0)
    values: dict[str, object] = {
        "key": key, "kind": kind, "variant": variant, "axis": axis, "value": value, "x": x, "size": "6 x 384",
        "data": int(4096 * value), "steps": 300, "params": 412_345, "flops": flops, "seed": seed, "devices": 1,
        "status": "done", "reason": None, "loss": float((offset + coefficient * x**-exponent) * noise),
        "val_loss": 0.1, "device_hours": 0.02 * share, "seconds": 80 * share, "out": f"runs/video_data/runs/{key}",
    }  # fmt: skip
    return PointReport.model_validate(values | changes)


def fitted(axis: str, series: str, points: list[PointReport]) -> FitReport:
    """What is fitted through a series, in earnest."""
    done = [each for each in points if (each.axis, each.series, each.status) == (axis, series, "done")]
    law = fit_power_law([each.x or 0.0 for each in done], [each.loss or 0.0 for each in done], draws=200)
    changes = {name: getattr(law, name) for name in ("exponent", "coefficient", "offset", "ci95", "reason")}
    return fit(axis, series, points, **changes)


def fit(axis: str, series: str, points: list[PointReport], **changes: object) -> FitReport:
    """The law that the losses were drawn around, with a made-up interval."""
    exponent, coefficient, offset = LAWS.get(series, (0.3, 1.0, 0.1))
    own = [each for each in points if each.series == series and each.axis == axis]
    done = [each for each in own if each.status == "done" and each.loss]
    x, y = (np.log([getattr(each, name) for each in done]) for name in ("x", "loss"))
    slope = float(np.polyfit(x, y, 1)[0])
    values: dict[str, object] = {
        "axis": axis, "kind": series, "points": len({each.value for each in done}), "runs": len(done),
        "exponent": exponent, "coefficient": coefficient, "offset": offset, "reason": None,
        "ci95": (exponent - 0.12, exponent + 0.17), "slope": slope, "slope_ci95": (slope - 0.02, slope + 0.015),
        "left_out": [each.key for each in own if each.status != "done"],
    }  # fmt: skip
    return FitReport.model_validate(values | changes)


def frontier(points: list[PointReport]) -> list[FrontierPoint]:
    found = []
    for each in points:
        rivals = [other for other in points if other.series == each.series and other.loss is not None]
        if each.loss is not None and not any(o.flops <= each.flops and o.loss < each.loss for o in rivals):  # type: ignore[operator]
            found.append(FrontierPoint(kind=each.series, flops=each.flops, loss=each.loss, key=each.key))
    return found


DIVERGED = {
    "status": "diverged", "loss": None, "x": None, "device_hours": None,
    "reason": "20 updates in a row had a NaN or infinity in loss or gradient; the best weights of step 140 are kept",
}  # fmt: skip
ENOUGH, FEW = (0.125, 0.25, 0.5, 1.0), (0.25, 0.5, 1.0)


def finished(values: tuple[float, ...] = ENOUGH, **changes: object) -> ScaleReport:
    """Two kinds by the amount of data, three seeds, one run diverged; with fewer than four values, no laws."""
    return _finished(values).model_copy(update=changes)


@cache
def _finished(values: tuple[float, ...]) -> ScaleReport:
    kinds: list[tuple[str, str | None]] = [("ebt", None), ("transformer", None)]
    points = [point(kind, "data", value, seed) for value in values for seed in range(3) for kind in kinds]
    points[1] = point(("transformer", None), "data", values[0], 0, **DIVERGED)
    fits = [fitted("data", kind, points) for kind, _ in kinds]
    ratio = SlopeRatio(axis="data", kind="ebt", against="transformer", value=1.12, ci95=(0.95, 1.31), reason=None)
    if len(values) < 4:
        ratio = ratio.model_copy(update={"value": None, "ci95": None, "reason": "3 points; a slope ratio needs 4"})
    out = "runs/video_data-20250102-030405"
    files = [f"{out}/{name}" for name in ("loss_by_data.png", "frontier.png", "fits.json", "report.html")]
    return ScaleReport(
        study="video_data", data="clips", out=out, points=points, fits=fits, slope_ratio=[ratio],
        frontier=frontier(points), devices=2, device="cuda", seconds=4821.0, overhead=0.031, files=files,
    )  # fmt: skip


@cache
def large() -> ScaleReport:
    """Two variants of two kinds by four axes: names as long as they get, everything at its most."""
    series = [
        (kind, variant) for kind in ("ebt", "transformer") for variant in ("forecast", "a_variant_of_a_long_name")
    ]
    axes = {"data": ENOUGH, "flops": (1e12, 1e13, 1e14, 1e15), "depth": (2, 4, 6), "device_hours": (0.05, 0.5, 1.5)}
    points = [
        point(each, axis, value, seed)
        for axis, values in axes.items()
        for value in values
        for seed in range(3)
        for each in series
    ]
    points[5] = point(series[1], "data", 0.125, 1, **DIVERGED)
    points[-1] = points[-1].model_copy(update={"status": "queued", "loss": None, "x": None})
    names = list(dict.fromkeys(each.series for each in points))
    fits = [fitted(axis, name, points) for axis in axes for name in names]
    ratios = [
        SlopeRatio(axis=axis, kind=names[0], against=name, value=0.8, ci95=(0.7, 0.9), reason=None)
        for axis in axes
        for name in names[1:]
    ]
    return finished().model_copy(
        update={"points": points, "fits": fits, "slope_ratio": ratios, "frontier": frontier(points)}
    )


def progress(done: int, running: list[str], *, queued: int = 9, bad: int = 0, **changes: object) -> ScaleProgress:
    """How a study stands."""
    best = point(("ebt", None), "data", 1.0, 0)
    values: dict[str, object] = {
        "study": "video_data", "queued": queued, "running": running, "done": done, "ended_badly": bad,
        "best": best if done else None, "last": best, "seconds": 60.0 * (done + bad), "eta_seconds": 734.0,
    }  # fmt: skip
    return ScaleProgress.model_validate(values | changes)


def plan(report: ScaleReport, *, timed: bool = True, devices: int = 2) -> ScalePlanReport:
    """The plan that a finished study might have had."""
    free = [0.0] * devices
    runs = []
    for index, each in enumerate(report.points):
        hours = 0.02 * (1 + index % 5)
        place = free.index(min(free))
        foreseen = each.model_copy(update={"status": "queued", "loss": None, "reason": None})
        run = {"point": foreseen, "memory_bytes": 1_234_567_890, "hours": hours, "device": place, "start": free[place]}
        run = run if timed else run | {"hours": None, "device": None, "start": None}
        runs.append(PlannedRun.model_validate(run))
        free[place] += hours
    return ScalePlanReport(
        study=report.study, runs=runs, devices=devices, device="cuda", flops=sum(run.point.flops for run in runs),
        device_hours=math.fsum(free) if timed else None, wall_hours=max(free) if timed else None,
        timed_by="3 updates measured per size here, 1 thread(s) each"
        if timed
        else "not timed: no prepared set here to measure on; --flops-per-second says how fast",
    )  # fmt: skip
