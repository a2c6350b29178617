"""FLOPs of every kind: of learning one window, and of thinking about one next state with the context cached.

Matrix products only, 2 per multiply-add, as `torch.utils.flop_counter` counts them; a backward pass costs two forward
ones. Knows no tensor.
"""

# T context states, W width, F hidden width of the FFN, D state size

from __future__ import annotations

from dataclasses import dataclass

from ebwm_cli.model.diffusion import HIDDEN, WAVES
from ebwm_cli.model.level import MOVES
from ebwm_cli.recipe.model import (
    DiffusionSection,
    EbtSection,
    ModelSection,
    RnnSection,
    TransformerSection,
    TrunkSection,
)
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.sampler.curvature import EVERY, ITERATIONS
from ebwm_cli.world.energies import PASSES

# Candidate passes per descent step: forward and input gradient to think; to learn, also a backward through both.
THINK_PASSES, LEARN_PASSES, OBSERVE_PASSES = 2, 6, 3
GATES = {"gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Flops:
    """What a model costs."""

    per_window: float
    """Learning a window of T predictions."""
    per_state: float
    """Thinking about one next state as the recipe does, and remembering it."""
    remember: float
    """One state, and all that is said of it in one pass."""
    look: float = 0.0
    """An energy, its gradient and the move against it, of one candidate."""
    test: float = 0.0
    """An energy alone."""

    def spent(self, looks: float, tries: float) -> float:
        """On one next state about which so much was thought."""
        return self.remember + looks * self.look + tries * self.test


@dataclass(frozen=True)
class SpaceCost:
    """FLOPs per state of getting into and out of the network, forward."""

    read: float
    """An observed state."""
    point: float
    """From a candidate to where its energy is evaluated."""
    propose: float
    """From there into the network: differentiated with it."""
    move: float
    """From the gradient at the point back to the candidate."""
    head: float
    """From hidden states to a candidate."""
    turn: float
    """A point, to where its directions are read."""


def turns(model: ModelSection) -> bool:
    """Whether hidden states pass a matrix before the table of tokens: where that is the one they were read with."""
    return model.tokens.table == "shared"


def hidden_width(model: TrunkSection) -> int:
    """Of the FFN."""
    return round(model.width * model.ffn_multiplier)


def trunk_flops(model: TrunkSection, new: int, visible: int) -> float:
    """Forward FLOPs of `new` positions through all blocks, each scored against `visible` positions."""
    width, hidden = model.width, hidden_width(model)
    linear = 2 * new * (4 * width * width + 3 * width * hidden)
    attention = 4 * new * visible * width
    return float(model.layers * (linear + attention))


def first_moves_are_made(model: EbtSection, think: ThinkSection) -> bool:
    """Whether every descent begins with the moves from the state space's own start that a level is read from, if it is
    cooled as they are: then they cost nothing more."""
    plain = model.descent.step_control != "spectral" and model.start != "noise" and model.landscapes <= MOVES
    enough = think.steps >= MOVES and (think.stop == "fixed" or think.patience >= MOVES)
    return plain and enough and not think.backtrack


def energy_flops(model: EbtSection, spec: StateSpec, think: ThinkSection, space: SpaceCost) -> Flops:
    """Of learning through descent, and of descending."""
    length, rules = spec.context, model.descent
    head = model.width if model.head == "squares" else 1
    scored = space.propose + 2.0 * model.width * (head + model.compatibility)
    forecast = space.head if model.start == "forecast" else 0.0
    turned = 2.0 * model.width**2 * (model.compatibility and turns(model))
    observed = trunk_flops(model, length, length) + length * (space.read + forecast + turned)
    proposed = trunk_flops(model, length, length) + length * scored
    point, moved = length * space.point, length * space.move
    free, steps = sum(rules.free_steps) / 2, sum(rules.steps_range) / 2
    # A candidate is placed, judged, and moved; learning also goes back through each: to the table, to all weights, to
    # both sides of the move.
    per_window = OBSERVE_PASSES * observed + free * (point + THINK_PASSES * proposed + moved)
    per_window += steps * (2 * point + LEARN_PASSES * proposed + 3 * moved)
    wanted = model.energies
    terms = sum(passes * bool(getattr(wanted, term)) for term, passes in PASSES.items())
    per_window += terms * (2 * point + 3 * proposed)
    if rules.step_control == "spectral":  # a gradient, and back through it and its energy once per iteration
        per_window += (THINK_PASSES * (1 + ITERATIONS) * proposed + (1 + ITERATIONS) * (point + moved)) / EVERY
    if not (forecast or model.compatibility):  # behind the last keys and values nothing observed is learned
        behind = 2.0 * length * model.width * (model.width + 3 * hidden_width(model) + 2 * length)
        per_window -= (OBSERVE_PASSES - 1) * behind
    told = model.energies.level * ((think.samples + 1) * space.point + think.samples * space.turn)  # which way they lie
    one = trunk_flops(model, 1, length)
    look = space.point + THINK_PASSES * (one + scored) + space.move
    test = space.point + one + scored
    remember = one + space.read + forecast + turned + told
    tries = think.steps if think.backtrack else 1  # where each move leads, or the last one
    per_state = think.samples * (think.steps * look + tries * test) + remember
    if model.energies.level and not first_moves_are_made(model, think):
        per_state += MOVES * look + test
    return Flops(per_window, per_state, remember, look, test)


def transformer_flops(model: TransformerSection, spec: StateSpec, think: ThinkSection, space: SpaceCost) -> Flops:
    """Of one pass, whatever the thinking."""
    length = spec.context
    forward = trunk_flops(model, length, length) + length * space.head
    # What comes from outside needs no gradient: the way in is passed twice, not three times.
    per_window = 3 * forward + 2 * length * space.read
    remember = trunk_flops(model, 1, length) + space.read + space.head
    return Flops(per_window, remember, remember)


def rnn_flops(model: RnnSection, spec: StateSpec, think: ThinkSection, space: SpaceCost) -> Flops:
    """Of one pass, whatever the thinking."""
    length = spec.context
    one = 2.0 * (2 * model.layers * GATES[model.cell] + 1) * model.width * model.width
    remember = one + space.read + space.head
    return Flops(length * (3 * (one + space.head) + 2 * space.read), remember, remember)


def diffusion_flops(model: DiffusionSection, spec: StateSpec, think: ThinkSection, space: SpaceCost) -> Flops:
    """Of learning one noise level per position, and of denoising."""
    length = spec.context
    level = 2.0 * (2 * WAVES * HIDDEN + HIDDEN * 6 * model.width)
    trunk = trunk_flops(model, length, length)
    behind = 2.0 * length * model.width * (model.width + 3 * hidden_width(model) + 2 * length)
    observed = 3 * trunk - 2 * behind + 2 * length * space.read
    proposed = 3 * (trunk + length * space.head) + length * (2 * space.propose + 3 * level - 2.0 * 2 * WAVES * HIDDEN)
    one = trunk_flops(model, 1, length)
    test = one + space.propose + level + space.head + space.point
    # One more pass than steps, which judges the last; the start is placed too.
    remember = one + space.read + think.samples * space.point
    per_state = think.samples * (think.steps + 1) * test + remember
    return Flops(observed + proposed, per_state, remember, test=test)
