"""Does a score mean anything? Held against the errors that were made, and against true and false next states.

Spearman(score, error), AUROC = P(score(false) > score(true)), and beside each what costs nothing: the size of a move or
an entropy, a networkless predictor, the distance from the model's own prediction. Works through `WorldModel` and
`Judge` alone: it knows no kind and writes no file.
"""

# W windows, C context, B batch, P positions (C, or 1: the last), D state size

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebwm_cli.model.state_space import StateSpace, differ
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.judging import Baseline
from ebwm_cli.run.measure import Floats, HeldOut
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.pairs import NO_SCORE, Pairs, counted, defined, paired_batches, positions
from ebwm_cli.run.reliability import reliability
from ebwm_cli.run.report_calibration import CalibrationRow, Reliability, Resampled
from ebwm_cli.run.report_facets import Measured
from ebwm_cli.run.resampling import interval, partial_spearman_of, spearman_of
from ebwm_cli.run.statistics import partial_spearman, spearman
from ebwm_cli.run.telling import (
    ABOVE,
    BARE,
    DOUBT,
    NOISES,
    OWN_DOUBT,
    PAST,
    PREDICTION,
    REFERENCE,
    SCORE,
    SHUFFLED,
    Told,
    false_states,
    near,
    telling,
)
from ebwm_cli.world.false_states import shuffle, states_from_elsewhere
from ebwm_cli.world.protocol import Judge
from ebwm_cli.world.update import step_generator

UNDEFINED = "undefined: one of them is the same everywhere"


def measure_calibration(
    loaded: LoadedWorld, name: str, held_out: HeldOut, pairs: Pairs, baseline: Baseline, seed: int
) -> CalibrationRow:
    """What the score of `loaded` means on `held_out`, whose windows predict a whole context each, on the device it is
    on. `name` is what the row calls it."""
    found = _look(loaded, held_out, pairs, baseline, seed)
    score, space, errors = loaded.world.score, loaded.space, found.errors
    against, doubt = f"with the actual error {_budget(loaded)}, at {positions(errors)}", space.doubt_name
    by_doubt = reliability(doubt, found.doubts, errors, seed)
    if score is None:
        told = given = Resampled(value=None, ci95=None, how=NO_SCORE)
        by_score = Reliability(by="score", bins=[], how=NO_SCORE)
    else:
        told = _correlation(found.scores, errors, f"Spearman of the final {score} {against}", seed)
        how = f"partial Spearman of the final {score}, given the {doubt}, {against}"
        given = _correlation(found.scores, errors, how, seed, given=found.doubts)
        by_score = reliability(score, found.scores, errors, seed)
    knowing = f"Spearman of the one-step error of {baseline.name}, which knows the truth as no model does, {against}"
    return CalibrationRow(
        name=name,
        checkpoint=str(shown(loaded.path)),
        kind=loaded.recipe.model.kind,
        score=score,
        loss=float(errors.mean()),
        score_spearman=told,
        partial_spearman=given,
        doubt_spearman=_correlation(found.doubts, errors, f"Spearman of the {doubt} {against}", seed),
        reference_spearman=_correlation(found.references, errors, knowing, seed),
        reliability=by_score,
        doubt_reliability=by_doubt,
        doubt_gap=_gap(space, by_doubt),
        telling=telling(space, score, found.told, false_states(space, pairs), baseline.name, seed),
    )


def in_nats(space: StateSpace) -> list[str]:
    """What of all this is in nats."""
    return ["error", space.doubt_name, "distance from the prediction", "error of the reference"] * space.in_nats


# ------------------------------------------------------------------------------------------------ looking


@dataclass
class _Found:
    """What was seen, (W, C) each, and of true and false states (N,) where they differ."""

    errors: Floats
    scores: Floats
    """Final ones, of the prediction; 0 where nothing is judged."""
    doubts: Floats
    references: Floats
    told: dict[str, Told]
    """By what is told from the truth."""


@dataclass
class _Numbers:
    """Numbers of false states and of the true ones in their places, by what tells, as they are found."""

    false: dict[str, list[Tensor]] = field(default_factory=dict)
    true: dict[str, list[Tensor]] = field(default_factory=dict)
    windows: list[Tensor] = field(default_factory=list)

    def add(self, false: dict[str, Tensor], true: dict[str, Tensor], where: Tensor, first: int) -> None:
        """Of numbers (B, P) of windows from `first` on those at `where` (B, P)."""
        for mine, numbers in ((self.false, false), (self.true, true)):
            for key, number in numbers.items():
                mine.setdefault(key, []).append(number[where].cpu())
        self.windows.append(first + torch.nonzero(where)[:, 0].cpu())

    def told(self) -> Told:
        """All of them, as far as there are any."""
        numbers = {key: (_joined(self.false[key]), _joined(self.true[key])) for key in self.false}
        return Told(numbers, torch.cat(self.windows).numpy())


