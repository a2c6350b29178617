"""Numbers, sizes and times as short text: what people read on the terminal, in pictures and on pages.

Pure functions: no terminal, no colour, no markup. What comes from outside passes through `safe` first.
"""

from __future__ import annotations

import math


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
