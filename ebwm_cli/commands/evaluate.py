"""`ebwm eval`: what a checkpoint is worth on states it has never seen, against predictors that need no thought.

Every number is a mean over the held-out windows; every difference carries a paired bootstrap interval over them. Works
through `WorldModel` alone and knows no kind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ebwm_cli.data.store import PreparedSet, Split
from ebwm_cli.errors import UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.held_out import comparable, held_out_set
from ebwm_cli.run.measure import Floats, Scores, constant_errors, predict_windows, psnr, roll_out_windows
from ebwm_cli.run.outputs import folder_beside, shown
from ebwm_cli.run.report import Difference, EvalReport, Notice, Report, RolloutRow, SamplesRow, StepsRow
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.statistics import paired_bootstrap, partial_spearman, spearman
from ebwm_cli.world.build import cost

COPY_LAST = "copy last state"
BOOTSTRAP_DRAWS = 2000


def evaluate(
    checkpoint: Path | None,
    *,
    data: Path | None = None,
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    samples: Sequence[int] = (1, 4),
    rollout: int = 4,
    against: Sequence[Path] = (),
    device: str = "auto",
    seed: int = 0,
    split: str = "test",
) -> Iterator[Report]:
    """Yield notices, then one EvalReport, also written to the run folder's eval/ where the checkpoint lies in one.

    `rollout` is the longest horizon in states (0: none), at most half the context. `data` must hold states of the
    checkpoint's own encoder; `against` must have been trained on the same set. Raises UsageError, DataError,
    CheckpointError.
    """
    began = time.perf_counter()
    _check(steps, samples, rollout)
    set_threads()
    loaded = load_world(checkpoint, device=device)
    others = [load_world(path, device=device) for path in against]
    for other in others:
        comparable(loaded, other)
    prepared = held_out_set(loaded, data)
    windows = prepared.split(split)
    horizon = min(rollout, loaded.spec.context // 2)
    count = len(windows.windows(loaded.spec.context))
    yield Notice(notice=f"{count} {split} windows of {shown(prepared.path)}, {loaded.spec.context} predictions each")
    if horizon < rollout:
        yield Notice(notice=f"rolling out {horizon} states, half the context of {loaded.spec.context}")

    think = loaded.recipe.think
    judged = _Judged(loaded, windows, seed)
    scores = judged.scores(think)
    copied, averaged = constant_errors(loaded, windows, _mean_state(prepared))
    differences = [_difference(COPY_LAST, scores.errors, copied, seed)]
    for other in others:
        rival = predict_windows(other, windows, other.recipe.think, seed)
        differences.append(_difference(str(shown(other.path)), scores.errors, rival.errors, seed))
    folder = folder_beside(loaded.path, "eval")
    names = ["by_steps.png", "report.json"] if steps else ["report.json"]
    spent = cost(loaded.recipe, loaded.spec)
    report = EvalReport(
        checkpoint=str(shown(loaded.path)),
        data=str(shown(prepared.path)),
        split=split,
        windows=count,
        loss=float(scores.errors.mean()),
        steps=think.steps,
        by_steps=[judged.steps_row(each) for each in steps],
        by_samples=[row for each in samples for row in judged.samples_rows(each)],
        copy_last_loss=float(copied.mean()),
        mean_loss=float(averaged.mean()),
        against=differences,
        energy_error_spearman=_defined(spearman(scores.energies, scores.errors)),
        move_error_spearman=_defined(spearman(scores.moves, scores.errors)),
        partial_spearman=_defined(partial_spearman(scores.energies, scores.errors, scores.moves)),
        rollout=_rollout_rows(loaded, windows, horizon, seed),
        perplexity=None,
        bits_per_byte=None,
        params=spent.params,
        flops_per_state=spent.flops_per_state,
        seconds=time.perf_counter() - began,
        files=[str(folder / name) for name in names] if folder else [],
    )
    if folder is not None:
        _write(folder, report)
    yield report


@dataclass
class _Judged:
    """A checkpoint on its windows; the same think section is never run twice."""

    loaded: LoadedWorld
    windows: Split
    seed: int
    known: dict[str, Scores] = field(default_factory=dict)

    def scores(self, think: ThinkSection) -> Scores:
        key = think.model_dump_json()
        if key not in self.known:
            self.known[key] = predict_windows(self.loaded, self.windows, think, self.seed)
        return self.known[key]

    def steps_row(self, steps: int) -> StepsRow:
        """One sample, all steps spent, whatever the recipe's habits."""
        fixed = {"steps": steps, "samples": 1, "stop": "fixed"}
        scores = self.scores(self.loaded.recipe.think.model_copy(update=fixed))
        return StepsRow(
            steps=steps,
            loss=float(scores.errors.mean()),
            energy=float(scores.energies.mean()),
            seconds=scores.seconds,
        )

    def samples_rows(self, samples: int) -> list[SamplesRow]:
        """The recipe's steps; with several samples, three ways to make one prediction of them."""
        scores = self.scores(self.loaded.recipe.think.model_copy(update={"samples": samples}))
        picks: dict[str, Floats] = {"energy": scores.errors}
        if samples > 1:
            picks |= {"mean": scores.sample_mean_errors, "random": scores.sample_random_errors}
        return [SamplesRow(samples=samples, select=name, loss=float(errors.mean())) for name, errors in picks.items()]


