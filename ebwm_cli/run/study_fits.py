"""From the runs of a study to its laws: per axis and series a fit, per two series a ratio of slopes, and the frontier.

Only runs that are done count; the others are named. Knows reports and numbers, no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ebwm_cli.run.power_law import fit_line, fit_power_law, slope_ratio
from ebwm_cli.run.report_scale import FitReport, FrontierPoint, PointReport, SlopeRatio


def fits_of(points: Sequence[PointReport]) -> list[FitReport]:
    """A fit per axis and series, in the order of the study."""
    return [_fit(axis, series, points) for axis in _axes(points) for series in _series(points, axis)]


def ratios_of(points: Sequence[PointReport]) -> list[SlopeRatio]:
    """Per axis, the slope of each series over that of every later one."""
    rows = []
    for axis in _axes(points):
        for kind, against in combinations(_series(points, axis), 2):
            ratio = slope_ratio(*_measured(points, axis, kind), *_measured(points, axis, against))
            rows.append(
                SlopeRatio(
                    axis=axis, kind=kind, against=against, value=ratio.value, ci95=ratio.ci95, reason=ratio.reason
                )
            )
    return rows


def frontier_of(points: Sequence[PointReport]) -> list[FrontierPoint]:
    """Per series, the runs that none with as many FLOPs or fewer beats, cheapest first."""
    rows: list[FrontierPoint] = []
    for series in dict.fromkeys(point.series for point in points):
        best = float("inf")
        own = [point for point in points if point.series == series and _counts(point)]
        for point in sorted(own, key=lambda point: (point.flops, point.loss)):
            if point.loss is not None and point.loss < best:
                best = point.loss
                rows.append(FrontierPoint(kind=series, flops=point.flops, loss=point.loss, key=point.key))
    return rows


def _fit(axis: str, series: str, points: Sequence[PointReport]) -> FitReport:
    x, losses = _measured(points, axis, series)
    law, line = fit_power_law(x, losses), fit_line(x, losses)
    return FitReport(
        axis=axis,
        kind=series,
        points=law.points,
        runs=len(x),
        exponent=law.exponent,
        coefficient=law.coefficient,
        offset=law.offset,
        ci95=law.ci95,
        reason=law.reason,
        slope=line.slope,
        slope_ci95=line.ci95,
        left_out=[p.key for p in points if (p.axis, p.series) == (axis, series) and not _counts(p)],
    )


def _measured(points: Sequence[PointReport], axis: str, series: str) -> tuple[list[float], list[float]]:
    own = [point for point in points if (point.axis, point.series) == (axis, series) and _counts(point)]
    return [point.x or 0.0 for point in own], [point.loss or 0.0 for point in own]


def _counts(point: PointReport) -> bool:
    return point.status == "done" and point.x is not None and point.loss is not None


def _axes(points: Sequence[PointReport]) -> list[str]:
    return list(dict.fromkeys(point.axis for point in points))


def _series(points: Sequence[PointReport], axis: str) -> list[str]:
    return list(dict.fromkeys(point.series for point in points if point.axis == axis))
