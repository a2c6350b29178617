"""What every judgement of checkpoints begins with: which of them, on which held-out windows, against what needs no
network; and where it is left.

A window predicts a whole context. Knows no kind and measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebwm_cli.data.loader import spread
from ebwm_cli.data.store import PreparedSet
from ebwm_cli.errors import UsageError
from ebwm_cli.model.references import Reference
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.comparison import load_rivals
from ebwm_cli.run.device import set_threads
from ebwm_cli.run.held_out import held_out_set
from ebwm_cli.run.held_out_loss import references_of
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.outputs import folder_beside, kept, shown
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.safe_write import replace_file, sweep
from ebwm_cli.run.statistics import LEAST_WINDOWS
from ebwm_cli.run.thinking import thinking_as

PREDICTIONS = 32_768
"""Predictions that are looked at, at most, where nothing else is asked for."""


@dataclass(frozen=True)
class Baseline:
    """The predictor to beat that needs no network."""

    name: str
    predictor: Reference


@dataclass(frozen=True)
class Judgement:
    """Who is judged, and on what."""

    loaded: LoadedWorld
    others: list[LoadedWorld]
    prepared: PreparedSet
    held_out: HeldOut
    baseline: Baseline
    folder: Path | None
    """Where it is left, if the checkpoint lies in a run."""

    @property
    def everyone(self) -> list[LoadedWorld]:
        return [self.loaded, *self.others]

    @property
    def context(self) -> int:
        return self.loaded.spec.context

    @property
    def set_name(self) -> str:
        """The set, as a report keeps it."""
        return str(shown(self.prepared.path))


def judgement(
    checkpoint: Path | None,
    *,
    against: Sequence[Path] = (),
    data: Path | None = None,
    thinking: Mapping[str, Any] | None = None,
    device: str = "auto",
    split: str = "test",
    most_windows: int | None = None,
    least_windows: int = 1,
    why: str = "there is at least one window to look at",
) -> Judgement:
    """Load the checkpoint, those it is held `against`, and the windows of `split`: `most_windows` at most (None: as
    many as make PREDICTIONS), and `least_windows` at least, or UsageError says `why`.

    `thinking` are keys of ThinkSection that change how the first one thinks; all others think as their recipes say.
    `data` must hold states of its own encoder; `against` must have been trained on the same set. Raises UsageError,
    DataError, CheckpointError.
    """
    if most_windows is not None and most_windows < least_windows:
        raise UsageError(f"--windows: {why}", "--windows 100")
    set_threads()
    loaded = thinking_as(load_world(checkpoint, device=device), thinking or {})
    others = load_rivals(loaded, against, device)
    prepared = held_out_set(loaded, data)
    context = loaded.spec.context
    return Judgement(
        loaded=loaded,
        others=others,
        prepared=prepared,
        held_out=HeldOut(prepared.split(split), context, most_windows or max(least_windows, PREDICTIONS // context)),
        baseline=Baseline(*next(iter(references_of(loaded.space, prepared.split("train")).predictors.items()))),
        folder=folder_beside(loaded.path, "eval"),
    )


def windows_in_words(prepared: PreparedSet, held_out: HeldOut, context: int) -> str:
    """How many windows of what are looked at, of how many."""
    every = held_out.split.windows(context, held_out.stride)
    some = len(spread(every, held_out.most))
    of = f", evenly spread over {len(every):,}" if some < len(every) else ""
    return f"{some:,} {held_out.split.name} windows of {shown(prepared.path)}{of}"


def too_few(windows: int) -> Iterator[Notice]:
    """A notice where intervals would say nothing."""
    if windows < LEAST_WINDOWS:
        yield Notice(notice=f"too few windows for an interval: {windows:,} of the {LEAST_WINDOWS} that it takes")


def told_and_kept(
    report: Report, folder: Path | None, name: str, draw: Callable[[Path], None] = lambda folder: None
) -> Iterator[Report]:
    """Yield `report`, once its pictures, which `draw` puts into a folder, and last itself as `name` are in `folder`
    (None: nowhere). Where the disk refuses, it is yielded without files, then ResourceError raised."""

    def write() -> Report:
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        sweep([folder], shared=True)
        draw(folder)
        replace_file(folder / name, report.model_dump_json(indent=2).encode() + b"\n")
        return report

    if folder is None:
        yield report
    else:
        yield from kept(report, folder, write)
