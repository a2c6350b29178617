"""Figures a person can read at a glance: frames in a strip, numbers against descent steps.

Frames are enlarged by whole factors without smoothing, colours are told apart by colour-blind readers too. A picture
computes nothing but its layout; it knows no world and no command.
"""

# N frames, S frame size in pixels

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from ebwm_cli.run.safe_write import replace_file

Frame = NDArray[np.uint8]

PAPER, INK, SOFT = "#fbfaf8", "#23262b", "#8a8f98"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
DPI = 100


@dataclass(frozen=True)
class Tile:
    """One frame (S, S', 3) of a strip, with a line above it and one below it."""

    frame: Frame
    above: str = ""
    below: str = ""
    colour: str = SOFT
    """Of its border and its texts."""


@dataclass(frozen=True)
class Row:
    """Tiles side by side, named at the left."""

    name: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Curve:
    """One panel of a curves figure: y against x, with an optional reference line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = BLUE
    reference: tuple[str, float] | None = None


def difference_frame(frame: Frame, truth: Frame) -> Frame:
    """Where and how far two frames differ: white where equal, dark where a pixel is wrong by half its range or more."""
    wrong = np.abs(frame.astype(np.float32) - truth.astype(np.float32)).mean(-1, keepdims=True)
    strength = np.clip(wrong / 127.5, 0, 1) ** 0.6  # (S, S', 1)
    white, ink = np.array([251.0, 250.0, 248.0]), np.array([140.0, 45.0, 4.0])
    return np.rint(white + strength * (ink - white)).astype(np.uint8)


def draw_strip(path: Path, title: str, rows: Sequence[Row], footnote: str = "") -> None:
    """Rows of labelled frames of one size, pixels enlarged to whole squares."""
    height, width = rows[0].tiles[0].frame.shape[:2]
    scale = max(1, round(112 / max(height, width)))
    cell_w, cell_h = scale * width, scale * height
    gap, line, margin, name_w = 12, 18, 20, 112
    columns = max(len(row.tiles) for row in rows)
    row_h = cell_h + 2 * line + 14
    total_w = 2 * margin + name_w + columns * (cell_w + gap) - gap
    total_h = 2 * margin + 34 + len(rows) * row_h + (line if footnote else 0)
    figure = page(total_w / DPI, total_h / DPI)

    def text(x: float, y: float, words: str, **style: object) -> None:
        figure.text(x / total_w, 1 - y / total_h, words, **{"color": INK, "fontsize": 8.5, "va": "center", **style})

    text(margin, margin + 6, title, fontsize=12.5, fontweight="bold")
    for index, row in enumerate(rows):
        top = margin + 34 + index * row_h + line
        text(margin, top + cell_h / 2, row.name, fontsize=9.5, linespacing=1.4)
        for column, tile in enumerate(row.tiles):
            left = margin + name_w + column * (cell_w + gap)
            box = (left / total_w, 1 - (top + cell_h) / total_h, cell_w / total_w, cell_h / total_h)
            axes = figure.add_axes(box)
            axes.imshow(tile.frame, interpolation="nearest", aspect="auto")
            _frame_only(axes, tile.colour, 1.0 if tile.colour == SOFT else 2.2)
            words = INK if tile.colour == SOFT else tile.colour
            text(left + cell_w / 2, top - line / 2, tile.above, ha="center", color=words)
            text(left + cell_w / 2, top + cell_h + line / 2, tile.below, ha="center", color=words, fontsize=8)
    if footnote:
        text(margin, total_h - margin, footnote, color=SOFT, fontsize=8)
    save(figure, path)


def draw_curves(path: Path, title: str, curves: Sequence[Curve], x_label: str, *, log2: bool = False) -> None:
    """Panels one above the other, on a common x axis; `log2` spaces 1, 2, 4, 8 evenly."""
    figure = page(6.4, 1.2 + 2.2 * len(curves))
    draw_panels(figure, curves, (0.13, 0.11, 0.83, 0.85), x_label, log2=log2)
    figure.text(0.13, 0.95, title, fontsize=12, fontweight="bold", color=INK)
    save(figure, path)


def draw_panels(
    figure: Figure,
    curves: Sequence[Curve],
    box: tuple[float, float, float, float],
    x_label: str,
    *,
    log2: bool = False,
) -> None:
    """Panels of `curves` one above the other in `box` (left, bottom, width, height), parts of the page."""
    left, bottom, width, height = box
    part = height / len(curves)
    for index, curve in enumerate(curves):
        axes = figure.add_axes((left, bottom + (len(curves) - 1 - index) * part, width, part * 0.76))
        if log2:
            axes.set_xscale("symlog", base=2, linthresh=1)
            axes.set_xticks(list(curve.x))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.plot(curve.x, curve.y, "-o", color=curve.colour, linewidth=1.8, markersize=4.5)
        if curve.reference:
            words, value = curve.reference
            axes.axhline(value, color=SOFT, linewidth=1.2, linestyle=(0, (4, 3)))
            end = (axes.get_xlim()[1], value)
            axes.annotate(words, end, (-2, 3), textcoords="offset points", ha="right", fontsize=8, color=SOFT)
        axes.margins(y=0.14)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(curve.name, loc="left", fontsize=9.5, color=INK)
        plain(axes, grid=True)
        if index == len(curves) - 1:
            axes.set_xlabel(x_label)
        else:
            axes.tick_params(labelbottom=False)


def page(width: float, height: float) -> Figure:
    """An empty page, sizes in inches; drawn off screen whatever the machine's display."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, *, grid: bool) -> None:
    axes.set_facecolor(PAPER)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    if grid:
        axes.grid(True, axis="y", color="#e4e2dd", linewidth=0.8)
        axes.set_axisbelow(True)


def _frame_only(axes: Axes, colour: str, width: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color=colour, linewidth=width)


def save(figure: Figure, path: Path) -> None:
    """Put the figure at `path`, whole or not at all. Raises OSError where the disk refuses."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, facecolor=PAPER, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.getvalue())
