"""The layout of a study's pictures: a page, a legend above its panel, scales with ticks where runs are, words below.

Widths and heights are inches, shifts are points. Knows matplotlib and the names of series; draws no run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from ebwm_cli.run.picture_compare import COLOURS, FAINT, MARKERS
from ebwm_cli.run.pictures import INK, PAPER, page, plain
from ebwm_cli.run.report_scale import ScaleReport
from ebwm_cli.run.study_words import Level, frontier_rows, series_of, x_in_words
from ebwm_cli.run.words import safe

Look = dict[str, Any]
"""Colour and marker of a series."""

WIDTH, LEFT, RIGHT = 8.6, 0.85, 0.25
"""Inches: of a picture, and left and right of its panels."""
LOSSES, RESIDUALS, TOP, LINE, BETWEEN, BOTTOM = 4.0, 1.3, 0.5, 0.215, 0.22, 0.92
"""Inches: the panels, the title, a line of the legend, between the panels, the words below."""
TITLE = 0.42
"""Inches from the top that hold nothing but the title."""
MARGIN, BEYOND, TICKS_APART = 0.08, 0.04, 0.055
"""Shares of log x: left and right of the runs, how far laws are drawn there, the least between two ticks."""
LOG_FROM = 3.0
"""Highest over lowest loss from which losses are drawn on a logarithmic scale."""
FAR = 0.9
"""An offset further below the losses than this many times their spread has no line."""
RULE = "#e4e2dd"


def paper(lines: int, residual: bool) -> tuple[Figure, Axes]:
    """A page with room for a legend of `lines` lines and, where asked for, a panel of residuals; and its main panel."""
    below = BOTTOM + (RESIDUALS + BETWEEN if residual else 0.0)
    figure = page(WIDTH, TOP + LINE * lines + LOSSES + below)
    return figure, panel(figure, below, LOSSES)


def panel(figure: Figure, bottom: float, height: float) -> Axes:
    """A panel as wide as all are."""
    whole = figure.get_figheight()
    return figure.add_axes((LEFT / WIDTH, bottom / whole, (WIDTH - LEFT - RIGHT) / WIDTH, height / whole))


def scale_x(axes: Axes, axis: str, levels: Sequence[Level]) -> None:
    """A logarithmic scale, with ticks where runs are, as far as their labels have room."""
    plain(axes, grid=True)
    axes.spines["bottom"].set(visible=True, color=RULE)
    low, high = log_x(axes, [level.x for level in levels])
    ticks: list[float] = []
    for value in sorted({level.value for level in levels}):
        x = float(np.mean([level.x for level in levels if level.value == value]))
        if not ticks or math.log(x / ticks[-1]) > TICKS_APART * (high - low):
            ticks.append(x)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: x_in_words(axis, value)))


def log_x(axes: Axes, x: Sequence[float]) -> tuple[float, float]:
    """A logarithmic scale around `x`; its ends in logs."""
    low, high = math.log(min(x)), math.log(max(x))
    span = high - low or 1.0
    low, high = low - MARGIN * span, high + MARGIN * span
    axes.set_xscale("log")
    axes.set_xlim(math.exp(low), math.exp(high))
    axes.xaxis.set_minor_locator(NullLocator())
    return low, high


def scale_y(axes: Axes, losses: Sequence[float], offsets: Sequence[float]) -> None:
    """From the lowest loss, or an offset not far below it, to the highest; logarithmic where they differ much."""
    low, high = min(losses), max(losses)
    log = low > 0 and high > LOG_FROM * low
    way = (math.log, math.exp) if log else (float, float)
    bottom, top = way[0](low), way[0](high)
    spread = top - bottom or 0.1 * abs(top) or 1.0
    near = [way[0](each) for each in offsets if each > 0 or not log]
    bottom = min([bottom, *(each for each in near if each > bottom - FAR * spread)])
    axes.set_yscale("log" if log else "linear")
    axes.set_ylim(way[1](bottom - 0.1 * spread), way[1](top + 0.08 * spread))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 3.0, 5.0), numticks=12) if log else MaxNLocator(7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def offset_by(axes: Axes, points: float) -> ScaledTranslation:
    """A shift to the right."""
    return ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)  # type: ignore[union-attr]


def shifted(axes: Axes, points: float) -> Any:
    """Data coordinates, some points to the right."""
    return axes.transData + offset_by(axes, points)


def looks_of(report: ScaleReport) -> dict[str, Look]:
    """Colour and marker of every series, the same in all pictures of a study."""
    names = dict.fromkeys([*series_of(report.points), *(row[0] for row in frontier_rows(report))])
    return {
        name: {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        for place, name in enumerate(names)
    }


def legend(axes: Axes, lines: Sequence[tuple[str, Look]]) -> None:
    """Above the panel, a line per series."""
    handles = [Line2D([], [], **look, linewidth=1.8, markersize=6.5, markeredgecolor=PAPER) for _, look in lines]
    above = {"loc": "lower left", "bbox_to_anchor": (-0.014, 1.0), "borderaxespad": 0.3, "labelspacing": 0.35}
    legend = axes.legend(
        handles, [words for words, _ in lines], **above, fontsize=8.5, frameon=False, labelcolor=INK, handlelength=2.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def titled(figure: Figure, title: str, report: ScaleReport, caption: Sequence[str]) -> None:
    """Title above, whose it is beside it, what is what below."""
    height = figure.get_figheight()
    style: dict[str, Any] = {"parse_math": False, "va": "center"}
    words = figure.text(0.2 / WIDTH, 1 - 0.26 / height, title, fontsize=12.5, fontweight="bold", color=INK, **style)
    end = words.get_window_extent().x1 / figure.get_dpi() / WIDTH
    whose = f"{short(report.study, 40)} · {short(report.data, 40)}"
    figure.text(end + 0.15 / WIDTH, 1 - 0.265 / height, whose, fontsize=9, color=FAINT, **style)
    for place, line in enumerate(reversed(caption)):
        figure.text(0.2 / WIDTH, (0.16 + 0.16 * place) / height, line, fontsize=7.5, color=FAINT, **style)


def short(name: str, most: int) -> str:
    """A name's beginning and end, where all of it has no room; `?` for what the pictures' letters don't hold."""
    shown = "".join(char if ord(char) < 0x250 or char in "−–…≤≥" else "?" for char in safe(name))
    return shown if len(shown) <= most else f"{shown[: most // 2]}…{shown[1 - most // 2 :]}"
