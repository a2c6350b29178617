"""An opened set: its rows, its windows, and every changed byte found."""

import json
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from datasets import load_from_disk

from ebwm_cli.commands.prepare import prepare_video
from ebwm_cli.data.store import SPLITS, find_set, open_set, sets_below
from ebwm_cli.errors import DataError

CONTEXT = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two clips, divided in time."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "clips").mkdir()
    write_clip(folder / "clips" / "a.mp4", frames=240)
    write_clip(folder / "clips" / "b.mp4", frames=200, first=300)
    list(prepare_video(folder / "clips", folder / "data" / "made", size=8, latent_dim=6, context=CONTEXT, workers=1))
    return folder / "data" / "made"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the set to spoil, without its kept frames."""
    for path in made.rglob("*"):
        if path.is_file() and not path.relative_to(made).parts[0].startswith("."):
            place = tmp_path / "copy" / path.relative_to(made)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return tmp_path / "copy"


def test_splits_open_with_datasets_and_agree(made: Path) -> None:
    prepared = open_set(made)
    assert prepared.name == "made"
    assert (prepared.spec.state_dim, prepared.spec.context, prepared.interval) == (6, CONTEXT, 0.25)
    for name in SPLITS:
        split = prepared.split(name)
        rows = load_from_disk(str(made / name)).with_format("numpy")
        assert len(split) == len(rows) > CONTEXT
        np.testing.assert_array_equal(split.states, np.stack(list(rows["state"])))
        assert split.states.dtype == np.float32
        np.testing.assert_array_equal(split.column("frame"), np.array(rows["frame"]))


def test_no_frame_is_in_two_splits_nor_near_another(made: Path) -> None:
    prepared = open_set(made)
    seen: dict[str, set[tuple[int, int]]] = {}
    for name in SPLITS:
        split = prepared.split(name)
        seen[name] = set(zip(split.column("clip").tolist(), split.column("frame").tolist(), strict=True))
        assert len(seen[name]) == len(split)
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]
    every = 4  # frames per state
    for clip in (0, 1):
        train, val, test = ([frame for c, frame in seen[name] if c == clip] for name in SPLITS)
        assert min(val) - max(train) > (CONTEXT + 1) * every
        assert min(test) - max(val) > (CONTEXT + 1) * every


def test_windows_stay_in_their_segment_and_predict_no_state_twice(made: Path) -> None:
    prepared = open_set(made)
    for name, stride in (("train", 1), ("val", CONTEXT), ("test", CONTEXT)):
        split = prepared.split(name)
        starts, segment, time = split.windows(), split.column("segment"), split.column("time")
        assert prepared.manifest["splits"][name]["windows"] == len(starts) > 0
        for start in starts:
            assert len(set(segment[start : start + CONTEXT + 1].tolist())) == 1
            np.testing.assert_allclose(np.diff(time[start : start + CONTEXT + 1]), 0.25, atol=1e-6)
        targets = np.concatenate([np.arange(start + 1, start + CONTEXT + 1) for start in starts])
        if stride > 1:
            assert len(set(targets.tolist())) == len(targets)
        else:
            lengths = np.bincount(segment)
            assert len(starts) == np.maximum(lengths - CONTEXT, 0).sum()
        assert len(split.windows(1)) >= len(starts)


def test_states_are_the_encoder_s(made: Path) -> None:
    prepared = open_set(made)
    train = prepared.split("train").states
    assert train.var(axis=0).mean() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-3)
    frames = prepared.encoder.decode(train)
    assert frames.shape == (len(train), 8, 8, 3)
    assert np.abs(prepared.encoder.encode(frames) - train).max() < 0.2


def open_or_none(path: Path) -> str | None:
    try:
        return open_set(path).fingerprint
    except DataError:
        return None


def test_every_flipped_bit_is_found(copy: Path) -> None:
    before = open_set(copy).fingerprint
    rng = np.random.default_rng(0)
    files = [path for path in copy.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 25):
            spoiled = bytearray(whole)
            spoiled[place] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(spoiled)
            if path.name == "manifest.json" and open_or_none(copy) == before:
                continue  # white space that means nothing
            with pytest.raises(DataError) as error:
                open_set(copy)
            assert error.value.hint
        for cut in rng.integers(0, len(whole), 3):
            path.write_bytes(whole[:cut])
            with pytest.raises(DataError):
                open_set(copy)
        path.unlink()
        with pytest.raises(DataError):
            open_set(copy)
        path.write_bytes(whole)
    assert open_set(copy).fingerprint == before


def test_a_damaged_file_is_named(copy: Path) -> None:
    path = copy / "val" / "data-00000-of-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"val/data-00000-of-00001\.arrow") as error:
        open_set(copy)
    assert "ebwm prepare" in error.value.hint
    open_set(copy, verify=False)


def test_files_outside_the_set_are_not_followed(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    assert all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in manifest["files"])


def test_find_set(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_set(made) == made
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no prepared set") as error:
        find_set()
    assert "ebwm prepare demo" in error.value.hint
    monkeypatch.chdir(made.parent.parent)
    assert find_set() == Path("data/made")
    (made.parent / "other").mkdir()
    assert [path.name for path in sets_below(Path("data"))] == ["made"]
    (made.parent / "other" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="data/made, data/other"):
        find_set()
    with pytest.raises(DataError):
        find_set(made.parent / "other")
    (made.parent / "other" / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished prepared set"):
        find_set(made.parent / "other")
    with pytest.raises(DataError, match="does not exist"):
        find_set(made.parent / "missing")


def test_unknown_split(made: Path) -> None:
    with pytest.raises(DataError, match="no split 'dev'"):
        open_set(made).split("dev")
