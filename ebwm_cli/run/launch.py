"""Several processes that train together: started, watched and ended as one.

Rank 0 speaks, the others are silent; a signal to the launcher goes to all of them; the first that fails ends all, and
says why. Ranks that torchrun started differ only in who watches them. Knows commands as words, and no tensor.
"""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebwm_cli.errors import EbwmError, RecipeError, StoppedAndSaved, UsageError
from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.run.guarded import COMMAND, start_guarded
from ebwm_cli.run.processors import usable_cores
from ebwm_cli.run.signals import StopRequests, held_back

FOLDER = "EBWM_RANKS"
"""Environment variable: the launcher's folder, where ranks meet and leave why they failed."""
FAILURE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable: the file in which a rank leaves why it failed; torchrun's name and format."""
GRACE = 5.0
"""Seconds that ranks have to end by themselves when one has failed."""
POLL = 0.05
"""Seconds between looks at the ranks."""
RESUMES = "the same command resumes from the last checkpoint"
NOT_SHARDED = (
    "train.shard: torch's FSDP2 frees a weight, and hands on its gradient, in the first backward pass through its "
    "layer; descending an energy is such a pass, so the gradient that teaches never arrives"
)
"""Tried with torch 2.13 on two gloo processes: `setStorage: ... out of bounds for storage of size 0` in the second
backward pass, and with `set_reshard_after_backward(False)` no gradient at all, silently."""


# ---------------------------------------------------------------------------------------------- a rank


@dataclass(frozen=True)
class Place:
    """Which process this is: its rank of so many, and its rank on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place_of(environment: Mapping[str, str]) -> Place:
    """What RANK, WORLD_SIZE and LOCAL_RANK say; without them, a process alone. Raises UsageError."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    said = [environment.get(name, "0") for name in names]
    if not all(word.isascii() and word.isdigit() for word in said) or int(said[0]) >= int(said[1]):
        raise UsageError(f"{' '.join(names)} are {' '.join(said)}", "torchrun sets them; else unset RANK WORLD_SIZE")
    rank, size, local = map(int, said)
    return Place(rank, size, local)


def store_of(environment: Mapping[str, str]) -> str:
    """Where ranks meet, as torch writes it: a file of the launcher's, else MASTER_ADDR and MASTER_PORT."""
    return f"file://{environment[FOLDER]}/store" if FOLDER in environment else "env://"


def parts_of(train: TrainSection, ranks: int) -> int:
    """Parts that a batch is cut into: `accumulate`, or the next multiple of `ranks`, of which each makes as many. So a
    number of ranks that divides `accumulate` changes no update. Raises RecipeError where the batch, or the model, can't
    be dealt out."""
    if train.shard:
        raise RecipeError(NOT_SHARDED, "train.shard=false; every device then holds the whole model")
    parts = ranks * math.ceil(train.accumulate / ranks)
    if train.batch_size % parts:
        near = parts * max(round(train.batch_size / parts), 1)
        raise RecipeError(
            f"train.batch_size: {train.batch_size} windows can't be dealt out to {ranks} devices in {parts} parts",
            f"train.batch_size={near}, or another --gpus",
        )
    return parts


def leave_failure(error: Exception, message: str, hint: str, code: int, environment: Mapping[str, str]) -> bool:
    """Leave why this process fails where its launcher looks, if it has one; whether there is nothing left to print,
    because the launcher or another rank does."""
    try:
        place = place_of(environment)
    except UsageError:
        return False
    lost = getattr(error, "lost", False)
    if lost and FOLDER not in environment:
        time.sleep(GRACE)  # torchrun takes what it sees first for the cause
    if FAILURE in environment and place.size > 1:
        trace = "".join(traceback.format_exception(error))
        told = isinstance(error, EbwmError) or code != 1
        said = {
            "message": message,
            "hint": hint,
            "code": code,
            "trace": None if told else trace,
            "lost": lost,
            "time": time.time(),
        }
        whole = {
            "message": message,
            "errorCode": code,
            "extraInfo": {
                "py_callstack": f"error: {message}\nhint: {hint}" if told else trace,
                "timestamp": str(int(time.time())),
            },
        }
        Path(environment[FAILURE]).write_text(json.dumps({"message": whole, "ebwm": said}), encoding="utf-8")
    return FOLDER in environment or place.rank > 0


# ---------------------------------------------------------------------------------------------- all ranks


