"""`think`: the report, the recorded numbers and a naive rollout agree; clips, budgets and files behave."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_set import CONTEXT, STATE_DIM, frames_of, make_run, make_set, small_recipe
from torch import nn

from ebwm_cli.commands.calibration import calibration
from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.commands.facets import facets
from ebwm_cli.commands.think import think
from ebwm_cli.data.store import open_set
from ebwm_cli.errors import DataError, ResourceError, UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run import safe_write
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.outputs import next_number
from ebwm_cli.run.report import Notice, ThinkReport
from ebwm_cli.run.thought import Scene, think_about
from ebwm_cli.run.thought_files import scorer, write_thought
from ebwm_cli.run.thought_measures import held_out_energies
from ebwm_cli.world.build import thinking_flops


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("think")
    make_run(home / "runs" / "first", make_set(home / "data" / "one"))
    return home


@pytest.fixture
def model(home: Path, tmp_path: Path) -> Path:
    """A checkpoint that lies in no run, so that nothing is drawn unless asked for."""
    return Path(shutil.copy(home / "runs" / "first" / "model.safetensors", tmp_path / "x.safetensors"))


def thought(checkpoint: Path, **options) -> ThinkReport:
    """The report at the end."""
    *notices, report = think(checkpoint, **{"device": "cpu", **options})
    assert isinstance(report, ThinkReport)
    assert all(isinstance(notice, Notice) for notice in notices)
    return report


def write_clip(path: Path, frames: np.ndarray, rate: int = 4) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


# ---------------------------------------------------------------------------------------------- numbers


def test_report_agrees_with_the_recorded_trajectory(model: Path, home: Path, tmp_path: Path) -> None:
    report = thought(model, steps=5, horizon=2, out=tmp_path / "out")
    loaded, states = load_world(model), open_set(home / "data" / "one").split("test").states
    saved = load_file(tmp_path / "out" / "trajectory.safetensors")
    assert np.array_equal(saved["observed"].numpy(), states[: CONTEXT - 1])
    assert np.array_equal(saved["truth"].numpy(), states[CONTEXT - 1 : CONTEXT + 1])
    assert saved["path"].shape == (2, 6, STATE_DIM)
    assert report.context == CONTEXT - 1
    assert report.steps_used == [5, 5]
    assert report.energies == saved["energies"][0].tolist()
    assert report.energy_gap == pytest.approx(report.energies[0] - report.energies[-1])
    errors = loaded.space.distance(saved["path"], saved["truth"][:, None].expand_as(saved["path"]))
    assert report.rollout_errors == pytest.approx(errors[:, -1].tolist())
    assert report.error == report.rollout_errors[0]
    copied = loaded.space.distance(saved["observed"][-1:], saved["truth"][:1])
    assert report.reference_error == pytest.approx(copied.item())
    assert [row.step for row in report.descent] == list(range(6))
    for row in report.descent:
        assert row.energy == pytest.approx(saved["energies"][:, row.step].mean().item())
        assert row.error == pytest.approx(errors[:, row.step].mean().item(), rel=1e-5)
        if row.step:
            moved = (saved["path"][:, row.step] - saved["path"][:, row.step - 1]).square().mean(-1).sqrt()
            assert row.move == pytest.approx(moved.mean().item(), rel=1e-4)
            assert row.drop == pytest.approx(report.descent[row.step - 1].energy - row.energy, abs=1e-6)
    # One energy per state that could be predicted: those observed after the first, then the horizon.
    assert len(report.position_energies) == (CONTEXT - 1) - 1 + 2
    assert report.position_energies[-2:] == pytest.approx(saved["energies"][:, -1].tolist())


def test_rollout_equals_observing_everything_anew(model: Path, home: Path, tmp_path: Path) -> None:
    thought(model, horizon=3, out=tmp_path / "out")
    saved, loaded = load_file(tmp_path / "out" / "trajectory.safetensors"), load_world(model)
    seen = saved["observed"][None]
    for ahead in range(3):
        after = loaded.world.predict(
            loaded.world.observe(seen), loaded.recipe.think, torch.Generator(), positions=1
        ).state
        assert torch.allclose(saved["states"][ahead], after[0, 0], atol=1e-5)
        seen = torch.cat([seen, after], 1)


def test_landscape_scores_the_path_as_descent_did(model: Path, home: Path) -> None:
    loaded = load_world(model)
    states = torch.tensor(open_set(home / "data" / "one").split("test").states)[None]
    scene = Scene("here", states[:, :5], states[:, 5:6])
    budget = ThinkSection(steps=4, samples=3)  # also for a start that is not where the anchor pulls to
    made = think_about(scene, loaded, budget, 1, seed=0)
    energies = scorer(loaded.world, loaded, scene, made)(made.path[0].numpy())
    assert energies == pytest.approx(made.energies[0].numpy(), abs=1e-5)


def test_samples_keep_the_lowest_energy(model: Path) -> None:
    report = thought(model, samples=5)
    assert len(report.sample_energies) == 5
    assert report.energies[-1] == pytest.approx(min(report.sample_energies))
    assert report.sample_agreement is None
    assert report.sample_spread is None or report.sample_spread > 0


def test_stopping_says_what_it_did(model: Path, home: Path, tmp_path: Path) -> None:
    assert thought(model, steps=4).stopped.startswith("not settled after 4 steps: still falling by ")
    assert "of the typical drop" in thought(model, steps=4, thinking={"drop": "typical"}).stopped
    recipe = small_recipe().model_copy(update={"think": ThinkSection(steps=40, stop="energy", tolerance=0.3)})
    file = make_run(tmp_path / "settles", open_set(home / "data" / "one"), recipe=recipe)
    report = thought(file, horizon=2)
    assert max(report.steps_used) < 40
    assert report.stopped.startswith("the energy settled after")
    assert len(report.energies) == max(report.steps_used) + 1
    assert thought(file, horizon=2, steps=1).stopped.startswith("one step was taken")


def test_the_flops_are_those_of_what_was_looked_at(model: Path) -> None:
    loaded = load_world(model)
    whole = thought(model, steps=6, samples=2, horizon=3)
    model_of, think = loaded.recipe.model, loaded.recipe.think
    assert whole.flops == pytest.approx(3 * thinking_flops(model_of, think, loaded.spec, 2 * 6, 2))
    assert thought(model, steps=6, stop="energy", thinking={"tolerance": 0.5}).flops < whole.flops / 3 / 2
    beam = thought(model, steps=6, samples=2, horizon=3, thinking={"beam": 2})  # 1, then 2 sequences are gone on with
    looked = (1 + 2 + 2) * 2 / 3
    assert beam.flops == pytest.approx(3 * thinking_flops(model_of, think, loaded.spec, looked * 6, looked))


def test_the_energy_is_ranked_among_those_of_the_validation_windows(model: Path, home: Path) -> None:
    report, loaded = thought(model, steps=2), load_world(model)
    split = open_set(home / "data" / "one").split("val")
    others = held_out_energies(loaded, split, ThinkSection(steps=2), seed=0)
    above = sum(energy > report.energies[-1] for energy in others.tolist())
    assert (report.ranked_among, report.ranked_energies) == ("held-out energies", len(others))
    assert report.energy_rank == pytest.approx(above / len(others))


def test_the_energy_is_ranked_among_those_of_the_context_where_there_is_no_set(tmp_path: Path) -> None:
    file = make_run(tmp_path / "run", make_set(tmp_path / "gone"))
    clip = write_clip(tmp_path / "clip.mp4", frames_of(3, 20))
    assert thought(file, input=clip).ranked_among == "held-out energies"
    shutil.rmtree(tmp_path / "gone")
    report = thought(file, input=clip)
    assert (report.ranked_among, report.ranked_energies) == ("energies of its own context", CONTEXT - 1)
    above = sum(energy > report.energies[-1] for energy in report.position_energies[:-1])
    assert report.energy_rank == pytest.approx(above / (CONTEXT - 1))


def test_zero_steps_predict_the_start(model: Path, tmp_path: Path) -> None:
    report = thought(model, steps=0, out=tmp_path / "out")
    assert report.energy_gap == 0
    assert report.error == report.reference_error
    assert len(report.descent) == 1


def test_a_thought_is_a_function_of_the_seed(model: Path) -> None:
    def numbers(seed: int) -> list[float]:
        return thought(model, samples=4, seed=seed).sample_energies

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)


# ---------------------------------------------------------------------------------------------- which window


def test_index_names_a_held_out_window(model: Path, home: Path) -> None:
    first, second = thought(model), thought(model, index=1)
    assert first.energies != second.energies
    assert "test window 1 (clip_5.mp4 from 1.50 s)" in second.source
    with pytest.raises(UsageError, match="has 4 such windows") as caught:
        thought(model, index=4)
    assert caught.value.hint == "--index 3"


def test_a_long_horizon_takes_a_longer_window_until_there_is_none(model: Path) -> None:
    report = thought(model, horizon=12)
    assert report.context == (CONTEXT + 1) // 2
    assert len(report.rollout_errors) == 12
    with pytest.raises(DataError, match="no window of 103 states"):
        thought(model, horizon=100)


# ---------------------------------------------------------------------------------------------- clips


def test_a_clip_is_encoded_with_the_checkpoints_own_encoder(model: Path, tmp_path: Path) -> None:
    frames = frames_of(3, 20)
    clip = write_clip(tmp_path / "clip.mp4", frames)
    report = thought(model, input=clip, horizon=2, out=tmp_path / "out")
    saved, encoder = load_file(tmp_path / "out" / "trajectory.safetensors"), load_world(model).encoder
    expected = encoder.encode(frames)
    assert report.source == str(clip)
    assert saved["observed"].shape[0] == CONTEXT - 1
    assert saved["truth"].numpy() == pytest.approx(expected[-2:], abs=0.6)  # but for the clip's compression
    assert saved["observed"].numpy() == pytest.approx(expected[-CONTEXT - 1 : -2], abs=0.6)


def test_a_short_clip_is_continued_without_a_truth(model: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames_of(3, 3))
    notice, report = think(model, input=clip, horizon=2, out=tmp_path / "out", device="cpu")
    assert isinstance(notice, Notice)
    assert isinstance(report, ThinkReport)
    assert report.context == 3
    assert report.error is report.reference_error is None
    assert report.rollout_errors == []
    assert {row.error for row in report.descent} == {None}
    assert all(Path(file).stat().st_size for file in report.files)


def test_a_clip_of_one_state_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        thought(model, input=write_clip(tmp_path / "clip.mp4", frames_of(3, 1)))


# ---------------------------------------------------------------------------------------------- files


def test_pictures_go_where_asked_or_to_a_new_folder_in_the_run(home: Path, tmp_path: Path) -> None:
    names = ["strip.png", "rollout.mp4", "landscape.png", "trajectory.safetensors", "report.json"]
    run = home / "runs" / "first"
    for number in ("001", "002"):
        report = thought(run / "model.safetensors")
        assert report.files == [str(run / "think" / number / name) for name in names]
    report = thought(run / "model.safetensors", out=tmp_path / "new" / "out")
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted(names)
    assert ThinkReport.model_validate_json((tmp_path / "new" / "out" / "report.json").read_bytes()) == report
    assert not (run / "think" / "003").exists()


def test_a_moved_checkpoint_still_thinks_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    assert thought(model).files == []
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("command", [calibration, evaluate, facets, think])
def test_what_was_found_is_told_although_the_disk_is_full(command, home, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safe_write, "write", full)
    run, told = home / "runs" / "first", []
    few = {} if command is think else {"most_windows": 2}
    before = there(run)
    with pytest.raises(ResourceError, match="No space left") as error:
        collect(command(run, data=home / "data" / "one", device="cpu", **few), told)
    assert "free some space" in error.value.hint
    assert not isinstance(told[-1], Notice)
    assert told[-1].files == []
    assert there(run) == before


def there(run):
    """Files and numbered folders."""
    return sorted(path for path in run.rglob("*") if path.is_file() or path.name.isdigit())


def collect(reports, told):
    """Into `told`, as they come."""
    for report in reports:
        told.append(report)


def test_two_thoughts_at_once_have_two_numbers_and_a_failed_one_none(tmp_path):
    with next_number(tmp_path) as (one, first), next_number(tmp_path) as (two, second):
        assert (first.name, second.name) == ("001", "002")
        (one / "file").write_text("one")
        (two / "file").write_text("two")
        assert list(first.iterdir()) == list(second.iterdir()) == []  # whole or empty
    assert (first / "file").read_text() == "one"
    assert (second / "file").read_text() == "two"
    with pytest.raises(ZeroDivisionError), next_number(tmp_path) as (three, _):
        (three / str(1 / 0)).touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001", "002"]


class Mute(nn.Module):
    """A world that predicts but can't score candidates."""

    def __init__(self, world: nn.Module) -> None:
        super().__init__()
        self.observe: Callable = world.observe
        self.predict: Callable = world.predict


