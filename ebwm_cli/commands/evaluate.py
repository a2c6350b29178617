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

from ebwm_cli.data.encoders import Tokenizer
from ebwm_cli.data.loader import spread
from ebwm_cli.data.store import Split
from ebwm_cli.errors import UsageError
from ebwm_cli.model.state_space import Reference
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.held_out import comparable, held_out_set
from ebwm_cli.run.held_out_loss import references_of
from ebwm_cli.run.measure import (
    Floats,
    HeldOut,
    Scores,
    bits_per_byte,
    perplexity,
    predict_windows,
    psnr,
    reference_errors,
    roll_out_windows,
)
from ebwm_cli.run.outputs import folder_beside, shown
from ebwm_cli.run.questions import Question, ask, read_questions
from ebwm_cli.run.report import Difference, EvalReport, Notice, ReferenceRow, Report, RolloutRow, SamplesRow, StepsRow
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.statistics import paired_bootstrap, partial_spearman, spearman
from ebwm_cli.world.build import cost

BOOTSTRAP_DRAWS = 2000
ROLLOUT = 4
PREDICTIONS = 32_768
"""Predictions that a held-out loss is the mean of, at most, where nothing else is asked for."""


def evaluate(
    checkpoint: Path | None,
    *,
    data: Path | None = None,
    steps: Sequence[int] = (1, 2, 4, 8, 16),
    samples: Sequence[int] = (1, 4),
    rollout: int | None = None,
    stride: int | None = None,
    most_windows: int | None = None,
    questions: Path | None = None,
    against: Sequence[Path] = (),
    device: str = "auto",
    seed: int = 0,
    split: str = "test",
) -> Iterator[Report]:
    """Yield notices, then one EvalReport, also written to the run folder's eval/ where the checkpoint lies in one.

    `rollout` is the longest horizon in states (None: 4 where the reference to beat can be carried so far, else none),
    at most half the context. `stride` is how many states apart windows begin; each predicts its last so many (None: a
    whole context), so that a smaller stride gives every prediction a longer past. `most_windows` bounds how many are
    looked at (None: as many as make PREDICTIONS). `questions` is a jsonl file of {prompt, answer[, choices]} for models
    of text. `data` must hold states of the
    checkpoint's own encoder; `against` must have been trained on the same set. Raises UsageError, DataError,
    CheckpointError.
    """
    began = time.perf_counter()
    _check(steps, samples, rollout, stride)
    set_threads()
    loaded = load_world(checkpoint, device=device)
    asked = _questions(loaded, questions) if questions else None
    others = [load_world(path, device=device) for path in against]
    for other in others:
        comparable(loaded, other)
    prepared = held_out_set(loaded, data)
    windows = prepared.split(split)
    context = loaded.spec.context
    stride = min(stride or context, context)
    references = references_of(loaded.space, prepared.split("train"))
    wanted = (ROLLOUT if references.copying else 0) if rollout is None else rollout
    horizon = min(wanted, context // 2)
    every, most = windows.windows(context, stride), most_windows or max(1, PREDICTIONS // stride)
    starts = spread(every, most)
    some = f", evenly spread over {len(every):,}" if len(starts) < len(every) else ""
    yield Notice(notice=f"{len(starts):,} {split} windows of {shown(prepared.path)}{some}, {stride} predictions each")
    if horizon < wanted:
        yield Notice(notice=f"rolling out {horizon} states, half the context of {loaded.spec.context}")

    think = loaded.recipe.think
    held_out = HeldOut(windows, stride, most)
    judged = _Judged(loaded, held_out, seed)
    scores = judged.scores(think)
    known = {name: reference_errors(loaded, held_out, predictor) for name, predictor in references.predictors.items()}
    hardest = next(iter(known))
    differences = [_difference(hardest, scores.errors, known[hardest], seed)]
    for other in others:
        rival = predict_windows(other, held_out, other.recipe.think, seed)
        differences.append(_difference(str(shown(other.path)), scores.errors, rival.errors, seed))
    folder = folder_beside(loaded.path, "eval")
    names = ["by_steps.png", "report.json"] if steps else ["report.json"]
    spent = cost(loaded.recipe, loaded.spec)
    report = EvalReport(
        checkpoint=str(shown(loaded.path)),
        data=str(shown(prepared.path)),
        split=split,
        windows=len(starts),
        stride=stride,
        loss=_mean(scores.errors),
        steps=think.steps,
        by_steps=[judged.steps_row(each) for each in steps],
        by_samples=[row for each in samples for row in judged.samples_rows(each)],
        references=[
            ReferenceRow(name=name, loss=_mean(errors), perplexity=perplexity(loaded.space, _mean(errors)))
            for name, errors in known.items()
        ],
        copy_last_loss=_mean(known[references.copying]) if references.copying else None,
        mean_loss=_mean(known[references.mean]),
        against=differences,
        energy_error_spearman=_defined(spearman(scores.energies, scores.errors)),
        doubt=loaded.space.doubt_name,
        doubt_error_spearman=_defined(spearman(scores.doubts, scores.errors)),
        partial_spearman=_defined(partial_spearman(scores.energies, scores.errors, scores.doubts)),
        rollout=_rollout_rows(loaded, HeldOut(windows, context, most), horizon, seed, references.predictors[hardest]),
        perplexity=perplexity(loaded.space, _mean(scores.errors)),
        bits_per_byte=bits_per_byte(loaded.encoder, _predicted(windows, starts, context, stride), scores.errors),
        questions=None if asked is None else ask(loaded, *asked, think, seed),
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
    held_out: HeldOut
    seed: int
    known: dict[str, Scores] = field(default_factory=dict)

    def scores(self, think: ThinkSection) -> Scores:
        key = think.model_dump_json()
        if key not in self.known:
            self.known[key] = predict_windows(self.loaded, self.held_out, think, self.seed)
        return self.known[key]

    def steps_row(self, steps: int) -> StepsRow:
        """One sample, all steps spent, whatever the recipe's habits."""
        fixed = {"steps": steps, "samples": 1, "stop": "fixed"}
        scores = self.scores(self.loaded.recipe.think.model_copy(update=fixed))
        return StepsRow(
            steps=steps,
            loss=_mean(scores.errors),
            perplexity=perplexity(self.loaded.space, _mean(scores.errors)),
            energy=float(scores.energies.mean()),
            seconds=scores.seconds,
        )

    def samples_rows(self, samples: int) -> list[SamplesRow]:
        """The recipe's steps; with several samples, three ways to make one prediction of them."""
        scores = self.scores(self.loaded.recipe.think.model_copy(update={"samples": samples}))
        picks: dict[str, Floats] = {"energy": scores.errors}
        if samples > 1:
            picks |= {"mean": scores.sample_mean_errors, "random": scores.sample_random_errors}
        space = self.loaded.space
        return [
            SamplesRow(samples=samples, select=name, loss=_mean(errors), perplexity=perplexity(space, _mean(errors)))
            for name, errors in picks.items()
        ]


def _check(steps: Sequence[int], samples: Sequence[int], rollout: int | None, stride: int | None) -> None:
    """Refuse budgets that mean nothing."""
    if any(each < 0 for each in steps):
        raise UsageError("--steps: descent steps can't be negative", "--steps 1 --steps 16")
    if any(each < 1 for each in samples):
        raise UsageError("--samples: there is at least one sample", "--samples 1 --samples 4")
    if stride is not None and stride < 1:
        raise UsageError("--stride: windows begin at least one state apart", "--stride 64")
    if rollout is not None and rollout < 0:
        raise UsageError("--rollout: a horizon can't be negative", "--rollout 4, or --rollout 0 for none")


def _questions(loaded: LoadedWorld, path: Path) -> tuple[Tokenizer, list[Question]]:
    """The model's tokenizer, and what it is to be asked. Raises UsageError, DataError."""
    if not isinstance(loaded.encoder, Tokenizer):
        raise UsageError(
            f"--questions: {shown(loaded.path)} was trained on {loaded.spec.modality}, it answers none",
            "--checkpoint with a model of text",
        )
    return loaded.encoder, read_questions(path)


def _predicted(windows: Split, starts: np.ndarray, context: int, stride: int) -> np.ndarray:
    """The states (W, S, ...) that are predicted."""
    return windows.states[starts[:, None] + np.arange(context + 1 - stride, context + 1)]


def _mean(errors: Floats) -> float:
    return float(errors.mean())


def _difference(name: str, errors: Floats, other: Floats, seed: int) -> Difference:
    """loss(this) - loss(`name`), by windows."""
    by_window = (errors - other).mean(1)  # (W,)
    interval = paired_bootstrap(by_window, BOOTSTRAP_DRAWS, np.random.default_rng(seed))
    return Difference(other=name, mean=interval.mean, ci95=interval.ci95)


def _defined(correlation: float) -> float | None:
    return None if math.isnan(correlation) else correlation


def _rollout_rows(
    loaded: LoadedWorld, held_out: HeldOut, horizon: int, seed: int, reference: Reference
) -> list[RolloutRow]:
    if not horizon:
        return []
    scores = roll_out_windows(loaded, held_out, loaded.recipe.think, horizon, seed, reference)
    pixels = scores.squared_pixel_errors
    return [
        RolloutRow(
            horizon=ahead + 1,
            loss=float(scores.errors[ahead]),
            reference_loss=float(scores.reference_errors[ahead]),
            psnr=None if pixels is None else psnr(float(pixels[ahead])),
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
        loss = Curve(
            "held-out loss",
            x,
            [row.loss for row in rows],
            ORANGE,
            (report.references[0].name, report.references[0].loss),
        )
        energy = Curve("total energy", x, [row.energy for row in rows], BLUE)
        draw_curves(folder / "by_steps.png", "Thinking longer", [loss, energy], "descent steps", log2=True)
    replace_file(folder / "report.json", report.model_dump_json(indent=2).encode() + b"\n")
