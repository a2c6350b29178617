"""Histories and changes as short text, and each progress report as one plain line.

Pure functions: no terminal, no colour. Every value from a file's name on passes through `safe`; it and the words for
numbers are those of `run/words.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ebwm_cli.run.report import ClipReport, Notice, Report, TrainLine, ValidationLine
from ebwm_cli.run.report_scale import ScaleProgress
from ebwm_cli.run.report_text import TextReport, TokenReport
from ebwm_cli.run.words import count, duration, number, safe, size

__all__ = ["change", "count", "difference", "duration", "number", "plain_line", "safe", "size", "sparkline", "tail"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def tail(path: str, width: int) -> str:
    """A path's last `width` characters, marked where something is missing."""
    return path if len(path) <= width else "…" + path[1 - width :]


def change(new: float, old: float) -> str:
    """How far `new` is from `old`, in per cent of `old`, with its sign; empty where that means nothing."""
    if not (math.isfinite(new) and math.isfinite(old)) or old == 0:
        return ""
    percent = 100 * (new - old) / abs(old)
    return f"{'+' if percent >= 0 else '−'}{abs(percent):.1f} %"


def difference(mean: float, low: float, high: float) -> tuple[str, str]:
    """A signed difference, and its interval in brackets, to two digits of the interval's width; four decimals at
    least, six at most."""
    width = high - low
    decimals = min(max(4, 1 - math.floor(math.log10(width))), 6) if 0 < width < math.inf else 4
    first, *ends = (f"{value:+z.{decimals}f}" for value in (mean, low, high))
    return first, f"[{', '.join(ends)}]"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A history as at most `width` blocks, lowest to highest; each block is the mean of its share of the values."""
    if not values:
        return ""
    cells = min(width, len(values))
    edges = [round(i * len(values) / cells) for i in range(cells + 1)]
    means = []
    for low, high in itertools.pairwise(edges):
        finite = [value for value in values[low:high] if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    known = [mean for mean in means if not math.isnan(mean)]
    if not known:
        return " " * cells
    floor, span = min(known), max(known) - min(known)
    top = len(_BLOCKS) - 1
    return "".join(
        " " if math.isnan(mean) else _BLOCKS[round(top * (mean - floor) / span) if span else top // 2] for mean in means
    )


def plain_line(report: Report, held_out: ValidationLine | None = None) -> str | None:
    """A progress report as one line; None for reports that end a command."""
    if isinstance(report, Notice):
        return safe(report.notice)
    if isinstance(report, ClipReport):
        head = f"clip {report.done:,}/{report.total:,}  {safe(report.clip)}"
        if report.quarantined:
            return f"{head}  set aside: {safe(report.reason or '')}"
        what = "unchanged" if report.reused else f"{report.frames:,} frames"
        partial = f"  partial: {safe(report.reason)}" if report.reason else ""
        speed = f"  {report.frames_per_second:,.0f} frames/s  {duration(report.eta_seconds)} left"
        return f"{head}  {what}  {report.states:,} states{partial}{speed}"
    if isinstance(report, TextReport):
        return (
            f"{safe(report.file)}  {size(report.bytes_done)} of {size(report.bytes_total)}  {report.tokens:,} tokens"
            f"  {size(report.bytes_per_second)}/s  {duration(report.eta_seconds)} left"
        )
    if isinstance(report, TokenReport):
        energy = "" if report.energy is None else f"  energy {number(report.energy)}"
        return f"token {report.done:,} of at most {report.total:,}{energy}"
    if isinstance(report, ScaleProgress):
        return _study_line(report)
    if isinstance(report, TrainLine):
        beside = f"  held-out {number(held_out.val_loss)}" if held_out else ""
        skipped = f"  {report.skipped} skipped" if report.skipped else ""
        energy = ""
        if report.energy_start is not None and report.energy_final is not None:
            energy = f"  energy {number(report.energy_start)} -> {number(report.energy_final)}"
            energy += f"  gap {number(report.energy_start - report.energy_final)}  step size {number(report.step_size)}"
        return (
            f"step {report.step:,}/{report.steps:,}  loss {number(report.loss)}{beside}{energy}"
            f"  grad {number(report.grad_norm)}{skipped}"
            f"  {report.states_per_second:,.0f} states/s  {duration(report.eta_seconds)} left"
        )
    if isinstance(report, ValidationLine):
        best = "  best so far" if report.best else ""
        return (
            f"step {report.step:,}  held-out {number(report.val_loss)}"
            f"  {report.reference} {number(report.reference_loss)}{best}"
        )
    return None


def _study_line(report: ScaleProgress) -> str:
    ended = report.done + report.ended_badly
    total = ended + report.queued + len(report.running)
    line = f"run {ended:,}/{total:,}  {len(report.running):,} running  {report.queued:,} queued"
    if report.ended_badly:
        line += f"  {report.ended_badly:,} ended badly"
    if report.best is not None:
        line += f"  best {number(report.best.loss)} by {safe(report.best.key)}"
    if report.last is not None:
        line += f"  {safe(report.last.key)}: {report.last.status.replace('_', ' ')}"
        line += f", {safe(report.last.reason)}" if report.last.reason else ""
    return line + ("" if report.eta_seconds is None else f"  {duration(report.eta_seconds)} left")
