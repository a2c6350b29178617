"""Resume is equality: whatever moment a run ends at, the same command goes on to the very same bits."""

import os
import random
import signal
import time
from pathlib import Path

import child
import pytest
from small_set import make_set
from training import finish, leftovers, levelled, outcome, short_recipe

from ebwm_cli.commands.train import train
from ebwm_cli.errors import CheckpointError, DataError, EbwmError, Interrupted, RecipeError, StoppedAndSaved
from ebwm_cli.run.report import Notice, TrainLine, ValidationLine
from ebwm_cli.run.signals import StopRequests
from ebwm_cli.run.training_state import saved_steps
from ebwm_cli.world.energy import EnergyWorld


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set").path


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The outcome of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    finish(short_recipe(), data, out)
    return outcome(out)


def stopped_run(step: int, number: int, recipe, data, out, monkeypatch) -> EbwmError:
    """Train, sending ourselves a signal in the middle of the `step`-th loss; how it ended."""
    loss, calls = EnergyWorld.loss, iter(range(1, 1000))

    def interrupted(self, *given):
        if next(calls) == step:
            os.kill(os.getpid(), number)
        return loss(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(EnergyWorld, "loss", interrupted)
        with pytest.raises((StoppedAndSaved, Interrupted)) as error:
            list(train(recipe, data, out, device="cpu"))
    return error.value


@pytest.mark.parametrize(
    ("step", "number", "error"),
    [(1, signal.SIGTERM, StoppedAndSaved), (7, signal.SIGUSR1, StoppedAndSaved), (11, signal.SIGINT, Interrupted)],
)
def test_a_signal_saves_and_the_same_command_ends_with_the_same_bits(
    step, number, error, data, whole, tmp_path, monkeypatch
):
    before = signal.getsignal(number)
    stopped = stopped_run(step, number, short_recipe(), data, tmp_path / "run", monkeypatch)
    assert isinstance(stopped, error)
    assert stopped.message.endswith(f"saved at step {step}")
    assert signal.getsignal(number) == before
    assert saved_steps(tmp_path / "run/checkpoints")[-1] == step
    finish(short_recipe(), data, tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


def test_a_stop_before_a_validation_abandons_it_and_the_resumed_run_makes_it(data, whole, tmp_path, monkeypatch):
    stopped_run(6, signal.SIGTERM, short_recipe(), data, tmp_path / "run", monkeypatch)  # step 6 is a validation's
    assert '"step":6,"val_loss"' not in (tmp_path / "run/metrics.jsonl").read_text()
    finish(short_recipe(), data, tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("dies", ["ebwm_cli.run.trainer.update_weights", "ebwm_cli.run.keeper.Keeper.save"])
def test_a_death_after_a_validation_that_a_stop_had_put_off_repeats_none(dies, data, whole, tmp_path, monkeypatch):
    """After the validation was saved, and between its line in the metrics and its save."""
    out = tmp_path / "run"
    stopped_run(6, signal.SIGTERM, short_recipe(), data, out, monkeypatch)

    def die(*_, **__):
        raise RuntimeError("dead")

    with monkeypatch.context() as patched:
        patched.setattr(dies, die)
        with pytest.raises(RuntimeError, match="dead"):
            list(train(short_recipe(), data, out, device="cpu"))
    assert '"step":6,"val_loss"' in (out / "metrics.jsonl").read_text()
    finish(short_recipe(), data, out)
    assert outcome(out) == whole


@pytest.mark.parametrize("taken", [1, 2, 3, 7])
def test_reports_that_nobody_takes_any_more_end_a_training_saved(taken, data, whole, tmp_path):
    training = train(short_recipe(), data, tmp_path / "run", device="cpu")
    for _ in range(taken):
        report = next(training)
    training.close()
    assert saved_steps(tmp_path / "run/checkpoints")[-1] == report.step
    finish(short_recipe(), data, tmp_path / "run")
    assert outcome(tmp_path / "run") == whole


def test_a_terminal_that_closes_stops_a_training_saved_but_not_under_nohup(data, whole, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        stopped = stopped_run(9, signal.SIGHUP, short_recipe(), data, tmp_path / "run", monkeypatch)
        assert stopped.message == "stopped by SIGHUP, saved at step 9"
        finish(short_recipe(), data, tmp_path / "run")
        assert outcome(tmp_path / "run") == whole
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_leaves_at_once(data, tmp_path, monkeypatch):
    loss, calls = EnergyWorld.loss, []

    def interrupted_twice(self, *given):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            calls.append("still here")
        return loss(self, *given)

    monkeypatch.setattr(EnergyWorld, "loss", interrupted_twice)
    with pytest.raises(Interrupted, match="twice"):
        list(train(short_recipe(), data, tmp_path / "run", device="cpu"))
    assert "still here" not in calls
    assert saved_steps(tmp_path / "run/checkpoints") == []


def test_averages_parts_levels_anchors_and_clipping_resume_to_the_same_bits(data, tmp_path, monkeypatch):
    recipe = levelled(short_recipe(ema=0.8, accumulate=2, keep=1, clip_spikes=1.0))
    descent = recipe.model.descent.model_copy(update={"anchor_fit": True})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"descent": descent})})
    finish(recipe, data, tmp_path / "whole")
    stopped_run(25, signal.SIGTERM, recipe, data, tmp_path / "run", monkeypatch)  # two losses an update
    finish(recipe, data, tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_killed_at_random_moments(data, tmp_path):
    """SIGKILL in the middle of a run, again and again; benchmarks/kill_resume.py does the same to the real command."""
    recipe, out, dice = short_recipe(steps=100), tmp_path / "run", random.Random(0)
    began = time.perf_counter()
    finish(recipe, data, tmp_path / "whole")
    seconds_per_save = (time.perf_counter() - began) / 20
    for kill in range(6):
        before = saved_steps(out / "checkpoints")
        with child.start(recipe, data, out) as process:
            try:
                while kill and saved_steps(out / "checkpoints")[-1:] == before[-1:]:  # the first dies before any save
                    assert process.poll() is None, "ended by itself"
                    time.sleep(0.001)
                time.sleep(dice.uniform(0, 2) * seconds_per_save)
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL, "ended by itself"
        assert not (out / "train.json").exists()
        assert len(saved_steps(out / "checkpoints")) <= 2 + 1
    finish(recipe, data, out)
    assert outcome(out) == outcome(tmp_path / "whole")
    assert len(saved_steps(out / "checkpoints")) <= 2 + 1
    assert leftovers(out) == []


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(name, data, whole, tmp_path):
    out = tmp_path / "run"
    finish(short_recipe(), data, out)
    (out / "train.json").unlink()
    newest = max((out / "checkpoints").glob("step_*"))
    damage(newest / name)
    _, reports = finish(short_recipe(), data, out)
    notices = [report.notice for report in reports if isinstance(report, Notice)]
    assert any(str(newest / name) in notice and "damaged" in notice for notice in notices)
    assert any("going on from step 20" in notice for notice in notices)
    assert outcome(out) == whole


def test_where_no_checkpoint_is_whole_nothing_starts_over_silently(data, tmp_path):
    out = tmp_path / "run"
    finish(short_recipe(), data, out)
    (out / "train.json").unlink()
    folders = list((out / "checkpoints").glob("step_*"))
    for folder in folders:
        damage(folder / "weights.safetensors")
    with pytest.raises(CheckpointError) as error:
        list(train(short_recipe(), data, out, device="cpu"))
    assert all(str(folder) in error.value.message for folder in folders)
    assert "--fresh" in error.value.hint


def test_a_damaged_model_file_is_written_again_from_the_best_checkpoint(data, whole, tmp_path):
    out = tmp_path / "run"
    finish(short_recipe(), data, out)
    damage(out / "model.safetensors")
    finish(short_recipe(), data, out)
    assert outcome(out) == whole


def test_where_the_best_checkpoint_is_damaged_too_a_finished_run_is_validated_again(data, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("ebwm_cli.run.trainer.Trainer._is_best", lambda self, loss: self.progress.step == 6)
        finish(short_recipe(), data, out)
    assert saved_steps(out / "checkpoints") == [6, 20, 23]
    (out / "model.safetensors").unlink()
    damage(out / "checkpoints/step_00000006/weights.safetensors")
    report, reports = finish(short_recipe(), data, out)
    assert any("the next validation" in each.notice for each in reports if isinstance(each, Notice))
    assert [each.step for each in reports if isinstance(each, ValidationLine)] == [23]
    assert report.val_loss == whole["numbers"]["best_loss"]
    assert outcome(out)["tensors"] == whole["tensors"]
    steps = [line["step"] for line in outcome(out)["metrics"] if "val_loss" in line]
    assert steps == [6, 12, 18, 23]


def test_model_data_and_seed_cannot_change_under_a_run_and_nothing_is_touched(data, tmp_path):
    out = tmp_path / "run"
    finish(short_recipe(), data, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    recipe = short_recipe()
    changed = recipe.model_copy(
        update={
            "seed": 5,
            "model": recipe.model.model_copy(update={"start": "zeros"}),
            "data": recipe.data.model_copy(update={"context": 4}),
        }
    )
    with pytest.raises(RecipeError) as error:
        list(train(changed, data, out, device="cpu"))
    for line in ("seed: 0 -> 5", "model.start", "data.context: null -> 4"):
        assert line in error.value.message
    other = make_set(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match=other.fingerprint):
        list(train(recipe, other.path, out, device="cpu"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_more_steps_go_on_from_the_end(data, tmp_path):
    out = tmp_path / "run"
    finish(short_recipe(), data, out)
    report, reports = finish(short_recipe(steps=30), data, out)
    assert report.step == 30
    lines = [each for each in reports if isinstance(each, TrainLine)]
    assert [line.step for line in lines] == [24, 28, 30]
    notices = [each.notice for each in reports if isinstance(each, Notice)]
    assert "the recipe has changed: train.steps: 23 -> 30" in notices


def test_fresh_starts_over_and_leaves_other_files_alone(data, whole, tmp_path):
    out = tmp_path / "run"
    finish(short_recipe(learning_rate=0.1), data, out)
    (out / "notes.txt").write_text("mine")
    _, reports = finish(short_recipe(), data, out, fresh=True)
    assert [each.step for each in reports if isinstance(each, ValidationLine)] == [6, 12, 18, 23]
    assert outcome(out) == whole
    assert (out / "notes.txt").read_text() == "mine"


def test_a_finished_run_says_so_and_returns_its_report(data, tmp_path):
    report, _ = finish(short_recipe(), data, tmp_path / "run")
    again, reports = finish(short_recipe(), data, tmp_path / "run")
    assert again == report
    assert isinstance(reports[0], Notice)
    assert "finished" in reports[0].notice
    assert len(reports) == 2


def test_without_out_the_same_command_finds_its_run_and_another_recipe_begins_one(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped_run(9, signal.SIGTERM, short_recipe(), data, None, monkeypatch)
    first, reports = list(Path("runs").glob("small-*")), list(train(short_recipe(), data, device="cpu"))
    assert len(first) == 1
    assert any("going on from step 9" in each.notice for each in reports if isinstance(each, Notice))
    assert Path("runs/latest").resolve().name == first[0].name
    list(train(short_recipe(learning_rate=1e-3), data, device="cpu"))
    list(train(short_recipe(), data, fresh=True, device="cpu"))
    runs = set(Path("runs").glob("small-*"))
    assert len(runs) == 3
    assert Path("runs/latest").resolve().name in {path.name for path in runs - set(first)}
