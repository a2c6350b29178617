"""The four facets of a world model: does a prediction shape its state, is it judged, thought about, doubted?

Change = mean |h(true) - h(other)| / |h(true)|; AUROC = P(score(wrong) > score(true)); rank correlations of steps with
difficulty and of score with error. Works through `WorldModel` and `Judge` alone: it knows no kind and writes no file.
"""

# W windows, C context, S predictions per window, B batch

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebwm_cli.model.state_space import differ
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.measure import Floats, HeldOut, held_out_batches, predict_windows
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.pairs import NO_SCORE, Pairs, counted, defined, origin, paired_batches, positions
from ebwm_cli.run.report_facets import FacetsRow, Measured, StepsLoss
from ebwm_cli.run.statistics import auroc, spearman
from ebwm_cli.run.thinking import drop_of
from ebwm_cli.run.thought_words import stop_in_words
from ebwm_cli.world.protocol import Judge
from ebwm_cli.world.update import step_generator

BUDGET = 16
"""Descent steps that a position may use before it has settled."""
BY_STEPS = (1, 2, 4, 8, 16)
NO_STEPS = "no score: it predicts in one pass, 0 steps always, whatever the budget"


@dataclass(frozen=True)
class Difficulty:
    """How hard every position is."""

    reference: str
    """The predictor that needs no network, in words."""
    errors: Floats
    """Its one-step errors, (W, S)."""


def measure_facets(
    loaded: LoadedWorld, held_out: HeldOut, pairs: Pairs, difficulty: Difficulty, seed: int
) -> FacetsRow:
    """All four facets of `loaded` on `held_out`, on the device it is on."""
    judged = _judge(loaded, held_out, pairs, seed)
    shaped, told, thought, doubted = (
        _shaped(loaded, judged, pairs),
        _told_apart(loaded, judged, pairs),
        _thought(loaded, held_out, difficulty, seed),
        _doubted(loaded, held_out, pairs, seed),
    )
    return FacetsRow(
        checkpoint=str(shown(loaded.path)),
        kind=loaded.recipe.model.kind,
        score=loaded.world.score,
        hidden_change=shaped,
        other_auroc=told[0],
        near_auroc=told[1],
        steps_spearman=thought[0],
        steps_used=thought[1],
        by_steps=thought[2],
        by_steps_how=thought[3],
        error_spearman=doubted[0],
        context_auroc=doubted[1],
    )


# --------------------------------------------------------------------------------------------- 1 and 2


@dataclass(frozen=True)
class _Judged:
    """What true, other and nearly true next states do to a world, at every position, (W, S) each."""

    differs: NDArray[np.bool_]
    """Where the other window's state is another one at all."""
    changes: Floats
    """|h(true) - h(other)| / |h(true)|."""
    true: Floats | None
    """Scores; None, here and below, where nothing is judged."""
    other: Floats | None
    near: Floats | None


def _judge(loaded: LoadedWorld, held_out: HeldOut, pairs: Pairs, seed: int) -> _Judged:
    world, space, stride = loaded.world, loaded.space, held_out.stride
    judge = world if isinstance(world, Judge) and world.score is not None else None
    columns: list[list[Tensor]] = [[], [], [], [], []]
    for number, (states, others) in enumerate(paired_batches(loaded, held_out, pairs)):
        truth, false = states[:, -stride:], others[:, -stride:]
        memory = world.observe(states[:, :-1])
        right, wrong = space.certain(truth), space.certain(false)
        rows = [
            differ(truth, false),
            _relative_change(world.hidden(right, memory), world.hidden(wrong, memory)),
        ]
        if judge:
            near = space.near_miss(truth, step_generator(seed, number))
            judged = judge.judging(memory, stride)
            rows += [judged(candidate) for candidate in (right, wrong, near)]
        for column, row in zip(columns, rows, strict=False):
            column.append(row.cpu())
    differs, *tables = [torch.cat(column).double().numpy() for column in columns if column]
    scores = tables[1:] if judge else [None, None, None]
    return _Judged(differs.astype(bool), tables[0], *scores)


def _relative_change(before: Tensor, after: Tensor) -> Tensor:
    """|h1 - h2| / |h1|, (B, S), of hidden states (B, S, width)."""
    before, after = before.float(), after.float()
    return (before - after).norm(dim=-1) / before.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)


def _shaped(loaded: LoadedWorld, judged: _Judged, pairs: Pairs) -> Measured:
    changes = judged.changes[judged.differs]
    how = (
        "mean |h1 - h2| / |h1| of the hidden state when the candidate changes from the true next state to one from "
        f"{origin(pairs)} that differs, at {positions(changes)}"
    )
    if loaded.world.score is None and not changes.any():
        how += "; 0 by construction: no candidate enters a network that predicts in one pass"
    return Measured(value=defined(float(changes.mean()) if changes.size else math.nan), how=how)


