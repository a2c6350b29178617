"""Both built-in worlds, small, untrained models of them, and what is measured of those by difficulty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_runs import recipe_of
from small_set import make_run

from ebwm_cli.commands.difficulty import difficulty
from ebwm_cli.commands.prepare import prepare_demo
from ebwm_cli.commands.prepare_text import prepare_sums
from ebwm_cli.data.store import open_set
from ebwm_cli.run.report import Notice
from ebwm_cli.run.report_difficulty import DifficultyReport

CONTEXTS = {"balls": 4, "sums": 16}
WINDOWS = 10


def make_worlds(home: Path) -> None:
    """Sets in `home/data/WORLD`, models in `home/runs/WORLD_KIND`."""
    balls = {"size": 8, "latent_dim": 8, "context": CONTEXTS["balls"]}
    list(prepare_demo(home / "data" / "balls", clips=3, workers=1, **balls))
    list(prepare_sums(home / "data" / "sums", lines=3000, context=CONTEXTS["sums"], workers=1))
    for world, modality in (("balls", "video"), ("sums", "text")):
        for kind in ("ebt", "transformer", "diffusion"):
            prepared = open_set(home / "data" / world)
            make_run(home / "runs" / f"{world}_{kind}", prepared, recipe=recipe_of(kind, modality))


def measured(checkpoint: Path, **options: Any) -> DifficultyReport:
    """The report at the end."""
    *notices, report = difficulty(checkpoint, **{"device": "cpu", "most_windows": WINDOWS, **options})
    assert isinstance(report, DifficultyReport)
    assert notices
    assert all(isinstance(notice, Notice) for notice in notices)
    return report
