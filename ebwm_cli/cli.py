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
from ebwm_cli.cli_words import (
    ListCommand,
    VerbGroup,
    apart,
    counts,
    default_recipe,
    given_of,
    only_beside,
    recipe_words,
    stop_or_none,
    told,
)

if TYPE_CHECKING:
    from ebwm_cli.recipe.schema import Recipe
    from ebwm_cli.run.report import Report

DEMO = Path("data/demo")
WITH_FACETS = {
    "checkpoint", "data", "windows", "against", "facets", "seed", "device", "json", "quiet", "verbose",
}  # fmt: skip
"""Parameters of eval that mean something beside --facets."""


app = typer.Typer(
    name="ebwm", cls=VerbGroup,
    help="Energy-based world models: prepare clips or text, train, evaluate, and watch one think.",
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
)  # fmt: skip
prepare_app = typer.Typer(help="Turn clips or text into a prepared set under ./data.", no_args_is_help=False)
app.add_typer(prepare_app, name="prepare")

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else; the log goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the final result.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="More lines; -vv: tracebacks too.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option(help="Of every random draw.", min=0)]
Data = Annotated[Path | None, typer.Option(help="A prepared set; else the one set under ./data.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A model.safetensors or a run folder; else runs/latest.")]
Out = Annotated[Path | None, typer.Option(help="Where the set goes; else data/<name of the source>.")]
Encoder = Annotated[str, typer.Option(help="How a frame becomes a state.")]
Interval = Annotated[float | None, typer.Option(help="Seconds of real time between states. [default: 0.25]")]
Every = Annotated[int | None, typer.Option(help="Keep every Nth frame instead.", min=1)]
Size = Annotated[int, typer.Option(help="Frames are resized to this many pixels square.", min=8)]
LatentDim = Annotated[int, typer.Option(help="Numbers per state.", min=1)]
Context = Annotated[int, typer.Option(help="States of context in a window.", min=1)]
Workers = Annotated[int | None, typer.Option(help="Decoding processes; else one per core.", min=1)]


