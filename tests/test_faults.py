"""Disks fail: every write, fsync and rename in turn, a limit on file sizes. What was whole stays whole."""

import contextlib
import errno
import os
import random
import shutil
from pathlib import Path

import child
import numpy as np
import pytest
import torch
from small_set import make_set
from training import finish, leftovers, outcome, short_recipe

from ebwm_cli.commands.train import train
from ebwm_cli.errors import CheckpointError, ResourceError
from ebwm_cli.run import safe_write
from ebwm_cli.run.pictures import ORANGE, Curve, draw_curves
from ebwm_cli.run.training_state import (
    TrainingState,
    newest_whole,
    prune,
    read_state,
    saved_steps,
    step_folder,
    write_state,
)
from ebwm_cli.run.video_writer import write_rollout


def state_of(value: float) -> TrainingState:
    return TrainingState(
        {"weights": {"w": torch.full((5, 3), value)}, "optimizer": {"w/step": torch.tensor(value)}}, {"step": value}
    )


class Failing:
    """Lets the first `good` calls through, fails the next one, and lets all others through."""

    def __init__(self, call, good: int, number: int = errno.EIO) -> None:
        self.call, self.good, self.number, self.failed = call, good, number, False

    def __call__(self, *args):
        if self.good == 0:
            self.good, self.failed = -1, True
            raise OSError(self.number, os.strerror(self.number))
        self.good -= 1
        return self.call(*args)


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_each_call_that_can_fail_leaves_the_last_good_checkpoint(name, tmp_path, monkeypatch):
    for good in range(100):
        checkpoints = tmp_path / str(good)
        checkpoints.mkdir()
        write_state(checkpoints, 5, state_of(5))
        failing = Failing(getattr(safe_write, name), good)
        with monkeypatch.context() as patched:
            patched.setattr(safe_write, name, failing)
            with contextlib.suppress(OSError):
                write_state(checkpoints, 10, state_of(10), lambda at=checkpoints: prune(at, keep=1, best_step=None))
                prune(checkpoints, keep=1, best_step=None)
        state, damaged = newest_whole(checkpoints)
        assert state is not None
        assert not damaged
        assert state.numbers["step"] in (5, 10)
        if failing.failed:
            write_state(checkpoints, 10, state_of(10))  # the next try
        prune(checkpoints, keep=1, best_step=None)
        assert saved_steps(checkpoints) == [10]
        assert read_state(step_folder(checkpoints, 10)).numbers == {"step": 10}
        assert (checkpoints / "latest").resolve().name == "step_00000010"
        assert leftovers(checkpoints) == []
        if not failing.failed:
            break
    assert good >= (2 if name == "rename" else 4)
    assert not failing.failed


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_replaced_file_is_the_old_or_the_new_one(name, tmp_path, monkeypatch):
    file = tmp_path / "f"
    for good in range(20):
        file.write_bytes(b"old")
        failing = Failing(getattr(safe_write, name), good)
        with monkeypatch.context() as patched:
            patched.setattr(safe_write, name, failing)
            with contextlib.suppress(OSError):
                safe_write.replace_file(file, b"newer")
        assert file.read_bytes() in (b"old", b"newer")
        assert leftovers(tmp_path) == []
        if not failing.failed:
            assert file.read_bytes() == b"newer"
            return
    pytest.fail("never a clean pass")


def test_two_processes_may_replace_one_file(tmp_path, monkeypatch):
    """The other one writes and removes its own while we write."""
    file, write = tmp_path / "f", safe_write.write

    def beside(descriptor, data):
        with monkeypatch.context() as other:
            other.setattr(safe_write, "write", write)
            other.setattr(os, "getpid", os.getppid)
            safe_write.replace_file(file, b"theirs")
        return write(descriptor, data)

    monkeypatch.setattr(safe_write, "write", beside)
    safe_write.replace_file(file, b"ours")
    assert file.read_bytes() == b"ours"
    assert leftovers(tmp_path) == []


def test_a_state_is_never_without_a_name_for_good(tmp_path, monkeypatch):
    """Where the state of a step is saved again, and the second rename fails or is never made."""
    write_state(tmp_path, 5, state_of(1))
    with monkeypatch.context() as patched:
        patched.setattr(safe_write, "rename", Failing(os.replace, 1))
        with pytest.raises(OSError, match="Input/output"):
            write_state(tmp_path, 5, state_of(2))
    assert read_state(step_folder(tmp_path, 5)).numbers == {"step": 1}
    assert leftovers(tmp_path) == []
    os.replace(step_folder(tmp_path, 5), safe_write.aside_of(step_folder(tmp_path, 5), "was-"))
    safe_write.sweep([tmp_path])
    assert read_state(step_folder(tmp_path, 5)).numbers == {"step": 1}
    assert leftovers(tmp_path) == []