def _told_apart(loaded: LoadedWorld, judged: _Judged, pairs: Pairs) -> tuple[Measured, Measured]:
    """From states of other windows, and from near misses."""
    if judged.true is None or judged.other is None or judged.near is None:
        return Measured(value=None, how=NO_SCORE), Measured(value=None, how=NO_SCORE)
    true, other = judged.true[judged.differs], judged.other[judged.differs]
    others, nearly = f"next states from {origin(pairs)} that differ", loaded.space.near_miss_words()
    said = f"AUROC of {loaded.world.score}, higher for {{}} than for true ones, at {{}}; 0.5 is chance"
    return (
        Measured(value=defined(auroc(other, true)), how=said.format(others, positions(true))),
        Measured(value=defined(auroc(judged.near, judged.true)), how=said.format(nearly, positions(judged.true))),
    )


# --------------------------------------------------------------------------------------------------- 3


def _thought(
    loaded: LoadedWorld, held_out: HeldOut, difficulty: Difficulty, seed: int
) -> tuple[Measured, Measured, list[StepsLoss], str]:
    """Steps against difficulty, mean steps, losses by steps and how they came about."""
    if loaded.world.score is None:
        return Measured(value=None, how=NO_STEPS), Measured(value=None, how=NO_STEPS), [], NO_STEPS
    think = loaded.recipe.think.model_copy(update={"samples": 1, "steps": BUDGET})
    used = _steps_used(loaded, held_out, think.model_copy(update={"stop": "energy"}), seed)
    drop = drop_of(loaded.world, think)
    each = stop_in_words(loaded.world.score, think.tolerance, drop, think.patience, BUDGET)
    each += f", at {positions(used)}"
    correlation = defined(spearman(used, difficulty.errors))
    how = f"Spearman of the steps used with the one-step error of {difficulty.reference}; {each}"
    if correlation is None:
        how += f"; undefined: all took {used.flat[0]:.0f} steps" if np.ptp(used) == 0 else "; undefined: all alike"
    fixed = [think.model_copy(update={"stop": "fixed", "steps": steps}) for steps in BY_STEPS]
    losses = [float(predict_windows(loaded, held_out, budget, seed).errors.mean()) for budget in fixed]
    return (
        Measured(value=correlation, how=how),
        Measured(value=float(used.mean()), how=f"mean steps used; {each}"),
        [StepsLoss(steps=steps, loss=loss) for steps, loss in zip(BY_STEPS, losses, strict=True)],
        f"mean one-step loss with exactly so many steps from one start, at {positions(used)}",
    )


def _steps_used(loaded: LoadedWorld, held_out: HeldOut, think: ThinkSection, seed: int) -> Floats:
    """(W, S)."""
    rng, rows = torch.Generator().manual_seed(seed), []
    for states in held_out_batches(loaded, held_out, think.samples):
        memory = loaded.world.observe(states[:, :-1])
        rows.append(loaded.world.predict(memory, think, rng, positions=held_out.stride).steps_used.cpu())
    return torch.cat(rows).double().numpy()


# --------------------------------------------------------------------------------------------------- 4


def _doubted(loaded: LoadedWorld, held_out: HeldOut, pairs: Pairs, seed: int) -> tuple[Measured, Measured]:
    """Score against error, and true contexts against foreign ones."""
    score, think = loaded.world.score, loaded.recipe.think
    if score is None:
        return Measured(value=None, how=NO_SCORE), Measured(value=None, how=NO_SCORE)
    budget = f"with {counted(think.steps, 'step')} and {counted(think.samples, 'start')}"
    scores = predict_windows(loaded, held_out, think, seed)
    correlation = defined(spearman(scores.energies, scores.errors))
    how = f"Spearman of the final {score} with the actual error {budget}, at {positions(scores.errors)}"
    if correlation is None:
        how += "; undefined: one of them is the same everywhere"
    return Measured(value=correlation, how=how), _foreign_contexts(loaded, held_out, pairs, budget, seed)


def _foreign_contexts(loaded: LoadedWorld, held_out: HeldOut, pairs: Pairs, budget: str, seed: int) -> Measured:
    """AUROC of the final score after the last position; the same draws with the true context and the foreign one."""
    world, half = loaded.world, loaded.spec.context // 2
    if not half:
        return Measured(value=None, how="a context of 1 state has no half to replace")
    final: tuple[list[Tensor], list[Tensor]] = ([], [])
    think = loaded.recipe.think
    for number, (states, others) in enumerate(paired_batches(loaded, held_out, pairs, think.samples)):
        true = states[:, :-1]
        foreign = torch.cat([others[:, :half], true[:, half:]], dim=1)
        for scores, context in zip(final, (true, foreign), strict=True):
            prediction = world.predict(world.observe(context), think, step_generator(seed, number), positions=1)
            scores.append(prediction.energy[:, -1].cpu())
    true, foreign = (torch.cat(scores).double().numpy() for scores in final)
    how = (
        f"AUROC of the final {world.score} {budget} after the last state, higher where the first {half} of "
        f"{loaded.spec.context} states of context are from {origin(pairs)}, in {len(true):,} windows; 0.5 is chance"
    )
    return Measured(value=defined(auroc(foreign, true)), how=how)