@prepare_app.command("video")
def prepare_video(
    src: Annotated[Path, typer.Option(help="A folder of clips, searched recursively, or one clip.")],
    out: Out = None, encoder: Encoder = "pca", interval: Interval = None, every: Every = None, size: Size = 32,
    latent_dim: LatentDim = 128, context: Context = 16, workers: Workers = None,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Decode clips, sample frames in time, encode them, cut windows, split train / val / test."""
    from ebwm_cli.commands import prepare
    from ebwm_cli.console import View, show

    reports = prepare.prepare_video(
        src, out, encoder=encoder, interval=interval, every=every, size=size,
        latent_dim=latent_dim, context=context, workers=workers,
    )  # fmt: skip
    show(reports, View("document" if json else "", quiet, verbose > 0, "looking for clips"))


@prepare_app.command("text")
def prepare_text(
    src: Annotated[str, typer.Option(help="A file or folder (txt, md, jsonl, parquet; gz), or hf:NAME[:SPLIT].")],
    out: Out = None,
    field: Annotated[str, typer.Option(help="What holds the text in jsonl, parquet and hub data sets.")] = "text",
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer.json, or bytes; else one is fitted.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Most tokens of that. [default: 4096]", min=1)] = None,
    context: Annotated[int, typer.Option(help="Tokens of context in a window.", min=1)] = 256,
    workers: Annotated[int | None, typer.Option(help="Tokenizing threads; else one per core.", min=1)] = None,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Read documents, fit or load a tokenizer, pack tokens into windows, split train / val / test."""
    from ebwm_cli.commands import prepare_text as command
    from ebwm_cli.console import View, show

    reports = command.prepare_text(
        src, out, field=field, tokenizer=tokenizer, vocab_size=vocab_size, context=context, workers=workers
    )
    show(reports, View("document" if json else "", quiet, verbose > 0, "reading documents"))


@prepare_app.command("demo")
def prepare_demo(
    out: Out = None, encoder: Encoder = "pca", interval: Interval = None, every: Every = None, size: Size = 32,
    latent_dim: LatentDim = 128, context: Context = 16, workers: Workers = None, seed: Seed = 0,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Render the built-in clips (colliding balls) and prepare them."""
    from ebwm_cli.commands import prepare
    from ebwm_cli.console import View, show

    reports = prepare.prepare_demo(
        out, seed=seed, encoder=encoder, interval=interval, every=every, size=size,
        latent_dim=latent_dim, context=context, workers=workers,
    )  # fmt: skip
    show(reports, View("document" if json else "", quiet, verbose > 0, "rendering the demo"))


@app.command()
def train(
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
    device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Train a world model; the same command resumes it. Without RECIPE: the default for the set."""
    from ebwm_cli.console import View, show, show_json
    from ebwm_cli.recipe.load import load_recipe, recipe_json_schema

    if schema:
        show_json(recipe_json_schema())
        return
    name, changes = recipe_words(words or [])
    recipe = load_recipe(name or default_recipe(data), changes if seed is None else [*changes, f"seed={seed}"])
    if plan:
        show(_plan(recipe, data, device), View("document" if json else "", quiet, waiting="measuring a few steps"))
        return
    run = _tour if recipe.tour else _train
    reports = run(recipe, data=data, out=out, fresh=fresh, device=device)
    show(reports, View("lines" if json else "", quiet, verbose > 0, "getting ready to train"))


@app.command("eval", cls=ListCommand)
def evaluate(
    ctx: typer.Context,
    checkpoint: Checkpoint = None,
    data: Data = None,
    steps: Annotated[list[str], typer.Option(help="Descent steps to compare: 1 2 4.")] = ["1", "2", "4", "8", "16"],  # noqa: B006
    samples: Annotated[list[str], typer.Option(help="Starts per state to compare: 1 4.")] = ["1", "4"],  # noqa: B006
    rollout: Annotated[int | None, typer.Option(help="States to predict ahead. [default: 4; text: 0]", min=0)] = None,
    stride: Annotated[int | None, typer.Option(help="States between windows; else a whole context.", min=1)] = None,
    windows: Annotated[int | None, typer.Option(help="Most windows. [default: for 32,768 predictions]", min=1)] = None,
    questions: Annotated[Path | None, typer.Option(help="A jsonl of {prompt, answer[, choices]}, for text.")] = None,
    against: Annotated[list[Path], typer.Option(help="Other checkpoints, compared window by window.")] = [],  # noqa: B006
    facets: Annotated[bool, typer.Option("--facets", help="Four facets of a world model instead of losses.")] = False,
    seed: Seed = 0, device: Device = "auto", json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Measure a checkpoint on held-out windows."""
    from ebwm_cli.commands import evaluate as command
    from ebwm_cli.console import View, show

    view = View("document" if json else "", quiet, verbose > 0, "measuring held-out windows")
    if facets:
        only_beside(ctx, "--facets", WITH_FACETS)
        show(_facets(checkpoint, against, data=data, device=device, seed=seed, most_windows=windows), view)
        return
    reports = command.evaluate(
        checkpoint, data=data, steps=counts("--steps", steps), samples=counts("--samples", samples),
        rollout=rollout, stride=stride, most_windows=windows, questions=questions, against=against,
        device=device, seed=seed,
    )  # fmt: skip
    show(reports, view)


@app.command()
def think(
    checkpoint: Checkpoint = None,
    steps: Annotated[int | None, typer.Option(help="Descent steps; else the recipe's.", min=0)] = None,
    samples: Annotated[int | None, typer.Option(help="Starts, of which the lowest energy is kept.", min=1)] = None,
    stop: Annotated[str | None, typer.Option(help="fixed: all steps; energy: until a state's energy settles.")] = None,
    input: Annotated[Path | None, typer.Option(help="A clip to continue.")] = None,
    data: Data = None,
    index: Annotated[int, typer.Option(help="Which held-out window, without --input.", min=0)] = 0,
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
    writing = {"max_new": max_new, "temperature": temperature, "top_p": top_p}
    window = {"input": input, "data": data, "index": index or None, "horizon": None if horizon == 1 else horizon}
    apart(prompt, writing, window)
    given = given_of(writing if prompt is not None else window)
    reports = _think(checkpoint, prompt, **budget, **given, out=out, device=device, seed=seed)
    show(reports, View("document" if json else "", quiet, verbose > 0, "thinking"))


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


def _facets(checkpoint: Path | None, against: list[Path], **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import facets

    yield from facets.facets(checkpoint, against=against, **options)


def _think(checkpoint: Path | None, prompt: str | None, **options: Any) -> Iterator[Report]:
    from ebwm_cli.commands import generate, think

    if prompt is None:
        yield from think.think(checkpoint, **options)
    else:
        yield from generate.continue_text(checkpoint, prompt, **options)


def _plan(recipe: Recipe, data: Path | None, device: str) -> Iterator[Report]:
    from ebwm_cli.commands import train as command

    yield command.plan(recipe, data, device=device)


def _tour(recipe: Recipe, *, data: Path | None, out: Path | None, fresh: bool, device: str) -> Iterator[Report]:
    """Prepare the demo where there is none, train, evaluate, think."""
    from ebwm_cli.commands import evaluate, prepare, think
    from ebwm_cli.run.report import TrainReport

    if data is None:
        data = DEMO
        if not (data / "manifest.json").exists():
            yield from prepare.prepare_demo(data)
    checkpoint = None
    for report in _train(recipe, data=data, out=out, fresh=fresh, device=device):
        yield report
        if isinstance(report, TrainReport):
            checkpoint = Path(report.checkpoint)
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
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line; returns its exit code. Failures are told on stderr, tracebacks only with -vv."""
    from ebwm_cli.console import show_error

    verbosity = sum(word.count("v") if re.fullmatch("-[qv]+", word) else word == "--verbose" for word in words)
    command = typer.main.get_command(app)
    try:
        return command.main(words, prog_name="ebwm", standalone_mode=False) or 0
    except Exception as error:
        if verbosity >= 2:
            traceback.print_exc()
        message, hint, code = told(error, words)
        show_error(message, hint)
        return code
