"""A tiny world of every kind, of states and of tokens, whose weights are none of those it began with."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from ebwm_cli.recipe.model import (
    DescentSection,
    DiffusionSection,
    EbtSection,
    ModelSection,
    RnnSection,
    TransformerSection,
)
from ebwm_cli.recipe.schema import DataSection, Recipe, StateSpec, ThinkSection
from ebwm_cli.world.build import build_world
from ebwm_cli.world.observing import ObservingWorld
from ebwm_cli.world.protocol import Prediction

CONTEXT, VOCABULARY, STATE_DIM = 6, 11, 8
SPECS = {
    "video": StateSpec(state_dim=STATE_DIM, context=CONTEXT),
    "text": StateSpec(modality="text", state_dim=VOCABULARY, context=CONTEXT),
}
WORLDS = ("ebt", "transformer", "gru", "lstm", "diffusion")
ONE_PASS = ("transformer", "gru", "lstm")
THINK = ThinkSection(steps=3)

every_world = pytest.mark.parametrize("kind", WORLDS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def section_of(world: str, modality: str, **model: Any) -> ModelSection:
    """A model section; `world` is a kind, or the cell of an rnn."""
    shape: dict[str, Any] = {"layers": 2, "width": 16}
    if world in ("gru", "lstm"):
        return RnnSection(**{**shape, **model}, cell=world)
    shape["heads"] = 2
    if world == "ebt":
        descent = DescentSection(**{"free_steps": (0, 0), "step_control": "fixed", **model.pop("descent", {})})
        start = {"start": "zeros", "compatibility": True} if modality == "text" else {}
        return EbtSection(**{**shape, **start, **model}, descent=descent)
    return {"transformer": TransformerSection, "diffusion": DiffusionSection}[world](**{**shape, **model})


def world_of(world: str, modality: str, *, stirred: float = 0.1, spec: StateSpec | None = None, **model: Any):
    """The world that a recipe with this model builds; `stirred` moves its weights, so that nothing is 0 by chance."""
    recipe = Recipe(data=DataSection(modality=modality), model=section_of(world, modality, **model))  # type: ignore[arg-type]
    torch.manual_seed(0)
    built: ObservingWorld = build_world(recipe.model, spec or SPECS[modality])
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name != "alpha":
                parameter += stirred * torch.randn(parameter.shape)
    return built


def windows(modality: str, batch: int = 3, seed: int = 0, length: int = CONTEXT + 1, spec: StateSpec | None = None):
    """(B, T, D) states, or (B, T) tokens."""
    spec = spec or SPECS[modality]
    if modality == "text":
        return torch.randint(0, spec.state_dim, (batch, length), generator=rng(seed))
    return torch.randn(batch, length, spec.state_dim, generator=rng(seed))


def changed_at(states: torch.Tensor, position: int) -> torch.Tensor:
    """`states` with another one there."""
    other = states.clone()
    other[:, position] = (other[:, position] + 1) % VOCABULARY if states.ndim == 2 else other[:, position] + 1
    return other


def gradients(world: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in world.named_parameters() if p.grad is not None}


def equal(a: Prediction, b: Prediction) -> bool:
    """Bit for bit."""
    names = [field.name for field in fields(Prediction) if field.name != "keep"]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


def grown(world: Any, states: torch.Tensor, at_once: int = 1) -> Any:
    """The memory of `states`, observed a few at a time."""
    memory = None
    for part in states.split(at_once, dim=1):
        memory = world.observe(part, memory)
    return memory
