"""Several processes train as one: the same order, gradients, weights; one stops, fails or dies, all do, and the same
command resumes. The processes are real ones; faults happen inside them at a given loss."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_set import CONTEXT, make_set, small_recipe
from training import finish, leftovers, outcome, short_recipe

from ebwm_cli.cli import run
from ebwm_cli.data.loader import Loader
from ebwm_cli.errors import RecipeError, ResourceError, UsageError
from ebwm_cli.recipe.load import dump_yaml
from ebwm_cli.recipe.model import DescentSection
from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.run import launch
from ebwm_cli.run.device import resolve_device
from ebwm_cli.run.distributed import ALONE, Ranks, joined
from ebwm_cli.run.launch import FOLDER, Place, parts_of, place_of, store_of
from ebwm_cli.run.trainer import Trainer
from ebwm_cli.run.training_state import saved_steps

SECONDS = 600
"""After which a command that should have ended is called hung; a job whose rank died must end in half of that."""
FAULTS = """
import os, signal, time
rank, call, action = os.environ.get("FAULT", "x:0:x").split(":")
if os.environ.get("RANK") == rank:
    from ebwm_cli.world.energy import EnergyWorld
    real, calls = EnergyWorld.loss, iter(range(100000))
    def loss(self, *given):
        if next(calls) == int(call):
            if action == "raise":
                raise ValueError("something broke")
            signals = {"die": (os.getpid(), 9), "stop": (os.getppid(), 15), "orphan": (os.getppid(), 9)}
            os.kill(*signals[action])
            while not signal.getsignal(signal.SIGTERM).__self__:  # until it comes back here, however fast updates are
                time.sleep(0.01)
        return real(self, *given)
    EnergyWorld.loss = loss
