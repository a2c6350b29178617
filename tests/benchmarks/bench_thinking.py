"""What System 2 costs: spectral steps in training, and many samples of one prediction.

`python tests/benchmarks/bench_thinking.py --data data/clips` prints ratios of CPU time, each taken in one run:
updates of the default video recipe with `step_control: spectral`, whose curvature is looked up in one update of EVERY,
over fixed ones; and a prediction of 16 samples over 16 predictions of one, after every state of windows, which mostly
saves what many small products cost, and of the next state alone, where all samples share one long context.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import PreparedSet, open_set
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.trainer import Trainer
from ebwm_cli.sampler.curvature import EVERY

SAMPLES = 16
WINDOWS = 16


def updates(prepared: PreparedSet, control: str) -> Callable[[], object]:
    trainer = Trainer(
        load_recipe("video_ebt_4xs", [f"model.descent.step_control={control}"]), prepared, torch.device("cpu")
    )

    def run() -> None:
        for _ in range(EVERY):
            trainer.update()

    return run


def predictions(prepared: PreparedSet, samples: int, times: int, positions: int | None) -> Callable[[], object]:
    world = Trainer(load_recipe("video_ebt_4xs", []), prepared, torch.device("cpu")).world
    states = Loader(prepared.split("train"), WINDOWS, 0, prepared.spec.context).batch(0).states
    think, rng = ThinkSection(steps=4, samples=samples), torch.Generator().manual_seed(0)

    def run() -> None:
        for _ in range(times):
            world.predict(world.observe(states[:, :-1]), think, rng, positions=positions)

    return run


def taken(repeats: int, *runs: Callable[[], object]) -> list[float]:
    """CPU seconds of all repeats of each run, taken in turns so that all meet the same machine: a sum, as it is drawn
    when the curvature is looked up."""
    total = [0.0] * len(runs)
    for repeat in range(repeats + 1):
        for place, run in enumerate(runs):
            began = time.process_time()
            run()
            total[place] += (time.process_time() - began) * bool(repeat)  # the first one warms up
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=20)
    asked = parser.parse_args()
    prepared = open_set(asked.data)
    fixed, spectral, one, many, one_next, many_next = taken(
        asked.repeats,
        updates(prepared, "fixed"),
        updates(prepared, "spectral"),
        *(predictions(prepared, *each, positions) for positions in (None, 1) for each in ((1, SAMPLES), (SAMPLES, 1))),
    )
    name = f"{SAMPLES} samples over {SAMPLES} times one"
    found = {"spectral over fixed": spectral / fixed, name: many / one, f"{name}, next state": many_next / one_next}
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
