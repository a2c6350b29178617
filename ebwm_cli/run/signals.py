"""Requests to stop, noticed between two updates.

SIGTERM, SIGUSR1 (a scheduler's warning), SIGHUP (a terminal that closes) and SIGINT set a flag that the training loop
reads when its state is whole; a second SIGINT leaves at once, which is safe because what is on disk is always whole.
Processes that train together stop at the same update, whichever of them was asked.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from ebwm_cli.errors import EbwmError, Interrupted, StoppedAndSaved

_WATCHED = [getattr(signal, name) for name in ("SIGHUP", "SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
"""The last one prevails where several came."""


class StopRequests:
    """Context in which those signals are requests. Outside the main thread, where no handler can be set, none come."""

    def __init__(self, most: Callable[[int], int] = int) -> None:
        """`most` gives the largest of the numbers that processes which train together call it with."""
        self.received: signal.Signals | None = None
        """By this process."""
        self._agreed: signal.Signals | None = None
        self._most = most
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _WATCHED if not _waived(number)}
            _mask("SIG_UNBLOCK")  # what was held back comes now
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.received is not None

    def agreed(self) -> bool:
        """Whether any of the processes that train together was asked to stop, the same answer in all of them: so all
        must ask, and at the same points."""
        most = self._most(_WATCHED.index(self.received) + 1 if self.received else 0)
        self._agreed = _WATCHED[most - 1] if most else None
        return self._agreed is not None

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise Interrupted("interrupted twice, left at once", "the same command resumes from the last checkpoint")
        if self.received != signal.SIGINT:
            self.received = signal.Signals(number)

    def error(self, step: int) -> EbwmError:
        """What to raise once everything is saved at `step`."""
        return self.error_of(f"saved at step {step}")

    def error_of(self, what: str) -> EbwmError:
        """What to raise once everything is saved; `what` says where that left things."""
        asked = self._agreed or self.received
        assert asked is not None
        kind = Interrupted if asked == signal.SIGINT else StoppedAndSaved
        return kind(f"stopped by {asked.name}, {what}", "the same command resumes")


def _waived(number: signal.Signals) -> bool:
    """Whether whoever started us doesn't want us to hear it, as nohup."""
    return number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN


@contextmanager
def held_back() -> Iterator[None]:
    """Those signals wait until the end of this context; in processes started inside, until StopRequests begin."""
    before = _mask("SIG_BLOCK")
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mask(how: str) -> set[Any] | None:
    """Block or unblock those signals in this thread; those blocked before, None where signals can't be blocked."""
    return signal.pthread_sigmask(getattr(signal, how), _WATCHED) if hasattr(signal, "pthread_sigmask") else None
