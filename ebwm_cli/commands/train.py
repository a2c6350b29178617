"""`ebwm train`: one loop for every kind of world model.

model.safetensors holds the (averaged) weights with the lowest held-out loss so far; checkpoints/ holds what the same
command resumes from, bit for bit. Where several ranks train together, the first leads: it has the folder, and reports.
Knows no terminal and no kind.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ebwm_cli.data.files import space_or_error
from ebwm_cli.data.store import PreparedSet, find_set, open_set, sets_below
from ebwm_cli.errors import DivergedError, ResourceError
from ebwm_cli.recipe.schema import Recipe
from ebwm_cli.run.checkpoint import read_step
from ebwm_cli.run.device import free_memory, resolve_device, set_threads
from ebwm_cli.run.distributed import ALONE, Ranks, joined
from ebwm_cli.run.folder import RUNS, RunFolder, choose_folder
from ebwm_cli.run.keeper import Keeper
from ebwm_cli.run.launch import parts_of, place_of
from ebwm_cli.run.measure import perplexity
from ebwm_cli.run.metrics import MetricsWriter
from ebwm_cli.run.report import Notice, PlanReport, Report, TrainReport, ValidationLine
from ebwm_cli.run.signals import StopRequests
from ebwm_cli.run.trainer import Trainer
from ebwm_cli.run.training_state import saved_steps, step_folder
from ebwm_cli.world.build import cost
from ebwm_cli.world.match import match_in_words, matched, rival_of

PLAN_SECONDS = 5.0
"""Longest that updates are measured for."""
PLAN_UPDATES, DEADLINE_UPDATES = 8, 32
"""Most updates measured: to foresee a time, and to decide one."""


def train(
    recipe: Recipe,
    data: Path | None = None,
    out: Path | None = None,
    *,
    fresh: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> Iterator[Report]:
    """Yield notices, TrainLines and ValidationLines, then one TrainReport; nothing on any rank but the first.

    `data` is a prepared set (None: the only one below ./data). `out` is the run folder; without it the newest run of
    the very same recipe and set goes on, or a new one begins below ./runs. `fresh` starts over. Raises
    StoppedAndSaved or Interrupted after saving, DivergedError, RecipeError, DataError, CheckpointError, ResourceError.
    """
    set_threads(threads)
    place = place_of(os.environ)
    where = resolve_device(device, place.local if place.size > 1 else None)
    with joined(where) as ranks:
        prepared = open_set(find_set(data))
        trainer = Trainer(matched(recipe, prepared.spec), prepared, where, ranks)
        if ranks.first:
            yield from _lead(trainer, prepared, out, fresh)
        else:
            _follow(trainer, prepared, out)


def _lead(trainer: Trainer, prepared: PreparedSet, out: Path | None, fresh: bool) -> Iterator[Report]:
    """Train in a run folder, which is this rank's alone."""
    recipe, ranks = trainer.recipe, trainer.ranks
    origin = {**prepared.origin(), "path": str(prepared.path.resolve())}
    with _explained(out or Path(RUNS)):
        folder = choose_folder(recipe, origin, out, fresh=fresh)
    told = _explained(folder.path, folder.checkpoints, trainer.parts)
    with folder.held(), told, StopRequests(ranks.most) as stop:
        if fresh:
            folder.clear()
        changes = folder.refuse_changes(recipe, origin) if folder.is_begun() else []
        report = folder.report()
        finished = report is not None and not changes and read_step(folder.model_file) is not None
        if ranks.told(finished) and report:
            yield Notice(notice=f"{folder.path} is finished; --fresh trains it again")
            yield report
            return
        yield from (Notice(notice=f"the recipe has changed: {change}") for change in changes)
        folder.begin(recipe, origin)
        keeper = Keeper(folder, trainer, origin, prepared.encoder)
        yield from (Notice(notice=notice) for notice in keeper.restore())
        _go_together(trainer, prepared)
        if trainer.progress.deadline is not None:
            yield Notice(notice=f"training ends after {trainer.progress.deadline:,.1f} seconds of updates")
        with MetricsWriter(folder.metrics_file) as metrics:
            yield from _learn(trainer, stop, keeper, metrics)
        report = _report(trainer, folder)
        folder.finish(report)
    yield report


