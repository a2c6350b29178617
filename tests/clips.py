"""Small clips for tests, rendered by PyAV: a bright square walks over a gradient, so that every frame is its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Frame `index`, (H, W, 3) uint8."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(0, 200, width)[None, :]
    frame[..., 1] = (index * 3) % 200
    x, y = (index * 2) % (width - 7), (index * 5) % (height - 7)
    frame[y : y + 7, x : x + 7] = 255
    return frame


def write_clip(
    path: Path,
    frames: int = 80,
    rate: int = 16,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    turned: bool = False,
    first: int = 0,
    container: str | None = None,
    **options: str,
) -> Path:
    """Render a clip of (width, height) `size`; `times` (seconds per frame) make its rate variable; a `turned` mp4 is to
    be shown turned clockwise by a quarter.
    """
    muxing = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", format=container, options=muxing) as file:
        stream = file.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        stream.options = {"g": "12", **options}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + index, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    if turned:
        data = bytearray(path.read_bytes())
        # The display matrix, 44 bytes after the name of the track header: (x, y) goes to (-y, x), and y points down.
        struct.pack_into(">9i", data, data.index(b"tkhd") + 44, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    return path


def write_sound(path: Path) -> Path:
    """A container with a second of sound and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for index in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
