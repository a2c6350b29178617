"""kill -9 at random moments, resume, compare bits: `python tests/benchmarks/kill_resume.py [KILLS]`.

Runs the real command (`ebwm train`) that saves every 5 updates, kills it KILLS times (default 20) while it starts,
updates, saves or prunes, lets it finish, and compares weights, optimizer, numbers and metrics with those of an
uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_set import make_set
from training import leftovers, outcome, short_recipe

from ebwm_cli.recipe.load import dump_yaml
from ebwm_cli.run.training_state import saved_steps

STEPS_PER_KILL = 60
KEEP = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = kill_and_resume(Path(scratch), asked.kills, random.Random(asked.seed))
    print(json.dumps(result))
    return 0 if result["identical"] and result["most_checkpoints"] <= KEEP + 1 and not result["leftovers"] else 1


def kill_and_resume(scratch: Path, kills: int, dice: random.Random) -> dict[str, object]:
    """Everything in `scratch`; what happened."""
    make_set(scratch / "set")
    recipe = short_recipe(steps=STEPS_PER_KILL * kills, keep=KEEP, validate_every=30)
    (scratch / "recipe.yaml").write_text(dump_yaml(recipe))
    began = time.perf_counter()
    with start(scratch, "whole") as run:
        assert run.wait() == 0
    seconds = time.perf_counter() - began
    out, killed_at, most = scratch / "run", [], 0
    for _ in range(kills):
        before = saved_steps(out / "checkpoints")
        with start(scratch, "run") as run:
            if dice.random() < 0.15:  # while it starts
                time.sleep(dice.uniform(0, 3))
            else:
                while saved_steps(out / "checkpoints")[-1:] == before[-1:]:
                    assert run.poll() is None, "ended by itself"
                    time.sleep(0.001)
                time.sleep(dice.uniform(0, 0.3))
            run.kill()
        after = saved_steps(out / "checkpoints")
        killed_at.append(after[-1] if after else 0)
        most = max(most, len(after))
    with start(scratch, "run") as run:
        assert run.wait() == 0
    return {
        "kills": kills,
        "killed_after_checkpoint": killed_at,
        "steps": recipe.train.steps,
        "uninterrupted_seconds": round(seconds, 1),
        "most_checkpoints": most,
        "leftovers": leftovers(out),
        "identical": outcome(out) == outcome(scratch / "whole"),
    }


def start(scratch: Path, name: str) -> subprocess.Popen[bytes]:
    """The command a person would type."""
    words = ["train", str(scratch / "recipe.yaml"), "--data", str(scratch / "set"), "--out", str(scratch / name), "-q"]
    return subprocess.Popen([sys.executable, "-m", "ebwm_cli", *words], stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
