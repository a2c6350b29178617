"""Options that several commands share, each with the words it is explained by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else; the log goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the final result.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="More lines; -vv: tracebacks too.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option(help="Of every random draw.", min=0, max=2**31 - 1)]
Data = Annotated[Path | None, typer.Option(help="A prepared set; else the one set under ./data.")]
Thinking = Annotated[
    list[str], typer.Option(help="How to think, KEY=VALUE of a recipe's think section: stop=energy backtrack=true.")
]
Checkpoint = Annotated[Path | None, typer.Option(help="A model.safetensors or a run folder; else runs/latest.")]
