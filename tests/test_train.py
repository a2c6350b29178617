"""The training loop: equal however a batch is cut, honest about NaN, and saying the same on screen and on disk."""

import json
import math

import pytest
import torch
from kinds import WORLDS, windows, world_of
from safetensors.torch import load_file
from small_set import make_set, small_recipe
from training import finish, outcome, short_recipe

from ebwm_cli.commands.train import train
from ebwm_cli.data.loader import Loader
from ebwm_cli.errors import DivergedError
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.report import Notice, TrainLine, ValidationLine
from ebwm_cli.run.trainer import slower_rate
from ebwm_cli.run.training_state import saved_steps
from ebwm_cli.world.average import WeightAverage
from ebwm_cli.world.build import build_world
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.update import gradient, step_generator


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def data(prepared):
    return prepared.path


# ------------------------------------------------------------------------------------------- numbers


def test_screen_and_file_say_the_same(data, tmp_path):
    report, reports = finish(short_recipe(), data, tmp_path / "run")
    written = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    said = [each for each in reports if isinstance(each, TrainLine | ValidationLine)]
    assert written == [json.loads(each.model_dump_json()) for each in said]
    assert [each.step for each in said if isinstance(each, TrainLine)] == [4, 8, 12, 16, 20, 23]
    assert [each.step for each in said if isinstance(each, ValidationLine)] == [6, 12, 18, 23]
    assert report == type(report).model_validate_json((tmp_path / "run/train.json").read_bytes())
    assert report.val_loss == min(each.val_loss for each in said if isinstance(each, ValidationLine))
    assert report.params == sum(each.numel() for each in load_world(report.checkpoint).world.parameters())


def test_training_lowers_its_loss(data, tmp_path):
    _, reports = finish(short_recipe(steps=150, learning_rate=1e-2), data, tmp_path / "run")
    losses = [each.loss for each in reports if isinstance(each, TrainLine)]
    assert losses[-1] < 0.6 * losses[0]


def test_log_lines_average_the_updates_since_the_last(data, tmp_path):
    _, each_step = finish(short_recipe(log_every=1), data, tmp_path / "one")
    _, in_fours = finish(short_recipe(), data, tmp_path / "four")
    losses = [each.loss for each in each_step if isinstance(each, TrainLine)]
    means = [each.loss for each in in_fours if isinstance(each, TrainLine)]
    assert means[1] == pytest.approx(sum(losses[4:8]) / 4, rel=1e-12)
    assert means[-1] == pytest.approx(sum(losses[20:23]) / 3, rel=1e-12)


def test_same_seed_twice_is_bit_identical_and_another_seed_is_not(data, tmp_path):
    for name, recipe in {
        "a": short_recipe(),
        "b": short_recipe(),
        "c": short_recipe().model_copy(update={"seed": 1}),
    }.items():
        finish(recipe, data, tmp_path / name)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert outcome(tmp_path / "a")["tensors"] != outcome(tmp_path / "c")["tensors"]


