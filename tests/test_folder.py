"""Run folders: named, found again, held by one process, never mixed up with other people's files."""

import errno
import os
import re
import time
from pathlib import Path

import pytest
from small_set import small_recipe

from ebwm_cli.errors import DataError, RecipeError, ResourceError, UsageError
from ebwm_cli.run.folder import RunFolder, choose_folder, run_folder_of

DATA = {"path": "data/x", "fingerprint": "abc"}


def begun(out: Path | None, recipe=None, data=DATA, fresh: bool = False) -> RunFolder:
    recipe = recipe or small_recipe()
    folder = choose_folder(recipe, data, out, fresh=fresh)
    folder.begin(recipe, data)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_new_run_is_named_by_recipe_and_date():
    folder = begun(None)
    assert re.fullmatch(r"small-\d{8}-\d{6}", folder.path.name)
    assert folder.path.parent == Path("runs")


def test_two_new_runs_in_one_second_have_two_folders(monkeypatch):
    class Noon:
        @staticmethod
        def now():
            return __import__("datetime").datetime(2030, 1, 2, 12)

    monkeypatch.setattr("ebwm_cli.run.folder.datetime", Noon)
    names = [begun(None, fresh=True).path.name for _ in range(3)]
    assert names == ["small-20300102-120000", "small-20300102-120000-2", "small-20300102-120000-3"]


def test_the_newest_run_of_the_same_recipe_and_set_is_found_again():
    old, new = begun(Path("runs/old")), begun(Path("runs/new"))
    now = time.time()
    os.utime(old.path / "run.json", (now - 10, now - 10))
    assert begun(None).path == new.path
    other = begun(None, recipe=small_recipe(width=32))
    assert other.path not in (old.path, new.path)
    assert begun(None, data={**DATA, "fingerprint": "other"}).path not in (old.path, new.path, other.path)
    (new.path / "recipe.yaml").write_text("{broken")
    assert begun(None).path == old.path


def test_recipe_and_set_are_read_back():
    recipe = small_recipe(width=32)
    folder = begun(Path("runs/a"), recipe)
    assert folder.recipe() == recipe
    assert folder.data() == DATA
    assert folder.report() is None
    assert folder.refuse_changes(recipe, DATA) == []


def test_what_may_not_change_is_told_key_by_key():
    folder = begun(Path("runs/a"))
    with pytest.raises(RecipeError, match=r"model\.width: 16 -> 32") as error:
        folder.refuse_changes(small_recipe(width=32), DATA)
    assert "--fresh" in error.value.hint
    with pytest.raises(DataError, match="abc"):
        folder.refuse_changes(small_recipe(), {**DATA, "fingerprint": "other"})
    longer = small_recipe()
    longer = longer.model_copy(update={"train": longer.train.model_copy(update={"steps": 9000})})
    assert folder.refuse_changes(longer, DATA) == ["train.steps: 4000 -> 9000"]


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("cat")
    for out in (tmp_path / "photos", tmp_path / "photos/cat.jpg"):
        with pytest.raises(UsageError, match="no run of ebwm"):
            choose_folder(small_recipe(), DATA, out, fresh=True)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/.lock").touch()
    (tmp_path / "killed/.tmp-run.json").touch()
    assert choose_folder(small_recipe(), DATA, tmp_path / "killed", fresh=False).path == tmp_path / "killed"


def test_one_process_at_a_time():
    folder = begun(Path("runs/a"))
    with folder.held():
        with pytest.raises(ResourceError, match="another process"), folder.held():
            pass
    with folder.held():  # free again
        pass
    assert not (folder.path / ".lock").exists()


def test_a_lock_that_was_removed_while_we_waited_for_it_is_not_a_lock(monkeypatch):
    import fcntl

    folder, lock, flock = begun(Path("runs/a")), Path("runs/a/.lock"), fcntl.flock
    taken = []

    def late(descriptor, operation):
        if not taken:
            lock.unlink()  # its holder leaves between our open and our lock
        taken.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late)
    with folder.held():
        assert lock.exists()
        assert len(taken) == 2


def test_a_lock_that_vanishes_while_it_is_looked_at_is_tried_again(monkeypatch):
    import fcntl

    folder, lock, flock = begun(Path("runs/a")), Path("runs/a/.lock"), fcntl.flock
    stat, taken = Path.stat, []

    def late(descriptor, operation):
        taken.append(descriptor)
        flock(descriptor, operation)

    def removed(path, **options):
        if path == lock and len(taken) == 1:
            lock.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr("fcntl.flock", late)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "stat", removed)
    with folder.held():
        assert len(taken) == 2


def test_a_file_system_without_locks_is_no_other_process(monkeypatch):
    def refused(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    folder = begun(Path("runs/a"))
    monkeypatch.setattr("fcntl.flock", refused)
    with pytest.raises(ResourceError, match="can't be locked: No locks available") as error, folder.held():
        pass
    assert "another process" not in error.value.message


def test_latest_moves_in_runs_only(tmp_path):
    for name in ("a", "b"):
        begun(Path("runs") / name).point_latest()
        assert Path("runs/latest").resolve().name == name
    begun(tmp_path / "elsewhere/c").point_latest()
    assert not (tmp_path / "elsewhere/latest").exists()
    folder = choose_folder(small_recipe(), DATA, Path("runs/latest"), fresh=False)
    assert folder.path == (tmp_path / "runs/b")


def test_what_a_killed_process_left_aside_is_swept():
    folder = begun(Path("runs/a"))
    (folder.path / ".tmp-model.safetensors").write_text("half")
    (folder.checkpoints / ".tmp-step_00000005").mkdir()
    (folder.checkpoints / ".tmp-step_00000005/weights.safetensors").write_text("half")
    folder.begin(small_recipe(), DATA)
    assert not [path for path in folder.path.rglob("*") if path.name.startswith(".")]


def test_a_model_file_knows_its_run():
    folder = begun(Path("runs/a"))
    assert run_folder_of(folder.model_file) == folder.path
    assert run_folder_of(Path("model.safetensors")) is None
    assert run_folder_of(folder.path / "copy.safetensors") is None
