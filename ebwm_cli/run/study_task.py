"""One run of a study as a task: what to start, on how many devices, and what came of it.

    train, then eval: two ordinary commands, tried again where something outside ended them, never where they failed

Knows processes and their exit codes; no scheduler, no tensor.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

from ebwm_cli.errors import DivergedError, Interrupted, ResourceError, StoppedAndSaved
from ebwm_cli.run.guarded import COMMAND, end, start_guarded
from ebwm_cli.run.report_scale import Status

TICK = 0.05
"""Seconds between two looks at a process."""
BUSY = "is being trained by another process"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")
STOPPED = {StoppedAndSaved.exit_code, Interrupted.exit_code}
FROM_OUTSIDE = {
    -getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
}
TRAINED, MEASURED = ("val_loss", "step", "params", "flops_per_step"), ("loss",)
"""What a study needs of the two documents."""
LONGEST_REASON = 500
LAST_BYTES = 1 << 20
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Task:
    """A training and the measuring of its model: two ordinary commands."""

    key: str
    train: tuple[str, ...]
    """What is typed after `ebwm train`, --json among it."""
    measure: tuple[str, ...]
    """What is typed after `ebwm eval`, --json among it."""
    log: str
    """The file to which their stderr is appended; its folder is made."""
    devices: int = 1
    timeout: float | None = None
    """Seconds that one try may take, both commands together; None: as long as it takes."""
    retries: int = 2
    """How often it is started again after its process, or node, was killed from outside."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    key: str
    status: Status
    reason: str | None
    train: Mapping[str, Any] | None
    """The training's last JSON line (a TrainReport); None where it didn't end well."""
    measure: Mapping[str, Any] | None
    """The measuring's JSON document (an EvalReport)."""
    seconds: float
    """Wall-clock of its processes, all tries together."""


@dataclass(frozen=True)
class Started:
    """A task's process has begun; said once per task."""

    key: str
    slots: tuple[str, ...]
    """The devices it runs on, in words."""


@dataclass(frozen=True)
class Ended:
    """A task has ended, well or badly."""

    outcome: Outcome


Event = Started | Ended


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Executor(Protocol):
    """Runs tasks on the devices it has."""

    def run(self, tasks: Iterable[Task], stopped: Callable[[], bool] = never) -> Iterator[Event]:
        """Run `tasks`, as many at once as there are devices for; yield what happens, in that order.

        Once `stopped()`, or when the iterator is closed, no more are started and those that run are told to save; what
        hasn't ended then has no Ended. Raises ResourceError where a task asks for more than there is.
        """
        ...


@dataclass(frozen=True)
class Patience:
    """Seconds that are waited at most."""

    grace: float = 30.0
    """For a process whose time is up, to end by itself."""
    stop: float = 120.0
    """For a process that is told to stop, to save."""
    busy: float = 45.0
    """For a run folder that another process holds: an orphan of a killed scheduler saves and goes."""
    again: float = 1.0
    """Between two tries at that."""


# ---------------------------------------------------------------------------------------------- running


def run_task(
    task: Task,
    environment: Mapping[str, str],
    stop: threading.Event | None = None,
    *,
    command: Sequence[str] = COMMAND,
    patience: Patience = Patience(),
) -> Outcome | None:
    """Train and measure; None where `stop` was set before the end, so that the task is still to be done.

    `environment` is added to this process's, `command` is what stands before `train` and `eval`. Blocks. Raises
    ResourceError where no process can be started or its log can't be written.
    """
    stop = stop or threading.Event()
    seconds, from_outside, busy_until = 0.0, 0, None
    while not stop.is_set():
        tried = _try(task, environment, stop, command, patience)
        seconds += tried.seconds
        if tried.train is not None and tried.measure is not None:
            return _measured(task, tried.train, tried.measure, seconds)
        if stop.is_set():
            return None
        status, reason = tried.verdict(task)
        if tried.busy:
            busy_until = busy_until or time.monotonic() + patience.busy
            if time.monotonic() < busy_until:
                stop.wait(patience.again)
                continue
        elif tried.ended_from_outside:
            busy_until = None
            from_outside += 1
            if from_outside <= task.retries:
                continue
            reason = f"{_how(tried.code)} {from_outside} times" + "; out of memory?" * (tried.code == -signal.SIGKILL)
        return Outcome(task.key, status, reason, tried.train, None, seconds)
    return None


