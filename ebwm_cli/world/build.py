"""The one place where a recipe's `kind` becomes a class, and where its cost is counted.

FLOPs are those of matrix products, 2 per multiply-add, as `torch.utils.flop_counter` counts them. Knows every kind;
nobody else does.
"""

# B batch, T context states, W width, F hidden width of the FFN, D state size

from __future__ import annotations

from dataclasses import dataclass

from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.state_space import LatentSpace, StateSpace
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.schema import EbtSection, Recipe, StateSpec
from ebwm_cli.world.energy import NUMBERS_AT_ONCE, EnergyWorld, count_parameters

# Candidate passes per descent step: forward and input gradient to think; to learn, also a backward through both.
THINK_PASSES, LEARN_PASSES, OBSERVE_PASSES = 2, 6, 3
VECTORS_PER_CANDIDATE = 8
"""Vectors of a state's size that a candidate keeps while a move is learned."""


@dataclass(frozen=True)
class Cost:
    """What a recipe costs before it is run."""

    params: int
    params_non_embedding: int
    """Without what maps states to width."""
    flops_per_step: float
    """One update of the weights, at the mean number of drawn descent steps."""
    flops_per_state: float
    """Thinking about one next state with the context cached, and remembering it."""
    memory_bytes: int
    """Weights, gradients, optimizer and the activations of one part of a batch: an estimate."""


def build_space(model: EbtSection, spec: StateSpec) -> StateSpace:
    """The state space of `spec`'s modality."""
    if spec.modality == "text":
        return TokenSpace(spec.state_dim, model.width, model.start, model.tokens.rule, model.tokens.table)
    return LatentSpace(spec.state_dim, model.width, model.start, model.appearance, model.motion)


def build_world(model: EbtSection, spec: StateSpec) -> EnergyWorld:
    """The world model of a recipe's model section, freshly initialised from torch's global generator."""
    network = EnergyTransformer(
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        ffn_multiplier=model.ffn_multiplier,
        step_conditioning=model.step_conditioning,
        num_landscapes=model.landscapes,
        compatibility=model.compatibility,
    )
    return EnergyWorld(network, build_space(model, spec), model, spec)


@dataclass(frozen=True)
class SpaceCost:
    """FLOPs per state of getting into and out of the network, forward."""

    read: float
    """An observed state."""
    point: float
    """From a candidate to where its energy is evaluated."""
    propose: float
    """From there into the network, and out of its energy head: differentiated with it."""
    move: float
    """From the gradient at the point back to the candidate."""
    forecast: float


def space_cost(model: EbtSection, spec: StateSpec) -> SpaceCost:
    """What a state of `spec` costs beside the trunk."""
    product = 2.0 * spec.state_dim * model.width
    head = 2.0 * model.width
    forecast = product if model.start == "forecast" else 0.0
    if spec.modality == "text":  # tokens are looked up; candidates and their gradients cross the whole table
        return SpaceCost(0.0, product, head * (1 + model.compatibility), product, forecast)
    return SpaceCost(product * (bool(model.appearance) + bool(model.motion)), 0.0, product + head, 0.0, forecast)


def trunk_flops(model: EbtSection, new: int, visible: int) -> float:
    """Forward FLOPs of `new` positions through all blocks, each scored against `visible` positions."""
    width, hidden = model.width, round(model.width * model.ffn_multiplier)
    linear = 2 * new * (4 * width * width + 3 * width * hidden)
    attention = 4 * new * visible * width
    return float(model.layers * (linear + attention))


def cost(recipe: Recipe, spec: StateSpec) -> Cost:
    """Count parameters, FLOPs and memory of `recipe` on states of `spec`; builds the network on no device."""
    import torch

    model, train, think = recipe.model, recipe.train, recipe.think
    with torch.device("meta"):
        world = build_world(model, spec)
    params, core = count_parameters(world.parameters()), count_parameters(world.network.parameters())
    length, rules, space = spec.context, model.descent, space_cost(model, spec)
    observed = trunk_flops(model, length, length) + length * (space.read + space.forecast)
    proposed = trunk_flops(model, length, length) + length * space.propose
    point, moved = length * space.point, length * space.move
    free, steps = sum(rules.free_steps) / 2, sum(rules.steps_range) / 2
    # A candidate is placed, judged, and moved; learning also goes back through each: to the table, to all weights, to
    # both sides of the move.
    per_window = OBSERVE_PASSES * observed + free * (point + THINK_PASSES * proposed + moved)
    per_window += steps * (2 * point + LEARN_PASSES * proposed + 3 * moved)
    hidden = round(model.width * model.ffn_multiplier)
    if not (space.forecast or model.compatibility):  # behind the last keys and values nothing observed is learned
        behind = 2.0 * length * model.width * (model.width + 3 * hidden + 2 * length)
        per_window -= (OBSERVE_PASSES - 1) * behind

    one = trunk_flops(model, 1, length)
    judged = space.point + THINK_PASSES * (one + space.propose) + space.move
    last = space.point + one + space.propose  # the energy of where descent arrived
    per_state = think.samples * (think.steps * judged + last) + one + space.read + space.forecast

    part = train.batch_size // train.accumulate
    # Floats a block keeps for its second-order backward, per position; measured on CPU, within a factor of 1.5.
    descending = min(part, max(1, NUMBERS_AT_ONCE // (length * spec.state_dim)))
    kept = model.layers * length * (40 * model.width + 18 * hidden + 10 * model.heads * length)
    remembered = model.layers * length * (14 * model.width + 6 * hidden + model.heads * length)
    candidates = length * spec.state_dim * VECTORS_PER_CANDIDATE
    memory = 4 * (6 * params + descending * (kept + candidates) + (part - descending) * remembered)
    return Cost(params, core, per_window * train.batch_size, per_state, int(memory))
