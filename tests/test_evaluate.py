"""`eval` against the same numbers computed window by window, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from small_set import CONTEXT, make_run, make_set, small_recipe
from small_text import make_text_set, small_text_recipe

from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.data.store import PreparedSet, open_set
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.recipe.model import DescentSection
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld, load_world, save_model
from ebwm_cli.run.measure import psnr, rises
from ebwm_cli.run.report import EvalReport, Notice
from ebwm_cli.world.build import cost, thinking_flops


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/one and runs/first, a model of it."""
    home = tmp_path_factory.mktemp("eval")
    make_run(home / "runs" / "first", make_set(home / "data" / "one"))
    return home


@pytest.fixture
def model(home: Path) -> Path:
    return home / "runs" / "first" / "model.safetensors"


def measured(checkpoint: Path, **options) -> EvalReport:
    """The report at the end."""
    options = {"steps": [1], "samples": [1], "rollout": 0, "device": "cpu", **options}
    *notices, report = evaluate(checkpoint, **options)
    assert isinstance(report, EvalReport)
    assert all(isinstance(notice, Notice) for notice in notices)
    return report


def windows_of(prepared: PreparedSet) -> torch.Tensor:
    """Test windows (W, C+1, D), cut by hand: one unbroken clip of 30 states, a window every CONTEXT states."""
    states = prepared.split("test").states
    starts = range(0, len(states) - CONTEXT, CONTEXT)
    return torch.stack([torch.tensor(states[start : start + CONTEXT + 1]) for start in starts])


