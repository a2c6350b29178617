"""The journal of a study: points.jsonl, one line when a run starts and one, with all that came of it, when it ends.

A line is one write at the end of the file, fsynced before anything counts on it; a line that a death cut short is no
line, and its run is queued again. Knows outcomes, not processes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from ebwm_cli.errors import CheckpointError, ResourceError
from ebwm_cli.run import safe_write
from ebwm_cli.run.study_task import Outcome

STARTED, ENDED = "started", "ended"
_OUTCOME = TypeAdapter(Outcome)


def read_journal(path: Path) -> dict[str, Outcome]:
    """How each run that has ended did, by key; none where there is no file. A torn last line is not counted.

    A run that was done once is done; of several bad endings the last one counts. Raises CheckpointError where a line is
    damaged, ResourceError where the file can't be read.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Outcome], int]:
    """Outcomes by key, and the bytes of whole lines."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    except OSError as error:
        raise ResourceError(f"{path} can't be read: {error.strerror}", f"make {path} readable") from error
    whole = content[: content.rfind(b"\n") + 1]
    ended: dict[str, Outcome] = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        outcome = _outcome_of(line, f"{path}, line {number}")
        if outcome is not None:
            _count(ended, outcome)
    return ended, len(whole)


def _outcome_of(line: bytes, where: str) -> Outcome | None:
    """What a line says: an outcome, or None for a start."""
    try:
        entry = json.loads(line)
        if entry["event"] == STARTED and isinstance(entry["key"], str):
            return None
        outcome = _OUTCOME.validate_python(entry["outcome"])
        if entry["event"] == ENDED and entry["key"] == outcome.key:
            return outcome
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise _damaged(where) from error
    raise _damaged(where)


def _damaged(where: str) -> CheckpointError:
    return CheckpointError(f"{where} is damaged", "delete that line; its run goes on from its own folder")


def _count(ended: dict[str, Outcome], outcome: Outcome) -> None:
    if outcome.key not in ended or ended[outcome.key].status != "done":
        ended[outcome.key] = outcome


class Journal:
    """Context in which a study's journal is written. Hold the study's folder meanwhile: one writes at a time.

    Raises CheckpointError where a line is damaged, ResourceError where the file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended, whole = _read(path)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.ftruncate(self._file, whole)
            safe_write.fsync(self._file)
            safe_write.fsync_folder(path.parent)
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._file)

    def ended(self) -> dict[str, Outcome]:
        """How each run that has ended did, by key, up to now."""
        return dict(self._ended)

    def started(self, key: str) -> None:
        """A run has started."""
        self._append({"event": STARTED, "key": key})

    def ended_with(self, outcome: Outcome) -> None:
        """A run has ended; on return that survives any death."""
        self._append({"event": ENDED, "key": outcome.key, "outcome": asdict(outcome)})
        _count(self._ended, outcome)

    def _append(self, entry: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, **entry}).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = safe_write.write(self._file, line)
            if written < len(line):
                raise OSError(f"{written} of {len(line)} bytes written, the disk is full")
            safe_write.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"{self._path} can't be written: {error.strerror or error}", "make room; the same command goes on"
        )
