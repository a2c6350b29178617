"""A study while it runs: which runs are under way and since when, which ended badly and why, the lowest loss so far.

Time under way is counted between reports by a clock that is handed in. Knows no terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_tables import BAD, GOOD, LABEL, QUIET, VALUE
from ebwm_cli.console_text import duration, number, safe
from ebwm_cli.run.report_scale import PointReport, ScaleProgress
from ebwm_cli.run.study_words import UNENDED

BAD_SHOWN, LONGEST_REASON = 4, 150
"""Of a running study: as many of its bad ends, as much of their reasons. The final report has all."""


class RunningStudy:
    """The latest state of a study, and since when each of its runs runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._bad: dict[str, PointReport] = {}
        self._told_at = 0.0
        self.progress: ScaleProgress | None = None

    def take(self, progress: ScaleProgress) -> None:
        """Note how the study stands."""
        self.progress, self._told_at = progress, self._clock()
        self._begun = {key: self._begun.get(key, progress.seconds) for key in progress.running}
        last = progress.last
        if last is not None and last.status not in (*UNENDED, "done"):
            self._bad[last.key] = last

    @property
    def counts(self) -> tuple[int, int]:
        """Runs that ended, and all."""
        if self.progress is None:
            return 0, 0
        ended = self.progress.done + self.progress.ended_badly
        return ended, ended + len(self.progress.running) + self.progress.queued

    @property
    def left(self) -> float:
        """Seconds; infinity while nobody knows."""
        if self.progress is None or self.progress.eta_seconds is None:
            return math.inf
        return max(0.0, self.progress.eta_seconds - (self._clock() - self._told_at))

    def drawn(self, rows: int) -> RenderableType:
        """The state without the bar, in about `rows` lines, of which runs under way get what the rest leaves."""
        made = Table.grid(padding=(0, 2), expand=True)
        made.add_column(style=LABEL, no_wrap=True)
        made.add_column(justify="right", style=VALUE, no_wrap=True)
        made.add_column(overflow="fold", ratio=1)
        made.add_column(justify="right", no_wrap=True, style=QUIET)
        study = self.progress
        if study is None:
            return made
        now = study.seconds + self._clock() - self._told_at
        keys = sorted(study.running, key=lambda key: self._begun[key])
        bad = list(self._bad.values())[-BAD_SHOWN:]
        shown = max(1, rows - 5 - 3 * len(bad))
        for place, key in enumerate(keys[:shown]):
            first = ("running", f"{len(keys):,}") if place == 0 else ("", "")
            made.add_row(*first, safe(key), duration(int(max(0.0, now - self._begun[key]))))
        if not keys:
            made.add_row("running", "0", "", "")
        if len(keys) > shown:
            made.add_row("", "", Text(f"and {len(keys) - shown:,} more", QUIET), "")
        made.add_row("queued", f"{study.queued:,}", "", "")
        made.add_row("done", f"{study.done:,}", _best(study.best), f"{duration(int(now))} so far")
        if study.ended_badly:
            earlier = study.ended_badly - len(self._bad)
            told = Text(f"{earlier:,} of them before this call" if earlier > 0 else "", QUIET)
            made.add_row(Text("ended badly", BAD), Text(f"{study.ended_badly:,}", BAD), told, "")
        return Group(made, *map(_why, reversed(bad)))


def _best(best: PointReport | None) -> Text:
    """The lowest loss so far, and whose it is."""
    if best is None:
        return Text()
    return Text("best ", QUIET).append(number(best.loss), f"bold {GOOD}").append(f"  {safe(best.key)}", "default")


def _why(point: PointReport) -> Text:
    """How a run ended and why, as much as there is room for while others go on."""
    reason = safe(point.reason or "")
    reason = reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 1] + "…"
    line = Text(f"{safe(point.key)}  {point.status.replace('_', ' ')}", BAD, overflow="fold")
    return line.append(f"  {reason}" if reason else "", QUIET)
