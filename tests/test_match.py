"""Budgets: a size by parameters, an amount of training by FLOPs, an end by the clock; each against another recipe."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from small_set import make_set
from test_resume import stopped_run
from training import finish, short_recipe

from ebwm_cli.cli import run
from ebwm_cli.commands import train as command
from ebwm_cli.commands.train import plan, train
from ebwm_cli.errors import RecipeError, ResourceError
from ebwm_cli.recipe.load import dump_yaml, load_recipe
from ebwm_cli.recipe.model import KINDS, MatchSection
from ebwm_cli.recipe.schema import StateSpec, TrainSection
from ebwm_cli.run import trainer as trainer_module
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.run.report import Notice, TrainLine, TrainReport, ValidationLine
from ebwm_cli.run.training_state import newest_whole, saved_steps
from ebwm_cli.world.build import cost
from ebwm_cli.world.match import FFN_RANGE, match_in_words, matched
from ebwm_cli.world.optim import learning_rate

VIDEO = StateSpec(state_dim=128, context=16)
TEXT = StateSpec(modality="text", state_dim=2048, context=256)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set").path


def rival_of(name: str, kind: str, *words: str):
    return load_recipe(name, [f"model.kind={kind}", *words, f"model.match.of={name}"])


# ------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("times", [1, 2.5])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("size", ["4xs", "3xs"])
@pytest.mark.parametrize("spec", [VIDEO, TEXT], ids=["video", "text"])
def test_parameters_come_within_two_percent(spec, size, kind, times):
    other = load_recipe(f"{spec.modality}_ebt_{size}")
    asked = rival_of(other.name, kind, f"model.match.params={times}")
    found = matched(asked, spec)
    assert cost(found, found.state_spec(spec)).params == pytest.approx(times * cost(other, spec).params, rel=0.02)
    assert matched(found, spec) == found
    assert found.train == asked.train
    assert found.model.match == asked.model.match
    assert type(found.model).model_validate(found.model.model_dump()) == found.model  # a size one may write oneself
    if not (kind == "diffusion" and size == "4xs" and spec == VIDEO):  # that has no room below the state dimension
        assert found.model.layers == asked.model.layers


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_size_that_fits_stays_and_one_that_does_not_changes_little(kind):
    recipe = load_recipe("video_ebt_3xs", [f"model.kind={kind}"])
    own = cost(recipe, VIDEO).params
    kept = matched(recipe.model_copy(update={"model": _matching(recipe, params=own * 1.015)}), VIDEO).model
    assert (kept.layers, kept.width) == (4, 256)
    for factor in (0.3, 0.7, 1.1, 5.0):
        asked = recipe.model_copy(update={"model": _matching(recipe, params=own * factor)})
        found = matched(asked, VIDEO)
        assert cost(found, VIDEO).params == pytest.approx(own * factor, rel=0.02)
        assert found.model.width >= 128
        if hasattr(recipe.model, "ffn_multiplier"):
            low, high = FFN_RANGE
            assert low <= found.model.ffn_multiplier <= high
            assert found.model.width % (2 * found.model.heads) == 0


def _matching(recipe, **budget):
    return recipe.model.model_copy(update={"match": MatchSection(**budget)})


def test_where_no_size_fits_the_nearest_is_told():
    recipe = load_recipe("video_ebt_4xs", ["model.match.params=1000"])
    with pytest.raises(RecipeError, match="within 2% of 1,000 parameters") as error:
        matched(recipe, VIDEO)
    best = int(error.value.hint.split("=")[1].split()[0])
    assert f"{best:,}" in error.value.message
    nearest = matched(load_recipe("video_ebt_4xs", [f"model.match.params={best}"]), VIDEO)
    assert cost(nearest, VIDEO).params == best


# ------------------------------------------------------------------------------------------- FLOPs


@pytest.mark.parametrize("times", [1, 0.25])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("spec", [VIDEO, TEXT], ids=["video", "text"])
def test_flops_come_within_an_update_and_warmup_keeps_its_share(spec, kind, times):
    other = load_recipe(f"{spec.modality}_ebt_3xs")
    asked = rival_of(other.name, kind, f"model.match.flops={times}", "model.match.params=1")
    found = matched(asked, spec)
    target = times * cost(other, spec).flops_per_step * other.train.steps
    each = cost(found, spec).flops_per_step
    assert abs(each * found.train.steps - target) <= each / 2
    assert found.train.warmup == pytest.approx(asked.train.warmup * found.train.steps / asked.train.steps, abs=0.5)
    assert found.train.validate_every == min(asked.train.validate_every, found.train.steps)
    assert found.train.save_every == min(asked.train.save_every, found.train.steps)
    assert matched(found, spec) == found
    assert "flops" not in (match_in_words(found, spec) or "")
    assert f"FLOPs of {other.name}: {each * found.train.steps:.4g} of {target:.4g}" in match_in_words(found, spec)


def test_budgets_may_be_numbers_and_a_training_has_an_update_at_least():
    recipe = load_recipe("video_rnn_4xs", ["model.match={params: 500000, flops: 1e12, of: null}"])
    found = matched(recipe, VIDEO)
    assert cost(found, VIDEO).params == pytest.approx(500_000, rel=0.02)
    assert found.train.steps == round(1e12 / cost(found, VIDEO).flops_per_step)
    least = matched(load_recipe("video_ebt_4xs", ["model.match.flops=1"]), VIDEO).train
    assert (least.steps, least.warmup, least.validate_every, least.save_every) == (1, 0, 1, 1)
    assert match_in_words(recipe, VIDEO).startswith("params: ")


# ------------------------------------------------------------------------------------------- of whom


def test_a_recipe_without_a_match_is_as_it_was_and_nothing_is_loaded():
    recipe = load_recipe("video_ebt_4xs")
    assert matched(recipe, None, load=lambda name: pytest.fail(name)) is recipe
    assert match_in_words(recipe, VIDEO) is None


def test_refusals():
    with pytest.raises(RecipeError, match="there is no recipe video_ebt_4sx, the nearest is video_ebt_"):
        matched(load_recipe("video_ebt_4xs", ["model.match={params: 1, of: video_ebt_4sx}"]), VIDEO)
    with pytest.raises(RecipeError, match="text_ebt_4xs is for text, the recipe is for video"):
        matched(load_recipe("video_ebt_4xs", ["model.match={params: 1, of: text_ebt_4xs}"]), VIDEO)
    timed = load_recipe("video_ebt_4xs", ["model.match.seconds=5"])
    with pytest.raises(RecipeError, match="FLOPs are not known"):
        matched(load_recipe("video_ebt_4xs", ["model.match={flops: 1, of: timed}"]), VIDEO, load=lambda _: timed)


def test_the_other_recipe_is_matched_first_and_circles_are_refused():
    recipes = {
        "own": load_recipe("video_ebt_4xs", ["model.kind=rnn", "model.match={params: 0.5, flops: 1, of: middle}"]),
        "middle": load_recipe("video_ebt_4xs", ["model.match={params: 2, flops: 3, of: last}"]),
        "last": load_recipe("video_ebt_4xs"),
    }
    found = matched(recipes["own"], VIDEO, load=recipes.__getitem__)
    last, own = cost(recipes["last"], VIDEO), cost(found, VIDEO)
    assert own.params == pytest.approx(last.params, rel=0.04)
    assert own.flops_per_step * found.train.steps == pytest.approx(3 * last.flops_per_step * 1000, rel=0.01)
    recipes["last"] = load_recipe("video_ebt_4xs", ["model.match={params: 1, of: middle}"])
    with pytest.raises(RecipeError, match="circle: middle -> last -> middle"):
        matched(recipes["own"], VIDEO, load=recipes.__getitem__)


# ------------------------------------------------------------------------------------------- the clock


TICK = 1 / 16


@pytest.fixture
def ticking(monkeypatch):
    """A clock that moves by TICK whenever a trainer looks at it, so an update takes just that."""
    times = iter(range(1, 100_000))
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: next(times) * TICK))


def timed_recipe(seconds: float = 1.0, of: str | None = None, **changes):
    recipe = short_recipe(**{"steps": 4000, "warmup": 400, **changes})
    match = MatchSection(seconds=seconds, of=of)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"match": match})})


def test_the_schedule_runs_over_the_time_and_ends_where_that_of_steps_does():
    train = TrainSection(steps=1000, warmup=100, learning_rate=1e-2, final_lr_fraction=0.2)
    for step in (0, 50, 99, 100, 400, 999, 1000):
        assert learning_rate(7, train, step / 1000) == pytest.approx(learning_rate(step, train))
    assert learning_rate(0, train, 0.0) > 0
    assert learning_rate(9999, train, 0.0995) == 1e-2
    assert learning_rate(0, train, 1.5) == pytest.approx(2e-3)


def test_a_deadline_ends_a_training_that_is_validated_and_exported(data, tmp_path, ticking):
    report, reports = finish(timed_recipe(), data, tmp_path / "run")
    assert report.step == 16
    lines = [each for each in reports if isinstance(each, TrainLine)]
    assert [(each.step, each.steps) for each in lines] == [(4, 16), (8, 16), (12, 16), (16, 16)]
    assert [each.step for each in reports if isinstance(each, ValidationLine)] == [6, 12, 16]
    settings = timed_recipe().train
    for line in lines:
        assert line.learning_rate == learning_rate(0, settings, (line.step - 1) / 16)
    assert lines[-1].learning_rate < 0.15 * settings.learning_rate
    assert lines[-1].eta_seconds == 0
    assert 0 < lines[-2].eta_seconds < lines[-3].eta_seconds
    assert load_world(report.checkpoint).recipe == timed_recipe()
    assert isinstance(list(train(timed_recipe(), data, tmp_path / "run"))[-1], TrainReport)
    assert saved_steps(tmp_path / "run/checkpoints")[-1] == 16


def test_a_real_clock_ends_it_too(data, tmp_path):
    report, _ = finish(timed_recipe(0.3), data, tmp_path / "run")
    state, _ = newest_whole(tmp_path / "run/checkpoints")
    assert report.step < 4000
    assert 0.3 <= state.numbers["updating_seconds"] < 3
    least, _ = finish(timed_recipe(1e-9), data, tmp_path / "least")
    assert least.step == 1


def test_a_resumed_training_keeps_its_deadline(data, tmp_path, ticking, monkeypatch):
    paces = []
    (tmp_path / "other.yaml").write_text(dump_yaml(short_recipe(steps=40)))
    recipe = timed_recipe(0.5, str(tmp_path / "other.yaml"))

    def pace(trainer, most=8):
        paces.append(trainer.recipe.train.steps)
        return TICK * len(paces)  # another one would give another deadline

    monkeypatch.setattr(command, "seconds_per_update", pace)
    stopped_run(7, signal.SIGTERM, recipe, data, tmp_path / "run", monkeypatch)
    state, _ = newest_whole(tmp_path / "run/checkpoints")
    assert (state.numbers["deadline"], state.numbers["updating_seconds"]) == (20 * TICK, 7 * TICK)
    report, reports = finish(recipe, data, tmp_path / "run")
    assert (report.step, paces) == (20, [40])
    notices = [each.notice for each in reports if isinstance(each, Notice)]
    assert "going on from step 7 of 20" in notices
    assert "training ends after 1.2 seconds of updates" in notices
    changed = timed_recipe(0.6, str(tmp_path / "other.yaml"))
    with pytest.raises(RecipeError, match=r"model\.match\.seconds"):
        list(train(changed, data, tmp_path / "run"))


def test_the_time_of_a_recipe_that_has_a_deadline_is_its_deadline(data, tmp_path, ticking):
    (tmp_path / "other.yaml").write_text(dump_yaml(timed_recipe(0.25)))
    assert finish(timed_recipe(3.0, str(tmp_path / "other.yaml")), data, tmp_path / "run")[0].step == 12


def test_a_recipe_that_does_not_fit_in_memory_is_not_measured(data, tmp_path, monkeypatch):
    (tmp_path / "other.yaml").write_text(dump_yaml(short_recipe()))
    monkeypatch.setattr(command, "free_memory", lambda _: 1000)
    with pytest.raises(ResourceError, match=r"other\.yaml doesn't fit"):
        list(train(timed_recipe(1.0, str(tmp_path / "other.yaml")), data, tmp_path / "run"))


# ------------------------------------------------------------------------------------------- commands


def test_a_plan_says_what_is_matched(data, tmp_path, monkeypatch):
    (tmp_path / "other.yaml").write_text(dump_yaml(short_recipe()))
    other = plan(short_recipe(), data)
    assert (other.matched, other.deadline) == (None, False)
    words = ["model.kind=transformer", "model.match={params: 1, flops: 1, of: other.yaml}"]
    monkeypatch.chdir(tmp_path)
    report = plan(load_recipe("other.yaml", words), data)
    assert report.params == pytest.approx(other.params, rel=0.02)
    assert report.flops_total == pytest.approx(other.flops_total, rel=0.01)
    assert report.matched.startswith(
        f"params of other.yaml: {report.params:,} of {other.params:,}; FLOPs of other.yaml"
    )
    monkeypatch.setattr(command, "seconds_per_update", lambda *_: 0.01)
    timed = plan(timed_recipe(2.0, "other.yaml"), data)
    assert timed.seconds_estimate == pytest.approx(2 * 23 * 0.01)
    assert (timed.steps, timed.deadline) == (46, True)
    assert timed.matched == "2 times the seconds of other.yaml"
    alone = load_recipe("video_ebt_4xs", ["data.state_dim=128", "data.context=16", "model.match.seconds=7"])
    monkeypatch.chdir(Path(data).parent)
    assert plan(alone).seconds_estimate == 7


def test_the_command_line_matches_and_goes_on_with_the_same_run(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load(dump_yaml(short_recipe(steps=8, warmup=2)))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({key: tree[key] for key in ("model", "train", "think")}))
    words = ["model.kind=transformer", "model.match.params=1", "model.match.flops=1", "model.match.of=small.yaml"]
    assert run(["train", "small.yaml", *words, "--data", str(data), "--plan", "--json"]) == 0
    foreseen = json.loads(capsys.readouterr().out)
    assert run(["train", "small.yaml", *words, "--data", str(data), "--plan"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "matched params of small.yaml" in shown
    for _ in range(2):
        assert run(["train", "small.yaml", *words, "--data", str(data), "--json"]) == 0
    assert "is finished" in capsys.readouterr().out
    (path,) = Path("runs").glob("small-*")
    kept = RunFolder(path).recipe()
    ebt = cost(load_recipe("small.yaml"), StateSpec(state_dim=8, context=6))
    assert foreseen["params"] == cost(kept, StateSpec(state_dim=8, context=6)).params
    assert foreseen["params"] == pytest.approx(ebt.params, rel=0.02)
    assert foreseen["steps"] == kept.train.steps > 8
    (tmp_path / "small.yaml").unlink()  # who it was matched to is of no matter to a trained model
    assert load_world(path).recipe == kept
    assert run(["train", "video_rnn_4xs", "model.match.of=nobody", "--data", str(data)]) == 3
