"""`ebwm eval --calibration`: does a checkpoint's score mean anything, beside what costs nothing, on held-out windows?

A score that means something is high where the error is, beyond what a trivial predictor foresees, and lower for true
next states than for false ones. Works through `WorldModel` and `Judge` alone and knows no kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebwm_cli.run.calibration import in_nats, measure_calibration
from ebwm_cli.run.comparison import short_names
from ebwm_cli.run.judging import judgement, told_and_kept, too_few, windows_in_words
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_calibration import CalibrationReport
from ebwm_cli.run.resampling import DRAWS
from ebwm_cli.run.telling import false_states
from ebwm_cli.run.thinking import in_vain


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
    asked = judgement(
        checkpoint,
        against=against,
        data=data,
        thinking=thinking,
        device=device,
        split=split,
        most_windows=most_windows,
        least_windows=2,
        why="calibration holds one window against another, so there are at least 2",
    )
    held_out, context, space = asked.held_out, asked.context, asked.loaded.space
    pairs = pair_windows(held_out, context)
    yield Notice(notice=f"{windows_in_words(asked.prepared, held_out, context)}, {context} predictions each")
    yield from too_few(len(pairs.starts))
    yield from in_vain(asked.loaded, {}, thinking)
    rows = []
    for name, each in zip(short_names([each.path for each in asked.everyone]), asked.everyone, strict=True):
        yield Notice(notice=f"measuring {shown(each.path)}")
        rows.append(measure_calibration(each, name, held_out, pairs, asked.baseline, seed))
    folder = asked.folder
    report = CalibrationReport(
        data=asked.set_name,
        split=split,
        windows=len(pairs.starts),
        stride=context,
        reference=asked.baseline.name,
        doubt=space.doubt_name,
        nats=in_nats(space),
        false_states=false_states(space, pairs),
        resamples=DRAWS,
        rows=rows,
        seconds=time.perf_counter() - began,
        files=[str(folder / name) for name in ("calibration.png", "calibration.json")] if folder else [],
    )
    yield from told_and_kept(report, folder, "calibration.json", lambda place: _draw(place, report))


def _draw(folder: Path, report: CalibrationReport) -> None:
    from ebwm_cli.run.picture_calibration import draw_calibration

    draw_calibration(folder / "calibration.png", report)
