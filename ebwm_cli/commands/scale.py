"""`ebwm scale`: many trainings, each an ordinary `ebwm train` and `ebwm eval`, then laws through what they measured.

L(x) = offset + coefficient * x^(-exponent). The journal says what has ended, every run resumes by itself, so a killed
study goes on where it was. Knows no terminal; `run/study_*.py` know processes, pictures and fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from ebwm_cli.commands.train import seconds_per_update
from ebwm_cli.data.files import space_or_error
from ebwm_cli.data.store import PreparedSet, find_set, open_set, sets_below
from ebwm_cli.errors import ResourceError
from ebwm_cli.recipe.load_study import dump_study
from ebwm_cli.recipe.study import Study
from ebwm_cli.run.device import free_memory, resolve_device, set_threads
from ebwm_cli.run.journal import Journal
from ebwm_cli.run.lock import held
from ebwm_cli.run.outputs import kept
from ebwm_cli.run.packing import Placed, longest_first, pack
from ebwm_cli.run.picture_scale import write_pictures
from ebwm_cli.run.power_law import Fit, fit_power_law
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_scale import PlannedRun, ScalePlanReport, ScaleReport
from ebwm_cli.run.signals import StopRequests
from ebwm_cli.run.study_board import Board
from ebwm_cli.run.study_fits import fits_of, frontier_of, ratios_of
from ebwm_cli.run.study_folder import StudyFolder, choose_study_folder
from ebwm_cli.run.study_page import write_fits, write_page
from ebwm_cli.run.study_points import SECONDS_PER_HOUR, StudyRun, runs_of
from ebwm_cli.run.study_pool import LocalExecutor, slots_of
from ebwm_cli.run.study_ray import RayExecutor
from ebwm_cli.run.study_task import Executor, Started, Task
from ebwm_cli.run.trainer import Trainer
from ebwm_cli.run.workers import Workers, workers_of
from ebwm_cli.world.build import cost

__all__ = ["Fit", "fit_power_law", "plan_scale", "scale"]

PROBE_UPDATES = 3
"""Updates measured per size, after one that warms up."""


def scale(
    study: Study,
    data: Path | None = None,
    out: Path | None = None,
    *,
    fresh: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    cluster: str | None = None,
    retry: bool = False,
) -> Iterator[Report]:
    """Run `study`; yield Notices and ScaleProgress, then one ScaleReport.

    `data` is a prepared set (None: the only one below ./data), `out` the study's folder; without it the newest study
    of the very same recipe and set goes on, or a new one begins below ./runs. `gpus` devices (None: all), or those of
    a Ray `cluster` (`auto` or an address). `retry` runs again what ended badly. Raises RecipeError, DataError,
    ResourceError, CheckpointError; StoppedAndSaved or Interrupted after every run has saved.
    """
    began = time.monotonic()
    workers = Workers(device, gpus or 1) if cluster else workers_of(device, gpus)
    if study.gpus_per_run > workers.count and not cluster:
        raise ResourceError(
            f"gpus_per_run: {study.gpus_per_run} of {workers.count} devices", f"gpus_per_run={workers.count}"
        )
    prepared = open_set(find_set(data))
    origin = {**prepared.origin(), "path": str(prepared.path.resolve())}
    folder = choose_study_folder(study, origin, out, fresh=fresh)
    runs = runs_of(study, prepared, folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    told = space_or_error(folder.path, "make room; the same command goes on")
    with told, held(folder.path, "scaled"), StopRequests() as stop:
        if fresh:
            folder.clear()
        folder.begin(study, runs, origin)
        with Journal(folder.journal_file) as journal:
            ended = {key: each for key, each in journal.ended().items() if each.status == "done" or not retry}
            board = Board(study.name, runs, ended, workers.count)
            tasks = [_task(run, study, folder, prepared, workers) for run in _in_order(runs, board)]
            if len(tasks) < len(runs):
                yield Notice(notice=f"{folder.path}: {len(runs) - len(tasks)} of {len(runs)} runs have ended before")
            executor = _executor(workers, cluster)
            for event in executor.run(tasks, lambda: bool(stop)):
                seconds = time.monotonic() - began
                if isinstance(event, Started):
                    journal.started(event.key)
                    yield board.started(event.key, seconds)
                else:
                    journal.ended_with(event.outcome)
                    yield board.ended(event.outcome, seconds)
        if stop:
            left = sum(point.status in ("queued", "running") for point in board.points.values())
            raise stop.error_of(f"{left} of {len(runs)} runs are left")
        report = _report(study, prepared, folder, board, workers, time.monotonic() - began)
        yield from kept(report, folder.path, lambda: _written(report, study, folder))


def plan_scale(
    study: Study,
    data: Path | None = None,
    *,
    device: str = "auto",
    gpus: int | None = None,
    flops_per_second: float | None = None,
) -> ScalePlanReport:
    """What `study` would take; writes nothing. Hours are those of updating: from a few measured steps per size where
    there is a set and the device, or from `flops_per_second` of a device. Raises what `scale` does before it begins.
    """
    workers = workers_of(device, gpus, planned=True)
    prepared = open_set(find_set(data)) if data is not None or any(sets_below(Path("data"))) else None
    spec = prepared.spec if prepared else None
    runs = runs_of(study, prepared, Path("runs") / study.name)
    timed_by, pace = _pace(prepared, workers, flops_per_second)
    hours = [_hours(run, pace) for run in runs]
    known = [hour for hour in hours if hour is not None]
    needs = [run.point.devices for run in runs]
    placed: list[Placed | None] = [None] * len(runs)
    wall = None
    if len(known) == len(runs):
        each = [hour / need for hour, need in zip(known, needs, strict=True)]
        found, wall = pack(each, needs, max(workers.count, *needs))
        placed = [*found]
    planned = [
        PlannedRun(
            point=run.point,
            memory_bytes=cost(run.recipe, run.recipe.state_spec(spec)).memory_bytes,
            hours=hour,
            device=place.device if place else None,
            start=place.start if place else None,
        )
        for run, hour, place in zip(runs, hours, placed, strict=True)
    ]
    return ScalePlanReport(
        study=study.name,
        runs=planned,
        devices=workers.count,
        device=workers.device,
        flops=sum(run.point.flops for run in runs),
        device_hours=None if wall is None else sum(known),
        wall_hours=wall,
        timed_by=timed_by
        if known
        else "not timed: nothing to measure on here; --flops-per-second of a device times it",
    )


# ------------------------------------------------------------------------------------------------ parts


def _in_order(runs: Sequence[StudyRun], board: Board) -> list[StudyRun]:
    """Those that are left, the longest first: what starts last is short."""
    left = [run for run in runs if board.points[run.point.key].status == "queued"]
    return [left[index] for index in longest_first([run.point.flops / run.point.devices for run in left])]


def _task(run: StudyRun, study: Study, folder: StudyFolder, prepared: PreparedSet, workers: Workers) -> Task:
    """What is typed for a run, every path whole, as a worker may stand elsewhere."""
    point, data = run.point, str(prepared.path.resolve())
    out, recipe = str(Path(point.out).resolve()), str(folder.recipe_file(point.key).resolve())
    several = ("--gpus", str(point.devices)) if point.devices > 1 else ()
    steps = str(max(run.recipe.think.steps, 1))
    return Task(
        key=point.key,
        train=(recipe, "--data", data, "--out", out, "--device", workers.device, *several, "--json"),
        measure=(
            *("--checkpoint", out, "--data", data, "--device", workers.device, "--steps", steps, "--samples", "1"),
            *("--rollout", "0", "--json"),
        ),
        log=str((folder.logs / f"{point.key}.log").resolve()),
        devices=point.devices,
        timeout=study.timeout_hours and study.timeout_hours * SECONDS_PER_HOUR,
    )


def _report(
    study: Study, prepared: PreparedSet, folder: StudyFolder, board: Board, workers: Workers, seconds: float
) -> ScaleReport:
    points = list(board.points.values())
    return ScaleReport(
        study=study.name,
        data=prepared.name,
        out=str(folder.path),
        points=points,
        fits=fits_of(points),
        slope_ratio=ratios_of(points),
        frontier=frontier_of(points),
        devices=workers.count,
        device=workers.device,
        seconds=seconds,
        overhead=board.overhead,
        files=[],
    )


def _written(report: ScaleReport, study: Study, folder: StudyFolder) -> ScaleReport:
    """Pictures, fits, the page and, last, the report, which names them."""
    files = [*write_pictures(report, folder.path), write_fits(report, folder.path)]
    files.append(write_page(report, dump_study(study), folder.path))
    report = report.model_copy(update={"files": [str(file) for file in files]})
    folder.finish(report)
    return report


def _executor(workers: Workers, cluster: str | None) -> Executor:
    if cluster:
        return RayExecutor(cluster, device=workers.device)
    return LocalExecutor(slots_of(workers.device, workers.count))


Pace = Callable[[StudyRun], float | None]
"""Seconds per update of a run on its devices together; None where that can't be known."""


