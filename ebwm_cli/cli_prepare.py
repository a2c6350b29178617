"""`ebwm prepare video | text | demo`: words in, reports out. Thin; the commands are imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ebwm_cli.cli_options import Json, Quiet, Seed, Verbose
from ebwm_cli.cli_words import only_beside
from ebwm_cli.errors import UsageError

BALLS, SUMS = "balls", "sums"
"""The built-in worlds."""
OF_SUMS = {"world", "out", "context", "workers", "seed", "json", "quiet", "verbose"}
"""Parameters of demo that mean something for sums."""

prepare_app = typer.Typer(help="Turn clips or text into a prepared set under ./data.", no_args_is_help=False)

Out = Annotated[Path | None, typer.Option(help="Where the set goes; else data/<name of the source>.")]
Encoder = Annotated[str, typer.Option(help="How a frame becomes a state.")]
Interval = Annotated[float | None, typer.Option(help="Seconds of real time between states. [default: 0.25]")]
Every = Annotated[int | None, typer.Option(help="Keep every Nth frame instead.", min=1)]
Size = Annotated[int, typer.Option(help="Frames are resized to this many pixels square.")]
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
    ctx: typer.Context,
    world: Annotated[str, typer.Option(help="balls: clips of balls that collide; sums: text that calculates.")] = BALLS,
    out: Annotated[Path | None, typer.Option(help="Where the set goes; else data/demo, of sums data/sums.")] = None,
    encoder: Encoder = "pca", interval: Interval = None, every: Every = None, size: Size = 32,
    latent_dim: LatentDim = 128,
    context: Annotated[int | None, typer.Option(help="States of context; else 16, of sums 128.", min=1)] = None,
    workers: Workers = None, seed: Seed = 0,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Make a built-in world, of which is known how hard each state is to foresee, and prepare it."""
    from ebwm_cli.console import View, show

    given = {"seed": seed, "workers": workers, **({} if context is None else {"context": context})}
    view = View("document" if json else "", quiet, verbose > 0, "making the demo")
    if world == SUMS:
        only_beside(ctx, f"--world {SUMS}", OF_SUMS)
        from ebwm_cli.commands import prepare_text

        show(prepare_text.prepare_sums(out, **given), view)
        return
    if world != BALLS:
        raise UsageError(f"--world is {BALLS} or {SUMS}, not {world}", f"{ctx.command_path} --world {BALLS}")
    from ebwm_cli.commands import prepare

    reports = prepare.prepare_demo(
        out, encoder=encoder, interval=interval, every=every, size=size, latent_dim=latent_dim, **given
    )
    show(reports, view)
