"""`ebwm eval`: what a checkpoint is worth on states it has never seen, against predictors that need no thought.

Every number is a mean over the held-out windows; every difference carries a paired bootstrap interval over them. Works
through `WorldModel` alone and knows no kind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ebwm_cli.data.encoders import Tokenizer
from ebwm_cli.data.loader import spread
from ebwm_cli.data.store import Split
from ebwm_cli.errors import UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.comparison import Contender, Known, compare, contend, difference, load_rivals
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.held_out import held_out_set
from ebwm_cli.run.held_out_loss import references_of
from ebwm_cli.run.judging import PREDICTIONS, told_and_kept, too_few, windows_in_words
from ebwm_cli.run.measure import (
    Floats,
    HeldOut,
    RolloutScores,
    Scores,
    bits_per_byte,
    perplexity,
    predict_windows,
    psnr,
    reference_errors,
    reference_rollout,
    roll_out_windows,
)
from ebwm_cli.run.outputs import folder_beside, shown
from ebwm_cli.run.questions import Question, ask, read_questions
from ebwm_cli.run.report import EvalReport, Notice, ReferenceRow, Report, RolloutRow, SamplesRow, StepsRow, StopRow
from ebwm_cli.run.statistics import partial_spearman, spearman
from ebwm_cli.run.thinking import in_vain, thinking_as
from ebwm_cli.world.build import cost, thinking_flops

ROLLOUT = 4
"""The longest horizon, where nothing else is asked for."""


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
    thinking: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    split: str = "test",
) -> Iterator[Report]:
    """Yield notices, then one EvalReport, also written to the run folder's eval/ where the checkpoint lies in one.

    `rollout` is the longest horizon in states (None: 4 where the reference to beat can be carried so far, else none),
    at most half the context. `stride` is how many states apart windows begin; each predicts its last so many (None: a
    whole context), so that a smaller stride gives every prediction a longer past. `most_windows` bounds how many are
    looked at (None: as many as make PREDICTIONS). `questions` is a jsonl file of {prompt, answer[, choices]} for models
    of text. `data` must hold states of the checkpoint's own encoder; `against` are other checkpoints trained on the
    same set, compared window by window. Models that predict in one pass have no steps and samples to compare. Raises
    UsageError, DataError, CheckpointError.
    """
    began = time.perf_counter()
    _check(steps, samples, rollout, stride)
    set_threads()
    loaded = thinking_as(load_world(checkpoint, device=device), thinking or {})
    asked = _questions(loaded, questions) if questions else None
    others = load_rivals(loaded, against, device)
    prepared = held_out_set(loaded, data)
    windows = prepared.split(split)
    context = loaded.spec.context
    longest, stride = stride or context, min(stride or context, context)
    references = references_of(loaded.space, prepared.split("train"))
    wanted = (ROLLOUT if references.copying else 0) if rollout is None else rollout
    horizon = min(wanted, context // 2)
    most = most_windows or max(1, PREDICTIONS // stride)
    held_out, ahead = HeldOut(windows, stride, most), HeldOut(windows, context, most)
    starts = spread(windows.windows(context, stride), most)
    yield Notice(notice=f"{windows_in_words(prepared, held_out, context)}, {stride} predictions each")
    yield from too_few(len(starts))
    if stride < longest:
        yield Notice(notice=f"windows begin {stride} states apart, a whole context, and no {longest}")
    if horizon < wanted:
        yield Notice(notice=f"rolling out {horizon} states, half the context of {loaded.spec.context}")

    think = loaded.recipe.think
    if loaded.world.score is None:
        yield Notice(notice="it predicts in one pass: there are no steps and no samples to compare")
        steps = samples = ()
    yield from in_vain(loaded, {}, thinking)
    judged = _Judged(loaded, held_out, seed)
    scores = judged.scores(think)
    known = {name: reference_errors(loaded, held_out, predictor) for name, predictor in references.predictors.items()}
    rolled = roll_out_windows(loaded, ahead, think, horizon, seed) if horizon else None
    rolled_known = {
        name: reference_rollout(loaded, ahead, horizon, predictor).tolist() if horizon else []
        for name, predictor in references.predictors.items()
    }
    rivals = [contend(other, held_out, ahead, horizon, seed) for other in others]
    hardest = next(iter(known))
    differences = [difference(hardest, scores.errors, known[hardest], seed)]
    for rival in rivals:
        differences.append(difference(str(shown(rival.loaded.path)), scores.errors, rival.scores.errors, seed))
    itself = Contender(loaded, scores, rolled.errors.tolist() if rolled else [])
    trivial = [Known(name, errors, rolled_known[name]) for name, errors in known.items()]
    folder = folder_beside(loaded.path, "eval")
    names = [*(["by_steps.png"] if steps else []), *(["comparison.png"] if rivals else []), "report.json"]
    spent = cost(loaded.recipe, loaded.spec)
    report = EvalReport(
        checkpoint=str(shown(loaded.path)),
        data=str(shown(prepared.path)),
        split=split,
        windows=len(starts),
        stride=stride,
        loss=_mean(scores.errors),
        score=loaded.world.score,
        steps=think.steps if loaded.world.score else 0,
        samples=think.samples if loaded.world.score else 1,
        by_steps=[judged.steps_row(each) for each in steps],
        by_stop=judged.stop_rows(max(steps)) if steps and max(steps) else [],
        by_samples=[row for each in samples for row in judged.samples_rows(each)],
        references=[
            ReferenceRow(name=name, loss=_mean(errors), perplexity=perplexity(loaded.space, _mean(errors)))
            for name, errors in known.items()
        ],
        copy_last_loss=_mean(known[references.copying]) if references.copying else None,
        mean_loss=_mean(known[references.mean]),
        against=differences,
        comparison=compare(itself, rivals, trivial, seed) if rivals else [],
        energy_error_spearman=_defined(spearman(scores.energies, scores.errors)),
        doubt=loaded.space.doubt_name,
        doubt_error_spearman=_defined(spearman(scores.doubts, scores.errors)),
        partial_spearman=_defined(partial_spearman(scores.energies, scores.errors, scores.doubts)),
        rollout=_rollout_rows(rolled, rolled_known[hardest]) if rolled else [],
        perplexity=perplexity(loaded.space, _mean(scores.errors)),
        bits_per_byte=bits_per_byte(loaded.encoder, _predicted(windows, starts, context, stride), scores.errors),
        questions=None if asked is None else ask(loaded, *asked, think, seed),
        params=spent.params,
        flops_per_state=spent.flops_per_state,
        seconds=time.perf_counter() - began,
        files=[str(folder / name) for name in names] if folder else [],
    )
    yield from told_and_kept(report, folder, "report.json", lambda place: _draw(place, report))


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
            energy=float(scores.bare.mean()),
            rises=float(scores.rises.sum() / max(scores.steps_used.sum(), 1)),
            seconds=scores.seconds,
        )

    def stop_rows(self, steps: int) -> list[StopRow]:
        """All `steps`, and as many as the recipe's rule of stopping (or, without one, settled energies) asks for."""
        habits = self.loaded.recipe.think
        return [self._stop_row(stop, steps) for stop in ("fixed", "energy" if habits.stop == "fixed" else habits.stop)]

    def _stop_row(self, stop: str, steps: int) -> StopRow:
        think = self.loaded.recipe.think.model_copy(update={"steps": steps, "samples": 1, "stop": stop})
        scores = self.scores(think)
        looks, tries = float(scores.looks.mean()), float(scores.tries.mean())
        return StopRow(
            stop=stop,
            steps=steps,
            loss=_mean(scores.errors),
            steps_used=float(scores.steps_used.mean()),
            counts=np.bincount(scores.steps_used.astype(np.int64).ravel(), minlength=steps + 1).tolist(),
            flops_per_state=thinking_flops(self.loaded.recipe.model, think, self.loaded.spec, looks, tries),
        )

    def samples_rows(self, samples: int) -> list[SamplesRow]:
        """The recipe's steps; with several samples, four ways to make one prediction of them."""
        by_energy = {"samples": samples, "select": "energy"}
        scores = self.scores(self.loaded.recipe.think.model_copy(update=by_energy))
        picks: dict[str, Floats] = {str(self.loaded.world.score): scores.errors}
        if samples > 1:
            picks |= {
                "gap": scores.sample_gap_errors,
                "mean": scores.sample_mean_errors,
                "random": scores.sample_random_errors,
            }
        return [self._samples_row(samples, name, errors, picks.get("random")) for name, errors in picks.items()]

    def _samples_row(self, samples: int, select: str, errors: Floats, blind: Floats | None) -> SamplesRow:
        """Of one way to choose, beside choosing blindly."""
        row = SamplesRow(
            samples=samples,
            select=select,
            loss=_mean(errors),
            perplexity=perplexity(self.loaded.space, _mean(errors)),
        )
        if blind is None or errors is blind:
            return row
        beside = difference("random", errors, blind, self.seed)
        return row.model_copy(update={"difference": beside.mean, "ci95": beside.ci95})


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


def _defined(correlation: float) -> float | None:
    return None if math.isnan(correlation) else correlation


def _rollout_rows(scores: RolloutScores, referred: Sequence[float]) -> list[RolloutRow]:
    """By horizon; `referred` are the losses of the reference to beat."""
    pixels = scores.squared_pixel_errors
    return [
        RolloutRow(
            horizon=ahead + 1,
            loss=float(loss),
            reference_loss=referred[ahead],
            psnr=None if pixels is None else psnr(float(pixels[ahead])),
        )
        for ahead, loss in enumerate(scores.errors)
    ]


def _draw(folder: Path, report: EvalReport) -> None:
    """by_steps.png and comparison.png, as far as there are such rows."""
    from ebwm_cli.run.picture_compare import draw_comparison
    from ebwm_cli.run.pictures import BLUE, ORANGE, Curve, draw_curves

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
        score = Curve(f"{report.score}, as descents go by it", x, [row.energy for row in rows], BLUE)
        draw_curves(folder / "by_steps.png", "Thinking longer", [loss, score], "steps", log2=True)
    if report.comparison:
        draw_comparison(folder / "comparison.png", report.comparison)
