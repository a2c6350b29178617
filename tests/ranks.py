"""One of two processes that compute a gradient together, and alone for comparison: `python ranks.py`, with RANK,
WORLD_SIZE and EBWM_RANKS set. Rank 0 prints what it found as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from kinds import WORLDS, windows, world_of

from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.run import distributed
from ebwm_cli.run.distributed import Ranks, joined
from ebwm_cli.run.training_state import TrainingState
from ebwm_cli.world.optim import build_optimizer
from ebwm_cli.world.update import gradient, update_weights

NOISY = {"start_noise": 0.1, "context_noise": 0.1, "descent": {"free_steps": (0, 2), "step_size_jitter": 2.0}}
WINDOWS = 8


def difference(ranks: Ranks, kind: str, modality: str, parts: int, **model: Any) -> float:
    """Largest relative difference of any gradient, loss or measure between all ranks on their shares, and one process
    on the whole batch in `parts`."""
    states = windows(modality, WINDOWS)
    found = []
    for shared in (True, False):
        world = world_of(kind, modality, **model)
        own = ranks.part(states) if shared else states
        cut, share = (parts // ranks.size or 1, 1 / ranks.size) if shared else (parts, 1.0)
        first = ranks.rank * cut if shared else 0
        loss, measures = gradient(world, own, parts=cut, seed=3, step=5, share=share, first=first)
        tensors = [loss, *measures.values(), *(p.grad for p in world.parameters() if p.grad is not None)]
        if shared:
            ranks.add_up(tensors)
        found.append(tensors)
    pairs = zip(*found, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


def alone_against_its_share(ranks: Ranks) -> float:
    """How far this rank's own gradient is from the joined one: not at all would mean that nothing was joined."""
    states = windows("video", WINDOWS)
    world = world_of("ebt", "video")
    gradient(world, ranks.part(states), parts=1, seed=3, step=5)
    own = [p.grad.clone() for p in world.parameters() if p.grad is not None]
    joined_ones = [grad / ranks.size for grad in own]
    ranks.add_up(joined_ones)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(own, joined_ones, strict=True))


def told_right(ranks: Ranks) -> list[bool]:
    """Whether what only the first rank has arrives at this one."""
    numbers = {"loss": 0.1, "best": None}
    state = TrainingState({"a": {"x": torch.arange(3.0), "n": torch.tensor(4)}, "none": {}}, numbers)
    told = ranks.told_state(state if ranks.first else None)
    whole = [told.tensors["a"]["x"].tolist(), int(told.tensors["a"]["n"]), told.tensors["none"], told.numbers]
    said, most = ranks.told("first" if ranks.first else "second"), ranks.most(int(not ranks.first))
    return [whole == [[0, 1, 2], 4, {}, numbers], said == "first", most == 1]


def skips_together(ranks: Ranks) -> bool:
    """Whether an update that isn't finite on the other rank moves no weight here."""
    world, train = world_of("transformer", "video"), TrainSection(batch_size=WINDOWS)
    before = [p.detach().clone() for p in world.parameters()]
    states = windows("video", WINDOWS)
    states[-1] = torch.nan
    update = update_weights(
        world, build_optimizer(world, train), ranks.part(states), train=train, seed=0, step=0, ranks=ranks
    )
    return not update.finite and all(map(torch.equal, before, world.parameters()))


def main() -> None:
    torch.set_num_threads(1)
    distributed.BUCKET = 100  # several messages, some of one tensor
    with joined(torch.device("cpu")) as ranks:
        found: dict[str, Any] = {
            f"{kind} {modality}": difference(ranks, kind, modality, 1, **still)
            for modality in ("video", "text")
            for kind in WORLDS
            if kind != "diffusion"  # it draws a level for every position
            for still in [{"start": "zeros"} if kind == "ebt" else {}]
        }
        found["noisy ebt"] = difference(ranks, "ebt", "video", 2, **NOISY)
        found["noisy diffusion"] = difference(ranks, "diffusion", "video", 2, context_noise=0.1)
        apart = alone_against_its_share(ranks)
        right = torch.tensor([float(all([*told_right(ranks), skips_together(ranks)]))])
        ranks.add_up([right])
        if ranks.first:
            json.dump({"differences": found, "apart": apart, "ranks_right": float(right)}, sys.stdout)


if __name__ == "__main__":
    main()
