"""What `eval --by difficulty` writes and prints."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from known_worlds import make_worlds, measured
from rich.console import Console
from small_runs import model_of

from ebwm_cli.console import render
from ebwm_cli.run.report_difficulty import DifficultyGroup, DifficultyReport, DifficultyRow
from ebwm_cli.run.report_facets import StepsLoss


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("difficulty")
    make_worlds(folder)
    return folder


def test_the_report_is_written_into_the_run_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    report = measured(Path("runs/sums_ebt"), seed=3)
    assert report.files == ["runs/sums_ebt/eval/difficulty.json"]
    text = Path(report.files[0]).read_text()
    assert DifficultyReport.model_validate_json(text) == report

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(text, parse_constant=refuse)["checkpoint"] == "runs/sums_ebt/model.safetensors"
    again = measured(Path("runs/sums_ebt"), seed=3)
    same = {"seconds": 0.0}
    assert again.model_copy(update=same) == report.model_copy(update=same)


def drawn(report: DifficultyReport, width: int) -> str:
    paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    paper.print(render(report))
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue()


def long_report(thinks: bool = True) -> DifficultyReport:
    """Every number as wide as it gets."""
    steps = [StepsLoss(steps=each, loss=12.3456) for each in (1, 2, 4, 8, 16)]
    changes = [(-0.1234, (-0.2, -0.1)), (-0.0312, (-0.2, 0.1)), (0.4567, (0.1, 0.9)), (None, None)]
    rows = [
        DifficultyRow(
            label=label, name=f"sum, carry {label}" if label < 2 else f"5 or more {label}",
            group="sum" if label < 2 else "sort", positions=12345, reference_loss=12.3456,
            loss=None if thinks else 12.3456, by_steps=steps if thinks else [],
            change=change if thinks else None, change_ci95=interval if thinks else None,
            steps_used=12.5 if thinks else None, stopped_loss=12.3456 if thinks else None,
        )
        for label, (change, interval) in enumerate(changes)
    ]  # fmt: skip
    groups = [
        DifficultyGroup(
            group=name, positions=24690, steps_spearman=-0.1234 if thinks else None, error_spearman=0.4321,
            reference_spearman=None, steps_error_spearman=0.5678 if thinks else None,
        )
        for name in ("sum", "sort")
    ]  # fmt: skip
    return DifficultyReport(
        checkpoint="runs/a/model.safetensors", kind="ebt", score="denoising error" if thinks else None,
        data="data/sums", split="test", labels="digits", windows=256, stride=128, labelled=49380,
        reference="copying the last", few=2 if thinks else None, many=16 if thinks else None,
        budget=16 if thinks else None, tolerance=0.01 if thinks else None,
        drop="typical" if thinks else None, patience=2 if thinks else None, rows=rows, groups=groups, seconds=1.0,
        files=["runs/a/eval/difficulty.json"],
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("thinks", [True, False])
def test_the_table_fits_and_hides_no_number(width: int, thinks: bool) -> None:
    text = drawn(long_report(thinks), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    [first] = [line for line in lines if line[:2] == ["carry", "0"]]
    [second] = [line for line in lines if line[:2] == ["carry", "1"]]
    if thinks:
        assert first[2:] == ["12,345", *["12.3456"] * 3, "−12.3", "%", "12.5", "12.3456"]
        assert second[6:8] == ["(−3.1", "%)"]
        assert "−0.1234" in text or "-0.1234" in text
        assert "0.5678" in text
        assert "of the typical drop in training, 2 times in a row, after at most 16 steps" in " ".join(text.split())
    else:
        assert first[2:] == ["12,345", "12.3456", "12.3456"]
        assert "used" not in text
        assert "one pass" in text
    assert "sort, 24,690 positions" in text


@pytest.mark.parametrize(("world", "kind"), [("balls", "ebt"), ("sums", "ebt"), ("sums", "transformer")])
def test_real_reports_fit_and_show_every_class_that_is_there(home: Path, world: str, kind: str) -> None:
    report = measured(model_of(home, world, kind))
    text = drawn(report, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in report.rows:
        assert (row.name.removeprefix("sum, ") in text) == (row.positions > 0), row.name


def test_names_can_not_colour_the_table() -> None:
    report = long_report()
    row = report.rows[0].model_copy(update={"name": "a\x1b[1m[bold]", "change": math.nan})
    text = drawn(report.model_copy(update={"rows": [row], "checkpoint": "x\x1b[31m[red]", "files": ["x\x1b"]}), 80)
    assert "\x1b" not in text
    assert "[red]" in text
    assert "[bold]" in text
