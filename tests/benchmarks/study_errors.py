"""How well errors could be foretold: by a network that learns nothing else.

`python tests/benchmarks/study_errors.py --checkpoint runs/x --data data/x` has the model predict windows that it was
trained on; teaches networks to foretell the logarithms of its errors there from all that its level reads, the trunk's
hidden states and the clues; keeps what does best on val windows, and prints rank correlations with the errors, and
beyond the predicted move, of val and test windows: the reference beside which those of `ebwm eval --calibration` are to
be read.
"""

# W windows, C context, N predictions, F features

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import open_set
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.statistics import partial_spearman, spearman
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.signs import signs_after

WINDOWS, AT_ONCE = 1024, 64
NETWORKS, HIDDEN, DROPOUT = 3, 128, 0.3
"""What they foretell is averaged."""
BATCH, RATE, DECAY = 256, 1e-3, 0.1
BEYOND = 4.0
"""Features farther than so many standard deviations from the mean are taken for as far."""


@dataclass(frozen=True)
class Predicted:
    """Of N predictions: what is known before they are made (N, F); the rest (N,)."""

    features: Tensor
    energies: Tensor
    moves: Tensor
    errors: Tensor

    def ranked(self, by: Tensor) -> tuple[float, float]:
        """Rank correlation of `by` (N,) with the errors, and what of it the predicted move does not explain."""
        found, errors, moves = (each.double().numpy() for each in (by, self.errors, self.moves))
        return spearman(found, errors), partial_spearman(found, errors, moves)


@torch.no_grad()
def predicted(loaded: LoadedWorld, windows: Tensor, seed: int) -> Predicted:
    """After every state of `windows` (W, C+1, ...)."""
    world, space, think = loaded.world, loaded.space, loaded.recipe.think
    assert isinstance(world, EnergyWorld), "only energies have a level"
    level, rng = world.network.level, torch.Generator().manual_seed(seed)
    assert level is not None, "energies of this model have no level"
    rows: list[tuple[Tensor, ...]] = []
    for states in windows.split(AT_ONCE):
        context, truth = states[:, :-1], states[:, 1:]
        memory = world.observe(context)
        prediction = world.predict(memory, think, rng, positions=truth.shape[1])
        signs = signs_after(world, memory, memory.length, think.cooling)
        lengths = (signs.first.lengths + level.floor).log()
        features = torch.cat([signs.hidden, signs.clues, lengths], -1)
        errors = space.distance(prediction.state, truth)
        row = features, prediction.energy, space.doubt(prediction.state, context), errors
        rows.append(tuple(each.flatten(0, 1) for each in row))
    return Predicted(*(torch.cat(column) for column in zip(*rows, strict=True)))


def standardised(features: Tensor, like: Tensor) -> Tensor:
    """`features` (N, F) by mean and spread of those in `like`; what is unknown is usual."""
    usual = like.nanmean(0)
    spread = (like - usual).square().nanmean(0).sqrt().clamp_min(1e-6)
    return ((features - usual) / spread).nan_to_num(0.0).clamp(-BEYOND, BEYOND)


def network(inputs: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """One of a hidden layer, and what trains it."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 1))
    return made, torch.optim.AdamW(made.parameters(), RATE, weight_decay=DECAY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    asked = parser.parse_args()
    loaded, prepared = load_world(asked.checkpoint), open_set(asked.data)
    recipe, context = loaded.recipe, loaded.spec.context
    loader = Loader(prepared.split("train"), recipe.train.batch_size, recipe.seed, context)
    train = predicted(loaded, torch.cat(list(loader.plain(WINDOWS, AT_ONCE))), recipe.seed)
    held_out = {}
    for name in ("val", "test"):
        batches = Loader.sequential(prepared.split(name), AT_ONCE, context, most=WINDOWS)
        held_out[name] = predicted(loaded, torch.cat([batch.states for batch in batches]), recipe.seed)
    x = {name: standardised(part.features, train.features) for name, part in ({"train": train} | held_out).items()}
    wanted = train.errors.clamp_min(train.errors.mean() * 1e-2).log()
    wanted = wanted - wanted.mean()

    networks = [network(x["train"].shape[1], seed) for seed in range(NETWORKS)]
    best: dict[str, tuple[float, float]] | None = None
    for epoch in range(asked.epochs):
        for net, optimizer in networks:
            net.train()
            for some in torch.randperm(len(wanted)).split(BATCH):
                optimizer.zero_grad()
                (net(x["train"][some])[:, 0] - wanted[some]).square().mean().backward()
                optimizer.step()
            net.eval()
        with torch.no_grad():
            told = {name: sum(net(x[name])[:, 0] for net, _ in networks) for name in held_out}
        found = {name: part.ranked(told[name]) for name, part in held_out.items()}
        print(f"epoch {epoch + 1:3d}  val {found['val'][0]:.3f}, beyond the move {found['val'][1]:.3f}", flush=True)
        if best is None or found["val"][0] > best["val"][0]:
            best = found
    assert best is not None, "at least an epoch"
    for name, part in held_out.items():
        energy, move = part.ranked(part.energies), part.ranked(part.moves)[0]
        print(f"{name}: network {best[name][0]:.3f}, {best[name][1]:.3f} beyond the move; "
              f"energy {energy[0]:.3f}, {energy[1]:.3f}; the move {move:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
