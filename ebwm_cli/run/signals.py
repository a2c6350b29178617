"""Requests to stop, noticed between two updates.

SIGTERM and SIGUSR1 (a scheduler's warning) and SIGINT set a flag that the training loop reads when its state is whole;
a second SIGINT leaves at once, which is safe because what is on disk is always whole.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from ebwm_cli.errors import EbwmError, Interrupted, StoppedAndSaved

_WATCHED = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]


class StopRequests:
    """Context in which those signals are requests. Outside the main thread, where no handler can be set, none come."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _WATCHED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise Interrupted("interrupted twice, left at once", "the same command resumes from the last checkpoint")
        if self.received != signal.SIGINT:
            self.received = signal.Signals(number)

    def error(self, step: int) -> EbwmError:
        """What to raise once everything is saved at `step`."""
        assert self.received is not None
        kind = Interrupted if self.received == signal.SIGINT else StoppedAndSaved
        return kind(f"stopped by {self.received.name}, saved at step {step}", "the same command resumes")
