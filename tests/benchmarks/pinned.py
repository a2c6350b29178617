"""Trainings side by side, each on a core of its own, so that seconds can be compared between them.

`train_all` runs `ebwm train` once per job, as many at a time as there are cores, the jobs in the order given; a run
that is finished already is not trained again. Knows no recipe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebwm_cli.run.processors import usable_cores


@dataclass(frozen=True)
class Job:
    """One training: what is typed after `ebwm train`, and the run folder."""

    words: Sequence[str]
    out: Path


def train_all(jobs: Sequence[Job], data: Path) -> list[dict[str, Any]]:
    """Train all `jobs` on the set in `data`; their final reports, in order."""
    cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
    free, lock = list(cores), threading.Lock()

    def run(job: Job) -> dict[str, Any]:
        with lock:
            core = free.pop()
        try:
            return _train(job, data, core)
        finally:
            with lock:
                free.append(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        return list(pool.map(run, jobs))


def _train(job: Job, data: Path, core: int) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "ebwm_cli",
        "train",
        *job.words,
        "--data",
        str(data),
        "--out",
        str(job.out),
        "--json",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {core})  # before it has loaded torch, which then starts one thread
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\n{error}")
    last = json.loads(out.splitlines()[-1])
    print(
        f"{job.out.name}  held-out {last['val_loss']:.4f}  {last['step']} updates  {last['seconds']:.0f} s", flush=True
    )
    return last
