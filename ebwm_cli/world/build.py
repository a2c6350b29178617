"""The one place where a recipe's `kind` becomes a class, and where its cost is counted.

KINDS has a line per kind: how its world is made, and how its FLOPs are counted. Knows every kind; nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ebwm_cli.model.diffusion import DiffusionTransformer
from ebwm_cli.model.directions import LARGEST
from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.latent_space import LatentSpace
from ebwm_cli.model.rnn import RecurrentNetwork
from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.model.transformer import Transformer
from ebwm_cli.recipe.model import (
    DiffusionSection,
    EbtSection,
    ModelSection,
    RnnSection,
    TransformerSection,
    TrunkSection,
)
from ebwm_cli.recipe.schema import Recipe, StateSpec, ThinkSection
from ebwm_cli.world.costs import (
    Flops,
    SpaceCost,
    diffusion_flops,
    energy_flops,
    hidden_width,
    rnn_flops,
    transformer_flops,
    turns,
)
from ebwm_cli.world.diffusion import DiffusionWorld
from ebwm_cli.world.direct import DirectWorld
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.observing import NUMBERS_AT_ONCE, ObservingWorld

VECTORS_PER_CANDIDATE = 8
"""Vectors of a state's size that a candidate keeps while a move is learned."""


@dataclass(frozen=True)
class Cost:
    """What a recipe costs before it is run."""

    params: int
    params_non_embedding: int
    """Without what maps states to width and back."""
    flops_per_step: float
    """One update of the weights, at the mean number of drawn descent steps."""
    flops_per_state: float
    """Thinking about one next state with the context cached, and remembering it."""
    memory_bytes: int
    """Weights, gradients, optimizer and the activations of one part of a batch: an estimate."""


def _ebt(model: EbtSection, spec: StateSpec) -> EnergyWorld:
    space = TokenSpace if spec.modality == "text" else LatentSpace
    clues = space.tried_count + space.clue_count, space.average_count, point_size(model, spec)
    network = EnergyTransformer(
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        ffn_multiplier=model.ffn_multiplier,
        step_conditioning=model.step_conditioning,
        num_landscapes=model.landscapes,
        compatibility=model.compatibility,
        turned=turns(model),
        squares=model.head == "squares",
        clues=clues if model.energies.level else None,
    )
    return EnergyWorld(network, build_space(model, spec, start=model.start, rule=model.tokens.rule), model, spec)


def point_size(model: ModelSection, spec: StateSpec) -> int:
    """Numbers of the point where a candidate's energy is evaluated."""
    return model.width if spec.modality == "text" else spec.state_dim


def _transformer(model: TransformerSection, spec: StateSpec) -> DirectWorld:
    network = Transformer(model.width, model.layers, model.heads, model.ffn_multiplier)
    space = build_space(model, spec, candidates=False, head=True, residual=model.residual)
    return DirectWorld(network, space, model, spec)


def _rnn(model: RnnSection, spec: StateSpec) -> DirectWorld:
    network = RecurrentNetwork(model.width, model.layers, model.cell)
    space = build_space(model, spec, candidates=False, head=True, residual=model.residual)
    return DirectWorld(network, space, model, spec)


def _diffusion(model: DiffusionSection, spec: StateSpec) -> DiffusionWorld:
    network = DiffusionTransformer(model.width, model.layers, model.heads, model.ffn_multiplier)
    return DiffusionWorld(network, build_space(model, spec, head=True, residual=model.residual), model, spec)


class Kind(NamedTuple):
    """How a kind is made, and what it costs."""

    build: Callable[[Any, StateSpec], ObservingWorld]
    flops: Callable[..., Flops]


KINDS: dict[str, Kind] = {
    "ebt": Kind(_ebt, energy_flops),
    "transformer": Kind(_transformer, transformer_flops),
    "rnn": Kind(_rnn, rnn_flops),
    "diffusion": Kind(_diffusion, diffusion_flops),
}


def build_space(
    model: ModelSection,
    spec: StateSpec,
    *,
    start: str = "zeros",
    rule: str = "mirror",
    candidates: bool = True,
    head: bool = False,
    residual: bool = True,
) -> StateSpace:
    """The state space of `spec`'s modality; see the classes for what it is asked for."""
    if spec.modality == "text":
        table = model.tokens.table
        return TokenSpace(spec.state_dim, model.width, start, rule, table, candidates=candidates, head=head)
    reads = {"appearance": model.appearance, "motion": model.motion}
    return LatentSpace(spec.state_dim, model.width, start, **reads, candidates=candidates, head=head, residual=residual)


def space_cost(model: ModelSection, spec: StateSpec) -> SpaceCost:
    """What a state of `spec` costs beside the network."""
    product, size = 2.0 * spec.state_dim * model.width, point_size(model, spec)
    turned = 2.0 * size**2 * (size <= LARGEST)
    if spec.modality == "text":  # tokens are looked up; candidates and their gradients cross the whole table
        return SpaceCost(0.0, product, 0.0, product, product + turns(model) * 2.0 * model.width**2, turned)
    return SpaceCost(product * (bool(model.appearance) + bool(model.motion)), 0.0, product, 0.0, product, turned)


def build_world(model: ModelSection, spec: StateSpec) -> ObservingWorld:
    """The world model of a recipe's model section, freshly initialised from torch's global generator."""
    return KINDS[model.kind].build(model, spec)


def cost(recipe: Recipe, spec: StateSpec) -> Cost:
    """Count parameters, FLOPs and memory of `recipe` on states of `spec`; builds the network on no device."""
    model, train = recipe.model, recipe.train
    with torch.device("meta"):
        world = build_world(model, spec)
    params = count_parameters(world.parameters())
    core = count_parameters(each for name, each in world.network.named_parameters() if not name.startswith("turn"))
    flops = KINDS[model.kind].flops(model, spec, recipe.think, space_cost(model, spec))
    part = train.batch_size // train.accumulate
    memory = 4 * (6 * params + _activations(model, spec, part))
    return Cost(params, core, flops.per_window * train.batch_size, flops.per_state, int(memory))


def thinking_flops(model: ModelSection, think: ThinkSection, spec: StateSpec, looks: float, tries: float) -> float:
    """FLOPs per next state of thinking as `think` says that made so many `looks` and `tries` on average, remembering
    included."""
    return KINDS[model.kind].flops(model, spec, think, space_cost(model, spec)).spent(looks, tries)


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers in these parameters."""
    return sum(p.numel() for p in parameters)


def _activations(model: ModelSection, spec: StateSpec, windows: int) -> float:
    """Floats kept while `windows` are learned; measured on CPU, within a factor of 1.5."""
    length = spec.context
    descending = min(windows, max(1, NUMBERS_AT_ONCE // (length * spec.state_dim)))
    candidates = descending * length * spec.state_dim * VECTORS_PER_CANDIDATE
    if not isinstance(model, TrunkSection):
        return windows * model.layers * length * 14 * model.width + candidates
    hidden = hidden_width(model)
    remembered = model.layers * length * (14 * model.width + 6 * hidden + model.heads * length)
    if not isinstance(model, EbtSection):
        return windows * remembered * 2 + candidates
    # What a block keeps for its second-order backward, per position.
    kept = model.layers * length * (40 * model.width + 18 * hidden + 10 * model.heads * length)
    return descending * kept + candidates + (windows - descending) * remembered
