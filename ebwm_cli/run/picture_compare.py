"""Checkpoints side by side in one figure: held-out losses with the intervals of their differences, and rollouts.

A row's bar is where its loss lies as seen from the first row: loss(first) - ci95. It crosses the first row's line
exactly where the two are not told apart. Computes nothing but its layout; knows no world and no command.
"""

# N checkpoints, H horizon

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ebwm_cli.run.pictures import BLUE, GREEN, INK, ORANGE, PAPER, SOFT, page, plain, save
from ebwm_cli.run.report_compare import ComparisonRow

COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#a6761d", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
"""Both go round; as their numbers share no factor, 42 checkpoints look different."""
FAINT = "#6b7079"
"""Of what is beside the point, and yet to be read."""
LEFT, ROLLOUT, ROW, TOP, BOTTOM = 6.6, 4.6, 0.78, 0.86, 0.6
"""Inches: both panels' width, a checkpoint's height, what lies above and below them."""
NAME = 68
"""Most characters of a name."""
FAR = 2.5
"""A reference further off than this many times the spread of all checkpoints stands at the border, as a word."""


def draw_comparison(path: Path, rows: Sequence[ComparisonRow]) -> None:
    """Losses at the left; at the right, where anything was rolled out, losses by horizon."""
    checkpoints = [row for row in rows if row.checkpoint is not None]
    references = [row for row in rows if row.checkpoint is None]
    rolled = bool(checkpoints[0].rollout)
    width, height = LEFT + rolled * ROLLOUT, TOP + BOTTOM + ROW * max(len(checkpoints), 3)
    figure = page(width, height)
    tall = (height - TOP - BOTTOM) / height
    _draw_losses(figure.add_axes((0.2 / width, BOTTOM / height, (LEFT - 0.5) / width, tall)), checkpoints, references)
    if rolled:
        box = ((LEFT + 0.55) / width, BOTTOM / height, (ROLLOUT - 0.85) / width, tall)
        _draw_rollouts(figure.add_axes(box), checkpoints, references)
        figure.text(box[0], 1 - 0.16 / height, "Loss further ahead", fontsize=10.5, color=INK, va="top")
    title = {"fontsize": 12.5, "fontweight": "bold", "color": INK, "va": "top"}
    figure.text(0.2 / width, 1 - 0.14 / height, "Held-out loss, lower is better", **title)
    save(figure, path)


def _draw_losses(axes: Axes, checkpoints: Sequence[ComparisonRow], references: Sequence[ComparisonRow]) -> None:
    """A line per checkpoint: its name, its difference from the first in words, its loss and the interval."""
    first = checkpoints[0]
    plain(axes, grid=False)
    low, high = _limits(axes, checkpoints, references)
    axes.set_ylim(len(checkpoints) - 0.35, -0.65)
    axes.axvline(first.loss, color=COLOURS[0], linewidth=1.2, alpha=0.6)
    for index, row in enumerate(checkpoints):
        colour, marker = _look(index)
        words = f"{row.loss:.4f}"
        if row.difference is not None:
            ends = ""
            if row.ci95 is not None:
                below, above = row.ci95
                line = [first.loss - above, first.loss - below]
                axes.plot(line, [index, index], color=colour, linewidth=5, alpha=0.35)
                ends = f" [{below:+.4f}, {above:+.4f}]"
            words += f"   first minus this {row.difference:+.4f}{ends}, {row.verdict}"
        axes.plot([row.loss], [index], marker, color=colour, markersize=8, markeredgecolor="white")
        _write(axes, index, 18, _short(row.name), colour, fontsize=9, fontweight="bold")
        _write(axes, index, -17, words, INK, fontsize=8)
        if index:
            axes.axhline(index - 0.5, color="#e4e2dd", linewidth=0.8)
    _draw_references(axes, references, low, high)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("loss; bars: 95 % interval of the difference from the first one, which is the line")


def _draw_references(axes: Axes, references: Sequence[ComparisonRow], low: float, high: float) -> None:
    """Dashed lines with their names above the panel; alternating in height, so that close ones can be read."""
    for index, row in enumerate(references):
        inside = low <= row.loss <= high
        place = min(max(row.loss, low), high)
        words = f"{row.name} {row.loss:.4f}"
        if not inside:
            words += " →" if row.loss > high else " ←"
        else:
            axes.axvline(place, color=SOFT, linewidth=1.3, linestyle=(0, (4, 3)), zorder=0)
        side = "left" if place < low + 0.3 * (high - low) else "right" if place > low + 0.7 * (high - low) else "center"
        at = (place, 1)
        axes.annotate(
            words, at, (0, 4 + 12 * (index % 2)), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            ha=side, fontsize=8, color=FAINT,
        )  # fmt: skip


def _draw_rollouts(axes: Axes, checkpoints: Sequence[ComparisonRow], references: Sequence[ComparisonRow]) -> None:
    """Losses by horizon, in the left panel's colours; dashed the reference to beat."""
    plain(axes, grid=True)
    for index, row in reversed(list(enumerate(checkpoints))):  # the first on top
        colour, marker = _look(index)
        ahead = range(1, len(row.rollout) + 1)
        axes.plot(ahead, row.rollout, "-" + marker, color=colour, linewidth=1.8, markersize=6, markeredgecolor="white")
    axes.margins(x=0.06, y=0.14)
    if references and references[0].rollout:
        reference = references[0]
        ahead = range(1, len(reference.rollout) + 1)
        axes.plot(ahead, reference.rollout, color=SOFT, linewidth=1.5, linestyle=(0, (4, 3)), label=reference.name)
        axes.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=FAINT)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("states ahead, predictions fed back")


def _limits(
    axes: Axes, checkpoints: Sequence[ComparisonRow], references: Sequence[ComparisonRow]
) -> tuple[float, float]:
    """Wide enough for every checkpoint and interval, and for references that aren't far off."""
    first = checkpoints[0].loss
    needed = [row.loss for row in checkpoints]
    needed += [first - end for row in checkpoints if row.ci95 for end in row.ci95]
    low, high = min(needed), max(needed)
    spread = max(high - low, 1e-3 * abs(first), 1e-9)
    near = [row.loss for row in references if low - FAR * spread <= row.loss <= high + FAR * spread]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.04 * max(high - low, spread)
    axes.set_xlim(low - margin, high + margin)
    return low - margin, high + margin


def _look(index: int) -> tuple[str, str]:
    """Colour and marker of a checkpoint."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _short(name: str) -> str:
    """A name's beginning and end, where all of it has no room."""
    return name if len(name) <= NAME else f"{name[: NAME // 2]}…{name[1 - NAME // 2 :]}"


def _write(axes: Axes, line: int, height: int, words: str, colour: str, **style: Any) -> None:
    """Words at the left border, `height` points above a checkpoint's line; a name is never a formula."""
    place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
    place["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}  # no line runs through it
    axes.annotate(words, (0, line), (0, height), color=colour, parse_math=False, **place, **style)
