"""The command line: words in, one command's reports out, one exit code. Thin, and quick to say `--help`.

Heavy modules are imported inside the commands. Only this file may chain commands (the tour of `ebwm train quickstart`).
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebwm_cli import __version__
from ebwm_cli.cli_eval import evaluate
from ebwm_cli.cli_options import Checkpoint, Data, Device, Json, Quiet, Seed, Thinking, Verbose
from ebwm_cli.cli_prepare import prepare_app
from ebwm_cli.cli_words import (
    ListCommand,
    VerbGroup,
    apart,
    default_recipe,
    default_study,
    given_of,
    key_values,
    recipe_words,
    stop_or_none,
    told,
)
from ebwm_cli.errors import UsageError

if TYPE_CHECKING:
    from ebwm_cli.recipe.schema import Recipe
    from ebwm_cli.recipe.study import Study
    from ebwm_cli.run.report import Report

DEMO = Path("data/demo")

app = typer.Typer(
    name="ebwm", cls=VerbGroup,
    help="Energy-based world models: prepare clips or text, train, evaluate, and watch one think.",
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
)  # fmt: skip
app.add_typer(prepare_app, name="prepare")
app.command("eval", cls=ListCommand)(evaluate)


@app.command()
def train(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help="A shipped recipe or a file, then changes to it."),
    ] = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; else runs/<recipe>-<date>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Start over, or go on where the run is.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Parameters, FLOPs, memory, time; writes nothing.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The recipe's JSON schema.")] = False,
    seed: Annotated[int | None, typer.Option(help="Same as seed=N.", min=0)] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs to train on; with --device cpu: processes.", min=1)] = None,
    device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Train a world model; the same command resumes it. Without RECIPE: the default for the set."""
    from ebwm_cli.console import View, show, show_json
    from ebwm_cli.recipe.load import load_recipe, recipe_json_schema
    from ebwm_cli.run.launch import parts_of

    if schema:
        show_json(recipe_json_schema())
        return
    name, changes = recipe_words(words or [])
    recipe = load_recipe(name or default_recipe(data), changes if seed is None else [*changes, f"seed={seed}"])
    parts_of(recipe.train, gpus or 1)  # what can't be dealt out is refused before anything is loaded
    if plan:
        foreseen = _plan(recipe, data, device, gpus or 1)
        show(foreseen, View("document" if json else "", quiet, waiting="measuring a few steps"))
        return
    if gpus and _trained_together(ctx.obj, gpus, device):
        return
    run = _tour if recipe.tour else _train
    reports = run(recipe, data=data, out=out, fresh=fresh, device=device)
    show(reports, View("lines" if json else "", quiet, verbose > 0, "getting ready to train"))


