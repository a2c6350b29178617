"""Decoding: frame i is frame i of a sequential decode, and a worker's misfortune costs one clip."""

import os
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from clips import write_clip
from PIL import Image

from ebwm_cli.data import video
from ebwm_cli.data.container import Unusable, probe, sequential_frames
from ebwm_cli.data.decoding import Distrusted, decode_decord, decode_pyav, shrink
from ebwm_cli.data.encoders.pca import fit_pca
from ebwm_cli.data.files import find_clips
from ebwm_cli.data.sampling import Sampling
from ebwm_cli.data.video import Job, Limits, Outcome, Workers, encode_clip
from ebwm_cli.errors import DataError

PIXELS = 1 << 22
EVERY = Sampling(None, every=1, size=16)
FAULTY = """
import sys; sys.path.append(sys.argv[1])
from ebwm_cli.data import worker
whole = worker._decode
worker._decode = lambda job, *rest: {fault} if job["path"].endswith("1.mp4") else whole(job, *rest)
worker.main(int(sys.argv[2]))
"""


def decode(paths: list[Path], sampling: Sampling, limits: Limits | None = None, workers: int = 1) -> dict[str, Outcome]:
    folder = paths[0].parent / "frames"
    folder.mkdir(exist_ok=True)
    with Workers(workers, limits) as pool:
        jobs = [Job(path, folder / path.name, path.stat().st_size) for path in paths]
        return {outcome.job.path.name: outcome for outcome in pool.decode(jobs, sampling)}


def reference(path: Path, size: int) -> np.ndarray:
    """Every frame by a plain loop over PyAV, resized by Pillow."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BILINEAR)) for f in frames])


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video", "mjpeg", "libvpx"])
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_frame_i_is_frame_i_of_a_sequential_decode(tmp_path: Path, codec: str, decoder: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_clip(tmp_path / "clip.mkv", frames=70, rate=25, codec=codec, pix_fmt=pix_fmt)
    frames: list[np.ndarray] = []
    about = probe(path, PIXELS)
    if decoder == "decord":
        pytest.importorskip("decord")
        done = decode_decord(path, about, EVERY, PIXELS, frames.append, lambda count: None)
    else:
        done = decode_pyav(path, about, EVERY, PIXELS, frames.append, lambda count: None)
    expected = reference(path, 16)
    assert done.indices == list(range(70))
    np.testing.assert_allclose(done.times, np.arange(70) / 25, atol=1e-3)
    assert np.abs(np.stack(frames).astype(int) - expected).max() <= 2
    assert np.abs(np.diff(expected.astype(int), axis=0)).max(axis=(1, 2, 3)).min() > 2  # a shift would show


@pytest.mark.skipif("EBWM_CLIPS" not in os.environ, reason="EBWM_CLIPS names no folder of real clips")
def test_real_clips_frame_by_frame(tmp_path: Path) -> None:
    paths = list(find_clips(Path(os.environ["EBWM_CLIPS"])))
    with Workers(2) as pool:
        for outcome in pool.decode(
            [Job(path, tmp_path / path.name, path.stat().st_size) for path in paths], Sampling(size=16)
        ):
            assert outcome.facts is not None, outcome.reason
            frames = np.fromfile(outcome.job.frames_to, np.uint8).reshape(-1, 16, 16, 3)
            wanted = dict(zip(outcome.facts["indices"], frames, strict=True))
            with av.open(str(outcome.job.path)) as container:
                for index, frame in enumerate(container.decode(video=0)):
                    if index in wanted:
                        expected = shrink(frame.to_ndarray(format="rgb24"), 16).astype(int)
                        assert np.abs(wanted.pop(index) - expected).max() <= 2
            assert not wanted


@pytest.mark.parametrize("size", [(64, 48), (320, 240)], ids=["reads all", "steps over"])
def test_sampled_frames_are_the_right_ones(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=64, rate=16, size=size)
    outcome = decode([path], Sampling(interval=0.25, size=16))["clip.mp4"]
    assert outcome.facts is not None
    assert outcome.facts["indices"] == list(range(0, 64, 4))
    assert outcome.facts["frames"] == 64
    frames = np.fromfile(outcome.job.frames_to, np.uint8).reshape(-1, 16, 16, 3)
    assert np.abs(frames.astype(int) - reference(path, 16)[::4]).max() <= 2


def test_decord_is_believed_for_a_still_and_not_for_lost_frames(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    still = write_clip(tmp_path / "still.mp4", frames=30, movflags="faststart")
    with av.open(str(still)) as container:
        last = max(packet.pos for packet in container.demux(video=0) if packet.pos)
    data = bytearray(still.read_bytes())
    data[last + 5 : last + 60] = bytes(55)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    about = probe(broken, PIXELS)
    with pytest.raises(Distrusted):
        decode_decord(broken, about, EVERY, PIXELS, lambda frame: None, lambda count: None)
    frozen = write_frozen(tmp_path / "frozen.mp4")
    done = decode_decord(frozen, probe(frozen, PIXELS), EVERY, PIXELS, lambda frame: None, lambda count: None)
    assert done.frames == 40


def write_frozen(path: Path) -> Path:
    """Forty equal frames."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(40):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    return path