class RankFailed(EbwmError):
    """A rank failed, and so the training; with the exit code of that rank, or 128 + the signal that killed it."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def train_together(words: Sequence[str], gpus: int, device: str) -> bool:
    """Run `ebwm` with `words`, which ask for `gpus`, in as many ranks; False where this process is to train itself,
    because it is one of them or because one is asked for.

    Raises ResourceError where fewer are visible, UsageError where torchrun started another number, and what `launch`
    does.
    """
    size = place_of(os.environ).size
    if size not in (1, gpus):
        raise UsageError(f"--gpus {gpus} in one of {size} processes", "torchrun says how many; leave --gpus out")
    if size > 1:
        return False
    if device != "cpu":
        from ebwm_cli.run.workers import workers_of  # torch counts GPUs; for the CPU it isn't needed here

        workers_of(device, gpus)
    if gpus > 1:
        launch(words, gpus)
    return gpus > 1


def launch(words: Sequence[str], count: int) -> None:
    """Run `ebwm` with `words` as `count` ranks of one training on this machine, to the end. Rank 0 has our stdout and
    stderr. Signals that ask to stop are passed on; a second SIGINT raises Interrupted at once.

    Raises RankFailed with what the first failing rank said: an error and its hint, or, last, its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="ebwm-") as folder, StopRequests() as stop:
        ranks: list[_Rank] = []
        try:
            with held_back():  # from their first moment on, ranks lose no signal
                for rank in range(count):
                    ranks.append(_Rank(rank, count, words, Path(folder)))
            _watch(ranks, stop)
        finally:
            for rank in ranks:
                rank.end()
        failure = _first_failure(ranks, stop)
    if failure is not None:
        raise failure


def _watch(ranks: Sequence[_Rank], stop: StopRequests) -> None:
    """Pass signals on until all ranks have ended, or one has failed and the others had time to end."""
    sent: signal.Signals | None = None
    deadline = math.inf
    while True:
        running = [rank for rank in ranks if rank.runs()]
        if not running or time.monotonic() > deadline:
            return
        if deadline == math.inf and any(rank.process.returncode for rank in ranks):
            deadline = time.monotonic() + GRACE
        if stop.received and stop.received != sent:
            sent = stop.received
            for rank in running:
                rank.process.send_signal(sent)
        time.sleep(POLL)


class _Rank:
    """One process of the training."""

    def __init__(self, rank: int, count: int, words: Sequence[str], folder: Path) -> None:
        self._failure_file = folder / f"failure_{rank}.json"
        self._log_file = folder / f"rank_{rank}.log"
        self._ended: float | None = None
        self._ended_by_us = False
        self.rank = rank
        environment = {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(usable_cores() // count, 1)),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            FOLDER: str(folder),
            FAILURE: str(self._failure_file),
        }
        with self._log_file.open("wb") as log:
            said = log if rank else None
            self.process = start_guarded([*COMMAND, *words], environment=environment, stdout=said, stderr=said)

    def runs(self) -> bool:
        """Whether it does still; when it ended is noted."""
        if self.process.poll() is None:
            return True
        self._ended = self._ended or time.time()
        return False

    def end(self) -> None:
        """End it if it still runs."""
        if self.runs():
            self._ended_by_us = True
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def failure(self) -> tuple[bool, float, RankFailed] | None:
        """Whether it only lost the others, when it failed, and what to say; None where it didn't."""
        code = self.process.returncode
        try:
            said: dict[str, Any] = json.loads(self._failure_file.read_text(encoding="utf-8"))["ebwm"]
        except (OSError, ValueError):  # none, or cut short by a kill
            said = {}
        if said:
            text, hint = said["message"], said["hint"]
            if said["trace"]:
                text, hint = f"rank {self.rank} failed; {RESUMES}\n{said['trace'].rstrip()}", ""
            return said["lost"], said["time"], RankFailed(text, hint, said["code"])
        if self._ended_by_us or not code or self._ended is None:
            return None
        if code < 0:
            text = f"rank {self.rank} was killed by {signal.Signals(-code).name}"
            return False, self._ended, RankFailed(text, RESUMES, 128 - code)
        last = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        text = "\n".join([f"rank {self.rank} ended with exit code {code}", *last])
        return False, self._ended, RankFailed(text, RESUMES, code)


def _first_failure(ranks: Sequence[_Rank], stop: StopRequests) -> EbwmError | None:
    """What to say of ranks that have ended: the first failure that isn't another's consequence; as rank 0 says it,
    where it says the same."""
    failures = [failure for rank in ranks if (failure := rank.failure())]
    if not failures:
        return None
    if stop.received and any(-rank.process.returncode == stop.received for rank in ranks):  # after it was saved
        return StoppedAndSaved(f"stopped by {stop.received.name}", "the same command resumes")
    first = min(failures, key=lambda each: each[:2])[2]
    own = ranks[0].failure()
    return own[2] if own and not own[0] and own[2].exit_code == first.exit_code != 1 else first
