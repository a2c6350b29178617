"""An mp4 of a rollout: prediction at the left, truth (where known) at the right, remembered frames first.

A grey frame is remembered, a coloured one imagined; both have the same time. Knows no world.
"""

# N frames, S frame size in pixels

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ebwm_cli.data.files import sync_file
from ebwm_cli.run.pictures import GREEN, INK, ORANGE, PAPER, SOFT
from ebwm_cli.run.safe_write import file_aside

Frames = NDArray[np.uint8]
FRAMES_PER_SECOND = 24


def write_rollout(path: Path, remembered: Frames, predicted: Frames, truth: Frames | None, interval: float) -> None:
    """Play `remembered` (N, S, S', 3), then `predicted` (H, S, S', 3) beside `truth`, `interval` seconds per frame.

    The last frame stays for a second, so that a rollout of one state can be seen.
    """
    total, hold = len(predicted), max(1, round(interval * FRAMES_PER_SECOND))
    pages = [_page(frame, frame if truth is not None else None, "remembered", SOFT) for frame in remembered]
    for ahead, frame in enumerate(predicted):
        beside = None if truth is None else truth[ahead]
        pages.append(_page(frame, beside, f"imagined {ahead + 1} of {total}", ORANGE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_aside(path) as aside:
        with av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND))
            stream.height, stream.width = pages[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "16", "preset": "fast"}
            for index, page in enumerate(pages):
                for _ in range(hold + FRAMES_PER_SECOND if index == len(pages) - 1 else hold):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(page, format="rgb24")))
            container.mux(stream.encode())
        sync_file(aside)


def _page(frame: Frames, beside: Frames | None, words: str, colour: str) -> Frames:
    """One picture of the film: enlarged frames with a coloured border and their names above."""
    tiles = [(frame, words, colour)]
    if beside is not None:
        tiles.append((beside, "truth", GREEN if colour == ORANGE else SOFT))
    height, width = frame.shape[:2]
    scale = max(1, round(256 / max(height, width)))
    tile_w, tile_h, margin, head, border = width * scale, height * scale, 20, 30, 4
    page_w, page_h = margin + len(tiles) * (tile_w + margin), head + tile_h + margin
    page = Image.new("RGB", (page_w + page_w % 2, page_h + page_h % 2), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(15)
    for index, (pixels, name, edge) in enumerate(tiles):
        left = margin + index * (tile_w + margin)
        box = (left - border, head - border, left + tile_w + border - 1, head + tile_h + border - 1)
        draw.rectangle(box, fill=edge)
        page.paste(Image.fromarray(pixels).resize((tile_w, tile_h), Image.Resampling.NEAREST), (left, head))
        draw.text((left, 5), name, fill=INK if edge == SOFT else edge, font=font)
    return np.asarray(page)
