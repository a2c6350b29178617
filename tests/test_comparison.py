"""Checkpoints side by side: every number against the one that stands alone, intervals drawn by hand, refusals."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kinds import section_of, world_of
from rich.console import Console
from small_set import CONTEXT, make_set
from small_text import make_text_set

from ebwm_cli.cli import run
from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.console import render
from ebwm_cli.data.store import PreparedSet, open_set
from ebwm_cli.errors import CheckpointError, DataError, UsageError
from ebwm_cli.recipe.schema import DataSection, Recipe, ThinkSection
from ebwm_cli.run.checkpoint import load_world, save_model
from ebwm_cli.run.comparison import short_names
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.run.picture_compare import draw_comparison
from ebwm_cli.run.report import EvalReport, TrainReport
from ebwm_cli.run.report_compare import ComparisonRow
from ebwm_cli.world.build import cost

KINDS = {"ebt": "ebt", "transformer": "transformer", "gru": "rnn", "diffusion": "diffusion"}


def make_run(path: Path, prepared: PreparedSet, world: str) -> Path:
    """A run folder with a model of this kind whose weights are not those it began with; returns the model file."""
    modality = prepared.spec.modality
    recipe = Recipe(
        name="small",
        data=DataSection(modality=modality),
        model=section_of(world, modality),  # type: ignore[arg-type]
        think=ThinkSection(steps=2),
    )
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.begin(recipe, prepared.origin())
    weights = world_of(world, modality, spec=prepared.spec, stirred=0.03).state_dict()
    origin = {"recipe": recipe, "spec": prepared.spec, "encoder": prepared.encoder, "data": prepared.origin()}
    save_model(folder.model_file, weights, **origin, step=1)
    return folder.model_file


def finish(model: Path) -> None:
    """Write the report of a finished training: 7 updates of 3 FLOPs, in half a second."""
    RunFolder(model.parent).finish(
        TrainReport(
            out=str(model.parent), checkpoint=str(model), step=7, val_loss=1.0, perplexity=None, reference="x",
            reference_loss=1.0, params=1, flops_per_step=3.0, seconds=9.0, states_per_second=1.0, skipped=0,
            updating_seconds=0.5,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/video and data/text, and runs/<modality>-<world> of each kind; the transformers are finished."""
    home = tmp_path_factory.mktemp("comparison")
    sets = {"video": make_set(home / "data" / "video"), "text": make_text_set(home / "data" / "text")}
    for modality, prepared in sets.items():
        for world in KINDS:
            model = make_run(home / "runs" / f"{modality}-{world}", prepared, world)
            if world == "transformer":
                finish(model)
    return home


def models(home: Path, modality: str) -> list[Path]:
    return [home / "runs" / f"{modality}-{world}" / "model.safetensors" for world in KINDS]


def measured(checkpoint: Path, **options) -> EvalReport:
    options = {"steps": [1], "samples": [1], "device": "cpu", "most_windows": 8, **options}
    *_, report = evaluate(checkpoint, **options)
    assert isinstance(report, EvalReport)
    return report


@pytest.fixture(scope="module")
def reports(home: Path) -> dict[str, EvalReport]:
    """The energy model against all others; on tokens too, two are rolled out."""
    return {
        modality: measured(first, against=others, rollout=2)
        for modality in ("video", "text")
        for first, *others in [models(home, modality)]
    }


def drawn(report: EvalReport, width: int) -> str:
    paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    paper.print(render(report))
    return paper.file.getvalue()  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("modality", ["video", "text"])
