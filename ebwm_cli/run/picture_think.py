"""Pictures of a thought: the energy along its descent and around it, and the likeliest tokens step by step.

Each plane has a colour scale of its own: around short moves, all would be of one colour on that of a plane which
reaches to a truth far off. A picture computes nothing but its layout; it knows no world and no command.
"""

# K descent steps, G grid points per side

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ebwm_cli.run.landscape import Landscape
from ebwm_cli.run.pictures import DPI, GREEN, INK, ORANGE, SOFT, Curve, draw_panels, page, plain, save
from ebwm_cli.run.thought_words import percent, visible

SIDE, HEIGHT, BOTTOM = 4.4, 5.75, 0.68
"""Of a plane, of the page, and below the planes, in inches."""
ENERGY_COLOURS = "cividis"
BEND = 2
"""Levels and colours go with the square root of the height above the lowest energy, as distance from the centre of a
bowl does."""
MOST_DIGITS = 7
"""Of an energy in fp32."""
LONGEST = 11
"""Characters of a token that are shown."""


# ---------------------------------------------------------------------------------------------- landscape


def draw_landscape(
    path: Path, title: str, planes: Sequence[Landscape], curves: Sequence[Curve], truth_name: str = "truth"
) -> None:
    """`curves` against the descent step, of which the first is the energy, and beside them one or two `planes` of that
    energy with contours and the descent drawn on them."""
    left, between, bar_room = 4.35, 0.75, 1.15
    width = left + len(planes) * (SIDE + bar_room) + (len(planes) - 1) * between
    figure = page(width, HEIGHT)
    draw_panels(figure, curves, (0.72 / width, BOTTOM / HEIGHT, 2.8 / width, (SIDE + 0.38) / HEIGHT), "descent step")
    for index, plane in enumerate(planes):
        at, levels = left + index * (SIDE + bar_room + between), _levels(plane)
        axes = figure.add_axes((at / width, BOTTOM / HEIGHT, SIDE / width, SIDE / HEIGHT))  # square: one unit
        filled = _draw_plane(axes, plane, levels, truth_name)
        at += SIDE + 0.18
        _draw_bar(figure, filled, levels, (at / width, BOTTOM / HEIGHT, 0.14 / width, SIDE / HEIGHT), curves[0].name)
    figure.text(0.72 / width, 1 - 0.32 / HEIGHT, title, fontsize=12.5, fontweight="bold", color=INK)
    save(figure, path)


def _draw_plane(axes: Axes, plane: Landscape, levels: NDArray[np.float64], truth_name: str) -> ContourSet:
    norm = PowerNorm(1 / BEND, levels[0], levels[-1])  # every band is told from the next
    filled = axes.contourf(plane.u, plane.v, plane.energies, levels, cmap=ENERGY_COLOURS, norm=norm)
    lines = (plane.u, plane.v, plane.energies, levels[::2])
    if np.ptp(plane.energies) > 0:  # a plain has no lines
        axes.contour(*lines, colors="white", linewidths=0.5, alpha=0.45, linestyles="solid")
    u, v = plane.path.T
    to_truth = plane.second == "truth"
    if plane.truth is not None:  # below all others, being the largest
        x, y = plane.truth
        name = truth_name if to_truth else f"{truth_name}, projected"
        axes.plot([x], [y], "*", color=GREEN, markersize=17, markeredgecolor="white", label=name)
    axes.plot(u, v, "-", color="white", linewidth=4.0, solid_capstyle="round")
    axes.plot(u, v, "-o", color=ORANGE, linewidth=1.8, markersize=4.5, markeredgecolor="white", label="descent")
    _number_steps(axes, plane)
    axes.plot(u[:1], v[:1], "o", color="white", markersize=10, markeredgecolor=INK, markeredgewidth=1.5, label="start")
    axes.plot(u[-1:], v[-1:], "D", color=ORANGE, markersize=9, markeredgecolor="white", label="final")
    axes.set_xlim(plane.u[0], plane.u[-1])
    axes.set_ylim(plane.v[0], plane.v[-1])
    axes.set_xlabel("start → final, state units")
    axes.set_ylabel("towards the truth, state units" if to_truth else "a random direction, state units", labelpad=3)
    above = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.995), "ncols": 4}  # it covers nothing of the plane
    axes.legend(**above, fontsize=8.5, frameon=False, columnspacing=1.2, handletextpad=0.4, borderaxespad=0.1)
    plain(axes, grid=False)
    return filled


def _draw_bar(
    figure: Figure,
    filled: ContourSet,
    levels: NDArray[np.float64],
    box: tuple[float, float, float, float],
    name: str,
) -> None:
    """The colour scale of one plane, whose energies may differ in late digits only."""
    bar = figure.colorbar(filled, cax=figure.add_axes(box), spacing="uniform", ticks=levels[::4])
    bar.ax.set_yticklabels(told_apart(levels[::4].tolist()))
    bar.set_label(name, color=INK, fontsize=9)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=8, colors=INK)


def _number_steps(axes: Axes, plane: Landscape) -> None:
    """Write step numbers beside the path, as many as have room."""
    room = 0.045 * (plane.u[-1] - plane.u[0])
    taken = [plane.path[0], plane.path[-1]]
    for step, place in enumerate(plane.path[1:-1], start=1):
        if min(np.linalg.norm(place - each) for each in taken) < room:
            continue
        taken.append(place)
        style = {"color": "white", "fontsize": 8, "ha": "center"}
        axes.annotate(str(step), (place[0], place[1]), (0, 7), textcoords="offset points", **style)