def test_damage_is_left_out_and_told(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=96, movflags="faststart")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    path.write_bytes(data)
    outcome = decode([path], EVERY)["clip.mp4"]
    assert outcome.facts is not None
    assert outcome.facts["partial"]
    kept = np.fromfile(outcome.job.frames_to, np.uint8).reshape(-1, 16, 16, 3)
    whole = write_clip(tmp_path / "whole.mp4", frames=96)
    expected = reference(whole, 16)
    times = np.rint(np.array(outcome.facts["times"]) * 16).astype(int)
    assert 40 < len(kept) < 96
    assert np.abs(kept.astype(int) - expected[times]).max() <= 16


def test_turned_clips_are_set_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "turned.mp4", turned=True)
    outcome = decode([path], EVERY)["turned.mp4"]
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert isinstance(frame, av.VideoFrame)
        turned = np.rot90(frame.to_ndarray(format="rgb24"), -1)  # clockwise
    first = np.fromfile(outcome.job.frames_to, np.uint8).reshape(-1, 16, 16, 3)[0]
    expected = np.asarray(Image.fromarray(turned).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(first.astype(int) - expected).max() <= 2


def test_more_pixels_than_allowed_are_refused_before_decoding(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    with pytest.raises(Unusable, match="64 x 48"):
        probe(path, 64 * 48 - 1)


def test_memory_is_caged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=4, size=(2560, 1440))
    starved = decode([path], EVERY, Limits(memory_bytes=300 << 20))["clip.mp4"]
    assert starved.facts is None
    assert starved.reason
    assert decode([path], EVERY)["clip.mp4"].facts is not None


def test_a_hang_costs_one_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_clip(tmp_path / f"{i}.mp4", first=i) for i in range(3)]
    monkeypatch.setattr(video, "BOOT", FAULTY.format(fault="__import__('time').sleep(99)"))
    outcomes = decode(paths, EVERY, Limits(seconds=8.0))
    assert [outcomes[f"{i}.mp4"].facts is not None for i in range(3)] == [True, False, True]
    assert "8 seconds" in (outcomes["1.mp4"].reason or "")
    assert not outcomes["1.mp4"].lasting


def test_a_crash_costs_one_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_clip(tmp_path / f"{i}.mp4", first=i) for i in range(3)]
    crash = (
        "import sys; sys.path.append(sys.argv[1]); from ebwm_cli.data import worker; import os; kept = worker._decode\n"
    )
    crash += "def dies(job, out, log): return os.abort() if job['path'].endswith('1.mp4') else kept(job, out, log)\n"
    crash += "worker._decode = dies; worker.main(int(sys.argv[2]))"
    monkeypatch.setattr(video, "BOOT", crash)
    outcomes = decode(paths, EVERY, workers=2)
    assert [outcomes[f"{i}.mp4"].facts is not None for i in range(3)] == [True, False, True]
    assert "crashed (signal 6)" in (outcomes["1.mp4"].reason or "")


def test_a_crash_of_decord_alone_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    crash = "import sys; sys.path.append(sys.argv[1]); from ebwm_cli.data import worker, decoding; import os\n"
    crash += "decoding.decode_decord = lambda *a: os.abort(); worker.main(int(sys.argv[2]))"
    monkeypatch.setattr(video, "BOOT", crash)
    outcome = decode([path], EVERY)["clip.mp4"]
    assert outcome.facts is not None
    assert outcome.facts["decoder"] == "pyav"


def test_killed_workers_are_replaced(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{i}.mp4", frames=400, first=i) for i in range(6)]
    folder = tmp_path / "frames"
    folder.mkdir()
    with Workers(2) as pool:
        killed = threading.Thread(target=lambda: (time.sleep(0.3), os.kill(pool.pids[0], signal.SIGKILL)))
        killed.start()
        outcomes = list(pool.decode([Job(path, folder / path.name, path.stat().st_size) for path in paths], EVERY))
        killed.join()
        pids = pool.pids
    assert all(outcome.facts for outcome in outcomes)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_load_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    check = "import sys; sys.modules['torch'] = None\n" + video.BOOT
    monkeypatch.setattr(video, "BOOT", check)
    assert decode([path], EVERY)["clip.mp4"].facts is not None


def test_encode_clip_equals_encoding_its_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    frames = reference(path, 16)
    encoder = fit_pca([frames], len(frames), 16, 6)
    states = encode_clip(path, encoder, {"interval": 0.25, "every": None, "size": 16})
    assert states.shape == (20, 6)
    np.testing.assert_allclose(states, encoder.encode(frames[::4]), atol=0.05)


def test_encode_clip_says_what_is_wrong(tmp_path: Path) -> None:
    frames = reference(write_clip(tmp_path / "clip.mp4"), 16)
    encoder = fit_pca([frames], len(frames), 16, 6)
    (tmp_path / "text.mp4").write_text("no clip")
    for name, words in (("missing.mp4", "there is no clip"), ("text.mp4", "unknown first bytes")):
        with pytest.raises(DataError, match=words):
            encode_clip(tmp_path / name, encoder, {"interval": 0.25, "every": None, "size": 16})


def test_frames_from_a_key_frame_on(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=40, codec="mpeg4")
    about = probe(path, PIXELS)
    assert about.last_key == 36
    stamps = [
        f.pts for f in sequential_frames(path, PIXELS, from_stamp=about.last_key_stamp) if f and f.pts is not None
    ]
    assert len([stamp for stamp in stamps if stamp >= about.last_key_stamp]) == 4
