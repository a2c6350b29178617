"""The one place where a recipe's `kind` becomes a class, and where its cost is counted.

FLOPs are those of matrix products, 2 per multiply-add, as `torch.utils.flop_counter` counts them. Knows every kind;
nobody else does.
"""

# B batch, T context states, W width, F hidden width of the FFN, D state size

from __future__ import annotations

from dataclasses import dataclass

from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.state_space import LatentSpace
from ebwm_cli.recipe.schema import EbtSection, Recipe, StateSpec
from ebwm_cli.world.energy import EnergyWorld, count_parameters

# Candidate passes per descent step: forward and input gradient to think; to learn, also a backward through both.
THINK_PASSES, LEARN_PASSES, OBSERVE_PASSES = 2, 6, 3


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


def build_world(model: EbtSection, spec: StateSpec) -> EnergyWorld:
    """The world model of a recipe's model section, freshly initialised from torch's global generator."""
    network = EnergyTransformer(
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        ffn_multiplier=model.ffn_multiplier,
        step_conditioning=model.step_conditioning,
        num_landscapes=model.landscapes,
    )
    space = LatentSpace(spec.state_dim, model.width, model.start, model.appearance, model.motion)
    return EnergyWorld(network, space, model, spec)


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
    length, rules = spec.context, model.descent
    embed = 2.0 * spec.state_dim * model.width
    read = embed * (bool(model.appearance) + bool(model.motion))
    forecast = embed if model.start == "forecast" else 0.0

    observed = trunk_flops(model, length, length) + length * (read + forecast)
    proposed = trunk_flops(model, length, length) + length * (embed + 2 * model.width)
    free, steps = sum(rules.free_steps) / 2, sum(rules.steps_range) / 2
    per_window = OBSERVE_PASSES * observed + (THINK_PASSES * free + LEARN_PASSES * steps) * proposed
    hidden = round(model.width * model.ffn_multiplier)
    if not forecast:  # behind the last keys and values nothing of the observed stream is learned
        behind = 2.0 * length * model.width * (model.width + 3 * hidden + 2 * length)
        per_window -= (OBSERVE_PASSES - 1) * behind

    one = trunk_flops(model, 1, length)
    per_state = think.samples * (THINK_PASSES * think.steps + 1) * (one + embed + 2 * model.width) + one + read

    part = train.batch_size // train.accumulate
    # Floats a block keeps for its second-order backward, per position; measured on CPU, within a factor of 1.5.
    activations = model.layers * length * (40 * model.width + 18 * hidden + 10 * model.heads * length)
    memory = 4 * (6 * params + part * activations)
    return Cost(params, core, per_window * train.batch_size, per_state, int(memory))