def _follow(trainer: Trainer, prepared: PreparedSet, out: Path | None) -> None:
    """Make this rank's share of what the first rank leads."""
    with _explained(out or Path(RUNS), parts=trainer.parts), StopRequests(trainer.ranks.most) as stop:
        if trainer.ranks.told(None):
            return
        _go_together(trainer, prepared)
        for _ in _learn(trainer, stop):
            pass


def _go_together(trainer: Trainer, prepared: PreparedSet) -> None:
    """Begin where the first rank is, with one deadline; a resumed training keeps its own."""
    trainer.follow_first()
    progress, ranks = trainer.progress, trainer.ranks
    if progress.deadline is None:
        progress.deadline = ranks.told(_deadline(trainer.recipe, prepared, trainer.device, ranks))


def _learn(
    trainer: Trainer, stop: StopRequests, keeper: Keeper | None = None, metrics: MetricsWriter | None = None
) -> Iterator[Report]:
    """Update, log, validate, save (with a keeper), until the training is finished, a rank was asked to stop, or nobody
    takes the reports any more."""
    progress, settings = trainer.progress, trainer.recipe.train

    def write(line: Report) -> None:
        if metrics:
            metrics.write(line)

    def validate() -> Iterator[ValidationLine]:
        line = trainer.validate(abandon=lambda: bool(stop)) if trainer.validation_due else None
        if line:
            write(line)
            if line.best and keeper:
                save()
                keeper.export()
            yield line

    def save() -> None:
        if keeper and metrics:
            metrics.commit()
            keeper.save()

    try:
        yield from validate()  # where a stop came before it
        while not ((stopped := stop.agreed()) or trainer.finished):
            update = trainer.update()
            if line := trainer.line():
                write(line)
            if not update.finite:
                yield Notice(
                    notice=f"step {progress.step} skipped: loss {update.loss}, gradient norm {update.grad_norm}; "
                    f"{progress.skipped} so far"
                )
            if line:
                yield line
            yield from validate()
            if progress.step % settings.save_every == 0:
                save()
    except GeneratorExit:
        save()
        raise
    save()
    if stopped:
        trainer.ranks.leave()  # not before the first has saved
        raise stop.error(progress.step)


def _report(trainer: Trainer, folder: RunFolder) -> TrainReport:
    spent, progress = cost(trainer.recipe, trainer.spec), trainer.progress
    assert progress.best_loss is not None
    return TrainReport(
        out=str(folder.path),
        checkpoint=str(folder.model_file),
        step=progress.step,
        val_loss=progress.best_loss,
        perplexity=perplexity(trainer.world.space, progress.best_loss),
        reference=trainer.reference,
        reference_loss=trainer.reference_loss,
        params=spent.params,
        flops_per_step=spent.flops_per_step,
        seconds=trainer.seconds,
        states_per_second=trainer.states_per_second,
        skipped=progress.skipped,
        updating_seconds=progress.updating_seconds,
        one_pass=trainer.world.score is None,
    )