def test_what_a_living_process_has_aside_stays(tmp_path):
    theirs, dead = tmp_path / f".tmp-{os.getppid()}-f", tmp_path / ".tmp-4194305-f"  # above any process's id
    theirs.touch()
    dead.touch()
    safe_write.sweep([tmp_path])
    assert theirs.exists()
    assert not dead.exists()


def test_pictures_and_films_are_whole_or_absent(tmp_path, monkeypatch):
    import av

    frames = np.zeros((2, 16, 16, 3), np.uint8)
    monkeypatch.setattr(safe_write, "rename", Failing(os.replace, 0))
    with pytest.raises(OSError, match="Input/output"):
        draw_curves(tmp_path / "curves.png", "title", [Curve("loss", [0, 1], [1.0, 0.5], ORANGE)], "steps")
    with monkeypatch.context() as patched:
        patched.setattr("ebwm_cli.run.video_writer.av.VideoFrame", HalfWay)
        with pytest.raises(RuntimeError, match="half way"):
            write_rollout(tmp_path / "film.mp4", frames, frames, None, 0.25)
    assert list(tmp_path.iterdir()) == []
    write_rollout(tmp_path / "film.mp4", frames, frames, None, 0.25)
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) > 4


class HalfWay:
    """A frame that can't be made, when the film's file is open."""

    @staticmethod
    def from_ndarray(*_, **__):
        raise RuntimeError("half way")


def test_short_writes_are_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_write, "write", lambda descriptor, data: os.write(descriptor, data[:3]))
    safe_write.write_file(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set").path


def attempt(recipe, data, out) -> ResourceError | None:
    try:
        list(train(recipe, data, out, device="cpu"))
    except ResourceError as error:
        return error
    return None


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_training_on_a_failing_disk_stops_with_advice_and_goes_on_to_the_same_bits(name, data, tmp_path, monkeypatch):
    recipe, clean = short_recipe(steps=6, save_every=2, validate_every=3), 0
    finish(recipe, data, tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    for good in range(0, 400, 5):
        out = tmp_path / str(good)
        failing = Failing(getattr(safe_write, name), good, errno.ENOSPC)
        with monkeypatch.context() as patched:
            patched.setattr(safe_write, name, failing)
            error = attempt(recipe, data, out)
        if error:
            assert "No space left" in error.message
            assert "same command" in error.hint
            assert error.exit_code == 7
        for step in saved_steps(out / "checkpoints"):
            read_state(step_folder(out / "checkpoints", step))
        finish(recipe, data, out)
        assert outcome(out) == expected
        assert leftovers(out) == []
        clean += not failing.failed
        shutil.rmtree(out)
        if clean:
            break
    assert clean
    assert good > 10


def test_a_limit_on_file_sizes_stops_with_advice(data, tmp_path):
    """As a full disk does: in a child, since the limit can't be taken back."""
    out = tmp_path / "run"
    finish(short_recipe(steps=5), data, out)
    with child.start(short_recipe(), data, out, file_size_limit=4096) as process:
        told = process.communicate()[1]
    assert process.returncode == ResourceError.exit_code, told
    assert "File too large" in told
    assert "same command" in told
    assert saved_steps(out / "checkpoints") == [5]
    assert read_state(step_folder(out / "checkpoints", 5)).numbers["step"] == 5
    report, _ = finish(short_recipe(), data, out)
    assert report.step == 23
    assert leftovers(out) == []


def test_flips_and_cuts_of_a_training_checkpoint_are_found_and_named(tmp_path):
    write_state(tmp_path, 5, state_of(5))
    folder, dice = write_state(tmp_path, 10, state_of(10)), random.Random(0)
    files = sorted(folder.iterdir())
    originals = {file: file.read_bytes() for file in files}
    assert {file.name for file in files} == {
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    }

    def found(file: Path, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=str(file)):
            read_state(folder)
        file.write_bytes(originals[file])

    for _ in range(500):
        file = dice.choice(files)
        content = bytearray(originals[file])
        content[dice.randrange(len(content))] ^= dice.randrange(1, 256)
        found(file, bytes(content))
    for _ in range(100):
        file = dice.choice(files)
        found(file, originals[file][: dice.randrange(len(originals[file]))])
    for file in files:
        file.unlink()
        with pytest.raises(CheckpointError, match=str(file)):
            read_state(folder)
        state, damaged = newest_whole(tmp_path)
        assert state is not None
        assert state.numbers["step"] == 5
        assert list(damaged) == [10]
        file.write_bytes(originals[file])
    read_state(folder)
