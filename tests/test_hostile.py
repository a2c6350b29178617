"""A folder of hostile clips: every good one is kept, every bad one is named, nothing outside the folder is read."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip, write_sound

from ebwm_cli.commands.prepare import prepare_video
from ebwm_cli.data.store import open_set
from ebwm_cli.errors import DataError
from ebwm_cli.run.report import ClipReport, PrepareReport

LONG_NAME = "n" * 251 + ".mp4"
UNDECODABLE_NAME = os.fsdecode(b"byte\xff.mp4")


def make_good(folder: Path) -> set[str]:
    """Clips that play, in many forms; their names for people."""
    write_clip(folder / "plain.mp4")
    write_clip(folder / "UPPER.MP4", first=1)
    write_clip(folder / "ten_bit.mkv", pix_fmt="yuv420p10le")
    write_clip(folder / "turned.mp4", turned=True, first=2)
    write_clip(folder / "odd.mkv", size=(51, 37), pix_fmt="yuv444p")
    write_clip(folder / "odd.avi", size=(51, 37), codec="mjpeg", pix_fmt="yuvj444p")
    write_clip(folder / "old.mpg", codec="mpeg2video", rate=25, frames=120)
    write_clip(folder / "older.mpeg", codec="mpeg1video", rate=25, frames=120)
    write_clip(folder / "web.webm", codec="libvpx")
    write_clip(folder / "quick.mov", codec="mpeg4")
    write_clip(folder / "vp8.ogv", codec="libvpx", container="ogg")
    times = [i * 0.05 + 0.2 * (i > 30) + (i % 7) * 0.006 for i in range(90)]
    write_clip(folder / "variable.mkv", frames=90, times=times)
    (folder / "below" / "deeper").mkdir(parents=True)
    write_clip(folder / "below" / "deeper" / "nested.mp4", first=3)
    names = ["new\nline.mp4", "'quo\"tes'.mp4", "-rf.mp4", "$(x);&.mp4", LONG_NAME, UNDECODABLE_NAME]
    for number, name in enumerate(names):
        write_clip(folder / "source.mp4", first=4 + number)
        (folder / "source.mp4").rename(folder / name)
    return {
        *("plain.mp4", "UPPER.MP4", "ten_bit.mkv", "turned.mp4", "odd.mkv", "odd.avi", "old.mpg", "older.mpeg"),
        *("web.webm", "quick.mov", "vp8.ogv", "variable.mkv", "below/deeper/nested.mp4", "'quo\"tes'.mp4", "-rf.mp4"),
        *("$(x);&.mp4", "new\\nline.mp4", LONG_NAME, "byte\\xff.mp4"),
    }


def make_bad(folder: Path, outside: Path) -> set[str]:
    """Files that must be refused; their names."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no clip\n" * 100)
    (folder / "noise.webm").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "noise_inside.mp4").write_bytes(b"\0\0\0\x18ftypisom" + np.random.default_rng(1).bytes(5000))
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n")
    (folder / "concat.avi").write_text("ffconcat version 1.0\nfile '/etc/passwd'\n")
    whole = write_clip(folder / "moov.mp4").read_bytes()
    (folder / "moov.mp4").write_bytes(whole[: whole.rindex(b"moov") - 4])
    write_sound(folder / "sound.mp4")
    for name, width, height in (("huge.avi", 16384, 16384), ("wide.avi", 16384, 4096)):
        header = bytearray(write_clip(folder / name, frames=4, codec="rawvideo", pix_fmt="bgr24").read_bytes())
        struct.pack_into("<ii", header, header.index(b"strf") + 12, width, height)
        (folder / name).write_bytes(header)
    write_clip(folder / "fast.mp4", rate=20000)
    (folder / "folder_link.mp4").symlink_to(outside, target_is_directory=True)
    write_clip(outside / "secret.mp4")
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "nowhere.mp4").symlink_to(folder / "missing")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    os.mkfifo(folder / "pipe.mkv")
    return {
        *("empty.mp4", "text.mp4", "noise.webm", "noise_inside.mp4", "playlist.mp4", "concat.avi", "moov.mp4"),
        *("sound.mp4", "huge.avi", "wide.avi", "fast.mp4"),
        *("folder_link.mp4", "link.mp4", "nowhere.mp4", "loop.mp4", "pipe.mkv"),
    }


def make_hurt(folder: Path) -> set[str]:
    """Clips that lost a part: kept as far as they go, or refused, but never passed over in silence."""
    names = set()
    whole = write_clip(folder / "whole.mp4", frames=160, movflags="faststart").read_bytes()
    (folder / "whole.mp4").unlink()
    for percent in (10, 30, 50, 70, 90):
        (folder / f"cut_{percent}.mp4").write_bytes(whole[: len(whole) * percent // 100])
        names.add(f"cut_{percent}.mp4")
    avi = write_clip(folder / "cut.avi", frames=160, codec="mpeg4").read_bytes()
    (folder / "cut.avi").write_bytes(avi[: len(avi) * 6 // 10])
    garbled = bytearray(whole)
    middle = slice(len(whole) * 45 // 100, len(whole) * 55 // 100)
    garbled[middle] = np.random.default_rng(2).bytes(middle.stop - middle.start)
    (folder / "garbled.mp4").write_bytes(garbled)
    return {*names, "cut.avi", "garbled.mp4"}


def test_hostile_corpus(tmp_path: Path) -> None:
    folder, outside, out = tmp_path / "clips", tmp_path / "outside", tmp_path / "set"
    folder.mkdir()
    outside.mkdir()
    good, bad, hurt = make_good(folder), make_bad(folder, outside), make_hurt(folder)
    assert len(bad | hurt) >= 20
    reports = list(prepare_video(folder, out, size=16, latent_dim=8, context=3, workers=2))
    last = reports[-1]
    assert isinstance(last, PrepareReport)
    prepared = open_set(out)
    kept = {clip["file"]: clip for clip in prepared.manifest["clips"]}
    refused = {each.file: each.reason for each in last.quarantined}
    assert good <= set(kept), sorted(good - set(kept))
    assert not [name for name in good if kept[name]["partial"]]
    assert bad <= set(refused), sorted(bad - set(refused))
    assert all(refused.values())
    assert set(kept) | set(refused) == good | bad | hurt
    for name in hurt:
        assert name in refused or kept[name]["partial"], f"{name} passed as whole"
    told = {each.clip: each for each in reports if isinstance(each, ClipReport)}
    assert set(told) == good | bad | hurt
    assert all(told[name].quarantined == (name in refused) for name in told)
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert {line["file"]: line["reason"] for line in lines} == refused
    assert "outside" in refused["link.mp4"]
    assert "16384 x 4096 pixels" in refused["wide.avi"]
    assert "frames/s" in refused["fast.mp4"]


def test_all_bad_is_a_data_error_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "empty.mp4").touch()
    (tmp_path / "clips" / "text.avi").write_text("no clip")
    with pytest.raises(DataError, match=r"empty\.mp4: empty file; text\.avi") as error:
        list(prepare_video(tmp_path / "clips", tmp_path / "set"))
    assert error.value.exit_code == 4
    assert not (tmp_path / "set" / "manifest.json").exists()
