"""The built-in clips: balls colliding in boxes of many sizes, some under gravity, some in slow motion, as mp4 files.

Everything about a clip follows from (seed, number), its collisions too: how hard each state is to foresee is known. All
balls look alike, so that what happens to them is all that is hard; but heavy ones carry a dark core. Walls are drawn as
thick as they are. It must not know what becomes of the clips.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np

from ebwm_cli.data.balls import Balls
from ebwm_cli.data.files import sync_file, sync_folder
from ebwm_cli.data.labels import UNKNOWN, ranked

CLIP_COUNT = 192
SECONDS = 20.0
RATE = 16
"""Frames per second."""
SIDE = 64
"""Pixels."""
PACE = (0.3, 2.0)
"""Of time, in the slowest and in the fastest clip: where all went equally fast, hardly an interval would be without a
collision, or hardly one with several."""
GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, less their integers, cover an interval evenly however many there are."""
BALLS = (1, 5)
"""In a clip, from and to."""
RADIUS = 0.1
"""Box sides."""
SPEED = (0.2, 0.5)
"""Box sides per second, at a pace of 1."""
GRAVITY = 0.5
"""Box sides per second squared, in one clip of three, at a pace of 1."""
CENTRE = (np.arange(SIDE) + 0.5) / SIDE
"""Of the pixels, in box sides."""
HEAVY = 4.0
"""Mass of balls with a dark core; the others' is 1."""
BALL, BACKGROUND, WALL = (np.array(colour, np.float32) for colour in ((255, 190, 90), (24, 28, 48), (84, 88, 108)))
"""Red, green and blue of 255."""
MOST_COLLISIONS = 5
"""Intervals with more are labelled as this many."""
COLLISIONS = ranked(
    "collisions",
    {
        "collisions": [
            (0, "no collision"),
            (1, "1 collision"),
            *((count, f"{count} collisions") for count in range(2, MOST_COLLISIONS)),
            (MOST_COLLISIONS, f"{MOST_COLLISIONS} or more"),
        ]
    },
)
"""Labels of states, as `count_collisions` has them."""
CLIP_NAME = re.compile(r"balls-(\d+)-(\d{3,})\.mp4")
"""Of a clip: its seed and its number."""


