"""What a study found, as rows and sentences; the terminal, the pictures and the page say the same by them.

A level is one value of one axis for one series, its seeds together: loss = mean ± standard deviation (n - 1). "Scales
P % faster" is P = 100 * (slope ratio - 1). Knows reports; no markup, no terminal, and fits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ebwm_cli.run.report_scale import FitReport, FrontierPoint, PointReport, ScaleReport, SlopeRatio
from ebwm_cli.run.words import count, duration, number, safe

AXES = {
    "data": "training states",
    "params": "parameters",
    "depth": "layers",
    "width": "channels",
    "batch": "windows per update",
    "steps": "updates",
    "flops": "training FLOPs",
    "device_hours": "device hours",
}
SEARCHED = (0.01, 5.0)
"""Exponents that are searched: an end of an interval there stands for everything beyond."""
UNENDED = ("queued", "running")
LEVEL_HEADS = ("series", "loss", "runs", "params", "FLOPs", "device time")
FIT_HEADS = ("series", "exponent", "95 %", "offset", "slope", "95 %")
FITTED = "loss = offset + coefficient · x^(−exponent); slope of log loss over log x"


@dataclass(frozen=True)
class Level:
    """All runs of one series at one value of one axis."""

    series: str
    axis: str
    value: float
    points: tuple[PointReport, ...]

    @property
    def done(self) -> list[PointReport]:
        """Those that have a loss."""
        return [point for point in self.points if point.status == "done" and point.loss is not None]

    @property
    def losses(self) -> list[float]:
        return [point.loss for point in self.done if point.loss is not None]

    @property
    def x(self) -> float:
        """Mean of what fits see; where that is not known, what the study's recipe says."""
        known = [point.x for point in self.done or self.points if point.x is not None]
        return fmean(known) if known else self.value

    @property
    def mean(self) -> float | None:
        """Loss, over seeds."""
        return fmean(self.losses) if self.losses else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the loss; None for fewer than two seeds."""
        return stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def device_hours(self) -> float | None:
        """Of one run."""
        known = [point.device_hours for point in self.done if point.device_hours is not None]
        return fmean(known) if known else None


def axes_of(points: Iterable[PointReport]) -> list[str]:
    """In the study's order."""
    return list(dict.fromkeys(point.axis for point in points))


def series_of(points: Iterable[PointReport]) -> list[str]:
    """In the study's order, which is that of colours too."""
    return list(dict.fromkeys(point.series for point in points))


def levels_of(points: Sequence[PointReport], axis: str) -> list[Level]:
    """Of one axis: by value, at each value the series in the study's order."""
    order = series_of(points)
    groups: dict[tuple[float, str], list[PointReport]] = {}
    for point in points:
        if point.axis == axis:
            groups.setdefault((point.value, point.series), []).append(point)
    found = sorted(groups, key=lambda group: (group[0], order.index(group[1])))
    return [Level(series, axis, value, tuple(groups[value, series])) for value, series in found]


def ended_badly(points: Iterable[PointReport]) -> list[PointReport]:
    """Runs that ended, and have no loss to be trusted."""
    return [point for point in points if point.status not in ("done", *UNENDED)]


def axis_in_words(axis: str) -> str:
    """What is counted along an axis."""
    return AXES.get(axis, safe(axis.replace("_", " ")))


def x_in_words(axis: str, x: float) -> str:
    """A place on an axis."""
    return count(x) if x >= 1000 or (x == int(x) and axis != "device_hours") else f"{x:.3g}"


def loss_in_words(level: Level) -> str:
    """Mean ± standard deviation over seeds, as far as there are any."""
    if level.mean is None or level.spread is None:
        return number(level.mean)
    fixed = 1e-3 <= abs(level.mean) < 100
    return f"{number(level.mean)} ± " + (f"{level.spread:.4f}" if fixed else f"{level.spread:.2g}")


def level_cells(level: Level) -> list[str]:
    """A level under LEVEL_HEADS."""
    done, points = level.done, level.points
    runs = f"{len(done)}" if len(done) == len(points) else f"{len(done)} of {len(points)}"
    flops = fmean(point.flops for point in done or points)
    time = "–" if level.device_hours is None else duration(3600 * level.device_hours)
    return [safe(level.series), loss_in_words(level), runs, count((done or points)[0].params), count(flops), time]