def smooth_l1(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """SmoothL1 with beta 1, averaged over the last dimension, written out."""
    wrong = (x.double() - y.double()).abs()
    return torch.where(wrong < 1, wrong**2 / 2, wrong - 0.5).mean(-1).numpy()


def one_by_one(loaded: LoadedWorld, windows: torch.Tensor, think: ThinkSection):
    """Predictions of single windows."""
    for window in windows[:, :-1].split(1):
        yield loaded.world.predict(loaded.world.observe(window), think, torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------- numbers


def test_loss_is_that_of_windows_predicted_one_by_one(model: Path, home: Path) -> None:
    prepared, loaded = open_set(home / "data" / "one"), load_world(model)
    windows = windows_of(prepared)
    predictions = list(one_by_one(loaded, windows, loaded.recipe.think))
    predicted = torch.cat([each.state for each in predictions])
    energies = torch.cat([each.energies[..., -1] for each in predictions]).numpy()
    errors = smooth_l1(predicted, windows[:, 1:])
    moves = (predicted - windows[:, :-1]).square().mean(-1).sqrt().numpy()

    report = measured(model)
    assert report.windows == len(windows) == 4
    assert report.loss == pytest.approx(errors.mean(), rel=1e-5)
    assert report.copy_last_loss == pytest.approx(smooth_l1(windows[:, :-1], windows[:, 1:]).mean(), rel=1e-5)
    mean_state = torch.tensor(prepared.split("train").states.astype(np.float64).mean(0))
    assert report.mean_loss == pytest.approx(smooth_l1(mean_state, windows[:, 1:]).mean(), rel=1e-5)
    correlation = stats.spearmanr(energies.ravel(), errors.ravel()).statistic
    assert report.energy_error_spearman == pytest.approx(correlation, abs=1e-9)
    correlation = stats.spearmanr(moves.ravel(), errors.ravel()).statistic
    assert report.doubt_error_spearman == pytest.approx(correlation, abs=1e-9)
    assert report.partial_spearman is not None
    assert report.params == sum(weight.numel() for weight in loaded.world.parameters())


def test_rows_by_steps_spend_exactly_those_steps(model: Path) -> None:
    report = measured(model, steps=[0, 1, 3])
    assert [row.steps for row in report.by_steps] == [0, 1, 3]
    assert report.by_steps[0].loss == pytest.approx(report.copy_last_loss)  # the start is the last state
    assert report.by_steps[2].loss == report.loss  # the recipe's three steps
    assert len({row.loss for row in report.by_steps}) == 3
    assert all(row.seconds > 0 for row in report.by_steps)


def test_rows_by_samples_choose_by_energy_average_and_pick_blindly(model: Path, home: Path) -> None:
    loaded, windows = load_world(model), windows_of(open_set(home / "data" / "one"))
    # All windows fit one batch, so that the draws are those of eval.
    prediction = loaded.world.predict(
        loaded.world.observe(windows[:, :-1]),
        loaded.recipe.think.model_copy(update={"samples": 3}),
        torch.Generator().manual_seed(0),
    )
    errors = np.stack([smooth_l1(prediction.sample_states[:, :, m], windows[:, 1:]) for m in range(3)], -1)
    best = prediction.sample_energies.argmin(-1, keepdim=True).numpy()
    farthest = prediction.sample_gaps.argmax(-1, keepdim=True).numpy()
    expected = {
        "gap": np.take_along_axis(errors, farthest, -1).mean(),
        "energy": np.take_along_axis(errors, best, -1).mean(),
        "mean": smooth_l1(prediction.sample_states.mean(2), windows[:, 1:]).mean(),
        "random": errors.mean(),
    }
    report = measured(model, samples=[1, 3])
    first = {"samples": 1, "select": "energy", "loss": report.loss, "perplexity": None}
    assert report.by_samples[0].model_dump() == {**first, "difference": None, "ci95": None}
    assert {row.select: row.loss for row in report.by_samples[1:]} == pytest.approx(expected, rel=1e-5)
    for row in report.by_samples[1:]:
        if row.select == "random":
            assert row.difference is row.ci95 is None
            continue
        assert row.difference == pytest.approx(expected[row.select] - expected["random"], abs=1e-6)
        assert row.ci95 is None  # of four windows
    for row in measured(model, samples=[3], stride=2).by_samples:
        assert (row.ci95 is None) == (row.select == "random")
        assert row.ci95 is None or row.ci95[0] <= row.difference <= row.ci95[1]


def test_a_rise_is_more_than_rounding() -> None:
    energies = torch.tensor([[[-8.0, -9.0, -8.5, -8.5 + 1e-6, -8.4]], [[1.0, 0.5, 0.2, 0.2, 0.2]]])
    assert rises([energies]).tolist() == [[2], [0]]
    assert rises([energies[:1], energies[1:, :, :3]]).tolist() == [[2], [0]]
    assert rises([energies[1:] + 1e-6 * torch.arange(5)]).tolist() == [[0]]
    assert rises([energies[1:] + torch.arange(5), 1e6 * energies]).tolist() == [[0], [2], [0]]  # near 0 beside that


def test_rows_by_steps_tell_how_many_moves_raised_the_energy(model: Path, home: Path) -> None:
    loaded, windows = load_world(model), windows_of(open_set(home / "data" / "one"))
    think = loaded.recipe.think.model_copy(update={"steps": 12})
    run = loaded.world.predict(loaded.world.observe(windows[:, :-1]), think, torch.Generator().manual_seed(0))
    (row,) = measured(model, steps=[12]).by_steps
    assert row.rises == pytest.approx(rises([run.energies]).mean() / 12)
    (row,) = measured(model, steps=[12], thinking={"backtrack": True}).by_steps
    assert row.rises == 0


def test_stopping_rows_tell_the_steps_used_and_the_flops_really_spent(model: Path, home: Path) -> None:
    report = measured(model, steps=[1, 12], thinking={"tolerance": 0.2})
    whole, stopped = report.by_stop
    assert (whole.stop, stopped.stop, whole.steps) == ("fixed", "energy", 12)
    assert whole.loss == report.by_steps[1].loss
    assert whole.counts == [0] * 12 + [report.windows * report.stride]
    assert sum(stopped.counts) == report.windows * report.stride
    used = sum(steps * count for steps, count in enumerate(stopped.counts)) / sum(stopped.counts)
    assert stopped.steps_used == pytest.approx(used)
    assert 0 < stopped.steps_used < 12
    loaded, windows = load_world(model), windows_of(open_set(home / "data" / "one"))
    recipe = loaded.recipe.model_copy(update={"think": loaded.recipe.think.model_copy(update={"steps": 12})})
    assert whole.flops_per_state == pytest.approx(cost(recipe, loaded.spec).flops_per_state)
    think = recipe.think.model_copy(update={"stop": "energy", "tolerance": 0.2, "samples": 1})
    spent = loaded.world.predict(loaded.world.observe(windows[:, :-1]), think, torch.Generator().manual_seed(0))
    looks, tries = spent.looks.double().mean().item(), spent.tries.double().mean().item()
    assert stopped.flops_per_state == pytest.approx(
        thinking_flops(recipe.model, think, loaded.spec, looks, tries), rel=1e-6
    )
    assert stopped.flops_per_state < 0.8 * whole.flops_per_state


def test_thinking_is_as_asked_and_unknown_keys_are_refused(model: Path) -> None:
    assert measured(model, thinking={"steps": 7}).steps == 7
    with pytest.raises(UsageError, match="stepz"):
        measured(model, thinking={"stepz": 7})


def test_rollout_equals_observing_everything_anew(model: Path, home: Path) -> None:
    prepared, loaded = open_set(home / "data" / "one"), load_world(model)
    windows, rng = windows_of(prepared), torch.Generator()
    seen, truth = windows[:, :-3], windows[:, -3:]
    report = measured(model, rollout=3)
    for ahead, row in enumerate(report.rollout):
        after = loaded.world.predict(loaded.world.observe(seen), loaded.recipe.think, rng, positions=1).state
        seen = torch.cat([seen, after], 1)
        assert row.horizon == ahead + 1
        assert row.loss == pytest.approx(smooth_l1(after[:, 0], truth[:, ahead]).mean(), rel=1e-4)
        assert row.reference_loss == pytest.approx(smooth_l1(windows[:, -4], truth[:, ahead]).mean(), rel=1e-5)
        images = [prepared.encoder.decode(x.numpy()).astype(float) for x in (after[:, 0], truth[:, ahead])]
        assert row.psnr == pytest.approx(20 * np.log10(255 / np.sqrt(((images[0] - images[1]) ** 2).mean())), abs=0.05)


def test_rollout_is_at_most_half_the_context(model: Path) -> None:
    *notices, report = evaluate(model, steps=[1], samples=[1], rollout=9, device="cpu")
    assert isinstance(report, EvalReport)
    assert len(report.rollout) == CONTEXT // 2
    assert any("3 states, half the context" in str(notice) for notice in notices)
    assert "too few windows for an interval: 4 of the 5 that it takes" in [notice.notice for notice in notices]


def test_psnr() -> None:
    assert psnr(255.0**2) == pytest.approx(0)
    assert psnr(255.0**2 / 1000) == pytest.approx(30)
    assert psnr(0.0) is None


def test_differences_are_paired(model: Path, home: Path) -> None:
    other = make_run(home / "runs" / "other", open_set(home / "data" / "one"), seed=1)
    report, rival = measured(model, against=[other]), measured(other)
    copy_last, against = report.against
    assert (copy_last.other, against.other) == ("copying the last", str(other))
    assert copy_last.mean == pytest.approx(report.loss - report.copy_last_loss)
    assert against.mean == pytest.approx(report.loss - rival.loss)
    assert against.ci95 is copy_last.ci95 is None  # of four windows
    *_, against = measured(model, against=[other], stride=2).against
    assert against.ci95[0] < against.mean < against.ci95[1]


def test_energies_that_are_all_alike_have_no_correlation(home: Path) -> None:
    prepared = open_set(home / "data" / "one")
    recipe = small_recipe(descent=DescentSection(anchor=0.0))
    file = make_run(home / "runs" / "flat", prepared, recipe=recipe)
    weights = {name: torch.zeros_like(value) for name, value in load_world(file).world.state_dict().items()}
    origin = {"recipe": recipe, "spec": prepared.spec, "encoder": prepared.encoder, "data": prepared.origin()}
    save_model(file, weights, **origin, step=1)
    report = measured(file)
    assert report.energy_error_spearman is report.doubt_error_spearman is report.partial_spearman is None
    assert report.loss == pytest.approx(report.copy_last_loss)


def test_a_report_is_a_function_of_the_seed(model: Path) -> None:
    def numbers(seed: int) -> dict:
        report = measured(model, samples=[3], seed=seed).model_dump()
        return {key: report[key] for key in ("loss", "by_samples", "against", "partial_spearman")}

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)


# ---------------------------------------------------------------------------------------------- files


def test_report_is_written_beside_the_run_and_nowhere_else(model: Path, tmp_path: Path) -> None:
    report = measured(model)
    assert [Path(file).name for file in report.files] == ["by_steps.png", "report.json"]
    written = model.parent / "eval" / "report.json"
    assert EvalReport.model_validate_json(written.read_bytes()) == report
    assert (model.parent / "eval" / "by_steps.png").read_bytes().startswith(b"\x89PNG")

    moved = tmp_path / "x.safetensors"
    shutil.copy(model, moved)
    assert measured(moved).files == []
    assert list(tmp_path.iterdir()) == [moved]


# ---------------------------------------------------------------------------------------------- sets


def test_a_set_that_moved_is_found_by_its_fingerprint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "x.safetensors"
    prepared = make_set(tmp_path / "was" / "here")
    make_run(tmp_path / "run", prepared)
    shutil.copy(tmp_path / "run" / "model.safetensors", run)
    (tmp_path / "data" / "broken").mkdir(parents=True)
    make_set(tmp_path / "data" / "another", seed=5)
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "was" / "here", tmp_path / "data" / "moved")
    assert measured(run).data == "data/moved"
    shutil.move(tmp_path / "data" / "moved", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"neither at .*here nor below"):
        measured(run)
    assert measured(run, data=Path("elsewhere")).data == "elsewhere"


