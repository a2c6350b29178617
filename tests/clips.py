"""Small clips for tests, rendered by PyAV: a bright square walks over a gradient, so that every frame is its own."""

from __future__ import annotations

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
    rotation: int = 0,
    first: int = 0,
    container: str | None = None,
    **options: str,
) -> Path:
    """Render a clip of (width, height) `size`; `times` (seconds per frame) make its rate variable."""
    muxing = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", format=container, options=muxing) as file:
        stream = file.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        stream.options = {"g": "12", **options}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + index, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
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
