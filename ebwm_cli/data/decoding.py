"""One clip -> its sampled frames in order, each with its index and time; runs inside a caged worker.

decord decodes, in order only, and is believed where the container's index, its log and the ends of the clip show no
trouble: frame i is then frame i of a sequential PyAV decode. Anywhere else PyAV decodes and leaves out what is damaged.
It must not know workers, caches or encoders, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ebwm_cli.data.container import Probe, Unusable, sequential_frames, upright
from ebwm_cli.data.sampling import Sampler, Sampling, frame_rate_problem

LOST_SHARE = 0.02  # of the declared seconds that may be missing before a clip counts as partial
LOST_SECONDS = 0.5
SKIP_PIXELS = 1 << 16  # from this size on, converting a frame costs decord more than stepping over it
STRIDE = 256  # frames stepped over between signs of life
ALIKE = 2  # largest difference of a pixel that two builds of one colour conversion may show


class Distrusted(Exception):
    """decord's frames can't be believed; PyAV must decode this clip."""


@dataclass
class Decoded:
    """What came out; the pictures went to the sink."""

    frames: int = 0
    damaged: int = 0
    indices: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


Sink = Callable[[np.ndarray], None]
Beat = Callable[[int], None]


def decode_decord(
    path: Path, about: Probe, sampling: Sampling, max_pixels: int, sink: Sink, beat: Beat, threads: int = 1
) -> Decoded:
    """All of a clip by decord. Raises Distrusted, possibly after frames went to `sink`, where PyAV must do it."""
    import decord

    if not about.regular or about.decoding_clock:
        raise Distrusted("irregular timestamps")
    sampler, count = Sampler(sampling), len(about.times)
    taken = {i for i in range(count) if sampler.takes(i, float(about.times[i]))}
    done, ends = Decoded(frames=count), {}
    try:
        reader = decord.VideoReader(str(path), num_threads=threads)
        if len(reader) != count:
            raise Distrusted(f"decord counts {len(reader)} frames, the container {count}")
        for index, frame in _wanted(reader, taken | _ends(about), about, beat):
            if index in taken:
                done.indices.append(index)
                done.times.append(float(about.times[index]))
                sink(shrink(frame, sampling.size))
            if index in _ends(about):
                ends[index] = frame
    except (decord.DECORDError, StopIteration, UnicodeEncodeError) as error:
        raise Distrusted(f"decord failed: {type(error).__name__}") from None
    _check_ends(path, about, ends, max_pixels)
    return done


def _ends(about: Probe) -> set[int]:
    """Frames kept for the check: the first, the last key frame, the last two."""
    last = len(about.times) - 1
    return {0, about.last_key, max(0, last - 1), last}


def _wanted(reader, wanted: set[int], about: Probe, beat: Beat):
    """(index, frame (H, W, 3) uint8) of the wanted indices, read in order."""
    skips = about.width * about.height >= SKIP_PIXELS
    place = 0
    for index in sorted(wanted):
        while place < index:
            step = min(index - place, STRIDE) if skips else 1
            if skips:
                reader.skip_frames(step)
            else:
                reader.next()
            place += step
            beat(place)
        frame = reader.next().asnumpy()
        place += 1
        beat(place)
        yield index, frame


def _check_ends(path: Path, about: Probe, ends: dict[int, np.ndarray], max_pixels: int) -> None:
    """Raise Distrusted unless the first frame is PyAV's and no frame was lost on the way.

    decord fills lost frames up with copies of the last one. So different last frames prove that none is lost; alike,
    they may be a still, and PyAV must find the same last key frame, and as many frames after it as there are packets.
    """
    first = next(sequential_frames(path, max_pixels), None)
    if first is None or first.rotation or not _alike(upright(first), ends[0]):
        raise Distrusted("the first frame differs")
    last = len(about.times) - 1
    if last == 0 or not np.array_equal(ends[last], ends[last - 1]):
        return
    count, same = 0, False
    for frame in sequential_frames(path, max_pixels, from_stamp=about.last_key_stamp):
        if frame is None or frame.pts is None:
            raise Distrusted("the end is damaged")
        if frame.pts == about.last_key_stamp:
            same = _alike(upright(frame), ends[about.last_key])
        count += frame.pts >= about.last_key_stamp
    if not same or count != len(about.times) - about.last_key:
        raise Distrusted("frames were lost on the way")


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.abs(one.astype(np.int16) - other).max(initial=0) <= ALIKE)


def decode_pyav(path: Path, about: Probe, sampling: Sampling, max_pixels: int, sink: Sink, beat: Beat) -> Decoded:
    """All of a clip by PyAV. After a damaged packet or frame, all are left out until the next key frame."""
    done, sampler, trusted = Decoded(), Sampler(sampling), True
    origin, latest = None, 0.0
    for frame in sequential_frames(path, max_pixels):
        if frame is None or frame.is_corrupt:
            done.damaged += 1
            trusted = False
        if frame is None:
            continue
        index = done.frames
        done.frames += 1
        beat(done.frames)
        trusted = trusted or (bool(frame.key_frame) and not frame.is_corrupt)
        if not trusted:
            continue
        time = frame.time if frame.time is not None else latest
        origin = time if origin is None else origin
        time = float(about.times[min(index, len(about.times) - 1)]) if about.decoding_clock else time - origin
        latest = time
        if sampler.takes(index, time):
            done.indices.append(index)
            done.times.append(time)
            sink(shrink(upright(frame), sampling.size))
    return done


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) -> (size, size, 3) uint8; each pixel is a weighted mean of all it covers, so nothing aliases."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))


def shortfall(about: Probe, done: Decoded, sampling: Sampling) -> str | None:
    """How `done` falls short of what the container promised, in words, or None. Raises Unusable if nothing is left."""
    if not done.frames:
        raise Unusable("no frame can be decoded")
    if not done.indices:
        raise Unusable(f"all {done.frames} frames are damaged")
    problem = frame_rate_problem(about.times, sampling)
    if problem:
        raise Unusable(problem)
    told = []
    declared = max(about.declared_frames, len(about.times))
    if done.frames < declared:
        told.append(f"{done.frames} of the {declared} frames it declares")
    elif about.declared_seconds * (1 - LOST_SHARE) - LOST_SECONDS > max(float(about.times[-1]), done.times[-1]):
        told.append(
            f"{max(about.times[-1], done.times[-1]):.1f} of the {about.declared_seconds:.1f} seconds it declares"
        )
    if done.damaged:
        told.append(f"{done.damaged} damaged frames, left out with all up to the next key frame")
    return "; ".join(told) or None
