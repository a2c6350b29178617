"""What `ebwm scale` found, drawn: what its plan foresees, and what came out of it.

Rows and sentences are those of `run/study_words.py`. Reports in, something printable out; fits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_tables import BAD, GOOD, LABEL, QUIET, VALUE, Facts, next_command, render, table
from ebwm_cli.console_text import count, duration, number, safe, size
from ebwm_cli.run.report_scale import FitReport, PlannedRun, PointReport, ScalePlanReport, ScaleReport
from ebwm_cli.run.study_words import (
    FIT_HEADS,
    FITTED,
    LEVEL_HEADS,
    axes_of,
    axis_in_words,
    best_of,
    ended_badly,
    fit_cells,
    frontier_rows,
    level_cells,
    levels_of,
    ratio_in_words,
    ratio_shows,
    reasons,
    runs_in_words,
    series_of,
    x_in_words,
)

MANY = 40
"""Runs of a plan beyond which seeds share a row."""
SERIES = 24
"""Columns of a series, a longer one takes lines."""
LANES = 16
"""Devices beyond which the packing isn't drawn."""


# ------------------------------------------------------------------------------------------- before it runs


@dataclass(frozen=True)
class _PlanRow:
    """A run, or all seeds of one."""

    group: str
    """What its name begins with, as its neighbours' do."""
    name: str
    """The rest."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _PlanTable:
    """Runs under their whole names where there is room, else below what their names begin with."""

    heads: Sequence[str]
    rows: Sequence[_PlanRow]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [[head, *(row.cells[place] for row in self.rows)] for place, head in enumerate(self.heads)]
        widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
        room = options.max_width - sum(widths) - 2 * len(widths)
        longest = max(len(row.group + row.name) for row in self.rows)
        if longest <= room:
            yield self._table([(row.group + row.name, row.cells) for row in self.rows], longest, widths)
            return
        longest = min(room, max(len(row.name) for row in self.rows))
        yield self._table([], longest, widths)
        for group, rows in groupby(self.rows, lambda row: row.group):
            yield Text(f"{group}*", LABEL)
            yield self._table([(row.name, row.cells) for row in rows], longest, widths, show_header=False)

    def _table(
        self, rows: Sequence[tuple[str, tuple[str, ...]]], longest: int, widths: list[int], *, show_header: bool = True
    ) -> Table:
        made = table("run", *self.heads)
        made.show_header = show_header
        for column, width in zip(made.columns, [max(longest, 3), *widths], strict=True):
            column.width = width
        _folds(made, 0)
        for name, cells in rows:
            made.add_row(name, *cells)
        return made


@render.register
def _plan(report: ScalePlanReport) -> RenderableType:
    points = [run.point for run in report.runs]
    facts = Facts()
    axes = ", ".join(axis_in_words(axis) for axis in axes_of(points))
    facts.add("runs", f"{len(points):,}", f"{', '.join(map(safe, series_of(points)))} by {axes}")
    facts.add("compute", f"{count(report.flops)}FLOP", "of updating, inner steps counted")
    facts.add("devices", f"{report.devices:,} × {safe(report.device)}")
    if report.device_hours is None:
        facts.add("time", "not timed", safe(report.timed_by.removeprefix("not timed: ")))
    else:
        facts.add("device time", duration(3600 * report.device_hours), safe(report.timed_by))
    if report.wall_hours is not None:
        devices = "1 device" if report.devices == 1 else f"{report.devices:,} devices"
        facts.add("wall time", f"{duration(3600 * report.wall_hours)} on {devices}", "packed, the longest runs first")
    parts: list[RenderableType] = []
    folded = len(points) > MANY and len({_seedless(point) for point in points}) < len(points)
    if folded:
        said = f"{len(points):,} runs; all seeds of a value in one row: costs are those of one, the start is the first."
        parts += ["", Text(said, QUIET)]
    timed = any(run.hours is not None for run in report.runs)
    heads = ["size", "params", "FLOPs", "memory"] + (["device\ntime", "device", "start"] if timed else [])
    rows = [_plan_row(runs, timed) for runs in _rows_of(report, folded)]
    lanes = [_Lanes(report)] if report.wall_hours and all(point.devices == 1 for point in points) else []
    title = f"plan · {safe(report.study)} · nothing was written"
    return Group(facts.panel(title, *lanes), *parts, "", _PlanTable(heads, rows))


def _seedless(point: PointReport) -> str:
    return point.key.removesuffix(f"-seed{point.seed}")


def _rows_of(report: ScalePlanReport, folded: bool) -> list[list[PlannedRun]]:
    """Runs by axis and series; each alone, or (`folded`) with those that differ in the seed only."""
    axes, names = axes_of(run.point for run in report.runs), series_of(run.point for run in report.runs)
    places = {run.point.key: (axes.index(run.point.axis), names.index(run.point.series)) for run in report.runs}
    runs = sorted(report.runs, key=lambda run: (places[run.point.key], run.point.value, run.point.seed))
    return [list(seeds) for _, seeds in groupby(runs, lambda run: _seedless(run.point) if folded else run.point.key)]


def _plan_row(runs: Sequence[PlannedRun], timed: bool) -> _PlanRow:
    """One run, or all seeds of one."""
    point = runs[0].point
    group = "-".join([point.kind, *([point.variant] if point.variant else []), point.axis, ""])
    name = safe(point.key if len(runs) == 1 else f"{_seedless(point)} × {len(runs)}")
    group = group if name.startswith(group) else ""
    memory = size(max(run.memory_bytes for run in runs))
    cells = [point.size, count(point.params), count(point.flops), memory]
    if timed:
        hours = [run.hours for run in runs if run.hours is not None]
        cells.append(duration(3600 * sum(hours) / len(hours)) if hours else "not timed")
        devices = sorted({run.device for run in runs if run.device is not None})
        several = f"{devices[0]}–{devices[-1]}" if len(devices) > 2 else ", ".join(map(str, devices))
        cells.append(several or "–")
        starts = [run.start for run in runs if run.start is not None]
        cells.append(_clock(min(starts)) if starts else "–")
    return _PlanRow(group, name.removeprefix(group), tuple(cells))


def _clock(hours: float) -> str:
    """Hours after the study begins."""
    return "at once" if hours == 0 else f"+{duration(3600 * hours)}"


@dataclass(frozen=True)
class _Lanes:
    """The packing: a line per device, a stroke per run, as long as the run."""

    plan: ScalePlanReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self.plan.wall_hours or 1.0
        used = sorted({run.device for run in self.plan.runs if run.device is not None})
        if not used or len(used) > LANES:
            return
        yield ""
        for device in used:
            lane = [run for run in self.plan.runs if run.device == device]
            ends = max((run.start or 0) + (run.hours or 0) for run in lane)
            head = Text(f"device {device:<3}", LABEL)
            told = Text(f"  {len(lane):>3} runs  {duration(3600 * ends):>8}", QUIET)
            width = max(8, options.max_width - head.cell_len - told.cell_len - 1)
            cells = [(" ", "")] * width
            for place, run in enumerate(sorted(lane, key=lambda run: run.start or 0)):
                begun = min(width - 1, round(width * (run.start or 0) / whole))
                length = max(1, round(width * ((run.start or 0) + (run.hours or 0)) / whole) - begun)
                stroke = [(char, GOOD if place % 2 else LABEL) for char in "━" * (length - 1) + "╸"]
                cells[begun : begun + length] = stroke
            strokes = Text.assemble(*cells[:width])
            yield head.append(" ").append(strokes).append(told)


# -------------------------------------------------------------------------------------------- after it ran


@render.register
def _scale(report: ScaleReport) -> RenderableType:
    bad, best = ended_badly(report.points), best_of(report.points)
    facts = Facts()
    facts.add("set", safe(report.data))
    facts.add("runs", f"{len(report.points):,}", Text(runs_in_words(report.points), BAD if bad else QUIET))
    facts.add("lowest loss", number(best.loss if best else None), safe(best.key) if best else "no run ended well")
    facts.add("devices", f"{report.devices:,} × {safe(report.device)}", duration(report.seconds))
    if report.overhead is not None:
        facts.add("waiting", f"{report.overhead:.1%}", "of the devices' time, while runs were left")
    facts.add("written to", safe(report.out))
    parts: list[RenderableType] = []
    for axis in axes_of(report.points):
        parts += ["", *_axis(report, axis)]
    if report.frontier:
        parts += ["", _frontier(report)]
    if bad:
        parts += ["", Text(f"ended badly, and left out of every fit: {len(bad):,}", BAD), _bad(bad)]
    wrote = [Text(safe(file), LABEL, overflow="fold") for file in report.files]
    again = f"ebwm scale {safe(report.out)}/study.yaml --out {safe(report.out)} --retry"
    command = f"ebwm eval --checkpoint {safe(best.out)}" if best else again
    panel = facts.panel(f"scale · {safe(report.study)}", style=GOOD)
    return Group(panel, *parts, "", *wrote, next_command(command))


def _axis(report: ScaleReport, axis: str) -> list[RenderableType]:
    """What one axis showed: losses, then fits, then who scales faster."""
    words = axis_in_words(axis)
    made = table(
        words.replace(" ", "\n"),
        *[head.replace(" ", "\n") for head in LEVEL_HEADS],
        title=f"loss by {words}, mean ± standard deviation over seeds",
    )
    _folds(made, 1)
    before = None
    levels = levels_of(report.points, axis)
    for level in levels:
        x, (series, loss, *rest) = x_in_words(axis, level.x), level_cells(level)
        rivals = [other.mean for other in levels if other.value == level.value and other.mean is not None]
        first = len(rivals) > 1 and level.mean == min(rivals)
        shown = x if (level.value, x) != before else ""
        made.add_row(shown, series, Text(loss, f"bold {GOOD}" if first else ""), *rest)
        before = level.value, x
    fits = [fit for fit in report.fits if fit.axis == axis]
    ratios = [ratio for ratio in report.slope_ratio if ratio.axis == axis]
    parts: list[RenderableType] = [made]
    if fits:
        parts += ["", _fits(fits, words)]
    for ratio in ratios:
        tint = {True: GOOD, False: BAD, None: QUIET}[ratio_shows(ratio)]
        parts.append(Text(ratio_in_words(ratio), tint, overflow="fold"))
    return parts


def _fits(fits: Sequence[FitReport], words: str) -> RenderableType:
    made = table(*FIT_HEADS, title=f"scaling laws by {words}")
    _folds(made, 0)
    for fit in fits:
        series, exponent, *rest = fit_cells(fit)
        made.add_row(series, Text(exponent, VALUE), *rest)
    why = Table.grid(padding=(0, 2))
    why.add_column(style=LABEL, max_width=SERIES, overflow="fold")
    why.add_column(style=QUIET, overflow="fold")
    for series, reason in reasons(fits):
        why.add_row(series, reason)
    return Group(made, Text(FITTED, QUIET), *([why] if why.row_count else []))


def _frontier(report: ScaleReport) -> RenderableType:
    made = table("series", "FLOPs", "loss", "run", title="compute frontier: lowest loss on as many FLOPs")
    _folds(made, 0, 3)
    before = None
    for series, point, unbeaten in frontier_rows(report):
        loss = Text(number(point.loss), f"bold {GOOD}" if unbeaten else "")
        made.add_row(safe(series) if series != before else "", count(point.flops), loss, safe(point.key))
        before = series
    return Group(made, Text("of each series; bold: of all series", QUIET))


def _bad(points: Sequence[PointReport]) -> Table:
    """Every run that ended badly, and why, in full."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style=BAD, overflow="fold", ratio=2)
    made.add_column(overflow="fold", ratio=3)
    for point in points:
        said = Text(point.status.replace("_", " "), BAD)
        made.add_row(safe(point.key), said.append(f": {safe(point.reason)}" if point.reason else "", QUIET))
    return made


def _folds(made: Table, *places: int) -> None:
    """Columns of names: left, on as many lines as they need; numbers closer together."""
    made.padding = (0, 1, 0, 0)
    for place in places:
        column = made.columns[place]
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
        column.max_width = SERIES if made.columns[place].header == "series" else None
