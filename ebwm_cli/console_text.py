"""Numbers, durations and histories as short text, and each progress report as one plain line.

Pure functions: no terminal, no colour. Every value from a file's name on passes through `safe`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ebwm_cli.run.report import ClipReport, Notice, Report, TrainLine, ValidationLine
from ebwm_cli.run.report_text import TextReport, TokenReport

_BLOCKS = "▁▂▃▄▅▆▇█"


def safe(text: str) -> str:
    """`text` without anything that could move a terminal's cursor or break a line."""
    return "".join(char if char.isprintable() else "�" for char in text)


def number(value: float | None) -> str:
    """Four decimals, fewer for large values, powers of ten at the extremes; a dash where there is nothing to say."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 100:
        return f"{value:.4f}"
    if 100 <= abs(value) < 1e6:
        return f"{value:,.1f}"
    return f"{value:.2e}"


def tail(path: str, width: int) -> str:
    """A path's last `width` characters, marked where something is missing."""
    return path if len(path) <= width else "…" + path[1 - width :]


def count(value: float) -> str:
    """1234 -> 1,234; 12345678 -> 12.3 M."""
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in binary units."""
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}" if value < 1000 * limit else f"{value / limit:.0f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """0.42 s, 12 s, 3m 20s, 2h 05m."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def change(new: float, old: float) -> str:
    """How far `new` is from `old`, in per cent of `old`, with its sign; empty where that means nothing."""
    if not (math.isfinite(new) and math.isfinite(old)) or old == 0:
        return ""
    percent = 100 * (new - old) / abs(old)
    return f"{'+' if percent >= 0 else '−'}{abs(percent):.1f} %"


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
