"""Thinking held against truth: losses by steps, and steps used, over classes of states of known difficulty.

change = sum of errors at many steps / sum of errors at few - 1, per class, its interval from windows drawn again; rank
correlations of steps and of errors with difficulty. Works through `WorldModel` alone: it knows no kind, no world and
writes no file.
"""

# W windows, S predictions per window, B batch, N labelled predictions

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ebwm_cli.data.labels import LabelClass, Labels
from ebwm_cli.data.loader import spread
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.measure import Floats, HeldOut, held_out_batches
from ebwm_cli.run.report_difficulty import DifficultyGroup, DifficultyRow
from ebwm_cli.run.report_facets import StepsLoss
from ebwm_cli.run.resampling import interval
from ebwm_cli.run.statistics import spearman

BUDGET = 16
"""Steps that a position may use before its score has settled."""
BY_STEPS = (1, 2, 4, 8, 16)
FEW = 2
"""Steps that the change of a loss is counted from, where they are among those asked for."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Thought:
    """What one budget gave, (W, S) each."""

    errors: Floats
    steps_used: Ints


@dataclass(frozen=True)
class Measurement:
    """All that is told by class. `by_steps` is empty and `few` and `many` are None where nothing is thought about."""

    free: Thought
    """Each position stopping by itself; in one pass, that pass."""
    by_steps: dict[int, Floats]
    """Errors (W, S) when exactly so many steps are spent."""
    few: int | None
    many: int | None


def window_labels(held_out: HeldOut, context: int) -> Ints | None:
    """Labels (W, S) of the states that `held_out` predicts from contexts of `context`; None of a split without."""
    labels = held_out.split.labels
    if labels is None:
        return None
    starts = spread(held_out.split.windows(context, held_out.stride), held_out.most)
    return labels[starts[:, None] + np.arange(context + 1 - held_out.stride, context + 1)].astype(np.int64)


def measure(loaded: LoadedWorld, held_out: HeldOut, by_steps: Sequence[int], seed: int) -> Measurement:
    """Think about every window of `held_out` with every budget, on the device `loaded` is on."""
    one = loaded.recipe.think.model_copy(update={"samples": 1})
    if loaded.world.score is None:
        return Measurement(_think(loaded, held_out, [one], seed)[0], {}, None, None)
    steps = sorted(set(by_steps))
    free = one.model_copy(update={"stop": "energy", "steps": BUDGET})
    fixed = [one.model_copy(update={"stop": "fixed", "steps": each}) for each in steps]
    stopped, *spent = _think(loaded, held_out, [free, *fixed], seed)
    errors = {each: thought.errors for each, thought in zip(steps, spent, strict=True)}
    return Measurement(stopped, errors, FEW if FEW in steps else steps[0], steps[-1])


def _think(loaded: LoadedWorld, held_out: HeldOut, budgets: Sequence[ThinkSection], seed: int) -> list[Thought]:
    """One Thought per budget. A context is observed once; each budget draws the same numbers as if it were alone."""
    world, stride = loaded.world, held_out.stride
    draws = [torch.Generator().manual_seed(seed) for _ in budgets]
    errors: list[list[Floats]] = [[] for _ in budgets]
    steps: list[list[Ints]] = [[] for _ in budgets]
    for states in held_out_batches(loaded, held_out):
        memory, truth = world.observe(states[:, :-1]), states[:, -stride:]
        for budget, rng, error, used in zip(budgets, draws, errors, steps, strict=True):
            prediction = world.predict(memory, budget, rng, positions=stride)
            error.append(loaded.space.distance(prediction.state, truth).double().cpu().numpy())
            used.append(prediction.steps_used.cpu().numpy())
    return [Thought(np.concatenate(each), np.concatenate(used)) for each, used in zip(errors, steps, strict=True)]


# ------------------------------------------------------------------------------------------ by class


def rows_of(classes: Labels, labels: Ints, measured: Measurement, reference: Floats, seed: int) -> list[DifficultyRow]:
    """A row per class of `classes`, given labels (W, S), and the reference's errors (W, S)."""
    return [
        _row(each, labels == each.label, measured, reference, seed)
        for group in classes.groups.values()
        for each in group
    ]


def _row(
    each: LabelClass, members: NDArray[np.bool_], measured: Measurement, reference: Floats, seed: int
) -> DifficultyRow:
    """Of predictions `members` (W, S)."""

    def mean(values: NDArray[np.float64] | Ints) -> float | None:
        return float(values[members].mean()) if members.any() else None

    losses = {steps: mean(errors) for steps, errors in measured.by_steps.items()}
    change = interval = None
    if measured.few is not None and measured.many is not None and members.any():
        few, many = (np.where(members, measured.by_steps[steps], 0.0).sum(1) for steps in (measured.few, measured.many))
        change = float(many.sum() / few.sum() - 1) if few.any() else None
        interval = change_interval(few, many, seed)
    return DifficultyRow(
        label=each.label,
        name=each.name,
        group=each.group,
        positions=int(members.sum()),
        reference_loss=mean(reference),
        loss=None if measured.by_steps else mean(measured.free.errors),
        by_steps=[StepsLoss(steps=steps, loss=loss) for steps, loss in losses.items() if loss is not None],
        change=change,
        change_ci95=interval,
        steps_used=mean(measured.free.steps_used) if measured.by_steps else None,
        stopped_loss=mean(measured.free.errors) if measured.by_steps else None,
    )


def change_interval(few: Floats, many: Floats, seed: int) -> tuple[float, float] | None:
    """95 % interval of sum(many) / sum(few) - 1 over windows (W,), of which each keeps both of its sums; None where too
    few have any error to tell of, or a resample has none at few steps."""
    told = np.flatnonzero((few != 0) | (many != 0))
    few, many = few[told], many[told]

    def change(weights: Floats) -> Floats:
        below = weights @ few
        return weights @ many / np.where(below > 0, below, np.nan) - 1

    return interval(change, told, seed)


def groups_of(classes: Labels, labels: Ints, measured: Measurement, reference: Floats) -> list[DifficultyGroup]:
    """Over the positions of each group, correlations with the place of their class in it."""
    found = []
    for name, group in classes.groups.items():
        ranks = np.full(labels.shape, -1)
        for rank, each in enumerate(group):
            ranks[labels == each.label] = rank
        members = ranks >= 0
        hard = ranks[members]  # (N,)
        steps = own = math.nan
        if measured.many is not None:
            used = measured.free.steps_used[members]
            steps, own = spearman(used, hard), spearman(used, measured.by_steps[measured.many][members])
        found.append(
            DifficultyGroup(
                group=name,
                positions=int(members.sum()),
                steps_spearman=_defined(steps),
                error_spearman=_defined(spearman(measured.free.errors[members], hard)),
                reference_spearman=_defined(spearman(reference[members], hard)),
                steps_error_spearman=_defined(own),
            )
        )
    return found


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
