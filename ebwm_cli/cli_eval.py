"""`ebwm eval`: words in, reports out, of one of four questions: how large the losses are, what the four facets say,
whether the score means anything, how it goes by difficulty. Thin; the commands are imported when they are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebwm_cli.cli_options import Checkpoint, Data, Device, Json, Quiet, Seed, Thinking, Verbose
from ebwm_cli.cli_words import counts, key_values, only_beside
from ebwm_cli.errors import UsageError

if TYPE_CHECKING:
    from ebwm_cli.run.report import Report

ALWAYS = {"checkpoint", "data", "split", "windows", "thinking", "seed", "device", "json", "quiet", "verbose"}
BESIDE = {
    "--facets": ALWAYS | {"facets", "against"},
    "--calibration": ALWAYS | {"calibration", "against"},
    "--by": ALWAYS | {"by", "steps"},
}
"""Parameters that mean something beside each."""
STEPS, SAMPLES = ["1", "2", "4", "8", "16"], ["1", "4"]
HELD_OUT = ("test", "val")


def evaluate(
    ctx: typer.Context,
    checkpoint: Checkpoint = None,
    data: Data = None,
    split: Annotated[str, typer.Option(help="test; or val, to choose by.")] = "test",
    steps: Annotated[list[str], typer.Option(help="Descent steps to compare: 1 2 4; 0 is where they start.")] = STEPS,
    samples: Annotated[list[str], typer.Option(help="Starts per state to compare: 1 4.")] = SAMPLES,
    rollout: Annotated[int | None, typer.Option(help="States to predict ahead. [default: 4; text: 0]", min=0)] = None,
    stride: Annotated[int | None, typer.Option(help="States between windows; else a whole context.", min=1)] = None,
    windows: Annotated[int | None, typer.Option(help="Most windows. [default: for 32,768 predictions]", min=1)] = None,
    questions: Annotated[Path | None, typer.Option(help="A jsonl of {prompt, answer[, choices]}, for text.")] = None,
    against: Annotated[list[Path], typer.Option(help="Other checkpoints, compared window by window.")] = [],  # noqa: B006
    facets: Annotated[bool, typer.Option("--facets", help="Four facets of a world model instead of losses.")] = False,
    calibration: Annotated[bool, typer.Option("--calibration", help="Whether its score means anything.")] = False,
    by: Annotated[str | None, typer.Option(help="difficulty: losses and steps by class, where a set knows it.")] = None,
    thinking: Thinking = [],  # noqa: B006
    seed: Seed = 0, device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Measure a checkpoint on held-out windows."""
    from ebwm_cli.console import View, show

    asked = {"--facets": facets, "--calibration": calibration, "--by": by is not None}
    for option in (each for each, typed in asked.items() if typed):
        only_beside(ctx, option, BESIDE[option])
    if by not in (None, "difficulty"):
        raise UsageError(f"--by knows difficulty, not {by}", "ebwm eval --by difficulty")
    shared: dict[str, Any] = {"data": data, "thinking": key_values("--thinking", thinking), "seed": seed}
    if split not in HELD_OUT:
        raise UsageError(f"--split knows {' and '.join(HELD_OUT)}, not {split}", "ebwm eval --split val")
    shared |= {"device": device, "most_windows": windows, "split": split}
    if facets or calibration:
        reports = _meaning(checkpoint, facets, against=against, **shared)
    elif by:
        reports = _by_difficulty(checkpoint, by_steps=counts("--steps", steps, least=0), **shared)
    else:
        reports = _losses(
            checkpoint, steps=counts("--steps", steps, least=0), samples=counts("--samples", samples), rollout=rollout,
            stride=stride, questions=questions, against=against, **shared,
        )  # fmt: skip
    show(reports, View("document" if json else "", quiet, verbose > 0, "measuring held-out windows"))


def _losses(checkpoint: Path | None, **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import evaluate as command

    yield from command.evaluate(checkpoint, **options)


def _meaning(checkpoint: Path | None, facets: bool, **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import calibration  # fmt: skip
    from ebwm_cli.commands import facets as command

    yield from (command.facets if facets else calibration.calibration)(checkpoint, **options)


def _by_difficulty(checkpoint: Path | None, **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import difficulty

    yield from difficulty.difficulty(checkpoint, **options)
