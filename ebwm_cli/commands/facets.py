"""`ebwm eval --facets`: what a checkpoint does beyond predicting, beside others on the same held-out windows.

Four facets, each a number and how it was obtained: predictions shape the internal state, are evaluated, get more
computation where they are hard, and are doubted where they are wrong. Works through `WorldModel` alone and knows no
kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebwm_cli.errors import UsageError
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.facets import Difficulty, measure_facets
from ebwm_cli.run.held_out import comparable, held_out_set
from ebwm_cli.run.held_out_loss import references_of
from ebwm_cli.run.measure import HeldOut, reference_errors
from ebwm_cli.run.outputs import folder_beside, shown
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_facets import FacetsReport
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.thinking import thinking_as

PREDICTIONS = 32_768
"""Predictions that a facet is measured on, at most, where nothing else is asked for: as many as `eval` looks at."""


def facets(
    checkpoint: Path | None,
    *,
    against: Sequence[Path] = (),
    data: Path | None = None,
    thinking: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    most_windows: int | None = None,
    split: str = "test",
) -> Iterator[Report]:
    """Yield notices, then one FacetsReport, also written to the run folder's eval/ where the checkpoint lies in one.

    `most_windows` bounds how many windows are looked at (None: as many as make PREDICTIONS). `data` must hold states of
    the checkpoint's own encoder; `against` must have been trained on the same set. Raises UsageError, DataError,
    CheckpointError.
    """
    began = time.perf_counter()
    if most_windows is not None and most_windows < 2:
        raise UsageError("--windows: facets hold one window against another, so there are at least 2", "--windows 100")
    set_threads()
    loaded = thinking_as(load_world(checkpoint, device=device), thinking or {})
    others = [load_world(path, device=device) for path in against]
    for other in others:
        comparable(loaded, other)
    prepared = held_out_set(loaded, data)
    windows, context = prepared.split(split), loaded.spec.context
    held_out = HeldOut(windows, context, most_windows or max(2, PREDICTIONS // context))
    pairs = pair_windows(held_out, context)
    every, some = len(windows.windows(context, context)), len(pairs.starts)
    spread = f", evenly spread over {every:,}" if some < every else ""
    yield Notice(notice=f"{some:,} {split} windows of {shown(prepared.path)}{spread}, {context} predictions each")
    name, hardest = next(iter(references_of(loaded.space, prepared.split("train")).predictors.items()))
    difficulty = Difficulty(name, reference_errors(loaded, held_out, hardest))
    rows = []
    for each in (loaded, *others):
        yield Notice(notice=f"measuring {shown(each.path)}")
        rows.append(measure_facets(each, held_out, pairs, difficulty, seed))
    folder = folder_beside(loaded.path, "eval")
    report = FacetsReport(
        data=str(shown(prepared.path)),
        split=split,
        windows=some,
        stride=context,
        reference=name,
        rows=rows,
        seconds=time.perf_counter() - began,
        files=[str(folder / "facets.json")] if folder else [],
    )
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "facets.json", report.model_dump_json(indent=2).encode() + b"\n")
    yield report