def plan(recipe: Recipe, data: Path | None = None, *, device: str = "auto", gpus: int = 1) -> PlanReport:
    """What training `recipe` would take; writes nothing. Without a set, the recipe must say what a state is.

    Time is measured on the set where there is one and the training fits in memory. Memory and time are those of one of
    `gpus` devices with its share of a batch; what they say to each other is not counted.
    """
    set_threads()
    where = resolve_device(device)
    prepared = open_set(find_set(data)) if data is not None or any(sets_below(Path("data"))) else None
    held = prepared.spec if prepared else None
    recipe = matched(recipe, held)
    spec = recipe.state_spec(held)
    spent, train = cost(recipe, spec), recipe.train
    dealt = {"batch_size": train.batch_size // gpus, "accumulate": parts_of(train, gpus) // gpus}
    share = recipe.model_copy(update={"train": train.model_copy(update=dealt)})
    memory = cost(share, spec).memory_bytes
    trainer = None
    if prepared and memory < (free_memory(where) or 0):
        trainer = Trainer(share, prepared, where)
    checkpoint = 4 * spent.params * (4 if train.ema else 3)
    by_clock = recipe.model.match is not None and recipe.model.match.seconds is not None
    pace = seconds_per_update(trainer) if trainer else None
    seconds = _deadline(recipe, prepared, where) if by_clock else pace and pace * train.steps
    steps = max(round(seconds / pace), 1) if by_clock and seconds and pace else train.steps
    return PlanReport(
        recipe=recipe.name,
        kind=recipe.model.kind,
        params=spent.params,
        params_non_embedding=spent.params_non_embedding,
        flops_per_step=spent.flops_per_step,
        flops_total=spent.flops_per_step * steps,
        flops_per_state=spent.flops_per_state,
        devices=gpus,
        memory_bytes=memory,
        disk_bytes=checkpoint * (train.keep + 2) + 4 * spent.params,  # the best, and the one being written
        steps=steps,
        windows=len(prepared.split("train").windows(spec.context)) if prepared else None,
        seconds_estimate=seconds,
        matched=match_in_words(recipe, held),
        deadline=by_clock,
    )


def _deadline(recipe: Recipe, prepared: PreparedSet | None, device: torch.device, ranks: Ranks = ALONE) -> float | None:
    """Seconds of updating after which training `recipe` ends: its number, or so many times what its rival is measured
    to take. None where its steps end it, or where there is no set to measure on. Raises ResourceError."""
    match = recipe.model.match
    if match is None or match.seconds is None or match.of is None:
        return match.seconds if match else None
    rival = rival_of(recipe, prepared.spec) if prepared else None
    if prepared is None or rival is None:
        return None
    taken = _deadline(rival, prepared, device, ranks)
    if taken is None:
        if cost(rival, rival.state_spec(prepared.spec)).memory_bytes > (free_memory(device) or math.inf):
            raise ResourceError(
                f"{match.of} doesn't fit in memory, so the time it takes can't be measured here",
                "model.match.of=null model.match.seconds=SECONDS",
            )
        taken = seconds_per_update(Trainer(rival, prepared, device, ranks), DEADLINE_UPDATES) * rival.train.steps
    return match.seconds * taken


def seconds_per_update(trainer: Trainer, most: int = PLAN_UPDATES) -> float:
    """Wall-clock of an update of `trainer`, from at most `most` after a first that warms up; its weights move."""
    trainer.update()
    began, updates = time.perf_counter(), 0
    while trainer.ranks.told(updates < most and time.perf_counter() - began < PLAN_SECONDS):
        trainer.update()
        updates += 1
    return (time.perf_counter() - began) / updates


@contextmanager
def _explained(path: Path, checkpoints: Path | None = None, parts: int = 1) -> Iterator[None]:
    """Say what to do about a full disk or memory, of which a batch in `parts` takes too much, and where the last good
    checkpoint of a diverged training is."""
    try:
        with space_or_error(path, "make room; the same command goes on from the last checkpoint"):
            yield
    except torch.OutOfMemoryError as error:
        raise ResourceError("the device is out of memory", f"train.accumulate={2 * parts} updates by halves") from error
    except DivergedError as error:
        steps = saved_steps(checkpoints) if checkpoints else []
        last = str(step_folder(checkpoints, steps[-1])) if checkpoints and steps else "none was saved yet"
        raise DivergedError(
            error.message,
            f"go on more carefully with --out {path} {error.hint}; last good checkpoint: {last}",
        ) from error