@dataclass(frozen=True)
class _Try:
    """What came of starting the two commands once."""

    code: int
    """Of the last one that ran: 0, an exit code, or the signal that killed it, negative."""
    late: bool
    error: str
    train: Mapping[str, Any] | None
    measure: Mapping[str, Any] | None
    seconds: float

    @property
    def busy(self) -> bool:
        return self.code == ResourceError.exit_code and BUSY in self.error

    @property
    def ended_from_outside(self) -> bool:
        return not self.late and self.code in STOPPED | FROM_OUTSIDE

    def verdict(self, task: Task) -> tuple[Status, str]:
        """Status and reason of a try that came to nothing."""
        if self.late and task.timeout is not None:
            return "timed_out", f"took longer than {task.timeout / 3600:.3g} hours"
        if self.code == DivergedError.exit_code:
            return "diverged", self.error
        if self.code > 0 and any(words in self.error.lower() for words in OUT_OF_MEMORY):
            return "out_of_memory", self.error
        return "failed", self.error


def _try(
    task: Task, environment: Mapping[str, str], stop: threading.Event, command: Sequence[str], patience: Patience
) -> _Try:
    began = time.monotonic()
    until = math.inf if task.timeout is None else began + task.timeout
    documents: list[dict[str, Any]] = []
    code, late, error = 0, False, ""
    for words, needed in (("train", *task.train), TRAINED), (("eval", *task.measure), MEASURED):
        if documents and stop.is_set():
            break
        try:
            code, late, said, error = _command(task, [*command, *words], environment, stop, until, patience)
            if 128 - code in FROM_OUTSIDE and code not in STOPPED:  # one of several processes was killed
                code = 128 - code
        except OSError as failure:
            raise ResourceError(
                f"{failure.filename or task.key}: {failure.strerror or failure}", "the same command goes on"
            ) from failure
        if code or late:
            break
        document = _document(said, needed)
        if document is None:
            error = f"ebwm {words[0]} ended well, but not with a report of {', '.join(needed)}"
            break
        documents.append(document)
    train, measure = [*documents, None, None][:2]
    return _Try(code, late, error, train, measure, time.monotonic() - began)


def _command(
    task: Task,
    words: list[str],
    environment: Mapping[str, str],
    stop: threading.Event,
    until: float,
    patience: Patience,
) -> tuple[int, bool, str, str]:
    """Run one command: its exit code, whether its time was up, its stdout (the end of it), and its error in words."""
    log = Path(task.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile() as said, log.open("ab") as errors:
        errors.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {' '.join(words)}\n".encode())
        errors.flush()
        before = errors.tell()
        process = start_guarded(words, environment=environment, stdout=said, stderr=errors)
        late = False
        try:
            while process.poll() is None and not (late or stop.wait(TICK)):
                late = time.monotonic() > until
        finally:  # whatever it was that ended the waiting
            if process.returncode is None:
                end(process, patience.grace if late else patience.stop)
            if process.stdin is not None:
                process.stdin.close()
        code = process.wait()
        size = os.fstat(said.fileno()).st_size
        said.seek(max(0, size - LAST_BYTES))
        with log.open("rb") as told:
            told.seek(before)
            return code, late, said.read().decode(errors="replace"), _error(told, code)


def _document(said: str, needed: Sequence[str]) -> dict[str, Any] | None:
    """The JSON object in the last line; None where there is none, or something that is needed isn't in it."""
    try:
        document = json.loads(said.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return document if isinstance(document, dict) and set(needed) <= set(document) else None


def _error(told: IO[bytes], code: int) -> str:
    """What stands after the last `error:` on stderr, up to its hint; else the last line; else how it ended."""
    text = ANSI.sub("", told.read()[-LAST_BYTES:].decode(errors="replace")).strip()
    found = re.findall(r"^error: (.*?)(?=^hint: |\Z)", text, re.MULTILINE | re.DOTALL)
    last = " ".join("".join(found[-1:] or text.splitlines()[-1:]).split())
    return last[:LONGEST_REASON] if last and code >= 0 else _how(code)


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "killed (signal 9)"
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    return "stopped from outside" if code in STOPPED else f"ended with exit code {code}"


def _measured(task: Task, train: Mapping[str, Any], measure: Mapping[str, Any], seconds: float) -> Outcome:
    loss = measure["loss"]
    if isinstance(loss, int | float) and math.isfinite(loss):
        return Outcome(task.key, "done", None, train, measure, seconds)
    return Outcome(task.key, "diverged", "the loss on the test split is no number", train, measure, seconds)