def signed(value: float) -> str:
    """Three decimals, with a minus that is as wide as a plus."""
    return f"{value:.3f}".replace("-", "−")


def interval_in_words(ci95: tuple[float, float] | None, *, searched: bool = False) -> str:
    """[low, high]; of an exponent (`searched`), ends of the search as what lies beyond them."""
    if ci95 is None:
        return "–"
    low, high = map(signed, ci95)
    if searched and ci95[0] <= SEARCHED[0] * 1.001:
        low = f"<{SEARCHED[0]:g}"
    if searched and ci95[1] >= SEARCHED[1] * 0.999:
        high = f">{SEARCHED[1]:g}"
    return f"[{low}, {high}]"


def fit_cells(fit: FitReport) -> list[str]:
    """A fit under FIT_HEADS; dashes where there is no number, which `reasons` explain."""
    exponent = "–" if fit.exponent is None else signed(fit.exponent)
    slope = "–" if fit.slope is None else signed(fit.slope)
    interval = interval_in_words(fit.ci95, searched=True)
    return [safe(fit.kind), exponent, interval, number(fit.offset), slope, interval_in_words(fit.slope_ci95)]


def reasons(fits: Iterable[FitReport]) -> list[tuple[str, str]]:
    """Series, and why a fit of it has no numbers or which runs it had to do without."""
    said = []
    for fit in fits:
        if fit.reason:
            said.append((safe(fit.kind), safe(fit.reason)))
        if fit.left_out:
            runs = "run" if len(fit.left_out) == 1 else "runs"
            said.append((safe(fit.kind), f"without {runs} " + ", ".join(map(safe, fit.left_out))))
    return said


def ratio_shows(ratio: SlopeRatio) -> bool | None:
    """True: it scales faster; False: slower; None: no difference is shown."""
    if ratio.value is None or ratio.ci95 is None or ratio.ci95[0] <= 1 <= ratio.ci95[1]:
        return None
    return ratio.ci95[0] > 1


def ratio_in_words(ratio: SlopeRatio) -> str:
    """One sentence: who scales faster, by how much, and whether that says anything."""
    kind, against = safe(ratio.kind), safe(ratio.against)
    if ratio.value is None:
        return f"{kind} and {against} can't be compared: {safe(ratio.reason or 'no slope')}"
    percent = 100 * (ratio.value - 1)
    if ratio.value <= 0:
        said = f"{kind}'s loss and {against}'s go opposite ways, slope ratio {signed(ratio.value)}"
    elif abs(percent) < 0.5:
        said = f"{kind} scales as fast as {against}"
    else:
        said = f"{kind} scales {abs(percent):,.0f} % {'faster' if percent > 0 else 'slower'} than {against}"
    if ratio.ci95 is None:
        return f"{said}; no interval" + (f": {safe(ratio.reason)}" if ratio.reason else "")
    low, high = (f"{100 * (end - 1):+,.0f}".replace("-", "−") for end in ratio.ci95)
    shown = "" if ratio_shows(ratio) is not None else "no difference shown: "
    return f"{shown}{said} ({low} … {high} %)"


def runs_in_words(points: Sequence[PointReport]) -> str:
    """How they stand: `23 done, 1 diverged`."""
    stands: dict[str, int] = {}
    for point in points:
        stands[point.status] = stands.get(point.status, 0) + 1
    parts = [f"{runs:,} {status.replace('_', ' ')}" for status, runs in stands.items()]
    return "all done" if list(stands) == ["done"] else ", ".join(sorted(parts, key=lambda part: "done" not in part))


def best_of(points: Iterable[PointReport]) -> PointReport | None:
    """The lowest loss of all."""
    done = [point for point in points if point.status == "done" and point.loss is not None]
    return min(done, key=lambda point: point.loss or 0.0, default=None)


def frontier_rows(report: ScaleReport) -> list[tuple[str, FrontierPoint, bool]]:
    """Series, point, and whether no run of any series beats it with as many FLOPs; by series, then FLOPs."""
    order = series_of(report.points)
    named = {point.key: point.series for point in report.points}
    rows = []
    for point in report.frontier:
        beaten = any(other.flops <= point.flops and other.loss < point.loss for other in report.frontier)
        rows.append((named.get(point.key, point.kind), point, not beaten))
    return sorted(rows, key=lambda row: (order.index(row[0]) if row[0] in order else len(order), row[1].flops))