def test_the_global_generator_is_neither_read_nor_moved(data, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    finish(short_recipe(), data, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    finish(short_recipe(), data, tmp_path / "b")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_the_cut_of_a_batch_changes_no_gradient(prepared):
    states = Loader(prepared.split("train"), 8, seed=0).batch(0).states
    torch.manual_seed(0)
    world = build_world(small_recipe().model, prepared.spec)
    found = {}
    for parts in (1, 2, 4, 8):
        world.zero_grad()
        loss, measures = gradient(world, states, parts=parts, seed=0, step=7)
        grads = torch.cat([p.grad.flatten() for p in world.parameters() if p.grad is not None])
        found[parts] = loss, measures["energy_final"], grads
    for parts in (2, 4, 8):
        for whole, cut in zip(found[1], found[parts], strict=True):
            assert (whole - cut).norm() <= 1e-6 * whole.norm()


def test_randomness_is_a_pure_function_of_seed_step_and_part():
    keys = ((0, 1), (0, 1), (0, 1, 0), (0, 2), (1, 1), (0, 1, 1), (0, 1, 2), (0, 11))
    draws = [torch.rand(4, generator=step_generator(*key)).tolist() for key in keys]
    assert draws[0] == draws[1] == draws[2]
    assert len({tuple(draw) for draw in draws}) == 6


@pytest.mark.parametrize("kind", WORLDS)
def test_parts_of_a_batch_draw_step_counts_alike_and_noise_of_their_own(kind):
    """Of two equal windows, one part each, losses differ by their noise; without noise they are the same."""
    descent = {"free_steps": (0, 5), "steps": (1, 3)}
    for noise in (0.0, 0.5):
        model = {"context_noise": noise, **({"start": "zeros", "descent": descent} if kind == "ebt" else {})}
        world, window = world_of(kind, "video", **model), windows("video", 1)
        for step in range(4):
            losses = [
                world.loss(window, step_generator(0, step, part), step_generator(0, step) if part else None)[0].item()
                for part in range(3)
            ]
            assert len(set(losses)) == (1 if noise == 0 and kind != "diffusion" else 3)


def test_averaged_weights_follow_their_formula_and_are_what_is_exported(prepared, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 1)
    average, expected = WeightAverage(module, 0.9), module.weight.detach().clone()
    for _ in range(5):
        with torch.no_grad():
            module.weight.add_(1.0)
        average.update()
        expected = 0.9 * expected + 0.1 * module.weight.detach()
    own = module.weight.detach().clone()
    with average.applied():
        assert torch.allclose(module.weight, expected)
    assert torch.equal(module.weight, own)

    finish(short_recipe(ema=0.9), prepared.path, tmp_path / "run")
    newest = max((tmp_path / "run/checkpoints").glob("step_*"))
    exported = load_file(tmp_path / "run/model.safetensors")
    averaged, weights = load_file(newest / "average.safetensors"), load_file(newest / "weights.safetensors")
    assert all(torch.equal(exported[f"world.{name}"], averaged[name]) for name in averaged)
    assert not torch.equal(averaged["network.head.weight"], weights["network.head.weight"])


def test_bf16_trains(data, tmp_path):
    report, _ = finish(short_recipe(precision="bf16"), data, tmp_path / "run")
    assert math.isfinite(report.val_loss)


# ------------------------------------------------------------------------------------------- validation


def scores(losses, monkeypatch):
    """Let validations say these losses."""
    from ebwm_cli.run.held_out_loss import HeldOutScore, HeldOutWindows

    given = iter(losses)
    monkeypatch.setattr(HeldOutWindows, "score", lambda *_: HeldOutScore(next(given), 0.0, 0.0))


def test_the_model_is_that_of_the_best_validation_and_its_checkpoint_is_kept(data, tmp_path, monkeypatch):
    scores([3.0, 1.0, 2.0, 4.0, 5.0, 6.0], monkeypatch)
    report, reports = finish(short_recipe(steps=36, keep=1), data, tmp_path / "run")
    assert [each.best for each in reports if isinstance(each, ValidationLine)] == [True, True, *[False] * 4]
    assert report.val_loss == 1.0
    assert load_world(report.checkpoint).step == 12
    assert saved_steps(tmp_path / "run/checkpoints") == [12, 36]


def test_there_are_never_more_checkpoints_than_kept_and_the_best(data, tmp_path, monkeypatch):
    from ebwm_cli.run import safe_write

    scores([1.0, *[2.0] * 20], monkeypatch)
    rename, checkpoints, counts = safe_write.rename, tmp_path / "run/checkpoints", []

    def counted(source, target):
        rename(source, target)
        counts.append(len(saved_steps(checkpoints)))

    monkeypatch.setattr(safe_write, "rename", counted)
    finish(short_recipe(steps=40, keep=2), data, tmp_path / "run")
    assert max(counts) == 3
    assert saved_steps(checkpoints) == [6, 35, 40]


def test_patience_ends_a_training_that_gets_no_better(data, tmp_path, monkeypatch):
    scores([3.0, 1.0, 2.0, 1.0, 0.5], monkeypatch)
    report, _ = finish(short_recipe(steps=60, patience=2), data, tmp_path / "run")
    assert (report.step, report.val_loss) == (24, 1.0)


def test_a_validation_that_is_not_finite_is_never_the_best(data, tmp_path, monkeypatch):
    scores([math.nan, 2.0, math.inf, 3.0], monkeypatch)
    report, _ = finish(short_recipe(), data, tmp_path / "run")
    assert report.val_loss == 2.0
    scores([math.nan] * 4, monkeypatch)
    with pytest.raises(DivergedError, match="no validation"):
        list(train(short_recipe(), data, tmp_path / "other"))


def test_held_out_loss_is_the_mean_over_all_windows_at_a_time(prepared, tmp_path):
    report, reports = finish(short_recipe(steps=6), prepared.path, tmp_path / "run")
    loaded, errors, copied = load_world(report.checkpoint), [], []
    for start in prepared.split("val").windows():
        window = torch.tensor(prepared.split("val").states[start : start + 7])[None]
        memory = loaded.world.observe(window[:, :-1])
        predicted = loaded.world.predict(memory, loaded.recipe.think, torch.Generator()).state
        errors.append(loaded.space.distance(predicted, window[:, 1:]).mean().item())
        copied.append(loaded.space.distance(window[:, :-1], window[:, 1:]).mean().item())
    assert report.val_loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert report.reference_loss == pytest.approx(sum(copied) / len(copied), rel=1e-5)
    assert sum(isinstance(each, ValidationLine) for each in reports) == 1


# ------------------------------------------------------------------------------------------- NaN


def poison(bad_steps, monkeypatch, where="loss"):
    """Make loss or gradient NaN in these updates, counted from 1."""
    loss, calls = EnergyWorld.loss, iter(range(1, 10_000))

    def poisoned(self, *given):
        value, measures = loss(self, *given)
        if next(calls) in bad_steps:
            if where == "gradient":
                value.register_hook(lambda grad: grad * math.nan)
            else:
                value = value * math.nan
        return value, measures

    monkeypatch.setattr(EnergyWorld, "loss", poisoned)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_bad_update_is_skipped_counted_and_told(where, data, tmp_path, monkeypatch):
    poison({3, 9, 10}, monkeypatch, where)
    report, reports = finish(short_recipe(max_bad_steps=3, ema=0.5), data, tmp_path / "run")
    assert report.skipped == 3
    notices = [each.notice for each in reports if isinstance(each, Notice)]
    assert [notice.split(":")[0] for notice in notices] == ["step 3 skipped", "step 9 skipped", "step 10 skipped"]
    lines = [each for each in reports if isinstance(each, TrainLine)]
    assert [each.skipped for each in lines] == [1, 1, 3, 3, 3, 3]
    assert all(math.isfinite(each.loss) for each in lines)


def test_a_skipped_update_moves_nothing(data, tmp_path, monkeypatch):
    poison(range(6, 100), monkeypatch)
    recipe = short_recipe(max_bad_steps=50, save_every=1, keep=30)
    finish(recipe, data, tmp_path / "run")
    steps = sorted((tmp_path / "run/checkpoints").glob("step_*"))
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert (steps[4] / name).read_bytes() == (steps[-1] / name).read_bytes()
        assert (steps[3] / name).read_bytes() != (steps[4] / name).read_bytes()


def test_too_many_bad_updates_in_a_row_end_the_run_at_a_good_checkpoint(data, tmp_path, monkeypatch):
    poison(range(8, 100), monkeypatch)
    with pytest.raises(DivergedError, match="4 updates in a row") as error:
        list(train(short_recipe(max_bad_steps=4), data, tmp_path / "run"))
    assert error.value.exit_code == 5
    newest = max((tmp_path / "run/checkpoints").glob("step_*"))
    assert str(newest) in error.value.hint
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(newest / name).values())


def test_a_hint_after_a_divergence_is_a_rate_that_may_be_low_enough():
    for rate, hinted in ((1e30, 2e-3), (0.09, 2e-3), (0.03, 0.01), (2e-3, 2e-3 / 3)):
        recipe = load_recipe("video_ebt_4xs", [f"train.learning_rate={rate}"])
        assert slower_rate(recipe) == pytest.approx(hinted)
    own = recipe.model_copy(update={"name": "mine", "train": TrainSection(learning_rate=1e30)})
    assert slower_rate(own) == TrainSection().learning_rate  # of recipes that say none


def test_the_hint_after_a_divergence_names_that_rate(data, tmp_path, monkeypatch):
    poison(range(100), monkeypatch)
    with pytest.raises(DivergedError) as error:
        list(train(short_recipe(max_bad_steps=1, learning_rate=1e30), data, tmp_path / "run"))
    assert f" train.learning_rate={TrainSection().learning_rate:.2g};" in error.value.hint


def test_a_weight_that_is_not_finite_is_not_saved(data, tmp_path, monkeypatch):
    step, calls = torch.optim.AdamW.step, []

    def breaks(self, *args, **kwargs):
        step(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 10:
            with torch.no_grad():
                self.param_groups[0]["params"][0][0, 0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", breaks)
    with pytest.raises(DivergedError):
        list(train(short_recipe(max_bad_steps=1), data, tmp_path / "run"))
    for folder in (tmp_path / "run/checkpoints").glob("step_*"):
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(folder / "weights.safetensors").values())
