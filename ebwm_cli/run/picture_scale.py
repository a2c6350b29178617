"""A study in pictures: loss along every axis with its laws, what they leave unexplained, and loss against FLOPs.

Every run is a dot, so that nobody has to believe a mean; runs that ended badly are crosses. Lines, bands and frontiers
are those of reports and of `law_band.py`: a picture computes nothing but its layout. Knows no run and no terminal.
"""

# N runs, X places along an axis

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ebwm_cli.run.law_band import band_of, law_of, line_of
from ebwm_cli.run.pictures import PAPER, SOFT, plain, save
from ebwm_cli.run.report_scale import FitReport, ScaleReport
from ebwm_cli.run.scale_layout import (
    BEYOND,
    BOTTOM,
    RESIDUALS,
    Look,
    legend,
    log_x,
    looks_of,
    offset_by,
    panel,
    paper,
    scale_x,
    scale_y,
    shifted,
    short,
    titled,
)
from ebwm_cli.run.study_words import (
    Level,
    axes_of,
    axis_in_words,
    ended_badly,
    frontier_rows,
    interval_in_words,
    levels_of,
    signed,
)
from ebwm_cli.run.words import count, number

Floats = np.ndarray

GRID = 160
"""Places along x at which curves are drawn."""
APART = 5.0
"""Points between the runs of two series at the same x."""
NAME, REASON = 34, 80
"""Most characters of a series, and of a reason, in the legend."""


def write_pictures(report: ScaleReport, folder: Path) -> list[Path]:
    """Write loss_by_AXIS.png for every axis of which a run ended well, and frontier.png; returns those written.

    Raises OSError where the disk refuses.
    """
    written = []
    for name, figure in draw_all(report).items():
        written.append(folder / f"{name}.png")
        save(figure, written[-1])
    return written


def draw_all(report: ScaleReport) -> dict[str, Figure]:
    """Every picture that can be drawn, by its name."""
    figures = {}
    for axis in axes_of(report.points):
        if any(level.losses for level in levels_of(report.points, axis)):
            figures[f"loss_by_{axis}"] = draw_axis(report, axis)
    if report.frontier:
        figures["frontier"] = draw_frontier(report)
    return figures


def draw_axis(report: ScaleReport, axis: str) -> Figure:
    """Loss along `axis`: every run, means over seeds, laws with their bands, straight slopes, offsets; below, what the
    laws leave. Raises ValueError where no run of it ended well."""
    levels = levels_of(report.points, axis)
    losses = [loss for level in levels for loss in level.losses]
    if not losses:
        raise ValueError(f"no run by {axis} ended well")
    names = list(dict.fromkeys(level.series for level in levels))
    fits = {fit.kind: fit for fit in report.fits if fit.axis == axis}
    looks = looks_of(report)
    residual = any(fit.exponent is not None or fit.slope is not None for fit in fits.values())
    figure, axes = paper(len(names), residual)
    scale_x(axes, axis, levels)
    scale_y(axes, losses, [fit.offset for fit in fits.values() if fit.offset is not None])
    for place, name in enumerate(names):
        own, fit = [level for level in levels if level.series == name], fits.get(name)
        shift = APART * (place - (len(names) - 1) / 2)
        if fit is not None:
            _draw_fit(axes, fit, own, looks[name], place)
        _draw_runs(axes, own, looks[name], shift, joined=fit is None or fit.exponent is None)
    axes.set_ylabel("loss on the test split")
    legend(axes, [(_legend_line(name, fits.get(name)), looks[name]) for name in names])
    last = axes
    if residual:
        axes.tick_params(labelbottom=False)
        last = panel(figure, BOTTOM, RESIDUALS)
        scale_x(last, axis, levels)
        _draw_residuals(last, levels, fits, looks, names)
    last.set_xlabel(axis_in_words(axis))
    titled(figure, f"Loss by {axis_in_words(axis)}", report, _caption(fits, ended_badly(_points(levels))))
    return figure


