"""A child that doesn't outlive its parent. `python -m ebwm_cli.run.guarded FD -- MODULE WORDS` is `python -m MODULE
WORDS` with a watch kept on FD.

FD is the read end of a pipe whose other end only the parent holds. However the parent dies, the pipe ends; then the
child asks itself to stop (SIGTERM: a training saves), and leaves soon after. Knows nothing of what it runs.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from ebwm_cli.errors import StoppedAndSaved

CORES = "EBWM_CORES"
"""Environment variable: the cores that the child may use, as `0,1`, where the system can say so."""
GRACE = 30.0
"""Seconds between the parent's death and the child's, if saving takes that long."""
COMMAND = (sys.executable, "-m", "ebwm_cli.run.guarded", "0", "--", "ebwm_cli")
"""`ebwm`, guarded by its stdin."""


def start_guarded(
    words: Sequence[str], *, environment: Mapping[str, str], stdout: IO[bytes] | None, stderr: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start `words`, a guarded command that watches its stdin; this process's death closes that. `environment` is added
    to this process's; None stands for this process's output. It leads a session of its own, so that Ctrl-C in a
    terminal reaches its parent only.

    Raises OSError where no process can be started.
    """
    return subprocess.Popen(
        list(words),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask `process`, of `start_guarded`, to stop; kill it and all it started where it is still there after `grace`
    seconds."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def watch(descriptor: int, grace: float = GRACE) -> None:
    """From now on, the end of the pipe `descriptor` ends this process. Whatever else reads there finds it empty."""
    own, empty = os.dup(descriptor), os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, descriptor)
    os.close(empty)
    threading.Thread(target=_leave_at_the_end_of, args=(own, grace), name="guard", daemon=True).start()


def _leave_at_the_end_of(pipe: int, grace: float) -> None:
    while os.read(pipe, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(StoppedAndSaved.exit_code)


def _keep_to_cores() -> None:
    cores = os.environ.pop(CORES, "")
    if cores and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # not allowed here: timings are less comparable, results are the same
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


def main(words: Sequence[str]) -> None:
    """Watch, then be the module."""
    if len(words) < 3 or words[1] != "--":
        sys.exit("usage: python -m ebwm_cli.run.guarded FD -- MODULE [WORDS]")
    watch(int(words[0]))
    _keep_to_cores()
    sys.argv = list(words[2:])
    runpy.run_module(words[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
