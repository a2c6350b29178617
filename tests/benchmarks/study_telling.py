"""How well true next states could be told from false ones: by a network that learns nothing else.

`python tests/benchmarks/study_telling.py --data data/clips` trains the network of the default recipe to tell them from
those two steps ahead (logistic regression by its energy), or, as `--false` says, from those of other windows, from near
misses, or from true ones after a context in another order; keeps what does best on val windows, and prints AUROC over
all places and at the same place, of val and test windows: the reference beside which `ebwm eval --calibration` is to be
read. It predicts nothing.
"""

# B windows, C context, D state size, W width

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import open_set
from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.latent_space import STILL, LatentSpace
from ebwm_cli.model.state_space import differ
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.model import EbtSection
from ebwm_cli.run.statistics import auroc
from ebwm_cli.world.false_states import shuffle
from ebwm_cli.world.levelling import MISSED_BY

LOOK_EVERY = 150
RATE, WARM, BETAS, KEEP = 1e-3, 100, (0.9, 0.95), 0.98


class Teller(nn.Module):
    """Low for true next states, high for false ones. All are read as where they are and how they came there."""

    def __init__(self, model: EbtSection, state_dim: int) -> None:
        super().__init__()
        self.network = EnergyTransformer(model.width, model.layers, model.heads)
        self.observed_in, self.candidate_in = (nn.Linear(2 * state_dim, model.width) for _ in range(2))
        for layer in (self.observed_in, self.candidate_in):
            nn.init.normal_(layer.bias, std=STILL)
        self.scales = model.appearance, model.motion
        self.space = LatentSpace(state_dim, model.width, candidates=False).requires_grad_(False)

    def forward(self, context: Tensor, candidates: list[Tensor]) -> list[Tensor]:
        """Log-odds (B, C) that candidates (B, C, D) after `context` (B, C, D) are false."""
        appearance, motion = self.scales

        def features(states: Tensor, before: Tensor) -> Tensor:
            return torch.cat([appearance * states, motion * (states - before)], -1)

        before = torch.cat([context[:, :1], context[:, :-1]], 1)
        memory = self.network.observe(self.observed_in(features(context, before)))
        return [self.network.energy(self.candidate_in(features(each, context)), memory) for each in candidates]


def odds(teller: Teller, states: Tensor, false: str, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of true states and of false ones (N,), where they differ, after windows (B, C+1, D)."""
    context, truth = states[:, :-1], states[:, 1:]
    if false == "order":
        order = torch.rand(context.shape[:2], generator=rng).argsort(1)
        shuffled = shuffle(context, order)
        return teller(context, [truth])[0][:, -1], teller(shuffled, [truth])[0][:, -1]
    if false == "ahead":
        context, truth, candidate = context[:, :-1], truth[:, :-1], truth[:, 1:]
    elif false == "other":
        candidate = truth.roll(len(truth) // 2, 0)
    else:
        candidate = teller.space.near_miss(truth, rng, MISSED_BY)
    right, wrong = teller(context, [truth, candidate])
    where = differ(truth, candidate)
    return right[where], wrong[where]


@torch.no_grad()
def told(teller: Teller, states: Tensor, false: str) -> tuple[float, float]:
    """AUROC over all places, and how often the false one is higher at the same place."""
    right, wrong = (each.double().numpy() for each in odds(teller, states, false, torch.Generator().manual_seed(0)))
    return auroc(wrong, right), float(((wrong > right) + (wrong == right) / 2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="video_ebt_4xs")
    parser.add_argument("--false", choices=("ahead", "order", "other", "noise"), default="ahead")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    recipe, prepared = load_recipe(asked.recipe, [f"seed={asked.seed}"]), open_set(asked.data)
    assert isinstance(recipe.model, EbtSection)
    context = prepared.spec.context
    loader = Loader(prepared.split("train"), recipe.train.batch_size, asked.seed, context, mix=recipe.data.mix)
    held_out = {name: torch.cat([batch.states for batch in Loader.sequential(prepared.split(name), 64, context)])
                for name in ("val", "test")}  # fmt: skip
    torch.manual_seed(asked.seed)
    teller = Teller(recipe.model, prepared.spec.state_dim)
    mean, rng = copy.deepcopy(teller), torch.Generator().manual_seed(asked.seed)
    optimizer = torch.optim.AdamW(teller.parameters(), lr=RATE, betas=BETAS)
    best: tuple[float, int, tuple[float, float], tuple[float, float]] | None = None
    for step in range(asked.steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARM) * (1 - 0.9 * step / asked.steps)
        right, wrong = odds(teller, loader.batch(step).states, asked.false, rng)
        optimizer.zero_grad()
        (F.softplus(right).mean() + F.softplus(-wrong).mean()).backward()
        nn.utils.clip_grad_norm_(teller.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for one, other in zip(mean.parameters(), teller.parameters(), strict=True):
                one.lerp_(other, 1 - KEEP)
        if (step + 1) % LOOK_EVERY == 0:
            val, test = (told(mean, held_out[name], asked.false) for name in ("val", "test"))
            print(f"step {step + 1:5d}  val {val[0]:.3f}, same place {val[1]:.3f}", flush=True)
            if best is None or val[0] > best[0]:
                best = val[0], step + 1, val, test
    assert best is not None, f"at least {LOOK_EVERY} steps"
    _, at, val, test = best
    print(f"best at {at}: val {val[0]:.3f}, {val[1]:.3f} at the same place; test {test[0]:.3f}, {test[1]:.3f}")


if __name__ == "__main__":
    main()
