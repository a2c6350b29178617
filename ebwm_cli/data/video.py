"""Clips -> sampled frames, by caged worker processes; a clip that hangs, crashes or lies costs itself alone.

The parent opens no clip: it hands paths to workers, listens with a deadline, kills and replaces a worker that is late
or dead, and tries such a clip once more with PyAV alone. It must not know encoders' insides, splits or sets.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ebwm_cli.data.encoders import FrameEncoder
from ebwm_cli.data.files import refusal
from ebwm_cli.data.sampling import Sampling, segments_of
from ebwm_cli.errors import DataError, ResourceError

BOOT = "import sys; sys.path.append(sys.argv[1]); from ebwm_cli.data.worker import main; main(int(sys.argv[2]))"


@dataclass(frozen=True)
class Limits:
    """The cage."""

    seconds: float = 60.0
    """Wall-clock seconds per clip, beside those for its size; and the longest silence of a worker."""
    bytes_per_second: float = 64 * 1024
    """Each so many bytes of a clip earn it a second more."""
    memory_bytes: int = 6 << 30
    """Address space of a worker; 0 is no limit."""
    max_pixels: int = 36_000_000
    """Width times height of a frame; above 8K."""

    def seconds_for(self, size: int) -> float:
        """Wall-clock limit for a clip of `size` bytes."""
        return self.seconds + size / self.bytes_per_second


@dataclass(frozen=True)
class Job:
    """One clip to decode; its pictures go to `frames_to` as raw (N, S, S, 3) uint8."""

    path: Path
    frames_to: Path
    size: int = 0
    """Bytes of the clip, as they were counted: by the time of its turn it may be gone."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: facts (frames, indices, times, partial, decoder, ...), or the reason why not."""

    job: Job
    facts: dict[str, Any] | None
    reason: str | None
    lasting: bool = True
    """Whether the clip itself is to blame, so that another run would meet the same."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    job: Job | None = None
    decord: bool = True
    started: float = 0.0
    heard: float = 0.0
    limit: float = 0.0
    buffer: bytes = b""
    answers: list[dict[str, Any]] = field(default_factory=list)


class Workers:
    """A pool of caged decoders; a context manager that leaves no process behind."""

    def __init__(self, count: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.count = max(1, count)
        self.threads = max(1, min(4, (os.cpu_count() or 1) // self.count))
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self._end(worker)
        self._selector.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    @property
    def _busy(self) -> int:
        return sum(worker.job is not None for worker in self._workers)

    def decode(self, jobs: Iterable[Job], sampling: Sampling) -> Iterator[Outcome]:
        """Outcomes in the order in which they are ready."""
        waiting = deque((job, True) for job in jobs)
        ready: list[Outcome] = []
        while waiting or ready or self._busy:
            while len(self._workers) < min(self.count, len(waiting) + self._busy):
                self._start()
            for worker in self._workers:
                if worker.job is None and waiting:
                    self._give(worker, *waiting.popleft(), sampling)
            yield from ready  # while the workers are at it again
            ready = []
            if self._busy:
                self._listen()
            for worker in list(self._workers):
                outcome = self._judge(worker)
                if outcome is None:
                    continue
                if outcome.facts is None and worker.decord and worker not in self._workers:
                    waiting.append((outcome.job, False))  # the worker died of it: once more, without decord
                else:
                    ready.append(outcome)

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-P", "-c", BOOT, root, str(self.limits.memory_bytes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        worker = _Worker(process)
        self._workers.append(worker)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)

    def _give(self, worker: _Worker, job: Job, decord: bool, sampling: Sampling) -> None:
        worker.job, worker.decord = job, decord
        worker.limit = self.limits.seconds_for(job.size)
        worker.started = worker.heard = time.monotonic()
        line = {
            "path": str(job.path.resolve()),
            "frames_to": str(job.frames_to.resolve()),
            "sampling": sampling.as_json(),
            "max_pixels": self.limits.max_pixels,
            "seconds": worker.limit,
            "threads": self.threads,
            "decord": decord,
        }
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(line).encode() + b"\n")
            worker.process.stdin.flush()
        except BrokenPipeError:
            worker.process.wait()  # it died idle; `_judge` finds it dead

    def _listen(self) -> None:
        for key, _ in self._selector.select(timeout=0.2):
            worker: _Worker = key.data
            piece = os.read(key.fd, 1 << 20)
            if not piece:
                self._selector.unregister(key.fileobj)
                worker.process.wait()
                continue
            worker.heard = time.monotonic()
            *lines, worker.buffer = (worker.buffer + piece).split(b"\n")
            worker.answers += [json.loads(line) for line in lines]

    def _judge(self, worker: _Worker) -> Outcome | None:
        """The outcome of a worker's job, if there is one by now; a late or dead worker is removed."""
        now = time.monotonic()
        answers, worker.answers = worker.answers, []
        job = worker.job
        for answer in answers:
            if job is not None and "beat" not in answer:
                worker.job = None
                if "full" in answer:
                    raise ResourceError(f"the frames of {job.path} can't be kept: {answer['full']}", "free some space")
                reason = answer.get("unusable") or answer.get("failed")
                return Outcome(job, answer.get("done"), reason, lasting="failed" not in answer)
        if worker.process.poll() is not None:
            code = worker.process.returncode
            reason = f"the decoder crashed ({'signal' if code < 0 else 'exit'} {abs(code)})"
        elif job is not None and now - worker.started > worker.limit:
            reason = f"decoding took longer than {worker.limit:.0f} seconds"
        elif job is not None and now - worker.heard > self.limits.seconds:
            reason = f"decoding stood still for {self.limits.seconds:.0f} seconds"
        else:
            return None
        self._end(worker)
        return Outcome(job, None, reason, lasting=False) if job else None

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        process = worker.process
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout in self._selector.get_map():
            self._selector.unregister(process.stdout)
        process.stdout.close()
        try:
            process.stdin.close()
        except BrokenPipeError:
            return


def encode_clip(
    path: Path | str, encoder: FrameEncoder, sampling: Mapping[str, Any], limits: Limits | None = None
) -> np.ndarray:
    """States (N, D) float32 of one clip, sampled as a prepared set was (`PreparedSet.sampling`).

    Where the clip's time has holes, the longest stretch without one. Raises DataError where the clip can't be used.
    """
    path, chosen = Path(path), Sampling(**sampling)
    hint = "ebwm think --input with a clip that plays"
    if not path.exists():
        raise DataError(f"there is no clip {path}", hint)
    reason = refusal(path, path)
    if reason:
        raise DataError(f"{path} cannot be used: {reason}", hint)
    with tempfile.TemporaryDirectory(prefix="ebwm-") as folder, Workers(1, limits) as workers:
        job = Job(path, Path(folder) / "frames", path.stat().st_size)
        outcome = next(workers.decode([job], chosen))
        if outcome.facts is None:
            raise DataError(f"{path} cannot be used: {outcome.reason}", hint)
        frames = np.fromfile(job.frames_to, np.uint8).reshape(-1, chosen.size, chosen.size, 3)
    ids = segments_of(np.array(outcome.facts["times"]), chosen)
    longest = int(np.argmax(np.bincount(ids)))
    return encoder.encode(frames[ids == longest])