def test_every_row_agrees_with_its_own_evaluation(home: Path, reports: dict, modality: str) -> None:
    report = reports[modality]
    rows, references = report.comparison[: len(KINDS)], report.comparison[len(KINDS) :]
    assert [row.name for row in rows] == [f"{modality}-{world}" for world in KINDS]
    assert [row.kind for row in rows] == list(KINDS.values())
    assert (rows[0].difference, rows[0].ci95, rows[0].verdict) == (None, None, None)
    for row, model in zip(rows, models(home, modality), strict=True):
        alone, loaded = measured(model, rollout=2), load_world(model)
        assert row.checkpoint == alone.checkpoint
        assert (row.loss, row.perplexity) == (alone.loss, alone.perplexity)
        assert row.rollout == [each.loss for each in alone.rollout]
        assert row.params == alone.params == sum(weight.numel() for weight in loaded.world.parameters())
        assert row.seconds_per_state is not None
        assert row.seconds_per_state > 0
        if row is not rows[0]:
            assert row.difference == pytest.approx(report.loss - alone.loss)
        if row.kind == "transformer":
            assert (row.train_flops, row.train_seconds) == (21.0, 0.5)
        else:
            per_update = cost(loaded.recipe, loaded.spec).flops_per_step
            assert (row.train_flops, row.train_seconds) == (per_update * loaded.recipe.train.steps, None)
    assert [(row.name, row.loss, row.perplexity) for row in references] == [
        (each.name, each.loss, each.perplexity) for each in report.references
    ]
    assert references[0].rollout == [each.reference_loss for each in report.rollout]
    assert len(references[1].rollout) == 2
    for row in references:
        assert {row.checkpoint, row.kind, row.params, row.train_flops, row.seconds_per_state} == {None}
        assert row.difference == pytest.approx(report.loss - row.loss)
    assert {row.other: (row.mean, row.ci95) for row in report.against[1:]} == {
        row.checkpoint: (row.difference, row.ci95) for row in rows[1:]
    }


def test_intervals_are_the_paired_bootstrap_over_windows(home: Path) -> None:
    stride, (evaluated, *rivals) = 4, models(home, "video")
    states = open_set(home / "data" / "video").split("test").states
    starts = range(0, len(states) - CONTEXT, stride)
    windows = torch.stack([torch.tensor(states[start : start + CONTEXT + 1]) for start in starts])

    def by_window(model: Path) -> np.ndarray:
        loaded = load_world(model)
        memory = loaded.world.observe(windows[:, :-1])
        rng = torch.Generator().manual_seed(0)
        predicted = loaded.world.predict(memory, loaded.recipe.think, rng, positions=stride).state
        wrong = (predicted.double() - windows[:, -stride:].double()).abs()
        return torch.where(wrong < 1, wrong**2 / 2, wrong - 0.5).mean((1, 2)).numpy()

    first, *others = [by_window(model) for model in (evaluated, *rivals)]
    report = measured(evaluated, against=rivals, rollout=0, stride=stride)
    assert report.windows == len(first) == 6
    for row, other in zip(report.comparison[1:], others, strict=False):
        apart, rng = first - other, np.random.default_rng(0)
        means = [np.mean([apart[each] for each in rng.integers(0, len(apart), len(apart))]) for _ in range(2000)]
        low, high = np.quantile(means, [0.025, 0.975])
        assert row.ci95 == pytest.approx((low, high), rel=1e-4, abs=1e-6)
        assert row.difference == pytest.approx(apart.mean(), rel=1e-4)
        assert row.verdict == ("lower" if high < 0 else "higher" if low > 0 else "not told apart")


def test_few_windows_tell_nothing_apart(home: Path, reports: dict, tmp_path: Path) -> None:
    report = reports["video"]
    for row in report.comparison[1:]:
        assert (row.difference is None, row.ci95, row.verdict) == (False, None, "not told apart")
    assert (report.windows, {each.ci95 for each in report.against}) == (4, {None})
    text = drawn(report, 80)
    assert "– 95 %, not told apart" in text
    assert "[" not in text
    draw_comparison(tmp_path / "x.png", report.comparison)


@pytest.mark.parametrize("modality", ["video", "text"])
def test_nothing_is_compared_without_another(home: Path, modality: str) -> None:
    assert measured(models(home, modality)[0], rollout=0).comparison == []


