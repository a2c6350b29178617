"""`ebwm eval --calibration`: every kind is measured, and what is printed, drawn and written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from small_runs import KINDS, make_home, model_of

from ebwm_cli.commands import evaluate
from ebwm_cli.commands.calibration import calibration
from ebwm_cli.console import View, render, show
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.run.picture_calibration import draw_calibration
from ebwm_cli.run.report import EvalReport, Notice
from ebwm_cli.run.report_calibration import CalibrationReport
from ebwm_cli.run.statistics import LEAST_WINDOWS

FALSE = ["other", "shuffled", "past_shuffled", "two_ahead", "near_30", "near_10"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("calibration"))


def measured(checkpoint: Path, **options: Any) -> CalibrationReport:
    """The report at the end."""
    *notices, report = calibration(checkpoint, **{"device": "cpu", "most_windows": 40, **options})
    assert isinstance(report, CalibrationReport)
    assert notices
    assert all(isinstance(notice, Notice) for notice in notices)
    return report


@pytest.fixture(scope="module", params=["video", "text"])
def report(request: pytest.FixtureRequest, home: Path) -> CalibrationReport:
    """All four kinds on one set."""
    first, *others = [model_of(home, request.param, kind) for kind in KINDS]
    return measured(first, against=others)


def test_every_kind_is_measured_and_says_how(report: CalibrationReport) -> None:
    assert [row.kind for row in report.rows] == KINDS
    assert [each.key for each in report.false_states] == FALSE
    assert len({row.name for row in report.rows}) == len(KINDS)
    for row in report.rows:
        told = {each.key: each for each in row.telling}
        assert list(told) == [
            "score", "score_above", "score_without_anchor", "prediction", "doubt", "candidate_doubt", "reference",
        ]  # fmt: skip
        for each in told.values():
            for found in (each.auroc, each.same_place):
                assert list(found) == FALSE
                assert all(measured.how for measured in found.values())
                assert all(0 <= m.value <= 1 for m in found.values() if m.value is not None)
                assert all(m.ci95 is None or 0 <= m.ci95[0] <= m.ci95[1] <= 1 for m in found.values())
        for sure in (row.score_spearman, row.partial_spearman, row.doubt_spearman, row.reference_spearman):
            assert (sure.ci95 is None) == (sure.value is None or report.windows < LEAST_WINDOWS)
            assert sure.ci95 is None or sure.ci95[0] <= sure.value <= sure.ci95[1]
        judged = told["score"]
        assert (judged.auroc["other"].value is None) == (row.score is None)
        assert row.score is None or row.score in judged.auroc["other"].how
        assert bool(row.reliability.bins) == (row.score is not None)


def test_what_is_in_nats_is_said(report: CalibrationReport) -> None:
    text = report.reference == "bigram"
    assert bool(report.nats) == text
    assert ("entropy of the prediction" in report.nats) == text
    noted = next(each for each in report.rows[0].telling if each.key == "score").auroc["other"].how
    assert ("the same for every certain token" in noted) == text
    assert all((row.doubt_gap.value is None) != text for row in report.rows if row.doubt_reliability.bins)


@pytest.mark.parametrize(("modality", "kind"), [("video", "diffusion"), ("text", "ebt")])
def test_errors_are_those_of_eval(home: Path, modality: str, kind: str) -> None:
    model = model_of(home, modality, kind)
    [row] = measured(model).rows
    *_, whole = evaluate.evaluate(model, steps=[], samples=[], rollout=0, device="cpu", most_windows=40)
    assert isinstance(whole, EvalReport)
    assert row.loss == whole.loss
    assert row.score_spearman.value == whole.energy_error_spearman
    assert row.doubt_spearman.value == whole.doubt_error_spearman
    assert row.partial_spearman.value == whole.partial_spearman


def test_a_report_is_a_function_of_the_seed(home: Path) -> None:
    model = model_of(home, "video", "ebt")
    first, again, other = [measured(model, seed=seed).rows[0].model_dump_json() for seed in (1, 1, 2)]
    assert first == again
    assert first != other


def test_what_means_nothing_is_refused(home: Path) -> None:
    model = model_of(home, "video", "ebt")
    with pytest.raises(UsageError, match="at least 2"):
        measured(model, most_windows=1)
    with pytest.raises(UsageError, match="differs from itself"):
        measured(model, against=[model])
    with pytest.raises(DataError, match="different sets"):
        measured(model, against=[model_of(home, "text", "ebt")])


# --------------------------------------------------------------------------------- files and the screen


def test_a_run_gets_a_picture_and_the_report(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    show(calibration(Path("runs/text_ebt"), device="cpu", most_windows=8), View("document"))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert document["files"] == ["runs/text_ebt/eval/calibration.png", "runs/text_ebt/eval/calibration.json"]
    written = CalibrationReport.model_validate_json(Path(document["files"][1]).read_bytes())
    assert written == CalibrationReport.model_validate(document)
    with Image.open(document["files"][0]) as image:
        assert min(image.size) > 300
    alone = home / "alone.safetensors"
    alone.write_bytes(model_of(home, "text", "ebt").read_bytes())
    assert measured(alone, most_windows=8).files == []


def test_pictures_hold_every_curve_and_no_clock(report: CalibrationReport, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_calibration(tmp_path / name, report)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    fewer = report.model_copy(update={"rows": [row for row in report.rows if row.score is None]})
    draw_calibration(tmp_path / "fewer.png", fewer)  # no score, and yet a picture
    odd = report.rows[0].model_copy(update={"name": "_$\\frac{" + "x" * 200})
    draw_calibration(tmp_path / "odd.png", report.model_copy(update={"rows": [odd]}))
    sizes = {}
    for name in ("one", "fewer", "odd"):
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
    assert len({width for width, _ in sizes.values()}) == 1
    assert sizes["one"][1] > sizes["fewer"][1] > sizes["odd"][1]


def drawn(report: CalibrationReport, width: int) -> str:
    paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    paper.print(render(report))
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_it_fits_the_terminal_and_hides_no_number(report: CalibrationReport, width: int, count: int) -> None:
    rows = [*report.rows, *report.rows][:count]
    text = drawn(report.model_copy(update={"rows": rows}), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "…" not in text
    lines = text.splitlines()
    [line] = [line for line in lines if line.startswith("the score ")][:1]
    said = [f"{r.score_spearman.value:.4f}" if r.score_spearman.value is not None else "–" for r in rows[:4]]
    assert line.split()[-min(count, 4) :] == said
    [below] = [lines[index + 1] for index, each in enumerate(lines) if each == line][:1]
    ends = [each.score_spearman.ci95 for each in rows[:4] if each.score_spearman.ci95]
    if ends:
        assert below.split() == ["95", "%", *" ".join(f"{low:.2f} to {high:.2f}" for low, high in ends).split()]
    for row in rows[:1]:
        found = next(each for each in row.telling if each.key == "prediction").auroc
        [line] = [line for line in lines if line.startswith("distance from prediction")][:1]
        assert line.split()[3:] == [f"{found[key].value:.3f}" for key in FALSE]
    assert sum(line.startswith(tuple("ABCDEF")) and "tells true from" in line for line in lines) == count


def test_names_can_not_colour_a_table(report: CalibrationReport) -> None:
    row = report.rows[0].model_copy(update={"checkpoint": "a\x1b[1m[bold].safetensors", "score": "s\x1b[31m[red]"})
    text = drawn(report.model_copy(update={"rows": [row], "data": "d\x1b[0m", "files": ["x\x1b"]}), 80)
    assert "\x1b" not in text
    assert "[red]" in text
