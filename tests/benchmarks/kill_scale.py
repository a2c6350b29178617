"""A study of eight CPU workers, killed (-9) at random moments and started again by the same command.

`python tests/benchmarks/kill_scale.py 20` runs a small study undisturbed, then again through so many kills of its
scheduler, and compares losses, fits and how often each run has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_set import make_set

STUDY = {
    "name": "killed",
    "kinds": ["ebt", "transformer"],
    "changes": {"model.layers": 1, "model.width": 16, "model.heads": 2, "train.batch_size": 8, "train.save_every": 5},
    "axes": {"data": [0.25, 0.5, 0.75, 1.0]},
    "budget": {"steps": 40},
    "seeds": 3,
}
WORKERS = 8


def start(place: Path, out: str) -> subprocess.Popen[str]:
    words = ["scale", "study.yaml", "--device", "cpu", "--gpus", str(WORKERS), "--out", out, "--json"]
    line = [sys.executable, "-m", "ebwm_cli", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        line, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def finished(place: Path, out: str) -> dict[str, Any]:
    process = start(place, out)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"ebwm scale ended with {process.returncode}; see {place / out}")
    return json.loads(said)


def essence(report: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on deaths: everything but clocks and places."""
    points = {point["key"]: (point["status"], point["loss"], point["val_loss"]) for point in report["points"]}
    return {"points": points, "fits": report["fits"], "slope_ratio": report["slope_ratio"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_set(place / "data" / "small")
        (place / "study.yaml").write_text(yaml.safe_dump(STUDY))
        began = time.monotonic()
        whole = finished(place, "whole")
        took = time.monotonic() - began
        rng, deaths = random.Random(0), 0
        for _ in range(asked.kills):
            process = start(place, "killed")
            time.sleep(rng.uniform(2, 2 + took / 3))
            deaths += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        killed = finished(place, "killed")
        lines = [json.loads(line) for line in (place / "killed" / "points.jsonl").read_text().splitlines()]
        ended = [line["key"] for line in lines if line["event"] == "ended"]
        started = sum(line["event"] == "started" for line in lines)
        print(f"{len(ended)} runs, {deaths} deaths while it ran, {started} starts, undisturbed in {took:.0f} s")
        print(f"each run ended once: {len(ended) == len(set(ended)) == len(whole['points'])}")
        print(f"same losses and fits: {essence(killed) == essence(whole)}")
        sys.exit(essence(killed) != essence(whole) or len(ended) != len(set(ended)))


if __name__ == "__main__":
    main()