"""


def recipe_of(parts: int):
    """Windows, positions and steps all draw something of their own."""
    descent = DescentSection(step_size=0.5, anchor=0.3, step_size_jitter=1.5)
    recipe = short_recipe(accumulate=parts, ema=0.5)
    model = small_recipe(descent=descent, start_noise=0.1, context_noise=0.1).model
    return recipe.model_copy(update={"model": model, "data": recipe.data.model_copy(update={"mix": True})})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def home(prepared, tmp_path_factory):
    """A folder with a recipe, and with hooks that fail ranks on demand."""
    home = tmp_path_factory.mktemp("home")
    (home / "recipe.yaml").write_text(dump_yaml(recipe_of(2)))
    (home / "hooks").mkdir()
    (home / "hooks" / "sitecustomize.py").write_text(FAULTS)
    return home


def environment(home: Path, **changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join([str(home / "hooks"), *sys.path])
    return {**clean, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}


def ebwm(home, prepared, out, *words, before=("-m", "ebwm_cli"), fault="", **changes):
    """Train `out` with the real command; what it said, with stdout as JSON documents."""
    command = [sys.executable, *before, "train", "recipe.yaml", "--data", str(prepared.path), "--out", str(out)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--device", "cpu", "--json", *words],
        env=environment(home, **({"FAULT": fault} if fault else {}), **changes),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if fault:
        assert time.monotonic() - began < SECONDS / 2, "a failed rank doesn't end the job"
    done.stdout = [json.loads(line) for line in done.stdout.splitlines()]
    return done


def close(out: Path, other: Path) -> None:
    """The weights of two finished runs are equal but for rounding."""
    ours, theirs = load_file(out / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------- the same


def test_two_ranks_have_the_gradient_of_one_process(tmp_path):
    """On the joined batch where windows draw nothing, in two parts where they do; for every kind that is trained."""
    script = Path(__file__).with_name("ranks.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={
                **environment(tmp_path, RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)),
                FOLDER: str(tmp_path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=SECONDS) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    found = json.loads(said[0][0])
    assert len(found["differences"]) == 10
    assert max(found["differences"].values()) < 1e-5, found
    assert found["apart"] > 0.01
    assert found["ranks_right"] == 2


@pytest.mark.parametrize("mix", [False, True])
def test_ranks_share_the_very_batch_of_one_process(mix, prepared):
    loader = Loader(prepared.split("train"), 8, seed=4, mix=mix)
    for step in (0, 5, 100):
        whole = loader.batch(step).states
        for size in (1, 2, 4):
            shares = [Ranks(Place(rank, size)).part(whole) for rank in range(size)]
            assert {len(share) for share in shares} == {8 // size}
            assert torch.equal(torch.cat(shares), whole)


def test_four_ranks_of_torchrun_make_the_updates_of_one_process_in_four_parts(home, prepared, tmp_path):
    report, _ = finish(recipe_of(4), prepared.path, tmp_path / "one")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", "ebwm_cli")
    four = ebwm(home, prepared, tmp_path / "four", "train.accumulate=4", before=torchrun)
    assert four.returncode == 0, four.stderr
    close(tmp_path / "four", tmp_path / "one")
    assert leftovers(tmp_path / "four") == []
    assert [line["step"] for line in four.stdout if "grad_norm" in line] == [4, 8, 12, 16, 20, 23]  # each line once
    last = four.stdout[-1]
    assert last["val_loss"] == pytest.approx(report.val_loss, rel=1e-4)
    states = 23 * 8 * CONTEXT  # of all ranks
    assert last["states_per_second"] * last["updating_seconds"] == pytest.approx(states)


def test_two_ranks_that_end_in_every_way_resume_to_the_bits_of_one_process_in_two_parts(home, prepared, tmp_path):
    out = tmp_path / "run"

    def again(fault: str = ""):
        return ebwm(home, prepared, out, "--gpus", "2", fault=fault)

    orphaned = again("0:6:orphan")  # the launcher is killed: its ranks save and go
    assert orphaned.returncode == -signal.SIGKILL
    assert saved_steps(out / "checkpoints")[-1] >= 6

    broken = again("1:4:raise")
    assert broken.returncode == 1
    lines = broken.stderr.splitlines()
    assert lines[0] == "error: rank 1 failed; the same command resumes from the last checkpoint"
    assert (lines[1], lines[-1]) == ("Traceback (most recent call last):", "ValueError: something broke")

    killed = again("1:6:die")
    assert killed.returncode == 128 + signal.SIGKILL
    assert killed.stderr.splitlines() == [
        "error: rank 1 was killed by SIGKILL",
        "hint: the same command resumes from the last checkpoint",
    ]

    stopped = again("1:3:stop")
    step = saved_steps(out / "checkpoints")[-1]
    assert stopped.returncode == 75
    assert stopped.stderr.splitlines() == [
        f"error: stopped by SIGTERM, saved at step {step}",
        "hint: the same command resumes",
    ]
    assert step < 23
    shutil.copytree(out, tmp_path / "fewer", symlinks=True)

    ended = again()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout[0] == {"notice": f"going on from step {step} of 23"}
    assert leftovers(out) == []
    finish(recipe_of(2), prepared.path, tmp_path / "one", threads=1)
    assert outcome(out) == outcome(tmp_path / "one")
    finish(recipe_of(2), prepared.path, tmp_path / "fewer", threads=1)
    close(tmp_path / "fewer", tmp_path / "one")


def test_the_clock_of_the_first_rank_is_everyones(prepared):
    class Second(Ranks):
        def told(self, value):
            return 99.0

    recipe = recipe_of(2)
    trainer = Trainer(recipe, prepared, torch.device("cpu"), Second())
    trainer.update()
    assert trainer.progress.updating_seconds < 99
    trainer.progress.deadline = 100.0
    trainer.update()
    assert trainer.progress.updating_seconds == 99


# ------------------------------------------------------------------------------------------- refused


@pytest.fixture
def visible(monkeypatch):
    """Say how many GPUs torch sees."""

    def say(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "launch", lambda words, count: pytest.fail("started all the same"))
    return say


@pytest.mark.parametrize(("count", "asked", "device"), [(0, 2, "auto"), (0, 1, "auto"), (0, 2, "cuda"), (1, 2, "auto")])
def test_gpus_that_are_not_there_are_named_with_what_to_do_instead(count, asked, device, visible, prepared, capsys):
    visible(count)
    words = ["train", "video_ebt_4xs", "--data", str(prepared.path), "--gpus", str(asked), "--device", device]
    assert run(words) == ResourceError.exit_code == 7
    error, hint = capsys.readouterr().err.splitlines()
    assert (str(count) if count else "no GPU") in error
    assert f"{asked} asked for" in error
    assert "--device cpu" in hint
    assert "--plan" in hint


def test_a_batch_that_cannot_be_dealt_out_is_refused_before_anything_starts(visible, prepared, capsys):
    visible(8)
    words = ["train", "video_ebt_4xs", "--data", str(prepared.path), "train.batch_size=32"]
    assert run([*words, "--gpus", "5"]) == RecipeError.exit_code == 3
    error, hint = capsys.readouterr().err.splitlines()
    assert "32 windows" in error
    assert hint.startswith("hint: train.batch_size=30,")
    assert run([*words, "train.accumulate=8", "--gpus", "6", "--plan"]) == 3


def test_sharded_weights_are_refused_with_the_reason(visible, prepared, capsys):
    visible(8)
    for words in ([], ["--gpus", "2"], ["--plan"]):
        assert run(["train", "video_ebt_4xs", "--data", str(prepared.path), "train.shard=true", *words]) == 3
        assert "FSDP2" in capsys.readouterr().err


def test_a_batch_is_cut_into_as_many_parts_as_ranks_need():
    train = TrainSection(batch_size=24, accumulate=4)
    assert [parts_of(train, ranks) for ranks in (1, 2, 3, 4, 6)] == [4, 4, 6, 4, 6]
    for ranks in (5, 7, 16):
        with pytest.raises(RecipeError):
            parts_of(train, ranks)


def test_a_process_knows_its_place(monkeypatch):
    assert place_of({}) == place_of({"RANK": "0"}) == Place(0, 1, 0)
    assert place_of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Place(5, 8, 1)
    for rank, size in (("8", "8"), ("x", "2"), ("-1", "2"), ("0", "")):
        with pytest.raises(UsageError):
            place_of({"RANK": rank, "WORLD_SIZE": size})
    assert store_of({}) == "env://"
    monkeypatch.delenv("RANK", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks is ALONE
        assert not torch.distributed.is_initialized()
        assert (ranks.told([1]), ranks.most(3), ranks.first) == ([1], 3, True)


def test_a_rank_takes_its_own_gpu_and_one_device_is_no_place_for_two(visible, monkeypatch):
    visible(2)
    assert resolve_device("auto", local_rank=1) == torch.device("cuda", 1)
    with pytest.raises(ResourceError, match="2 GPUs"):
        resolve_device("cuda", local_rank=2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ResourceError, match="mps is one device"), joined(torch.device("mps")):
        pass
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR"), joined(torch.device("cpu")):
        pass


def test_gpus_beside_torchrun_must_be_its_number(visible, prepared, monkeypatch, capsys):
    visible(8)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(["train", "video_ebt_4xs", "--data", str(prepared.path), "--gpus", "2"]) == 2
    assert "--gpus 2 in one of 4 processes" in capsys.readouterr().err