def render_demo(folder: Path, count: int, seed: int, workers: int = 1) -> int:
    """Put `count` clips into `folder`, rendering those that aren't there, or that a power cut left empty; clips of
    other seeds, and of earlier worlds, go. Returns how many were rendered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"balls-{seed}-{number:03d}.mp4": number for number in range(count)}
    for path in [*folder.glob("balls*.mp4"), *folder.glob(".balls*")]:
        if path.name not in names:
            path.unlink()
    there = {path.name for path in folder.glob("balls*.mp4") if path.stat().st_size}
    missing = [(folder / name, number) for name, number in names.items() if name not in there]
    with ThreadPoolExecutor(max(1, workers)) as threads:
        list(threads.map(lambda each: render_clip(each[0], seed, each[1]), missing))
    return len(missing)


def render_clip(path: Path, seed: int, number: int, seconds: float = SECONDS) -> None:
    """Render one clip to `path`, whole or not at all, a power cut included."""
    balls = draw_world(seed, number)
    room = paint_room(balls)
    frames = [paint(at, balls, room) for at in balls.frames(round(seconds * RATE), RATE)]
    aside = path.with_name(f".{path.name}")
    _encode(aside, frames)
    sync_file(aside)
    os.replace(aside, path)
    sync_folder(path.parent)


def count_collisions(name: str, frames: Sequence[int]) -> np.ndarray:
    """Labels (N,) int8 of the states that are the frames (N,) of the clip called `name`, in rising order.

    A label is how many collisions happen between a state and the one before it, up to MOST_COLLISIONS; UNKNOWN for the
    first, and for all where no such clip is rendered here. Bounces off walls count as much as balls that hit balls:
    with neither, all fly freely and the last two states fix the next one; either breaks the flight at a moment that
    must be found before what follows from it can be. The clip's world is run again frame by frame: steps of other
    lengths round otherwise, and collisions make that grow.
    """
    match = CLIP_NAME.fullmatch(name)
    if match is None or not len(frames):
        return np.full(len(frames), UNKNOWN, np.int8)
    balls = draw_world(int(match[1]), int(match[2]))
    so_far = [balls.collisions for _ in balls.frames(int(frames[-1]) + 1, RATE)]  # by frame
    between = np.diff(np.array(so_far)[np.asarray(frames)])
    return np.concatenate([[UNKNOWN], np.minimum(between, MOST_COLLISIONS)]).astype(np.int8)


def draw_world(seed: int, number: int) -> Balls:
    """The world that clip `number` shows, before it moves: balls that don't overlap, in a box.

    At a pace of s all is as at 1, but s times as fast: velocities are s times, gravity is s^2 times as large.
    """
    rng = np.random.default_rng([seed, number])
    pace = PACE[0] * (PACE[1] / PACE[0]) ** (number * GOLDEN % 1.0)
    low, high = rng.uniform(0.03, 0.12, 2), 1.0 - rng.uniform(0.03, 0.12, 2)
    count = int(rng.integers(BALLS[0], BALLS[1] + 1))
    position = rng.uniform(low + RADIUS, high - RADIUS, (count, 2))
    while any(np.linalg.norm(one - other) < 2 * RADIUS + 0.01 for one, other in combinations(position, 2)):
        position = rng.uniform(low + RADIUS, high - RADIUS, (count, 2))
    mass = np.where(rng.random(count) < 0.35, HEAVY, 1.0)
    angle, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(*SPEED, count)
    velocity = pace * speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    gravity = np.array([0.0, GRAVITY * pace**2 if number % 3 == 0 else 0.0])
    return Balls(position, velocity, np.full(count, RADIUS), mass, low, high, gravity)


def paint_room(balls: Balls) -> np.ndarray:
    """The empty box, (SIDE, SIDE, 3) float32."""
    inside = [_cover(CENTRE - balls.low[axis]) * _cover(balls.high[axis] - CENTRE) for axis in (0, 1)]
    room = (inside[1][:, None] * inside[0][None, :])[..., None]  # (SIDE, SIDE, 1), rows are y
    return WALL + room * (BACKGROUND - WALL)


def paint(position: np.ndarray, balls: Balls, room: np.ndarray) -> np.ndarray:
    """One frame (SIDE, SIDE, 3) uint8; the edge of every shape is blended by the share of the pixel it covers."""
    picture = room.copy()
    for at, radius, mass in zip(position, balls.radius, balls.mass, strict=True):
        left, top = np.floor((at - radius) * SIDE).astype(int) - 1
        right, bottom = np.ceil((at + radius) * SIDE).astype(int) + 1
        part = picture[top:bottom, left:right]
        away = np.sqrt((CENTRE[None, left:right] - at[0]) ** 2 + (CENTRE[top:bottom, None] - at[1]) ** 2)
        part += _cover(radius - away)[..., None] * (BALL - part)
        if mass == HEAVY:
            part += _cover(radius / 2 - away)[..., None] * (BACKGROUND - part)
    return np.rint(picture).astype(np.uint8)


def _cover(depth: np.ndarray) -> np.ndarray:
    """Share of a pixel that lies inside an edge, given how deep its centre does, in box sides."""
    return np.minimum(np.maximum(depth * SIDE + 0.5, 0.0), 1.0).astype(np.float32)


def _encode(path: Path, frames: Sequence[np.ndarray]) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.codec_context.thread_count = 1
        # Without look-ahead x264 gives the same bytes each time; with it, now and then, others.
        stream.options = {"crf": "18", "preset": "veryfast", "g": "64", "x264-params": "mbtree=0:rc-lookahead=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