def test_nothing_is_rolled_out_where_it_was_not_asked_for(home: Path, tmp_path: Path) -> None:
    first, second, *_ = models(home, "video")
    report = measured(first, against=[second], rollout=0)
    assert all(row.rollout == [] for row in report.comparison)
    assert "ahead" not in drawn(report, 80)
    draw_comparison(tmp_path / "x.png", report.comparison)
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run" / "model.safetensors", tmp_path / "b" / "run" / "model.safetensors"]
    assert short_names(paths) == ["a/run", "b/run"]
    assert short_names(paths[:1]) == ["run"]
    assert short_names([tmp_path / "x.safetensors", paths[0]]) == ["x.safetensors", "run"]


# ---------------------------------------------------------------------------------------------- one pass


@pytest.mark.parametrize("world", ["transformer", "gru"])
@pytest.mark.parametrize("modality", ["video", "text"])
def test_a_world_of_one_pass_has_no_steps_to_compare(home: Path, modality: str, world: str) -> None:
    model = home / "runs" / f"{modality}-{world}" / "model.safetensors"
    shutil.rmtree(model.parent / "eval", ignore_errors=True)
    report = measured(model, steps=[1, 2], samples=[1, 4])
    assert (report.by_steps, report.by_samples, report.steps, report.score) == ([], [], 0, None)
    assert report.energy_error_spearman is report.partial_spearman is None
    assert report.doubt_error_spearman is not None
    assert sorted(path.name for path in (model.parent / "eval").iterdir()) == ["report.json"]
    text = drawn(report, 100)
    for word in ("energy", "steps", "samples", "more thinking", "more starts"):
        assert word not in text
    assert report.doubt in text


def test_what_energies_are_is_said(home: Path) -> None:
    files = models(home, "video")
    energy, denoising = (measured(model, samples=[1, 2], steps=[1, 2]) for model in (files[0], files[3]))
    assert (energy.score, denoising.score) == ("energy", "denoising error")
    assert {row.select for row in energy.by_samples} == {"energy", "gap", "mean", "random"}
    assert {row.select for row in denoising.by_samples} == {"denoising error", "gap", "mean", "random"}
    assert "descent steps" in drawn(energy, 120)
    text = drawn(denoising, 120)
    assert "2 denoising steps" in text
    assert "rank correlation of denoising error" in text
    assert "descent" not in text


# ---------------------------------------------------------------------------------------------- seen and written


def test_the_picture_and_the_report_lie_beside_the_run(reports: dict) -> None:
    for report in reports.values():
        files = {Path(file).name: Path(file) for file in report.files}
        assert list(files) == ["by_steps.png", "comparison.png", "report.json"]
        assert files["comparison.png"].read_bytes().startswith(b"\x89PNG")
        assert files["comparison.png"].stat().st_size > 5000


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("modality", ["video", "text"])
def test_the_table_fits_and_keeps_every_name(reports: dict, modality: str, width: int) -> None:
    long = [f"{row.name}-{'with_a_long_name_' * 3}{place}" for place, row in enumerate(reports[modality].comparison)]
    rows = [
        row.model_copy(update={"name": name} if row.checkpoint else {})
        for row, name in zip(reports[modality].comparison, long, strict=True)
    ]
    report = reports[modality].model_copy(update={"comparison": rows})
    text = drawn(report, width)
    assert max(map(len, text.splitlines())) <= width
    table = text[text.index("side by side") :]
    together = "".join(table.split())
    for row in rows:
        assert all(word in together for word in row.name.split()), row.name
        assert f"{row.loss:.4f}" in table
        if row.kind is None:
            continue
        assert row.kind in table
        if row.perplexity is not None:
            assert f"{row.perplexity:.1f}" in table.replace(",", "")
    assert "…" not in table
    for place, row in enumerate(rows[1:], start=1):
        assert f"{row.difference:+.4f}" in table, place
        assert row.verdict in table