def _check(steps: Sequence[int], samples: Sequence[int], rollout: int) -> None:
    """Refuse budgets that mean nothing."""
    if any(each < 0 for each in steps):
        raise UsageError("--steps: descent steps can't be negative", "--steps 1 --steps 16")
    if any(each < 1 for each in samples):
        raise UsageError("--samples: there is at least one sample", "--samples 1 --samples 4")
    if rollout < 0:
        raise UsageError("--rollout: a horizon can't be negative", "--rollout 4, or --rollout 0 for none")


def _mean_state(prepared: PreparedSet) -> torch.Tensor:
    """Mean training state (D,)."""
    return torch.from_numpy(prepared.split("train").states.mean(0, dtype=np.float64))


def _difference(name: str, errors: Floats, other: Floats, seed: int) -> Difference:
    """loss(this) - loss(`name`), by windows."""
    by_window = (errors - other).mean(1)  # (W,)
    interval = paired_bootstrap(by_window, BOOTSTRAP_DRAWS, np.random.default_rng(seed))
    return Difference(other=name, mean=interval.mean, ci95=interval.ci95)


def _defined(correlation: float) -> float | None:
    return None if math.isnan(correlation) else correlation


def _rollout_rows(loaded: LoadedWorld, windows: Split, horizon: int, seed: int) -> list[RolloutRow]:
    if not horizon:
        return []
    scores = roll_out_windows(loaded, windows, loaded.recipe.think, horizon, seed)
    return [
        RolloutRow(
            horizon=ahead + 1,
            loss=float(scores.errors[ahead]),
            copy_last_loss=float(scores.copy_last_errors[ahead]),
            psnr=psnr(float(scores.squared_pixel_errors[ahead])),
        )
        for ahead in range(horizon)
    ]


def _write(folder: Path, report: EvalReport) -> None:
    """eval/by_steps.png and, last, eval/report.json."""
    from ebwm_cli.run.pictures import BLUE, ORANGE, Curve, draw_curves

    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(report.by_steps, key=lambda row: row.steps)
    if rows:
        x = [row.steps for row in rows]
        loss = Curve("held-out loss", x, [row.loss for row in rows], ORANGE, ("copy last", report.copy_last_loss))
        energy = Curve("total energy", x, [row.energy for row in rows], BLUE)
        draw_curves(folder / "by_steps.png", "Thinking longer", [loss, energy], "descent steps", log2=True)
    replace_file(folder / "report.json", report.model_dump_json(indent=2).encode() + b"\n")