def _levels(plane: Landscape) -> NDArray[np.float64]:
    """Contour levels from the lowest energy of a plane to the highest, spaced so that those of a bowl are rings of one
    width."""
    low, high = float(np.nanmin(plane.energies)), float(np.nanmax(plane.energies))
    return low + max(high - low, 1e-9) * np.linspace(0, 1, 25) ** BEND


def told_apart(values: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as their smallest difference needs; very large ones and those that hardly differ in
    at least three digits, and in as many as it takes that no two are the same."""
    gaps = np.diff(np.unique(values))
    decimals = max(1 - math.floor(math.log10(gaps.min())), 0) if len(gaps) else MOST_DIGITS
    if decimals < MOST_DIGITS and max(map(abs, values)) < 10 ** (MOST_DIGITS - 1 - decimals):
        words = [f"{value:.{decimals}f}" for value in values]
    else:
        for digits in range(3, MOST_DIGITS + 1):
            words = [f"{value:.{digits}g}" for value in values]
            if len(set(words)) == len(words):
                break
    return [each.replace("-", "−") for each in words]


# ---------------------------------------------------------------------------------------------- tokens


@dataclass(frozen=True)
class Cell:
    """A token and its probability."""

    token: str
    probability: float
    true: bool = False
    """Whether it is the one that really came."""


@dataclass(frozen=True)
class Line:
    """The likeliest tokens of one candidate, the likeliest first."""

    name: str
    energy: float | None
    cells: Sequence[Cell]
    truth: Cell | None = None
    """The token that really came, wherever it stands; where it is known."""


def draw_candidates(path: Path, title: str, lines: Sequence[Line], score: str) -> None:
    """A table: a line per candidate, a cell per token, shaded by probability; the line's left edge is coloured by
    its energy, the true token framed and, where known, said again in a column of its own."""
    cell_w, cell_h, gap, margin, name_w = 96, 40, 5, 20, 118
    columns, known = max(len(line.cells) for line in lines), any(line.truth for line in lines)
    table_w = name_w + columns * (cell_w + gap)
    total_w = 2 * margin + table_w + (2 * gap + cell_w if known else 0)
    total_h = 2 * margin + 58 + len(lines) * (cell_h + gap) + 22
    figure = page(total_w / DPI, total_h / DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, total_w), ylim=(total_h, 0))  # in pixels, from the top
    axes.set_axis_off()

    def text(x: float, y: float, words: str, **style: object) -> None:
        """Tokens are no mathematics, even with dollars around them."""
        axes.text(
            x, y, drawable(words), **{"color": INK, "fontsize": 8.5, "va": "center", "parse_math": False, **style}
        )

    def cell(left: float, top: float, shown: Cell) -> None:
        shade = shown.probability**0.6
        fill = tuple(_mixed(PAPER_RGB, BLUE_RGB, shade))
        edge, line = (GREEN, 2.4) if shown.true else ("#dddad4", 0.8)
        axes.add_patch(Rectangle((left, top), cell_w, cell_h, facecolor=fill, edgecolor=edge, linewidth=line))
        words = "white" if shade > 0.55 else INK
        text(left + cell_w / 2, top + 13, _short(shown.token), ha="center", color=words, fontsize=10)
        text(left + cell_w / 2, top + 29, percent(shown.probability), ha="center", color=words, fontsize=8)

    text(margin, margin + 6, title, fontsize=12.5, fontweight="bold")
    top = margin + 52
    for column in range(columns):
        centre = margin + name_w + column * (cell_w + gap) + cell_w / 2
        text(centre, top - 12, "likeliest" if column == 0 else f"{column + 1}", ha="center", color=SOFT)
    right = margin + table_w + 2 * gap
    if known:
        text(right + cell_w / 2, top - 12, "truth", ha="center", color=GREEN)
    colours = _energy_colours([line.energy for line in lines])
    for line, colour in zip(lines, colours, strict=True):
        if colour is not None and line.energy is not None:
            axes.add_patch(Rectangle((margin, top), 9, cell_h, facecolor=colour, linewidth=0))
            text(margin + 17, top + 28, f"E {line.energy:.4f}".replace("-", "−"), fontsize=8, color=SOFT)
        text(margin + 17, top + (13 if colour is not None else cell_h / 2), line.name, fontsize=9.5)
        for column, shown in enumerate(line.cells):
            cell(margin + name_w + column * (cell_w + gap), top, shown)
        if line.truth:
            cell(right, top, line.truth)
        top += cell_h + gap
    edge = f"Left edge, E: {score}, dark is low. " if lines[0].energy is not None else ""
    frame = "Green frame: the token that really came. " if known else ""
    text(margin, total_h - margin, f"{edge}{frame}· a space, ⏎ a new line.", color=SOFT, fontsize=8)
    save(figure, path)


PAPER_RGB, BLUE_RGB = np.array([251, 250, 248]) / 255, np.array([0, 84, 140]) / 255


def _mixed(one: NDArray[np.float64], other: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return one + np.clip(share, 0, 1) * (other - one)


def _energy_colours(energies: Sequence[float | None]) -> list[tuple[float, float, float, float] | None]:
    """Of each energy, dark where it is low; None where there is none."""
    known = [energy for energy in energies if energy is not None]
    low, span = min(known, default=0.0), (max(known) - min(known)) if known else 0.0
    map_ = colormaps[ENERGY_COLOURS]
    return [None if each is None else map_((each - low) / span if span else 0.0) for each in energies]


def _short(token: str) -> str:
    shown = visible(token)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def drawable(text: str) -> str:
    """`text` with characters that the font has no picture of as U+ and their number."""
    font = get_font(findfont("DejaVu Sans"))
    return "".join(char if font.get_char_index(ord(char)) else f"U+{ord(char):X}" for char in text)
