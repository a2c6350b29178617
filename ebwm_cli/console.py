"""Reports on their way to a person or a program: live on a terminal, plain lines in a pipe, JSON on request.

`show` draws a stream of reports and knows no command; `show_error` says what went wrong and what to type next.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ebwm_cli import (  # noqa: F401 - they draw reports
    console_calibration,
    console_difficulty,
    console_eval,
    console_facets,
    console_scale,
    console_think,
    console_write,
)
from ebwm_cli.console_live import Progress
from ebwm_cli.console_tables import render
from ebwm_cli.console_text import plain_line, safe
from ebwm_cli.run.report import ClipReport, Notice, Report, TrainLine, ValidationLine
from ebwm_cli.run.report_scale import ScaleProgress
from ebwm_cli.run.report_text import TextReport, TokenReport

PLAIN_INTERVAL = 30.0
"""Seconds between progress lines off a terminal."""
PLAIN_WIDTH = 100
"""Columns of a table off a terminal."""

_PROGRESS = (ClipReport, ScaleProgress, TextReport, TokenReport, TrainLine, ValidationLine)


@dataclass(frozen=True)
class View:
    """How a person asked to see things."""

    json: Literal["", "document", "lines"] = ""
    """One JSON document at the end, or one JSON object per report."""
    quiet: bool = False
    """Only the final result."""
    verbose: bool = False
    """Off a terminal: every progress line instead of one per half minute."""
    waiting: str = "working"
    """What is going on until the first report."""


class _Sink(Protocol):
    def take(self, report: Report) -> None: ...
    def close(self) -> None: ...


def show(reports: Iterator[Report], view: View) -> None:
    """Draw every report as it comes; errors of the command pass through, with the terminal left in order. A command
    whose reports can't be drawn any more is closed, so that it can save."""
    out, log = _console(), _console(stderr=True)
    sink: _Sink
    if view.json:
        sink = _Json(view, log)
    elif out.is_terminal and not view.quiet:
        sink = _Live(out, view)
    else:
        sink = _Plain(view, out, out)
    with closing(sink):
        try:
            for report in reports:
                sink.take(report)
        finally:
            if isinstance(reports, Generator):
                reports.close()


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    return console


def show_json(document: Any) -> None:
    """One JSON document on stdout; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(document)) + "\n")
    sys.stdout.flush()


def show_error(message: str, hint: str = "") -> None:
    """`error: what` and `hint: the next command to type`, on stderr."""
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    log.print(Text("error: ", "bold red").append("\n".join(map(safe, message.splitlines())), "default"))
    if hint:
        log.print(Text("hint: ", "bold cyan").append(safe(hint), "default"))


class _Live:
    """A terminal: one live region below, what has been settled above it."""

    def __init__(self, out: Console, view: View) -> None:
        self._out, self._progress = out, Progress(view.waiting)
        self._live = Live(self._progress, console=out, transient=True, refresh_per_second=5)
        self._live.start()

    def take(self, report: Report) -> None:
        if isinstance(report, _PROGRESS):
            self._progress.take(report)
        elif isinstance(report, Notice):
            self._out.print(Text("· ", "cyan").append(safe(report.notice), "default"))
        else:
            self._progress.reset()
            self._out.print(render(report))

    def close(self) -> None:
        self._live.stop()


class _Plain:
    """A pipe or a log file: few lines, the first and the last of any progress always among them."""

    def __init__(self, view: View, out: Console, log: Console) -> None:
        self._view, self._out, self._log = view, out, log
        self._pending: str | None = None
        self._held_out: ValidationLine | None = None
        self._said_at = -math.inf
        self._last: Report | None = None

    def take(self, report: Report) -> None:
        if isinstance(report, _PROGRESS):
            self._advance(report)
        elif isinstance(report, Notice):
            self._say(safe(report.notice))
        else:
            self._flush()
            self._last = report
            if not self._view.quiet:
                self._out.print(render(report))

    def close(self) -> None:
        self._flush()
        if self._view.quiet and self._last is not None:
            self._out.print(render(self._last))

    def _advance(self, report: Report) -> None:
        if isinstance(report, ValidationLine):
            self._held_out = report
            if not self._view.verbose:
                return  # told beside the next log line
        self._pending = plain_line(report, self._held_out)
        if self._view.verbose or time.monotonic() - self._said_at >= PLAIN_INTERVAL:
            self._flush()

    def _flush(self) -> None:
        if self._pending is not None:
            self._say(self._pending)
            self._pending, self._said_at = None, time.monotonic()

    def _say(self, line: str) -> None:
        if not self._view.quiet:
            self._log.print(Text(line), soft_wrap=True)


class _Json(_Plain):
    """stdout is JSON and nothing else: every report on a line, or the last one; the log goes to stderr."""

    def __init__(self, view: View, log: Console) -> None:
        super().__init__(view, log, log)

    def take(self, report: Report) -> None:
        if self._view.json == "lines":
            show_json(report.model_dump())
        elif isinstance(report, (*_PROGRESS, Notice)):
            super().take(report)
        else:
            self._flush()
            self._last = report

    def close(self) -> None:
        self._flush()
        if self._view.json == "document" and self._last is not None:
            show_json(self._last.model_dump())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
