"""What the harness costs: a training update of the transformer against a bare loop over the very same blocks.

`python tests/benchmarks/bench_rivals.py` prints the ratio, both taken in one run: `Trainer.update` (batches from the
prepared set, measures, clipping, schedule) against forward, loss, backward, clip and AdamW written out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_model import best_of
from small_set import make_set
from small_text import make_text_set

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import PreparedSet
from ebwm_cli.model.attention import rotary
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.run.trainer import Trainer
from ebwm_cli.world.build import build_world

UPDATES = 10
"""Per repeat."""


def ours(recipe, prepared: PreparedSet):
    trainer = Trainer(recipe, prepared, torch.device("cpu"))

    def run():
        for _ in range(UPDATES):
            trainer.update()

    return run


def bare(recipe, prepared: PreparedSet):
    spec, train = recipe.state_spec(prepared.spec), recipe.train
    world = build_world(recipe.model, spec)
    trunk, space = world.network.trunk, world.space
    optimizer = torch.optim.AdamW(world.parameters(), lr=1e-3, fused=True)
    loader = Loader(prepared.split("train"), train.batch_size, 0, spec.context)
    windows = loader.batch(0).states
    table = rotary(spec.context, trunk.head_size, torch.empty(0))

    def run():
        for _ in range(UPDATES):
            context, target = windows[:, :-1], windows[:, 1:]
            x = space.embed_observed(context, torch.cat([context[:, :1], context[:, :-1]], 1))
            for block in trunk.blocks:
                x, _, _ = block.observe(x, None, table)
            x = trunk.norm(x)
            if space.in_nats:
                loss = F.cross_entropy((x @ space.table.T).flatten(0, 1), target.flatten())
            else:
                loss = F.smooth_l1_loss(context + space.forecast_head(x), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(world.parameters(), 1.0)
            optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        sets = {"video": make_set(Path(folder) / "video"), "text": make_text_set(Path(folder) / "text", context=64)}
        for modality, prepared in sets.items():
            recipe = load_recipe(
                f"{modality}_transformer_3xs",
                ["model.match=null", "train.ema=0", "train.batch_size=16", "data.mix=false"],
            )
            harness, loop = best_of(asked.repeats, ours(recipe, prepared), bare(recipe, prepared))
            found[modality] = {"update_ms": round(harness / UPDATES * 1e3, 2), "times": round(harness / loop, 3)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
