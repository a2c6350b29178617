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
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.difficulty import BUDGET, BY_STEPS, groups_of, measure, rows_of, window_labels
from ebwm_cli.run.held_out import held_out_set
from ebwm_cli.run.held_out_loss import references_of
from ebwm_cli.run.measure import HeldOut, reference_errors
from ebwm_cli.run.outputs import folder_beside, shown
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_difficulty import DifficultyReport
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.thinking import thinking_as

PREDICTIONS = 32_768
"""Predictions that are looked at, at most, where nothing else is asked for: as many as `eval` looks at."""
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

    `by_steps` are fixed numbers of steps to compare, from 1 up. `most_windows` bounds how many windows are looked at
    (None: as many as make PREDICTIONS). `data` must hold states of the checkpoint's own encoder. Raises UsageError;
    DataError where the set has no labels, or none of its windows that are looked at has; CheckpointError.
    """
    began = time.perf_counter()
    if not by_steps or min(by_steps) < 1:
        raise UsageError("--by difficulty compares numbers of steps from 1 up", "--steps 1 2 4 8 16")
    if most_windows is not None and most_windows < 1:
        raise UsageError("--windows: there is at least one window to look at", "--windows 100")
    set_threads()
    loaded = thinking_as(load_world(checkpoint, device=device), thinking or {})
    prepared = held_out_set(loaded, data)
    windows, context = prepared.split(split), loaded.spec.context
    held_out = HeldOut(windows, context, most_windows or max(1, PREDICTIONS // context))
    labels = window_labels(held_out, context)
    if labels is None or prepared.labels is None:
        raise DataError(f"{shown(prepared.path)} doesn't say how hard its states are to foresee", HINT)
    every, some, known = len(windows.windows(context, context)), len(labels), int((labels >= 0).sum())
    if not known:
        raise DataError(f"no state of {some:,} {split} windows of {shown(prepared.path)} has a label", HINT)
    spread = f", evenly spread over {every:,}" if some < every else ""
    told = f"{known:,} of {labels.size:,} predictions are of known difficulty"
    yield Notice(notice=f"{some:,} {split} windows of {shown(prepared.path)}{spread}, {told}")
    if loaded.world.score is None:
        yield Notice(notice="it predicts in one pass: there are no steps to compare")
    name, predictor = next(iter(references_of(loaded.space, prepared.split("train")).predictors.items()))
    reference = reference_errors(loaded, held_out, predictor)
    measured = measure(loaded, held_out, by_steps, seed)
    thinks = measured.many is not None
    folder = folder_beside(loaded.path, "eval")
    report = DifficultyReport(
        checkpoint=str(shown(loaded.path)),
        kind=loaded.recipe.model.kind,
        score=loaded.world.score,
        data=str(shown(prepared.path)),
        split=split,
        labels=prepared.labels.name,
        windows=some,
        stride=context,
        labelled=known,
        reference=name,
        few=measured.few,
        many=measured.many,
        budget=BUDGET if thinks else None,
        tolerance=loaded.recipe.think.tolerance if thinks else None,
        rows=rows_of(prepared.labels, labels, measured, reference, seed),
        groups=groups_of(prepared.labels, labels, measured, reference),
        seconds=time.perf_counter() - began,
        files=[str(folder / "difficulty.json")] if folder else [],
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "difficulty.json", report.model_dump_json(indent=2).encode() + b"\n")
    yield report
