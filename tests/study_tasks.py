"""Tasks that `study_stub.py` plays, and what can be seen of them from outside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from study_stub import events

from ebwm_cli.run.study_task import Patience, Task

STUB = (sys.executable, "-m", "ebwm_cli.run.guarded", "0", "--", "study_stub")
"""What stands before `train` and `eval`; TESTS must be in PYTHONPATH."""
TESTS = str(Path(__file__).parent)
PATIENCE = Patience(grace=0.5, stop=20.0, busy=20.0, again=0.1)

__all__ = ["PATIENCE", "STUB", "TESTS", "events", "is_alive", "stub_task", "wait_for"]


def stub_task(folder: Path, key: str, *words: str, measure: tuple[str, ...] = (), **options: Any) -> Task:
    """A task of the stub's, in `folder`/`key`."""
    out, log = str(folder / key), str(folder / "logs" / f"{key}.log")
    return Task(key, train=(out, *words), measure=(out, *measure), log=log, **options)


def wait_for(what: Callable[[], Any], seconds: float = 600.0) -> Any:
    """What `what` returns once that is something."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it isn't one that ended and was not asked after."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
