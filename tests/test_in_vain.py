"""Options that change nothing are told or refused, never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import RIVALS
from small_set import CONTEXT, make_run, make_set, small_recipe
from small_text import make_text_set, small_text_recipe

from ebwm_cli import cli
from ebwm_cli.commands.calibration import calibration
from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.commands.facets import facets
from ebwm_cli.commands.generate import continue_text
from ebwm_cli.commands.think import think
from ebwm_cli.run.report import Notice


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two kinds on clips, and one of text."""
    home = tmp_path_factory.mktemp("vain")
    clips, text = make_set(home / "data" / "clips"), make_text_set(home / "data" / "text")
    make_run(home / "runs" / "ebt", clips)
    one_pass = {"model": RIVALS["transformer"]}
    make_run(home / "runs" / "transformer", clips, recipe=small_recipe().model_copy(update=one_pass))
    make_run(home / "runs" / "text", text, recipe=small_text_recipe().model_copy(update=one_pass))
    return home


def notices(command, *words, **options) -> str:
    """All that is told before the report."""
    told = command(*words, device="cpu", **options)
    return "\n".join(each.notice for each in told if isinstance(each, Notice))


@pytest.mark.parametrize("command", [evaluate, facets, calibration, think])
def test_thinking_of_one_pass_changes_nothing_and_says_so(home: Path, command) -> None:
    asked = {"thinking": {"steps": 2}}
    assert "--thinking change nothing" in notices(command, home / "runs" / "transformer", **asked)
    assert "change nothing" not in notices(command, home / "runs" / "transformer")
    assert "change nothing" not in notices(command, home / "runs" / "ebt", **asked)


@pytest.mark.parametrize("asked", [{"thinking": {"stop": "still"}}, {"steps": 2}, {"samples": 2}, {"stop": "energy"}])
def test_text_of_one_pass_too(home: Path, asked: dict) -> None:
    assert "change nothing" in notices(continue_text, home / "runs" / "text", "the cat", max_new=1, **asked)
    assert notices(continue_text, home / "runs" / "text", "the cat", max_new=1) == ""


def test_a_stride_beyond_a_context_is_cut_and_says_so(home: Path) -> None:
    def told(stride: int) -> str:
        return notices(evaluate, home / "runs" / "ebt", steps=[1], samples=[1], rollout=0, stride=stride)

    assert f"windows begin {CONTEXT} states apart, a whole context, and no 500" in told(500)
    assert "apart" not in told(CONTEXT)


@pytest.mark.parametrize("index", ["0", "3"])
def test_a_number_beside_a_clip_is_refused(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["think", "--input", "a.mp4", "--index", index]) == 2
    told = capsys.readouterr().err
    assert "--index and --input exclude each other" in told
    assert "ebwm think --input a.mp4" in told
