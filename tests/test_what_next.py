"""The commands that prepare and train end with: they find the set and the run that were meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from small_runs import recipe_of
from small_set import make_set
from training import finish

from ebwm_cli.console_tables import render
from ebwm_cli.data.store import MANIFEST
from ebwm_cli.recipe.model import KINDS
from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.run.report import Report, TrainReport
from ebwm_cli.run.what_next import after_preparing, after_training

BOTH = ["ebwm eval", "ebwm think --steps 16"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def a_set(path: Path) -> str:
    path.mkdir(parents=True)
    (path / MANIFEST).write_text("{}")
    return str(path)


def drawn(report: Report) -> str:
    paper = Console(width=200, color_system=None)
    with paper.capture() as found:
        paper.print(render(report))
    return found.get()


def test_the_only_set_below_data_needs_no_name(here: Path) -> None:
    elsewhere = a_set(here.parent / "balls")
    assert after_preparing(elsewhere) == [f"ebwm train --data {elsewhere}"]
    one = a_set(Path("data/one"))
    assert after_preparing(one) == after_preparing(str(here / one)) == ["ebwm train"]
    assert after_preparing(elsewhere) == [f"ebwm train --data {elsewhere}"]  # train would take the other
    assert after_preparing(a_set(Path("data/two words"))) == ["ebwm train --data 'data/two words'"]
    assert after_preparing(one) == ["ebwm train --data data/one"]


def test_the_newest_run_needs_no_name(here: Path) -> None:
    Path("runs/old").mkdir(parents=True)
    Path("runs/new").mkdir()
    named = ["ebwm eval --checkpoint runs/new", "ebwm think --checkpoint runs/new --steps 16"]
    assert after_training("runs/new", one_pass=False) == named  # nothing is the newest
    Path("runs/latest").symlink_to("old")
    assert after_training("runs/new", one_pass=False) == named
    assert after_training(str(here / "runs" / "old"), one_pass=False) == BOTH
    Path("runs/latest").unlink()
    Path("runs/latest").symlink_to("new")
    assert after_training("runs/new", one_pass=False) == BOTH
    assert after_training("/x/runs/v4", one_pass=True) == [
        "ebwm eval --checkpoint /x/runs/v4",
        "ebwm think --checkpoint /x/runs/v4",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_trainings_end_with_commands_that_fit_their_model(kind: str, here: Path) -> None:
    data = make_set(here.parent / "set").path
    train = TrainSection(steps=1, batch_size=2, validate_windows=2)
    recipe = recipe_of(kind, "video").model_copy(update={"train": train})
    thinking = "" if kind in ("transformer", "rnn") else " --steps 16"
    for out, where in ((here / "runs" / "one", ""), (here / "elsewhere", f" --checkpoint {here / 'elsewhere'}")):
        report, _ = finish(recipe, data, out)
        assert isinstance(report, TrainReport)
        lines = [line.strip("│ ") for line in drawn(report).splitlines()]
        place = lines.index(f"next  ebwm eval{where}")
        assert lines[place + 1] == f"ebwm think{where}{thinking}"
