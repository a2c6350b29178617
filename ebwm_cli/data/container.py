"""A video file as PyAV sees it: what its header and packets say, and its frames in order.

A file is opened as the kind its first bytes announce and no other, from an open handle, so nothing beside it is read.
This runs inside caged workers; it must not know sampling, caches or encoders, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ebwm_cli.data.files import container_of

ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: cover art, not a stream of pictures


class Unusable(Exception):
    """The clip can't be used; the text says why, for quarantine.jsonl."""


@dataclass(frozen=True)
class Probe:
    """What a container says, before anything is decoded."""

    width: int
    height: int
    codec: str
    declared_frames: int
    declared_seconds: float
    times: np.ndarray
    """Seconds of every packet since the first, in the order of display: a frame each, if all is well."""
    last_key: int
    """Index into `times` of the last key frame."""
    last_key_stamp: int
    """Its timestamp, in the stream's own units."""
    regular: bool
    """One picture stream, a timestamp on every packet, no two alike, none unreadable."""
    decoding_clock: bool
    """Packets carry the times of decoding though frames are reordered: frame i then has the i-th time."""


def probe(path: Path, max_pixels: int) -> Probe:
    """Read the container and its packets, decoding nothing. Raises Unusable where there is no sane picture stream."""
    with path.open("rb") as file, _open(file) as container:
        stream = _stream(container)
        context = stream.codec_context
        if context.width * context.height > max_pixels:
            raise Unusable(f"{context.width} x {context.height} pixels are more than the limit of {max_pixels}")
        stamps, keys, complete, reordered = [], [], True, False
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                complete = complete and packet.pts is not None
                stamp = packet.pts if packet.pts is not None else len(stamps)
                reordered = reordered or packet.pts != packet.dts
                if packet.is_keyframe and not packet.is_corrupt:
                    keys.append(stamp)
                stamps.append(stamp)
        except FFmpegError:
            complete = False  # decoding will find how far one can get
        if not stamps:
            raise Unusable("its picture stream is empty")
        stamps.sort()
        last_key = max(keys, default=stamps[0])
        base = float(stream.time_base or 0)
        times = (np.array(stamps, np.float64) - stamps[0]) * base
        seconds = float(stream.duration * base) if stream.duration else (container.duration or 0) / av.time_base
        pictures = [each for each in container.streams.video if not int(each.disposition) & ATTACHED_PICTURE]
        return Probe(
            width=context.width,
            height=context.height,
            codec=context.name,
            declared_frames=max(0, stream.frames),
            declared_seconds=max(0.0, seconds),
            times=times,
            last_key=int(np.searchsorted(stamps, last_key)),
            last_key_stamp=last_key,
            regular=complete and len(pictures) == 1 and bool(np.all(np.diff(times) > 0)),
            decoding_clock=complete and bool(context.has_b_frames) and not reordered,
        )


def sequential_frames(path: Path, max_pixels: int, from_stamp: int | None = None) -> Iterator[VideoFrame | None]:
    """Every frame in order, or those from the key frame at `from_stamp` on; None for a packet that can't be decoded.

    Raises Unusable for outsized frames.
    """
    with path.open("rb") as file, _open(file) as container:
        stream = _stream(container)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(max_pixels)}
        if from_stamp is not None:
            container.seek(from_stamp, stream=stream)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except FFmpegError:  # the rest cannot be read
                yield None
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except FFmpegError:
                frames = [None]
            for frame in frames:
                if frame is not None and frame.width * frame.height > max_pixels:
                    raise Unusable(f"a frame of {frame.width} x {frame.height} pixels is more than the limit")
                yield frame


def upright(frame: VideoFrame) -> np.ndarray:
    """The frame as it is meant to be seen, (H, W, 3) uint8 RGB, turned as its display matrix says."""
    picture = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _open(file: IO[bytes]) -> Any:
    kind = container_of(file.read(64 * 1024))
    file.seek(0)
    if kind is None:
        raise Unusable("no video container (unknown first bytes)")
    try:
        return av.open(file, mode="r", format=kind, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (FFmpegError, ValueError) as error:
        raise Unusable(f"container cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _stream(container: Any) -> VideoStream:
    streams = [each for each in container.streams.video if not int(each.disposition) & ATTACHED_PICTURE]
    if not streams:
        raise Unusable("no picture stream")
    if not streams[0].codec_context.width:
        raise Unusable("its picture stream has no size")
    return streams[0]
