"""`ebwm eval --by difficulty`: is a model better where it thinks longer, and does it think longer where it is harder?

The set must say how hard its states are, as the built-in worlds do; then losses, steps and their correlations with the
truth are told by class. Works through `WorldModel` alone and knows no kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.run.difficulty import BUDGET, BY_STEPS, groups_of, measure, rows_of, window_labels
from ebwm_cli.run.judging import judgement, told_and_kept, windows_in_words
from ebwm_cli.run.measure import reference_errors
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_difficulty import DifficultyReport
from ebwm_cli.run.thinking import drop_of, in_vain

HINT = "ebwm prepare demo --world balls (or sums), and --data with that set"


def difficulty(
    checkpoint: Path | None,
    *,
    data: Path | None = None,
    by_steps: Sequence[int] = BY_STEPS,
    most_windows: int | None = None,
    thinking: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    split: str = "test",
) -> Iterator[Report]:
    """Yield notices, then one DifficultyReport, also written to the run folder's eval/ where the checkpoint lies in
    one.

    `by_steps` are fixed numbers of steps to compare; 0 is where descents start. `most_windows` bounds how many windows
    are looked at (None: as many as make PREDICTIONS). `data` must hold states of the checkpoint's own encoder. Raises
    UsageError; DataError where the set has no labels, or none of its windows that are looked at has; CheckpointError.
    """
    began = time.perf_counter()
    if min(by_steps, default=-1) < 0 or not any(by_steps):
        raise UsageError("--by difficulty compares numbers of steps, one of them from 1 up", "--steps 0 1 2 4 8 16")
    asked = judgement(checkpoint, data=data, thinking=thinking, device=device, split=split, most_windows=most_windows)
    loaded, prepared, held_out, context = asked.loaded, asked.prepared, asked.held_out, asked.context
    labels = window_labels(held_out, context)
    if labels is None or prepared.labels is None:
        raise DataError(f"{asked.set_name} doesn't say how hard its states are to foresee", HINT)
    known = int((labels >= 0).sum())
    if not known:
        raise DataError(f"no state of {len(labels):,} {split} windows of {asked.set_name} has a label", HINT)
    told = f"{known:,} of {labels.size:,} predictions are of known difficulty"
    yield Notice(notice=f"{windows_in_words(prepared, held_out, context)}, {told}")
    if loaded.world.score is None:
        yield Notice(notice="it predicts in one pass: there are no steps to compare")
    yield from in_vain(loaded, {}, thinking)
    reference = reference_errors(loaded, held_out, asked.baseline.predictor)
    measured = measure(loaded, held_out, by_steps, seed)
    thinks, think = measured.many is not None, loaded.recipe.think
    report = DifficultyReport(
        checkpoint=str(shown(loaded.path)),
        kind=loaded.recipe.model.kind,
        score=loaded.world.score,
        data=asked.set_name,
        split=split,
        labels=prepared.labels.name,
        windows=len(labels),
        stride=context,
        labelled=known,
        reference=asked.baseline.name,
        few=measured.few,
        many=measured.many,
        budget=BUDGET if thinks else None,
        tolerance=think.tolerance if thinks else None,
        drop=drop_of(loaded.world, think) if thinks else None,
        patience=think.patience if thinks else None,
        rows=rows_of(prepared.labels, labels, measured, reference, seed),
        groups=groups_of(prepared.labels, labels, measured, reference),
        seconds=time.perf_counter() - began,
        files=[str(asked.folder / "difficulty.json")] if asked.folder else [],
    )
    yield from told_and_kept(report, asked.folder, "difficulty.json")
