"""`ebwm prepare`: what it reports, what it reuses, and that a killed run costs nothing but its time."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from kills import digests, kill_and_compare

from ebwm_cli.commands import prepare
from ebwm_cli.commands.prepare import prepare_demo, prepare_video
from ebwm_cli.data import demo, intake
from ebwm_cli.data.store import open_set
from ebwm_cli.data.writer import locked
from ebwm_cli.errors import DataError, ResourceError, UsageError
from ebwm_cli.run.report import ClipReport, Notice, PrepareReport, Report

SMALL = {"size": 8, "latent_dim": 6, "context": 3}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of twelve seconds."""
    folder = tmp_path_factory.mktemp("prepare") / "clips"
    folder.mkdir()
    for number in range(5):
        write_clip(folder / f"{number}.mp4", frames=192, first=50 * number)
    return folder


def last(reports: list[Report]) -> PrepareReport:
    assert isinstance(reports[-1], PrepareReport)
    return reports[-1]


def test_reports(clips: Path, tmp_path: Path) -> None:
    reports = list(prepare_video(clips, tmp_path / "set", workers=2, **SMALL))
    told = [each for each in reports if isinstance(each, ClipReport)]
    assert [each.done for each in told] == [1, 2, 3, 4, 5]
    assert {each.clip for each in told} == {f"{i}.mp4" for i in range(5)}
    assert all(each.total == 5 and each.frames == 192 and each.states == 48 and not each.reused for each in told)
    assert all(each.frames_per_second > 0 and each.eta_seconds >= 0 and each.reason is None for each in told)
    assert told[-1].eta_seconds == 0
    end = last(reports)
    assert (end.clips, end.frames, end.states, end.latent_dim) == (5, 960, 240, 6)
    assert end.split_by == "time"
    assert end.explained_variance is not None
    assert 0 < end.explained_variance <= 1
    prepared = open_set(tmp_path / "set")
    assert end.windows.train == len(prepared.split("train").windows())
    assert end.windows.val == len(prepared.split("val").windows())
    assert {clip["sha256"] for clip in prepared.manifest["clips"]} == {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in clips.iterdir()
    }


def test_sets_are_byte_identical_for_any_number_of_workers(clips: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 4):
        list(prepare_video(clips, tmp_path / str(workers), workers=workers, **SMALL))
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "4")