def _pace(prepared: PreparedSet | None, workers: Workers, flops_per_second: float | None) -> tuple[str, Pace]:
    """Where it is known from how fast runs are, and how fast."""
    if flops_per_second:
        told = f"{flops_per_second:.3g} FLOP/s per device, as given"
        return told, lambda run: run.point.flops / run.point.steps / flops_per_second / run.point.devices
    if prepared is None or (workers.device == "cuda" and not torch.cuda.is_available()):
        return "", lambda run: None
    where, measured = resolve_device(workers.device), dict[str, float | None]()
    threads = set_threads(workers.threads)

    def pace(run: StudyRun) -> float | None:
        size = run.recipe.model_copy(
            update={
                "name": "probe",
                "seed": 0,
                "model": run.recipe.model.model_copy(update={"match": None}),
                "data": run.recipe.data.model_copy(update={"fraction": 1.0}),
                "train": run.recipe.train.model_copy(update={"steps": 1000, "warmup": 100}),
            }
        )
        key = size.model_dump_json()
        if key not in measured:
            needs = cost(size, size.state_spec(prepared.spec)).memory_bytes
            fits = needs < (free_memory(where) or math.inf)
            measured[key] = seconds_per_update(Trainer(size, prepared, where), PROBE_UPDATES) if fits else None
        one = measured[key]
        return None if one is None else one / run.point.devices

    words = f"thread{'s' * (threads > 1)}"
    return f"{PROBE_UPDATES} updates measured here per size, on {threads} {words}", pace


def _hours(run: StudyRun, pace: Pace) -> float | None:
    """Device hours of updating: the deadline, or steps at that pace."""
    seconds = run.by_clock
    if seconds is None:
        each = pace(run)
        if each is None:
            return None
        seconds = each * run.point.steps
    return seconds * run.point.devices / SECONDS_PER_HOUR
