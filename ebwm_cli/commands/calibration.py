"""`ebwm eval --calibration`: does a checkpoint's score mean anything, beside what costs nothing, on held-out windows?

A score that means something is high where the error is, beyond what a trivial predictor foresees, and lower for true
next states than for false ones. Works through `WorldModel` and `Judge` alone and knows no kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebwm_cli.errors import UsageError
from ebwm_cli.run.calibration import Baseline, false_states, in_nats, measure_calibration
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.comparison import load_rivals, short_names
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.held_out import held_out_set
from ebwm_cli.run.held_out_loss import references_of
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.outputs import folder_beside, shown
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_calibration import CalibrationReport
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.thinking import thinking_as

PREDICTIONS = 32_768
"""Predictions that a score is judged by, at most, where nothing else is asked for: as many as `eval` looks at."""


def calibration(
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
    """Yield notices, then one CalibrationReport, also written to the run folder's eval/ where the checkpoint lies in
    one, as calibration.json and calibration.png.

    `most_windows` bounds how many windows are looked at (None: as many as make PREDICTIONS). `data` must hold states of
    the checkpoint's own encoder; `against` must have been trained on the same set. `thinking` are keys
    of ThinkSection that change how the first checkpoint thinks; all others think as their recipes say. Raises
    UsageError, DataError, CheckpointError.
    """
    began = time.perf_counter()
    if most_windows is not None and most_windows < 2:
        raise UsageError(
            "--windows: calibration holds one window against another, so there are at least 2", "--windows 100"
        )
    set_threads()
    loaded = thinking_as(load_world(checkpoint, device=device), thinking or {})
    everyone = [loaded, *load_rivals(loaded, against, device)]
    prepared = held_out_set(loaded, data)
    windows, context = prepared.split(split), loaded.spec.context
    held_out = HeldOut(windows, context, most_windows or max(2, PREDICTIONS // context))
    pairs = pair_windows(held_out, context)
    every, some = len(windows.windows(context, context)), len(pairs.starts)
    spread = f", evenly spread over {every:,}" if some < every else ""
    yield Notice(notice=f"{some:,} {split} windows of {shown(prepared.path)}{spread}, {context} predictions each")
    baseline = Baseline(*next(iter(references_of(loaded.space, prepared.split("train")).predictors.items())))
    rows = []
    for name, each in zip(short_names([each.path for each in everyone]), everyone, strict=True):
        yield Notice(notice=f"measuring {shown(each.path)}")
        rows.append(measure_calibration(each, name, held_out, pairs, baseline, seed))
    folder = folder_beside(loaded.path, "eval")
    report = CalibrationReport(
        data=str(shown(prepared.path)),
        split=split,
        windows=some,
        stride=context,
        reference=baseline.name,
        doubt=loaded.space.doubt_name,
        nats=in_nats(loaded.space),
        false_states=false_states(loaded.space, pairs),
        rows=rows,
        seconds=time.perf_counter() - began,
        files=[str(folder / name) for name in ("calibration.png", "calibration.json")] if folder else [],
    )
    if folder is not None:
        _write(folder, report)
    yield report


def _write(folder: Path, report: CalibrationReport) -> None:
    """The picture and, last, the report."""
    from ebwm_cli.run.picture_calibration import draw_calibration

    folder.mkdir(parents=True, exist_ok=True)
    draw_calibration(folder / "calibration.png", report)
    replace_file(folder / "calibration.json", report.model_dump_json(indent=2).encode() + b"\n")