def test_a_second_run_decodes_nothing(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "clips", tmp_path / "set"
    shutil.copytree(clips, source)
    list(prepare_video(source, out, workers=1, **SMALL))
    before = digests(out)
    stamp = (out / "manifest.json").stat().st_mtime_ns
    decoded: list[str] = []

    class Counting(intake.Workers):
        def decode(self, jobs, sampling):  # type: ignore[no-untyped-def]
            jobs = list(jobs)
            decoded.extend(job.path.name for job in jobs)
            return super().decode(jobs, sampling)

    monkeypatch.setattr(intake, "Workers", Counting)
    end = last(list(prepare_video(source, out, workers=1, **SMALL)))
    assert (decoded, end.reused_clips, end.frames_per_second) == ([], 5, 0)
    assert digests(out) == before
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    end = last(list(prepare_video(source, out, workers=1, **{**SMALL, "latent_dim": 4})))
    assert (decoded, end.latent_dim) == ([], 4)
    write_clip(source / "new.mp4", frames=100, first=900)
    shutil.copy(source / "new.mp4", source / "twin.mp4")
    end = last(list(prepare_video(source, out, workers=1, **SMALL)))
    assert len(decoded) == 1
    assert end.clips == 7
    list(prepare_video(source, out, workers=1, every=2, **SMALL))
    assert len(decoded) == 1 + 6


def test_damaged_kept_frames_are_decoded_again(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    list(prepare_video(clips, out, workers=1, **SMALL))
    before = digests(out)
    kept = next((out / ".frames").glob("*.rgb"))
    data = bytearray(kept.read_bytes())
    data[100] ^= 1
    kept.write_bytes(data)
    assert last(list(prepare_video(clips, out, workers=1, **SMALL))).reused_clips == 4
    assert digests(out) == before


def test_a_damaged_set_is_made_whole_by_the_same_command(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    list(prepare_video(clips, out, workers=1, **SMALL))
    before = digests(out)
    arrow = next((out / "train").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-9])
    list(prepare_video(clips, out, workers=1, **SMALL))
    assert digests(out) == before


def test_killed_at_any_moment_the_same_command_goes_on(clips: Path, tmp_path: Path) -> None:
    assert kill_and_compare(clips, tmp_path, kills=5, seed=0, **SMALL) == []


def test_one_writer_at_a_time(clips: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "set"):
        code = (
            "import sys; from pathlib import Path; from ebwm_cli.commands.prepare import prepare_video\n"
            "from ebwm_cli.errors import DataError\n"
            "try: next(iter(prepare_video(Path(sys.argv[1]), Path(sys.argv[2]))))\n"
            "except DataError as error: print(error); sys.exit(error.exit_code)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(clips), str(tmp_path / "set")]
        other = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert other.returncode == 4, other.stderr
        assert "another ebwm prepare is writing" in other.stdout
    assert last(list(prepare_video(clips, tmp_path / "set", workers=1, **SMALL))).clips == 5


def test_a_folder_that_is_no_set_is_left_alone(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    for out in (tmp_path / "letters", tmp_path / "letters" / "letter.txt"):
        with pytest.raises(DataError, match="is no prepared set"):
            list(prepare_video(clips, out, **SMALL))
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("stray", ["manifest.json", ".lock"])
def test_a_folder_of_another_program_is_left_alone(clips: Path, tmp_path: Path, stray: str) -> None:
    mine = tmp_path / "mine"
    (mine / "train").mkdir(parents=True)
    (mine / "train" / "labels.csv").write_text("a,b")
    (mine / stray).write_text('{"name": "my web app"}')
    before = digests(mine)
    with pytest.raises(DataError, match="is no prepared set"):
        list(prepare_video(clips, mine, workers=1, **SMALL))
    assert digests(mine) == before


def test_a_set_without_its_kept_frames_is_made_again(clips: Path, tmp_path: Path) -> None:
    list(prepare_video(clips, tmp_path / "set", workers=1, **SMALL))
    for name in (".frames", ".lock"):
        path = tmp_path / "set" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert last(list(prepare_video(clips, tmp_path / "set", workers=1, **SMALL))).clips == 5


def test_a_demo_that_is_cut_off_while_it_renders_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(path: Path, *_: object) -> None:
        path.with_name(f".{path.name}").touch()
        raise KeyboardInterrupt

    out = tmp_path / "demo"
    with monkeypatch.context() as during:
        during.setattr(demo, "render_clip", cut_off)
        with pytest.raises(KeyboardInterrupt):
            list(prepare_demo(out, clips=3, workers=1, **SMALL))
    (out / ".lock").touch()  # a killed one leaves it
    assert last(list(prepare_demo(out, clips=3, workers=1, **SMALL))).clips == 3


def test_a_clip_that_vanishes_meanwhile_is_set_aside(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "clips", tmp_path / "set"
    shutil.copytree(clips, source)

    class Late(intake.Workers):
        def decode(self, jobs, sampling):  # type: ignore[no-untyped-def]
            (source / "3.mp4").unlink(missing_ok=True)
            return super().decode(jobs, sampling)

    with monkeypatch.context() as during:
        during.setattr(intake, "Workers", Late)
        end = last(list(prepare_video(source, out, workers=2, **SMALL)))
    assert end.clips == 4
    assert [(each.file, each.reason) for each in end.quarantined] == [("3.mp4", "No such file or directory")]
    shutil.copy(clips / "3.mp4", source)  # back again, it is a clip like others
    assert last(list(prepare_video(source, out, workers=2, **SMALL))).clips == 5


def test_a_set_inside_its_source_does_not_eat_itself(clips: Path, tmp_path: Path) -> None:
    source = tmp_path / "clips"
    shutil.copytree(clips, source)
    for _ in range(2):
        list(prepare_demo(source / "data" / "demo", clips=3, workers=1, **SMALL))
        end = last(list(prepare_video(source, source / "data" / "clips", workers=1, **SMALL)))
        assert end.clips == 5 + 3  # the demo's clips are clips like others; its own set's frames are not


def test_one_file_is_a_source_too(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    end = last(list(prepare_video(clips / "1.mp4", workers=1, **SMALL)))
    assert (end.out, end.clips) == ("data/1", 1)


def test_fewer_frames_than_dimensions_still_work(clips: Path, tmp_path: Path) -> None:
    reports = list(prepare_video(clips / "1.mp4", tmp_path / "set", workers=1, size=8, latent_dim=128, context=3))
    end = last(reports)
    notices = [each.notice for each in reports if isinstance(each, Notice)]
    assert end.latent_dim < 128
    assert any(str(end.latent_dim) in notice for notice in notices)
    assert open_set(tmp_path / "set").spec.state_dim == end.latent_dim


def test_the_smallest_frames_are_frames(clips: Path, tmp_path: Path) -> None:
    list(prepare_video(clips / "1.mp4", tmp_path / "set", workers=1, size=4, latent_dim=6, context=3))
    assert open_set(tmp_path / "set").spec.state_dim == 6


def test_too_short_clips_are_told_and_too_little_is_refused(clips: Path, tmp_path: Path) -> None:
    source = tmp_path / "clips"
    source.mkdir()
    write_clip(source / "short.mp4", frames=8)
    with pytest.raises(DataError, match="longest stretch gives 2 states"):
        list(prepare_video(source, tmp_path / "set", workers=1, **SMALL))
    shutil.copy(clips / "0.mp4", source)
    reports = list(prepare_video(source, tmp_path / "set", workers=1, **SMALL))
    told = {each.clip: each for each in reports if isinstance(each, ClipReport)}
    assert told["short.mp4"].reason == "too short for a window: 2 states of 4"
    assert not told["short.mp4"].quarantined
    assert last(reports).clips == 2


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0.5, "every": 2},
        {"every": 0},
        {"interval": 0.0},
        {"interval": -1.0},
        {"interval": float("nan")},
        {"size": 3},
        {"size": 257},
        {"latent_dim": 0},
        {"context": 0},
        {"encoder": "dino"},
    ],
    ids=str,
)
def test_senseless_options_are_usage_errors(clips: Path, tmp_path: Path, options: dict) -> None:
    with pytest.raises(UsageError) as error:
        list(prepare_video(clips, tmp_path / "set", **options))
    assert error.value.hint
    assert not (tmp_path / "set").exists()


def test_the_demo_is_not_rendered_before_senseless_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        list(prepare_demo(tmp_path / "demo", clips=3, size=3))
    assert not (tmp_path / "demo").exists()


def test_missing_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        list(prepare_video(tmp_path / "missing", tmp_path / "set"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no clips in"):
        list(prepare_video(tmp_path / "empty", tmp_path / "set"))


def test_a_full_disk_is_a_resource_error_and_leaves_the_old_set(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    list(prepare_video(clips, out, workers=1, **SMALL))
    before = open_set(out).fingerprint

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "write_encoder", full)
    with pytest.raises(ResourceError, match="No space left") as error:
        list(prepare_video(clips, out, workers=1, **{**SMALL, "latent_dim": 3}))
    assert error.value.exit_code == 7
    assert open_set(out).fingerprint == before


def test_demo_is_prepared_and_reused(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    reports = list(prepare_demo(out, clips=4, workers=1, size=16, latent_dim=16))
    assert any(isinstance(each, Notice) and "rendered 4 clips" in each.notice for each in reports)
    assert last(reports).clips == 4
    assert len(list((out / "clips").glob("*.mp4"))) == 4
    before = digests(out)
    again = list(prepare_demo(out, clips=4, workers=2, size=16, latent_dim=16))
    assert last(again).reused_clips == 4
    assert not any(isinstance(each, Notice) for each in again)
    assert digests(out) == before


def test_states_are_a_quarter_second_apart(clips: Path, tmp_path: Path) -> None:
    list(prepare_video(clips, tmp_path / "set", workers=1, **SMALL))
    split = open_set(tmp_path / "set").split("train")
    steps = np.diff(split.column("time"))[np.diff(split.column("segment")) == 0]
    np.testing.assert_allclose(steps, 0.25, atol=1e-6)
    assert prepare.INTERVAL == 0.25