def test_a_name_is_never_a_formula(tmp_path: Path) -> None:
    row = ComparisonRow(
        name="$x^", checkpoint="c", kind="ebt", loss=1.0, perplexity=None, difference=None, ci95=None, verdict=None,
        rollout=[], params=1, train_flops=1.0, train_seconds=None, seconds_per_state=1.0,
    )  # fmt: skip
    draw_comparison(tmp_path / "x.png", [row, row.model_copy(update={"name": "_" * 200 + "$$"})])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line_compares_in_both_spellings(home: Path, capsys: pytest.CaptureFixture) -> None:
    first, second, third, _ = map(str, models(home, "video"))
    words = ["eval", "--checkpoint", first, "--steps", "1", "--samples", "1", "--device", "cpu", "--json"]
    documents = []
    for against in (["--against", second, third], ["--against", second, "--against", str(Path(third).parent)]):
        assert run([*words, *against]) == 0
        documents.append(json.loads(capsys.readouterr().out))
    for document in documents:
        assert [row["name"] for row in document["comparison"][:3]] == ["video-ebt", "video-transformer", "video-gru"]
        for row in document["comparison"]:
            assert set(row) == set(ComparisonRow.model_fields)
            assert all(math.isfinite(loss) for loss in row["rollout"])
            assert len(row["rollout"]) == CONTEXT // 2


# ---------------------------------------------------------------------------------------------- refusals


def refused(capsys: pytest.CaptureFixture, first: Path, *against: Path) -> tuple[int, str]:
    code = run(["eval", "--checkpoint", str(first), "--against", *map(str, against), "--device", "cpu"])
    return code, capsys.readouterr().err


def test_other_sets_are_refused_by_name(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = models(home, "video")[0]
    foreign = make_run(tmp_path / "foreign", make_set(tmp_path / "set", seed=3), "gru")
    code, told = refused(capsys, first, foreign)
    assert code == DataError.exit_code == 4
    for name in (first, foreign, home / "data" / "video", tmp_path / "set"):
        assert str(name) in told
    code, told = refused(capsys, first, models(home, "text")[0])
    assert code == 4
    assert str(home / "data" / "text") in told


def test_a_set_that_was_split_anew_in_place_is_another(home: Path, tmp_path: Path) -> None:
    was = make_run(tmp_path / "was", make_set(tmp_path / "set"), "gru")
    shutil.rmtree(tmp_path / "set")
    anew = make_set(tmp_path / "set", clips=7)
    now = make_run(tmp_path / "now", anew, "gru")
    with pytest.raises(DataError) as caught:
        measured(now, against=[was])
    for model in (was, now):
        assert load_world(model).data["fingerprint"][:12] in caught.value.message


def test_other_windows_are_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepared = open_set(home / "data" / "video")
    prepared.spec = prepared.spec.model_copy(update={"context": 3})
    code, told = refused(capsys, models(home, "video")[0], make_run(tmp_path / "short", prepared, "gru"))
    assert code == 4
    assert "contexts of 6 states" in told


def test_itself_or_one_twice_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second, *_ = models(home, "video")
    link = tmp_path / "link.safetensors"
    link.symlink_to(first)
    for again in (first, first.parent, link):
        code, told = refused(capsys, first, second, again)
        assert code == UsageError.exit_code == 2
        assert "the checkpoint that is evaluated" in told
    code, told = refused(capsys, first, second, second.parent)
    assert code == 2
    assert "named twice" in told


def test_a_missing_checkpoint_is_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, told = refused(capsys, models(home, "video")[0], tmp_path / "nothing.safetensors")
    assert code == CheckpointError.exit_code == 6
    assert f"there is no checkpoint {tmp_path / 'nothing.safetensors'}" in " ".join(told.split())
