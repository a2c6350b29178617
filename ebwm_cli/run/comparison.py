"""Checkpoints side by side on the very same held-out windows: how good each is, what it cost, whether they differ.

difference = loss(first) - loss(other), mean over windows, with a paired bootstrap interval over them. Every model
thinks as its own recipe says, and all are timed alike. Works through `WorldModel` alone; it knows no kind and writes no
file.
"""

# W windows, S predictions per window, H horizon

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ebwm_cli.errors import UsageError
from ebwm_cli.run.checkpoint import LoadedWorld, load_world, resolve_checkpoint
from ebwm_cli.run.folder import MODEL_FILE, RunFolder, run_folder_of
from ebwm_cli.run.held_out import comparable
from ebwm_cli.run.measure import Floats, HeldOut, Scores, perplexity, predict_windows, roll_out_windows
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.report import Difference
from ebwm_cli.run.report_compare import ComparisonRow
from ebwm_cli.run.statistics import paired_bootstrap
from ebwm_cli.world.build import cost

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class Contender:
    """A checkpoint, and what it reached."""

    loaded: LoadedWorld
    scores: Scores
    rollout: list[float]
    """Mean loss by horizon, (H,)."""


@dataclass(frozen=True)
class Spent:
    """What a checkpoint is, and what it took."""

    checkpoint: str
    kind: str
    params: int
    train_flops: float
    train_seconds: float | None
    seconds_per_state: float


@dataclass(frozen=True)
class Known:
    """A predictor that needs no network, and what it reached."""

    name: str
    errors: Floats  # (W, S)
    rollout: list[float]


def load_rivals(loaded: LoadedWorld, paths: Sequence[Path], device: str) -> list[LoadedWorld]:
    """The checkpoints to compare `loaded` with, on `device`.

    Raises UsageError where one is `loaded` itself or is named twice, DataError where its windows differ,
    CheckpointError where it is missing or damaged.
    """
    files: list[Path] = []
    for path in paths:
        file = resolve_checkpoint(path)
        if file.samefile(loaded.path):
            raise UsageError(
                f"--against: {path} is the checkpoint that is evaluated, and differs from itself by nothing",
                "--against another checkpoint",
            )
        if any(file.samefile(each) for each in files):
            raise UsageError(f"--against: {path} is named twice", "name every checkpoint once")
        files.append(file)
    rivals = [load_world(file, device=device) for file in files]
    for rival in rivals:
        comparable(loaded, rival)
    return rivals


def contend(loaded: LoadedWorld, held_out: HeldOut, ahead: HeldOut, horizon: int, seed: int) -> Contender:
    """Predict `held_out` and roll out `horizon` states of `ahead` as the recipe of `loaded` thinks."""
    think = loaded.recipe.think
    scores = predict_windows(loaded, held_out, think, seed)
    rollout = roll_out_windows(loaded, ahead, think, horizon, seed).errors.tolist() if horizon else []
    return Contender(loaded, scores, rollout)


def compare(first: Contender, rivals: Sequence[Contender], known: Sequence[Known], seed: int) -> list[ComparisonRow]:
    """A row for `first`, one for each rival, one for each known predictor; all have seen the same windows."""
    space, errors = first.loaded.space, first.scores.errors

    def row(name: str, reached: Floats, rollout: list[float], spent: Spent | None = None) -> ComparisonRow:
        apart = None if reached is errors else difference(name, errors, reached, seed)
        loss = float(reached.mean())
        return ComparisonRow(
            name=name,
            checkpoint=spent and spent.checkpoint,
            kind=spent and spent.kind,
            loss=loss,
            perplexity=perplexity(space, loss),
            difference=apart and apart.mean,
            ci95=apart and apart.ci95,
            verdict=apart and _verdict(apart.ci95),
            rollout=rollout,
            params=spent and spent.params,
            train_flops=spent and spent.train_flops,
            train_seconds=spent and spent.train_seconds,
            seconds_per_state=spent and spent.seconds_per_state,
        )

    everyone = [first, *rivals]
    names = short_names([each.loaded.path for each in everyone])
    rows = [
        row(name, each.scores.errors, each.rollout, _spent(each)) for name, each in zip(names, everyone, strict=True)
    ]
    return rows + [row(each.name, each.errors, each.rollout) for each in known]


def difference(name: str, errors: Floats, other: Floats, seed: int) -> Difference:
    """loss(this) - loss(`name`), by windows, from errors (W, S) each."""
    by_window = (errors - other).mean(1)  # (W,)
    interval = paired_bootstrap(by_window, BOOTSTRAP_DRAWS, np.random.default_rng(seed))
    return Difference(other=name, mean=interval.mean, ci95=interval.ci95)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of `paths` that tell all of them apart; a run's model goes by its folder."""
    homes = [path.resolve() for path in paths]
    parts = [(home.parent if home.name == MODEL_FILE else home).parts for home in homes]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(home) for home in homes]


def _verdict(ci95: tuple[float, float] | None) -> str:
    """What an interval of loss(first) - loss(other) says of the first."""
    low, high = ci95 or (-1.0, 1.0)
    return "lower" if high < 0 else "higher" if low > 0 else "not told apart"


def _spent(contender: Contender) -> Spent:
    """Updates are counted and timed by the finished run it lies in, else foreseen by its recipe."""
    loaded = contender.loaded
    counted, home = cost(loaded.recipe, loaded.spec), run_folder_of(loaded.path.resolve())
    report = RunFolder(home).report() if home else None
    per_update, updates = counted.flops_per_step, loaded.recipe.train.steps
    if report:
        per_update, updates = report.flops_per_step, report.step
    return Spent(
        checkpoint=str(shown(loaded.path)),
        kind=loaded.recipe.model.kind,
        params=counted.params,
        train_flops=per_update * updates,
        train_seconds=report.updating_seconds if report else None,
        seconds_per_state=contender.scores.seconds,
    )
