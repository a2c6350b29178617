"""Reliability curves in one figure: mean errors where a score is low and where it is high, with their intervals.

At the left positions are sorted by each checkpoint's score, at the right by the trivial predictor, on one scale: a
score that means something climbs, one that means more than what costs nothing climbs more steeply. Computes
nothing but its layout; knows no world and no command.
"""

# N checkpoints

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ebwm_cli.run.picture_compare import COLOURS, FAINT, MARKERS
from ebwm_cli.run.pictures import INK, page, plain, save
from ebwm_cli.run.report_calibration import CalibrationReport, CalibrationRow, Reliability

PANEL, HEIGHT, SIDE, GAP, BOTTOM, HEAD, LINE = 4.4, 3.5, 0.75, 0.45, 0.62, 0.78, 0.24
"""Inches: a panel's width and height, left of and between them, below them, the title with the panels' names, and a
checkpoint's line."""
NAME = 64
"""Most characters of a name."""


def draw_calibration(path: Path, report: CalibrationReport) -> None:
    """A line of words and two curves per checkpoint of `report`, in its colour."""
    rows = report.rows
    width, height = SIDE + 2 * PANEL + GAP + 0.25, BOTTOM + HEIGHT + HEAD + LINE * len(rows)
    figure = page(width, height)
    title = {"fontsize": 12.5, "fontweight": "bold", "color": INK, "va": "top"}
    figure.text(0.2 / width, 1 - 0.14 / height, "Errors, from where a score is lowest to where it is highest", **title)
    beside = {"fontsize": 9, "color": FAINT, "va": "top", "ha": "right"}
    figure.text(1 - 0.2 / width, 1 - 0.18 / height, "rank correlation with the error", **beside)
    _name_rows(figure, rows, width, height)
    lefts = (SIDE, SIDE + PANEL + GAP)
    panels = [figure.add_axes((left / width, BOTTOM / height, PANEL / width, HEIGHT / height)) for left in lefts]
    scores = [row.reliability for row in rows]
    _draw_curves(panels[0], scores, "by the score", "no checkpoint here has a score")
    doubts = [row.doubt_reliability for row in rows]
    _draw_curves(panels[1], doubts, f"by the {report.doubt}, which costs nothing", "it is the same everywhere")
    if report.nats:
        _draw_foreseen(panels[1], doubts)
    drawn = [axes.get_ylim() for axes, curves in zip(panels, (scores, doubts), strict=True) if _any(curves)] or [(0, 1)]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in drawn), max(high for _, high in drawn))
    panels[0].set_ylabel("mean error, nats" if report.nats else "mean error")
    panels[1].tick_params(labelleft=False)
    save(figure, path)


def _name_rows(figure: Figure, rows: Sequence[CalibrationRow], width: float, height: float) -> None:
    """Marker, name and rank correlations; a name is never a formula."""
    tall = LINE * len(rows)
    axes = figure.add_axes((0.2 / width, 1 - (0.46 + tall) / height, 1 - 0.4 / width, tall / height))
    axes.set_axis_off()
    axes.set_xlim(0, width - 0.4)
    axes.set_ylim(len(rows), 0)
    for index, row in enumerate(rows):
        colour, marker = _look(index)
        axes.plot([0.08], [index + 0.5], marker, color=colour, markersize=7, markeredgecolor="white", clip_on=False)
        style = {"va": "center", "fontsize": 9, "parse_math": False}
        axes.text(0.26, index + 0.5, _short(row.name), color=colour, fontweight="bold", **style)
        axes.text(width - 0.4, index + 0.5, _known(row), color=FAINT, ha="right", **style)


def _known(row: CalibrationRow) -> str:
    """The rank correlations of score and trivial predictor with the error."""
    told = f"{row.score} {_signed(row.score_spearman.value)}" if row.score else "no score"
    return f"{told}, trivial predictor {_signed(row.doubt_spearman.value)}"


def _draw_curves(axes: Axes, curves: Sequence[Reliability], title: str, nothing: str) -> None:
    """Mean errors against the share of positions that are lower, the first curve on top."""
    plain(axes, grid=True)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, parse_math=False)
    axes.set_xlim(0, 100)
    axes.set_xlabel("positions, lowest to highest, %")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    for index, curve in reversed(list(enumerate(curves))):
        if not curve.bins:
            continue
        colour, marker = _look(index)
        x, y = _middles(curve), [part.mean_error for part in curve.bins]
        if ends := [part.ci95 for part in curve.bins if part.ci95]:  # of all parts, or of none
            lows, highs = zip(*ends, strict=True)
            axes.fill_between(x, lows, highs, color=colour, alpha=0.16, linewidth=0)
        axes.plot(x, y, "-" + marker, color=colour, linewidth=1.8, markersize=6, markeredgecolor="white")
    axes.margins(y=0.08)
    if not _any(curves):
        axes.text(50, 0.5, nothing, transform=axes.get_xaxis_transform(), ha="center", color=FAINT, fontsize=9)


def _draw_foreseen(axes: Axes, curves: Sequence[Reliability]) -> None:
    """What the trivial predictor itself says, where it is in the unit of the error."""
    for index, curve in enumerate(curves):
        if curve.bins:
            foreseen = [part.mean_score for part in curve.bins]
            axes.plot(_middles(curve), foreseen, color=_look(index)[0], linewidth=1.2, linestyle=(0, (1.5, 2)))
    words = "dotted: what it foresees; calibrated where the two meet"
    axes.annotate(words, (0.02, 0.97), xycoords="axes fraction", va="top", fontsize=8, color=FAINT)


def _any(curves: Sequence[Reliability]) -> bool:
    return any(curve.bins for curve in curves)


def _middles(curve: Reliability) -> list[float]:
    """The middle of each part, in % of all positions."""
    every, before, middles = sum(part.positions for part in curve.bins), 0, []
    for part in curve.bins:
        middles.append(100 * (before + part.positions / 2) / every)
        before += part.positions
    return middles


def _look(index: int) -> tuple[str, str]:
    """Colour and marker of a checkpoint."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _short(name: str) -> str:
    """A name's end, where all of it has no room."""
    return name if len(name) <= NAME else f"…{name[1 - NAME :]}"


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.2f}"
