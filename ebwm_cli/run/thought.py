"""One scene thought about: the rollout of its next states with every candidate on the way, and how wrong each one was.

Knows no file, no picture and no kind of model.
"""

# T observed states, H horizon, K descent steps, M samples, D state size

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.rollout import roll_out


@dataclass(frozen=True)
class Scene:
    """What is remembered, and what really came after it."""

    source: str
    """Where it is from, in words."""
    observed: Tensor  # (1, T, ...)
    truth: Tensor | None  # (1, H, ...)


@dataclass(frozen=True)
class Thought:
    """A rollout of H predictions. One that stopped early stays where it was: energies repeat, moves are 0."""

    path: Tensor  # (H, K+1, D) candidates, start .. final
    energies: Tensor  # (H, K+1) their total energies
    bare: Tensor  # (H, K+1) the same as descents went by them, not levelled
    moves: Tensor  # (H, K) root mean square of each move
    errors: Tensor | None  # (H, K+1) of each candidate, where the truth is known
    origin: Tensor  # (H, D) what the anchor pulled to
    steps_used: list[int]  # H
    sample_states: Tensor  # (M, D) where the samples of the first prediction ended
    sample_energies: Tensor  # (M,) their final energies
    context_energies: Tensor  # (T-1,) final energies of predicting what was observed
    looks: int  # energies computed and differentiated, over all predictions and samples
    tries: int  # energies only computed
    score: str | None  # what the energies are, in words; None: all are 0 and say nothing

    @property
    def states(self) -> Tensor:
        """The predicted states (H, D)."""
        return self.path[:, -1]


def think_about(scene: Scene, loaded: LoadedWorld, think: ThinkSection, horizon: int, seed: int) -> Thought:
    """Roll out `horizon` states after the scene's, and keep everything."""
    world, space = loaded.world, loaded.space
    rng = torch.Generator().manual_seed(seed)
    predictions = roll_out(loaded, scene.observed, think, rng, horizon, record=True)
    length = max(p.moves.shape[-1] for p in predictions)
    path = torch.cat([_hold(_recorded(p.path), length + 1) for p in predictions], 1)[0]  # (H, K+1, D)
    energies, bare = (
        torch.cat([_hold(each[..., None], length + 1) for each in every], 1)[0, ..., 0].cpu()
        for every in ([p.energies for p in predictions], [p.bare for p in predictions])
    )
    still = (p.moves.new_zeros(1, 1, length - p.moves.shape[-1]) for p in predictions)
    moves = torch.cat([torch.cat([p.moves, rest], -1) for p, rest in zip(predictions, still, strict=True)], 1)[0]
    errors = None
    if scene.truth is not None:
        targets = torch.stack([scene.truth[0]] * (length + 1), 1)  # (H, K+1, ...)
        errors = space.distance(path, targets).cpu()
    with torch.no_grad():
        memory = world.observe(scene.observed)
        known = context_energies(loaded, memory, think, seed)
    first = predictions[0]
    origins = [p.start if p.origin is None else p.origin for p in predictions]
    return Thought(
        path=path.cpu(),
        energies=energies,
        bare=bare,
        moves=moves.cpu(),
        errors=errors,
        origin=torch.cat(origins, 1)[0].cpu(),
        steps_used=[int(p.steps_used.item()) for p in predictions],
        sample_states=first.sample_states[0, 0].cpu(),
        sample_energies=first.sample_energies[0, 0].cpu(),
        context_energies=known.cpu(),
        looks=sum(int(p.looks.sum()) for p in predictions),
        tries=sum(int(p.tries.sum()) for p in predictions),
        score=world.score,
    )


def context_energies(loaded: LoadedWorld, memory: Any, think: ThinkSection, seed: int) -> Tensor:
    """Final energies (T-1,) of predicting every remembered state but the first from those before it."""
    return loaded.world.predict(memory, think, torch.Generator().manual_seed(seed)).energy[0, :-1]


def _recorded(path: Tensor | None) -> Tensor:
    if path is None:
        raise ValueError("the world recorded no path")
    return path


def _hold(values: Tensor, length: int) -> Tensor:
    """(1, 1, K', D) -> (1, 1, length, D), the last one repeated."""
    return torch.cat([values, values[:, :, -1:].expand(-1, -1, length - values.shape[2], -1)], 2)