@dataclass(frozen=True)
class _Teller:
    """All numbers that may tell a true next state from a false one, low for what seems true."""

    loaded: LoadedWorld
    baseline: Baseline

    @property
    def judge(self) -> Judge | None:
        world = self.loaded.world
        return world if isinstance(world, Judge) and world.score is not None else None

    def after(self, memory: Any, prediction: Tensor, last: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
        """What tells numbers (B, P) of candidates (B, P, D), where `prediction` (B, P, D) is the model's own after
        `memory`, the last states of which are `last` (B, P, ...)."""
        space = self.loaded.space
        judged = None if self.judge is None else self.judge.judging(memory, prediction.shape[1])
        bottom = None if judged is None else judged(prediction)

        def numbers(candidate: Tensor) -> dict[str, Tensor]:
            found = {}
            if judged is not None and bottom is not None:
                found[SCORE] = judged(candidate)
                found[ABOVE] = found[SCORE] - bottom
                found[BARE] = judged(candidate, candidate)
            return found | {
                PREDICTION: space.divergence(candidate, prediction),
                DOUBT: space.doubt(prediction, last),
                OWN_DOUBT: space.doubt(candidate, last),
                REFERENCE: self.baseline.predictor.loss(last, space.commit(candidate)),
            }

        return numbers


@torch.no_grad()
def _look(loaded: LoadedWorld, held_out: HeldOut, pairs: Pairs, baseline: Baseline, seed: int) -> _Found:
    """Predict every window as `predict_windows` does with the same seed, and hold true next states against false."""
    world, space, think = loaded.world, loaded.space, loaded.recipe.think
    teller, rng = _Teller(loaded, baseline), torch.Generator().manual_seed(seed)
    many, length = len(pairs.starts), loaded.spec.context
    orders = {SHUFFLED: shuffled_orders(many, length, seed), PAST: shuffled_orders(many, length, seed, kept=1)}
    columns: list[list[Tensor]] = [[], [], [], []]
    told = {each.key: _Numbers() for each in false_states(space, pairs)}
    done = 0
    for number, (states, others) in enumerate(paired_batches(loaded, held_out, pairs, think.samples)):
        context, truth = states[:, :-1], states[:, 1:]
        memory = world.observe(context)
        prediction = world.predict(memory, think, rng, positions=held_out.stride)
        rows = (
            space.distance(prediction.state, truth),
            prediction.energy,
            space.doubt(prediction.state, context),
            baseline.predictor.loss(context, truth),
        )
        for column, row in zip(columns, rows, strict=True):
            column.append(row.cpu())
        tell = teller.after(memory, prediction.state, context)
        true = tell(space.certain(truth))
        for key, candidate, where in _candidates(space, states, others, partial(step_generator, seed, number)):
            told[key].add(tell(candidate), true, where, done)
        right = _tell_last(teller, context, truth, step_generator(seed, number))
        for key, order in orders.items():
            shuffled = shuffle(context, torch.from_numpy(order[done : done + len(states)]).to(states.device))
            false = _tell_last(teller, shuffled, truth, step_generator(seed, number))
            told[key].add(false, right, differ(shuffled, context).any(1, keepdim=True), done)
        done += len(states)
    tables = [_joined(column) for column in columns]
    return _Found(*tables, told={key: each.told() for key, each in told.items()})


def _candidates(
    space: StateSpace, states: Tensor, others: Tensor, rng: Callable[[], torch.Generator]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """False next states (B, C, D) after the true contexts of windows (B, C+1, ...), a kind at a time, and where (B, C)
    they are false; noise is the same for all sizes of it."""
    truth = states[:, 1:]
    yield from states_from_elsewhere(space, states, others)
    for share in NOISES:
        missed = space.near_miss(truth, rng(), share)
        yield near(share), missed, torch.ones(truth.shape[:2], dtype=torch.bool, device=truth.device)


def _tell_last(teller: _Teller, context: Tensor, truth: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Numbers (B, 1) of the true states after `context` (B, C, ...)."""
    world = teller.loaded.world
    memory = world.observe(context)
    prediction = world.predict(memory, teller.loaded.recipe.think, rng, positions=1)
    return teller.after(memory, prediction.state, context[:, -1:])(teller.loaded.space.certain(truth[:, -1:]))


def shuffled_orders(windows: int, context: int, seed: int, kept: int = 0) -> np.ndarray:
    """For each window an order (W, C) int64 of its observed states, in which the last `kept` keep their places."""
    orders = np.tile(np.arange(context), (windows, 1))
    free = orders[:, : context - kept]
    free[:] = np.random.default_rng(seed).permuted(free, axis=1)
    return orders


# ------------------------------------------------------------------------------------------------ numbers


def _correlation(x: Floats, errors: Floats, how: str, seed: int, given: Floats | None = None) -> Resampled:
    """Of numbers and errors (W, C), and what of it is not explained by what is `given` (W, C)."""
    windows = np.arange(len(errors)).repeat(errors.shape[1])
    x, errors = x.ravel(), errors.ravel()
    if given is None:
        value, statistic = spearman(x, errors), spearman_of(x, errors)
    else:
        value = partial_spearman(x, errors, given.ravel())
        statistic = partial_spearman_of(x, errors, given.ravel())
    known = defined(value)
    if known is None:
        return Resampled(value=None, ci95=None, how=f"{how}; {UNDEFINED}")
    return Resampled(value=known, ci95=interval(statistic, windows, seed), how=how)


def _gap(space: StateSpace, by_doubt: Reliability) -> Measured:
    """Mean |doubt - error| over the parts of a reliability curve, where both are in nats."""
    if not space.in_nats:
        return Measured(value=None, how=f"the {space.doubt_name} is not in the unit of an error, so nothing to compare")
    if not by_doubt.bins:
        return Measured(value=None, how=by_doubt.how)
    far = sum(each.positions * abs(each.mean_score - each.mean_error) for each in by_doubt.bins)
    value = far / sum(each.positions for each in by_doubt.bins)
    how = f"mean |{space.doubt_name} - error| in nats over the {len(by_doubt.bins)} parts that the first sorts "
    return Measured(value=value, how=f"{how}positions into, weighted by their size; 0 is calibrated")


def _budget(loaded: LoadedWorld) -> str:
    think = loaded.recipe.think
    if loaded.world.score is None:
        return "in one pass"
    bound = "" if think.stop == "fixed" else "at most "
    return f"with {bound}{counted(think.steps, 'step')} and {counted(think.samples, 'start')}"


def _joined(parts: list[Tensor]) -> Floats:
    return torch.cat(parts).double().numpy()
