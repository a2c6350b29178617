"""What scheduling costs, and what a second worker gains.

`python tests/benchmarks/bench_scale.py --data data/clips` runs one study, of trainings of about a minute, twice: by one
worker of one thread, and by a worker per core (two cores at least). It prints the share of the devices' time in which,
with runs left, none was on them, and the ratio of the two wall-clock times.
"""

# S seconds

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ebwm_cli.run.processors import usable_cores


def scaled(data: Path, out: Path, cores: set[int], words: list[str]) -> tuple[dict[str, Any], float]:
    """The report of a study by a worker on each of `cores`, and its wall-clock, S."""
    line = [sys.executable, "-m", "ebwm_cli", "scale", "smoke_video", *words, "--data", str(data), "--out", str(out)]
    line += ["--device", "cpu", "--gpus", str(len(cores)), "--json"]
    began = time.monotonic()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, cores)  # before it has counted them
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"ebwm scale ended with {process.returncode}")
    return json.loads(said), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=6)
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: usable_cores()]
    if len(cores) < 2:
        raise SystemExit("one core is not enough to compare with one core")
    words = [f"seeds={asked.runs}", "kinds=[transformer]", "axes={data: [1.0]}", f"budget={{steps: {asked.steps}}}"]
    with tempfile.TemporaryDirectory() as folder:
        one, alone = scaled(asked.data, Path(folder) / "one", {cores[0]}, words)
        all_of_them, together = scaled(asked.data, Path(folder) / "all", set(cores), words)
    runs = [point["seconds"] for point in one["points"]]
    print(f"{len(runs)} runs of {min(runs):.0f} to {max(runs):.0f} s, evaluation included")
    print(
        f"idle with runs left: {one['overhead']:.2%} with one worker, {all_of_them['overhead']:.2%} with {len(cores)}"
    )
    print(f"wall-clock of one worker over that of {len(cores)}: {alone / together:.2f}")


if __name__ == "__main__":
    main()