def test_a_set_of_another_basis_is_refused_one_of_the_same_basis_is_not(
    model: Path, home: Path, tmp_path: Path
) -> None:
    make_set(tmp_path / "foreign", seed=7)
    with pytest.raises(DataError, match="another basis") as caught:
        measured(model, data=tmp_path / "foreign")
    assert "--input" in caught.value.hint
    make_set(tmp_path / "sibling", seed=7, encoder=load_world(model).encoder)
    assert measured(model, data=tmp_path / "sibling").windows == 4


def test_a_set_of_text_or_of_other_tokens_is_refused_in_words_of_its_own(model: Path, tmp_path: Path) -> None:
    words = make_text_set(tmp_path / "words")
    with pytest.raises(DataError, match=r"words is text, .* was trained on video"):
        measured(model, data=tmp_path / "words")
    make_text_set(tmp_path / "bytes", tokenizer="bytes", vocab_size=None)
    run = make_run(tmp_path / "text", words, recipe=small_text_recipe())
    with pytest.raises(DataError, match="cut into other tokens") as caught:
        measured(run, data=tmp_path / "bytes")
    assert "--prompt" in caught.value.hint


def test_a_changed_byte_in_the_set_is_found(model: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "data" / "one", tmp_path / "one")
    arrow = next((tmp_path / "one" / "test").glob("*.arrow"))
    content = bytearray(arrow.read_bytes())
    content[len(content) // 2] ^= 1
    arrow.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        measured(model, data=tmp_path / "one")


def test_checkpoints_of_other_sets_or_windows_are_not_compared(model: Path, home: Path, tmp_path: Path) -> None:
    foreign = make_run(tmp_path / "foreign", make_set(tmp_path / "set", seed=3))
    with pytest.raises(DataError) as caught:
        measured(model, against=[foreign])
    assert str(model) in caught.value.message
    assert str(foreign) in caught.value.message
    assert caught.value.exit_code == 4

    prepared = open_set(home / "data" / "one")
    prepared.spec = prepared.spec.model_copy(update={"context": 3})
    short = make_run(tmp_path / "short", prepared)
    with pytest.raises(DataError, match="contexts of 6 states"):
        measured(model, against=[short])


@pytest.mark.parametrize("options", [{"steps": [-1]}, {"samples": [0]}, {"rollout": -1}])
def test_budgets_that_mean_nothing_are_usage_errors(model: Path, options: dict) -> None:
    with pytest.raises(UsageError) as caught:
        measured(model, **options)
    assert caught.value.hint


def test_report_survives_json(model: Path) -> None:
    report = measured(model, rollout=1)
    assert EvalReport.model_validate(json.loads(report.model_dump_json())) == report


def test_reports_name_the_run_not_the_link_that_led_there(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    Path("runs/latest").symlink_to("first")
    report = measured(Path("runs/latest/model.safetensors"))
    assert report.checkpoint == "runs/first/model.safetensors"
    assert report.data == "data/one"
    assert report.files[-1] == "runs/first/eval/report.json"