def draw_frontier(report: ScaleReport) -> Figure:
    """Loss against FLOPs: every run that ended well, and per series the steps of its frontier. Raises ValueError where
    there is none."""
    rows = frontier_rows(report)
    if not rows:
        raise ValueError("no run ended well")
    names, looks = list(dict.fromkeys(row[0] for row in rows)), looks_of(report)
    done = [point for point in report.points if point.status == "done" and point.loss is not None]
    figure, axes = paper(len(names), False)
    plain(axes, grid=True)
    spent = [point.flops for point in done] + [point.flops for _, point, _ in rows]
    log_x(axes, spent)
    subs = (1.0, 2.0, 5.0) if max(spent) < 100 * min(spent) else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    scale_y(axes, [point.loss for point in done if point.loss] + [point.loss for _, point, _ in rows], [])
    for name in names:
        own = [point for series, point, _ in rows if series == name]
        every = [(point.flops, point.loss or 0.0) for point in done if point.series == name]
        x, y = [flops for flops, _ in every], [loss for _, loss in every]
        axes.plot(
            x, y, looks[name]["marker"], color=looks[name]["color"], markersize=4.5, alpha=0.35, markeredgewidth=0
        )
        x, y = [point.flops for point in own], [point.loss for point in own]
        end = axes.get_xlim()[1]
        axes.plot([*x, end], [*y, y[-1]], color=looks[name]["color"], linewidth=1.8, drawstyle="steps-post")
        axes.plot(x, y, **looks[name], linestyle="none", markersize=7, markeredgecolor=PAPER)
    axes.set_xlabel("training FLOPs, inner steps counted")
    axes.set_ylabel("loss on the test split")
    lowest = {name: min(point.loss for series, point, _ in rows if series == name) for name in names}
    legend(axes, [(f"{short(name, NAME)}   lowest {number(lowest[name])}", looks[name]) for name in names])
    caption = "Faint: every run. Steps: the lowest loss that a series reached with as many FLOPs or fewer."
    titled(figure, "Compute-optimal frontier", report, [caption])
    return figure


# ------------------------------------------------------------------------------------------------- on a panel


def _draw_runs(axes: Axes, levels: Sequence[Level], look: Look, shift: float, *, joined: bool) -> None:
    """Every run a dot, means above them, what ended badly at the bottom; `shift` points to the right."""
    aside = shifted(axes, shift)
    x, y = _runs(levels)
    axes.plot(x, y, **look, linestyle="none", markersize=4.5, alpha=0.4, markeredgewidth=0, transform=aside)
    means = [(level.x, level.mean) for level in levels if level.mean is not None]
    if means:
        x, y = zip(*means, strict=True)
        style = {"linestyle": "-" if joined else "none", "linewidth": 1.0, "markersize": 7, "markeredgecolor": PAPER}
        axes.plot(x, y, **look, **style, transform=aside)
    places = [level.x for level in levels for _ in ended_badly(level.points)]
    bottom = axes.get_xaxis_transform() + offset_by(axes, shift)
    axes.plot(places, [0.03] * len(places), "x", color=look["color"], markersize=6, transform=bottom, clip_on=False)


def _draw_fit(axes: Axes, fit: FitReport, levels: Sequence[Level], look: Look, place: int) -> None:
    """The law with its band and its offset; the straight slope dashed."""
    x, losses = _runs(levels)
    if not len(x):
        return
    low, high = np.log(x.min()), np.log(x.max())
    over = BEYOND * float(np.diff(np.log(axes.get_xlim()))[0])
    at = np.exp(np.linspace(low - over, high + over, GRID))  # (X,)
    colour = look["color"]
    band, law, line = band_of(fit, x, losses, at), law_of(fit, at), line_of(fit, x, losses, at)
    if band is not None:
        axes.fill_between(at, *band, color=colour, alpha=0.13, linewidth=0)
    if law is not None:
        axes.plot(at, law, color=colour, linewidth=1.9)
    if line is not None:
        axes.plot(at, line, color=colour, linewidth=1.1, alpha=0.75, linestyle=(0, (4, 3)))
    bottom, top = axes.get_ylim()
    if fit.offset is not None and bottom <= fit.offset <= top and law is not None:
        axes.axhline(fit.offset, color=colour, linewidth=1.0, alpha=0.45, linestyle=(0, (1, 2)), zorder=0)
        side, points = (1.0, -2) if place % 2 == 0 else (0.0, 2)
        axes.annotate(
            f"offset {number(fit.offset)}", (side, fit.offset), (points, 3), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", ha="right" if side else "left", fontsize=7.5, color=colour, alpha=0.85,
        )  # fmt: skip


