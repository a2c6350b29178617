"""The journal of a study: what was written survives, what was torn is no line, what is damaged is told."""

import errno
import json
import os

import pytest

from ebwm_cli.errors import CheckpointError, ResourceError
from ebwm_cli.run import safe_write
from ebwm_cli.run.journal import Journal, read_journal
from ebwm_cli.run.study_task import Outcome

TRAINED = {"val_loss": 0.5, "step": 3, "params": 7, "flops_per_step": 2.0}


def outcome(key, status="done", loss=0.25):
    done = status == "done"
    return Outcome(
        key, status, None if done else "why", TRAINED if done else None, {"loss": loss} if done else None, 1.5
    )


@pytest.fixture
def file(tmp_path):
    """A journal of three runs, of which two have ended."""
    path = tmp_path / "points.jsonl"
    with Journal(path) as journal:
        for key in "abc":
            journal.started(key)
        journal.ended_with(outcome("a"))
        journal.ended_with(outcome("b", "diverged"))
    return path


def test_what_ended_is_read_back_whole(file):
    assert read_journal(file) == {"a": outcome("a"), "b": outcome("b", "diverged")}
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["event"] for event in events] == ["started"] * 3 + ["ended"] * 2
    assert events[3]["outcome"]["train"] == TRAINED
    assert all(event["time"].endswith("+00:00") for event in events)


def test_without_a_file_nothing_has_ended(tmp_path):
    assert read_journal(tmp_path / "points.jsonl") == {}
    with Journal(tmp_path / "points.jsonl") as journal:
        assert journal.ended() == {}


def test_done_once_is_done_and_of_bad_endings_the_last_counts(file):
    with Journal(file) as journal:
        journal.ended_with(outcome("a", loss=9.0))
        journal.ended_with(outcome("a", "failed"))
        journal.ended_with(outcome("b", "failed"))
        assert journal.ended() == {"a": outcome("a"), "b": outcome("b", "failed")}
        journal.ended_with(outcome("b", loss=0.125))
        assert journal.ended()["b"].status == "done"
    assert read_journal(file)["b"] == outcome("b", loss=0.125)


def test_cut_anywhere_it_goes_on_with_the_whole_lines(file, tmp_path):
    content = file.read_bytes()
    for length in range(len(content)):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(content[:length])
        whole = content[: content[:length].rfind(b"\n") + 1]
        ended = {json.loads(line)["key"] for line in whole.splitlines() if b'"ended"' in line}
        assert read_journal(cut).keys() == ended
        if length % 40 == 0 or length > len(content) - 3:
            with Journal(cut) as journal:
                assert cut.read_bytes() == whole
                journal.ended_with(outcome("c"))
            assert read_journal(cut).keys() == ended | {"c"}


DAMAGED = [
    b"",
    b"{",
    b"\xff\x00",
    b"[1]",
    b'{"event": "ended"}',
    b'{"event": "started"}',
    b'{"event": "begun", "key": "a"}',
    b'{"event": "ended", "key": "a", "outcome": {"key": "a", "status": "done"}}',
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_line_is_named(file, damage):
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:3], damage, *lines[3:]]) + b"\n")
    for read in (read_journal, Journal):
        with pytest.raises(CheckpointError, match=r"points\.jsonl, line 4 is damaged") as told:
            read(file)
        assert "delete that line" in told.value.hint
    assert file.read_bytes().count(b"\n") == len(lines) + 1  # nothing was taken away


def test_a_flipped_status_or_key_is_damage(file):
    text = file.read_text()
    for before, after in (('"status": "done"', '"status": "dome"'), ('"key": "a", "outcome"', '"key": "x", "outcome"')):
        file.write_text(text.replace(before, after))
        with pytest.raises(CheckpointError, match="line 4"):
            read_journal(file)


def test_a_full_disk_leaves_whole_lines(file, monkeypatch):
    content = file.read_bytes()

    def full(descriptor, data):
        return os.write(descriptor, bytes(data)[:20])

    def failed(descriptor):
        raise OSError(errno.EIO, "no answer")

    with Journal(file) as journal:
        for name, broken in (("write", full), ("fsync", failed)):
            with monkeypatch.context() as patch:
                patch.setattr(safe_write, name, broken)
                with pytest.raises(ResourceError, match=r"points\.jsonl can't be written") as told:
                    journal.ended_with(outcome("c"))
            assert "the same command goes on" in told.value.hint
            assert file.read_bytes() == content
            assert "c" not in journal.ended()
        journal.ended_with(outcome("c"))
    assert read_journal(file)["c"] == outcome("c")


def test_a_line_is_on_disk_before_it_counts(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(safe_write, "write", lambda *words: calls.append("write") or os.write(*words))
    monkeypatch.setattr(safe_write, "fsync", lambda file: calls.append("fsync") or os.fsync(file))
    with Journal(tmp_path / "points.jsonl") as journal:
        assert calls == ["fsync", "fsync"]  # the file, and its name
        journal.started("a")
        journal.ended_with(outcome("a"))
    assert calls[2:] == ["write", "fsync", "write", "fsync"]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ResourceError, match="can't be written"):
        Journal(tmp_path / "nowhere" / "points.jsonl")
