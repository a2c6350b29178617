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

from ebwm_cli.run.facets import Difficulty, measure_facets
from ebwm_cli.run.judging import judgement, told_and_kept, windows_in_words
from ebwm_cli.run.measure import reference_errors
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_facets import FacetsReport
from ebwm_cli.run.thinking import in_vain


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
    asked = judgement(
        checkpoint,
        against=against,
        data=data,
        thinking=thinking,
        device=device,
        split=split,
        most_windows=most_windows,
        least_windows=2,
        why="facets hold one window against another, so there are at least 2",
    )
    held_out, context = asked.held_out, asked.context
    pairs = pair_windows(held_out, context)
    yield Notice(notice=f"{windows_in_words(asked.prepared, held_out, context)}, {context} predictions each")
    yield from in_vain(asked.loaded, {}, thinking)
    difficulty = Difficulty(asked.baseline.name, reference_errors(asked.loaded, held_out, asked.baseline.predictor))
    rows = []
    for each in asked.everyone:
        yield Notice(notice=f"measuring {shown(each.path)}")
        rows.append(measure_facets(each, held_out, pairs, difficulty, seed))
    report = FacetsReport(
        data=asked.set_name,
        split=split,
        windows=len(pairs.starts),
        stride=context,
        reference=asked.baseline.name,
        rows=rows,
        seconds=time.perf_counter() - began,
        files=[str(asked.folder / "facets.json")] if asked.folder else [],
    )
    yield from told_and_kept(report, asked.folder, "facets.json")