@app.command(cls=ListCommand)
def think(
    checkpoint: Checkpoint = None,
    steps: Annotated[int | None, typer.Option(help="Descent steps; else the recipe's.", min=0)] = None,
    samples: Annotated[int | None, typer.Option(help="Starts, of which the lowest energy is kept.", min=1)] = None,
    stop: Annotated[str | None, typer.Option(help="fixed, energy (until it settles) or still.")] = None,
    thinking: Thinking = [],  # noqa: B006
    input: Annotated[Path | None, typer.Option(help="A clip to continue.")] = None,
    data: Data = None,
    index: Annotated[int | None, typer.Option(help="Which held-out window. [default: 0]", min=0)] = None,
    horizon: Annotated[int, typer.Option(help="States to predict ahead.", min=1)] = 1,
    prompt: Annotated[str | None, typer.Option(help="A text to continue.")] = None,
    max_new: Annotated[int | None, typer.Option(help="With --prompt: most new tokens. [default: 64]", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="With --prompt: 0 is greedy. [default: 0.8]", min=0)] = None,
    top_p: Annotated[float | None, typer.Option(help="With --prompt: of the likeliest. [default: 0.95]", max=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Where pictures, clip and trajectory go.")] = None,
    seed: Seed = 0, device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Predict what happens next, and show the descent that led there."""
    from ebwm_cli.console import View, show

    budget = {"steps": steps, "samples": samples, "stop": stop_or_none(stop)}
    budget["thinking"] = key_values("--thinking", thinking)  # type: ignore[assignment]
    writing = {"max_new": max_new, "temperature": temperature, "top_p": top_p}
    window = {"input": input, "data": data, "index": index, "horizon": None if horizon == 1 else horizon}
    apart(prompt, writing, window)
    given = given_of(writing if prompt is not None else window)
    reports = _think(checkpoint, prompt, **budget, **given, out=out, device=device, seed=seed)
    show(reports, View("document" if json else "", quiet, verbose > 0, "thinking"))


@app.command()
def scale(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY] [KEY=VALUE]...", help="A shipped study or a file, then changes to it."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Devices; else all there are.", min=1)] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Every run, its cost, and the packing; writes nothing.")] = False,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder; else runs/<study>-<date>.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Start over, or go on where the study is.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what ended badly.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Runs on a Ray cluster: auto, or its address.")] = None,
    flops_per_second: Annotated[float | None, typer.Option(help="With --plan: of a device; else measured.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="The study's JSON schema.")] = False,
    device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Train a grid of models on all devices and fit scaling laws; the same command resumes it."""
    from ebwm_cli.console import View, show, show_json
    from ebwm_cli.recipe.load_study import load_study, study_json_schema

    if schema:
        show_json(study_json_schema())
        return
    name, changes = recipe_words(words or [], "scale")
    if flops_per_second is not None and (not plan or flops_per_second <= 0):
        raise UsageError("--flops-per-second goes with --plan, and is above 0", "ebwm scale --plan")
    study = load_study(name or default_study(data), changes)
    reports = _scale(
        study, plan, data=data, out=out, fresh=fresh, device=device, gpus=gpus, cluster=cluster, retry=retry,
        flops_per_second=flops_per_second,
    )  # fmt: skip
    show(reports, View("document" if json else "", quiet, verbose > 0, "planning the runs"))


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"ebwm {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


# ------------------------------------------------------------------------------------------- reports


def _train(recipe: Recipe, *, data: Path | None, out: Path | None, fresh: bool, device: str) -> Iterator[Report]:
    from ebwm_cli.commands import train as command

    yield from command.train(recipe, data=data, out=out, fresh=fresh, device=device)


def _trained_together(words: list[str], gpus: int, device: str) -> bool:
    from rich.console import Console

    from ebwm_cli.run.launch import train_together

    try:
        return train_together(words, gpus, device)
    finally:
        Console(stderr=True).show_cursor()  # a killed rank leaves it hidden


def _think(checkpoint: Path | None, prompt: str | None, **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import generate, think

    if prompt is None:
        yield from think.think(checkpoint, **options)
    else:
        yield from generate.continue_text(checkpoint, prompt, **options)


def _plan(recipe: Recipe, data: Path | None, device: str, gpus: int) -> Iterator[Report]:
    from ebwm_cli.commands import train as command

    yield command.plan(recipe, data, device=device, gpus=gpus)


def _scale(study: Study, plan: bool, *, flops_per_second: float | None, **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import scale as command

    if plan:
        where = {name: options[name] for name in ("data", "device", "gpus")}
        yield command.plan_scale(study, **where, flops_per_second=flops_per_second)
    else:
        yield from command.scale(study, **options)


def _tour(recipe: Recipe, *, data: Path | None, out: Path | None, fresh: bool, device: str) -> Iterator[Report]:
    """Prepare the demo where there is none, train, evaluate, think; of several ranks, all train and the first does the
    rest."""
    from ebwm_cli.commands import evaluate, prepare, think
    from ebwm_cli.run.launch import place_of
    from ebwm_cli.run.report import TrainReport

    first = place_of(os.environ).rank == 0
    if data is None:
        data = DEMO
        if first and not (data / "manifest.json").exists():
            yield from prepare.prepare_demo(data)
    checkpoint = None
    for report in _train(recipe, data=data, out=out, fresh=fresh, device=device):
        yield report
        if isinstance(report, TrainReport):
            checkpoint = Path(report.checkpoint)
    if first:
        yield from evaluate.evaluate(checkpoint, data=data, device=device)
        yield from think.think(checkpoint, steps=16, data=data, device=device)


# --------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Threads that spin for long while they wait stall where another program holds a core; threads that sleep at once
    # wake too late for small layers. Read once, when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = run(sys.argv[1:])
    if code and "RANK" in os.environ:  # what ties it to the other ranks, which may be gone, isn't waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(words: list[str]) -> int:
    """Run one command line; returns its exit code. Failures are told on stderr, tracebacks only with -vv."""
    from ebwm_cli.console import show_error

    verbosity = sum(word.count("v") if re.fullmatch("-[qv]+", word) else word == "--verbose" for word in words)
    command = typer.main.get_command(app)
    try:
        return command.main(words, prog_name="ebwm", standalone_mode=False, obj=words) or 0
    except Exception as error:
        if verbosity >= 2:
            traceback.print_exc()
        message, hint, code = told(error, words)
        if "RANK" not in os.environ or not _told_elsewhere(error, message, hint, code):
            show_error(message, hint)
        return code


def _told_elsewhere(error: Exception, message: str, hint: str, code: int) -> bool:
    """Whether a failure of a rank is for its launcher, or for the first rank, to tell."""
    from ebwm_cli.run.launch import leave_failure

    return leave_failure(error, message, hint, code, os.environ)