def test_a_world_that_cannot_judge_has_no_landscape(model: Path, home: Path, tmp_path: Path) -> None:
    loaded = load_world(model)
    mute = replace(loaded, world=Mute(loaded.world))
    states = torch.zeros(1, 5, STATE_DIM)
    scene = Scene("here", states[:, :4], states[:, 4:])
    files = write_thought(
        tmp_path / "out", mute, scene, think_about(scene, loaded, ThinkSection(steps=2), 1, 0), seed=0
    )
    assert [file.name for file in files] == ["strip.png", "rollout.mp4", "trajectory.safetensors"]


@pytest.mark.parametrize("options", [{"horizon": 0}, {"steps": -1}, {"samples": 0}, {"stop": "soon"}])
def test_budgets_that_mean_nothing_are_usage_errors(model: Path, options: dict) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(options))}"):
        thought(model, **options)


def test_a_beam_without_anything_to_keep_is_a_usage_error(model: Path) -> None:
    for typed, told in (
        ({"beam": 4}, "^beam=4: futures are kept of several samples, samples=1 has one$"),
        (
            {"beam": 4, "samples": 4, "select": "mean"},
            "^beam=4: futures are kept by their energies, not by select=mean$",
        ),
    ):
        with pytest.raises(UsageError, match=told):
            thought(model, horizon=2, thinking=typed)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ({"tolerence": 1}, "--thinking tolerence: unknown key; did you mean tolerance?"),
        ({"stop": "soon"}, "--thinking stop: should be 'fixed', 'energy' or 'still', got soon"),
        ({"beam": 0, "qqq": 1}, "--thinking beam: .* got 0; --thinking qqq: unknown key$"),
    ],
)
def test_keys_of_thinking_that_mean_nothing_are_told_by_their_names(model: Path, typed: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")) as caught:
        thought(model, thinking=typed)
    assert caught.value.hint.startswith("--thinking")