def _draw_residuals(
    axes: Axes, levels: Sequence[Level], fits: Mapping[str, FitReport], looks: Mapping[str, Look], names: Sequence[str]
) -> None:
    """How far every run is off its law, or where there is none off its straight line, then hollow."""
    highest = 0.0
    for place, name in enumerate(names):
        own, fit = [level for level in levels if level.series == name], fits.get(name)
        x, losses = _runs(own)
        if fit is None or not len(x):
            continue
        law = law_of(fit, x)
        model = law if law is not None else line_of(fit, x, losses, x)
        if model is None:
            continue
        off = 100 * (losses / model - 1)
        highest = max(highest, float(np.abs(off).max()))
        aside = shifted(axes, APART * (place - (len(names) - 1) / 2))
        face: Look = {} if law is not None else {"markerfacecolor": PAPER}
        axes.plot(x, off, **looks[name], **face, linestyle="none", markersize=4.8, alpha=0.75, transform=aside)
    axes.axhline(0, color=SOFT, linewidth=1.0, zorder=0)
    axes.set_ylim(-1.2 * highest or -1, 1.2 * highest or 1)
    axes.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axes.set_ylabel("off the fit, %")


def _runs(levels: Sequence[Level]) -> tuple[Floats, Floats]:
    """x and losses (N,) of the runs that ended well."""
    done = [(point.x or level.value, point.loss) for level in levels for point in level.done]
    x, losses = zip(*done, strict=True) if done else ((), ())
    return np.array(x, dtype=np.float64), np.array(losses, dtype=np.float64)


def _points(levels: Sequence[Level]) -> list[Any]:
    return [point for level in levels for point in level.points]


def _legend_line(name: str, fit: FitReport | None) -> str:
    """A series and its fits."""
    parts = [short(name, NAME)]
    if fit is not None and fit.exponent is not None:
        parts.append(f"exponent {signed(fit.exponent)} {interval_in_words(fit.ci95, searched=True)}")
        parts.append(f"offset {number(fit.offset)}")
    elif fit is not None:
        parts.append(f"no law: {short(fit.reason or 'not fitted', REASON)}")
    if fit is not None and fit.slope is not None:
        parts.append(f"slope {signed(fit.slope)}")
    return "   ".join(parts)


def _caption(fits: Mapping[str, FitReport], bad: Sequence[Any]) -> list[str]:
    """What is what."""
    lines = ["Faint: every run; large: the mean over seeds, moved aside where series share a place."]
    if any(fit.exponent is not None for fit in fits.values()):
        lines[0] += " Line: offset + coefficient · x^(−exponent)."
        lines.append("Band: that law refitted with every exponent of its 95 % interval. Dotted: offset.")
    if any(fit.slope is not None for fit in fits.values()):
        lines.append(
            "Dashed: a straight line in log-log." + " Hollow below: off it, for want of a law." * _hollow(fits)
        )
    if bad:
        lines.append(f"Crosses: {len(bad)} that ended badly, in no fit.")
    return [lines[0], " ".join(lines[1:])]


def _hollow(fits: Mapping[str, FitReport]) -> bool:
    return any(fit.exponent is None and fit.slope is not None for fit in fits.values())
