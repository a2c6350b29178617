"""Kills `ebwm prepare video` at random moments and compares what it leaves with an uninterrupted run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ebwm_cli.data.store import open_set

CODE = """
import sys, json
from pathlib import Path
from ebwm_cli.commands.prepare import prepare_video
for report in prepare_video(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, **json.loads(sys.argv[3])):
    print(getattr(report, "clip", "end"), "reused" if getattr(report, "reused", True) else "decoded", flush=True)
"""


def digests(out: Path) -> dict[str, str]:
    """sha256 of everything in a set, kept frames included."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def kill_and_compare(clips: Path, aside: Path, kills: int, seed: int, **options: int) -> list[str]:
    """Prepare `clips` below `aside` through `kills` kills; what is wrong with the outcome, in words."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CODE, str(clips)]

    def run(out: Path) -> list[str]:
        told = subprocess.run(
            [*command, str(out), json.dumps(options)], env=environment, capture_output=True, text=True, timeout=600
        )
        assert told.returncode == 0, told.stderr
        return told.stdout.splitlines()

    began = time.monotonic()
    run(aside / "whole")
    whole_run = time.monotonic() - began
    rng, out = random.Random(seed), aside / "killed"
    told: list[str] = []
    for _ in range(kills):
        line = [*command, str(out), json.dumps(options)]
        with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as process:
            time.sleep(rng.uniform(0.15, 1.1) * whole_run)
            process.send_signal(signal.SIGKILL)
            told += process.communicate(timeout=600)[0].splitlines()
        if (out / "manifest.json").exists():
            open_set(out)
    told += run(out)
    decoded = [line for line in told if line.endswith("decoded")]
    problems = [f"decoded twice: {line}" for line in sorted(set(decoded)) if decoded.count(line) > 1]
    if digests(out) != digests(aside / "whole"):
        problems.append("the set differs from an uninterrupted one")
    return problems
