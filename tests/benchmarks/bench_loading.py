"""What loading batches costs beside a training step, in one run: `python tests/benchmarks/bench_loading.py`.

Batches come from Arrow files on disk in shuffled order, as in training; the step is the default recipe's. Prints the
ratio of their median times and fails at 3 %.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import Split
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.schema import StateSpec
from ebwm_cli.world.build import build_world
from ebwm_cli.world.optim import build_optimizer
from ebwm_cli.world.update import update_weights

SPEC = StateSpec(state_dim=128, context=16)
STATES = 100_000
LARGEST_RATIO = 0.03


def states_on_disk(path: Path) -> Split:
    """A split of 200 clips of noise."""
    from datasets import Dataset, Features, Sequence, Value
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    rng = np.random.default_rng(0)
    rows = {
        "segment": np.arange(STATES, dtype=np.int32) // 500,
        "state": list(rng.standard_normal((STATES, SPEC.state_dim), dtype=np.float32)),
    }
    features = Features({"segment": Value("int32"), "state": Sequence(Value("float32"), length=SPEC.state_dim)})
    Dataset.from_dict(rows, features=features).save_to_disk(str(path))
    return Split(path, "train", SPEC.context)


def main() -> int:
    recipe = load_recipe("video_ebt_4xs")
    torch.manual_seed(0)
    world = build_world(recipe.model, SPEC)
    optimizer = build_optimizer(world, recipe.train)
    with tempfile.TemporaryDirectory() as scratch:
        loader = Loader(states_on_disk(Path(scratch) / "train"), recipe.train.batch_size, 0, SPEC.context)
        loading, updating = [], []
        for step in range(40):
            began = time.perf_counter()
            states = loader.batch(step).states
            loaded = time.perf_counter()
            update_weights(world, optimizer, states, train=recipe.train, seed=0, step=step)
            loading.append(loaded - began)
            updating.append(time.perf_counter() - loaded)
    load, update = statistics.median(loading[5:]), statistics.median(updating[5:])
    result = {"loading_ms": round(load * 1e3, 3), "update_ms": round(update * 1e3, 1), "ratio": round(load / update, 4)}
    print(json.dumps({**result, "windows": loader.windows, "threads": torch.get_num_threads()}))
    return 0 if load / update < LARGEST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
