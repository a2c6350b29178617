"""The demo's world keeps momentum and energy, its clips are real, and all follows from the seed."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from ebwm_cli.data import demo
from ebwm_cli.data.balls import Balls
from ebwm_cli.data.demo import (
    BACKGROUND,
    BALL,
    GRAVITY,
    HEAVY,
    PACE,
    RADIUS,
    RATE,
    SIDE,
    SPEED,
    draw_world,
    paint,
    paint_room,
    render_clip,
    render_demo,
)


def energy(balls: Balls) -> float:
    """Kinetic plus potential; gravity points to larger y."""
    kinetic = 0.5 * (balls.mass * (balls.velocity**2).sum(axis=1)).sum()
    return float(kinetic - (balls.mass[:, None] * balls.gravity * balls.position).sum())


def test_momentum_is_kept_by_collisions_without_walls() -> None:
    balls = Balls(
        position=np.array([[0.0, 0.0], [1.0, 0.1], [0.45, 0.9]]),
        velocity=np.array([[0.5, 0.05], [-0.7, 0.0], [0.0, -0.6]]),
        radius=np.array([0.1, 0.15, 0.12]),
        mass=np.array([1.0, 3.0, 0.5]),
        low=np.array([-100.0, -100.0]),
        high=np.array([100.0, 100.0]),
        gravity=np.zeros(2),
    )
    before, speed = (balls.mass[:, None] * balls.velocity).sum(axis=0), balls.velocity.copy()
    balls.advance(10.0)
    assert np.abs(balls.velocity - speed).max() > 0.1  # they did collide
    np.testing.assert_allclose((balls.mass[:, None] * balls.velocity).sum(axis=0), before, atol=1e-12)


def test_head_on_collision_is_the_closed_form() -> None:
    balls = Balls(
        position=np.array([[0.2, 0.5], [0.8, 0.5]]),
        velocity=np.array([[1.0, 0.0], [0.0, 0.0]]),
        radius=np.array([0.1, 0.1]),
        mass=np.array([1.0, 3.0]),
        low=np.full(2, -9.0),
        high=np.full(2, 9.0),
        gravity=np.zeros(2),
    )
    balls.advance(0.5)  # they touch at 0.4
    np.testing.assert_allclose(balls.velocity, [[-0.5, 0.0], [0.5, 0.0]], atol=1e-12)
    np.testing.assert_allclose(balls.position, [[0.55, 0.5], [0.85, 0.5]], atol=1e-12)


@pytest.mark.parametrize("gravity", [False, True])
def test_energy_is_kept_and_nothing_overlaps(gravity: bool) -> None:
    for number in range(0, 24, 3):
        balls = draw_world(0, number if gravity else number + 1)
        assert balls.gravity.any() == gravity
        before = energy(balls)
        for at in balls.frames(200, RATE):
            assert (at > balls.low + balls.radius[:, None] - 1e-9).all()
            assert (at < balls.high - balls.radius[:, None] + 1e-9).all()
            for i in range(len(at)):
                for j in range(i):
                    assert np.linalg.norm(at[i] - at[j]) > balls.radius[i] + balls.radius[j] - 1e-9
        assert energy(balls) == pytest.approx(before, abs=1e-9)


def test_flight_under_gravity_is_a_parabola() -> None:
    balls = draw_world(0, 3)
    start, speed = balls.position.copy(), balls.velocity.copy()
    balls.advance(0.01)
    np.testing.assert_allclose(balls.position, start + speed * 0.01 + balls.gravity * 0.5e-4, atol=1e-9)


def test_a_disc_covers_its_area() -> None:
    balls = draw_world(0, 1)
    balls.position, balls.radius, balls.mass = np.array([[0.5, 0.5]]), np.full(1, RADIUS), np.ones(1)
    room = paint_room(balls)
    share = (paint(balls.position, balls, room) - room) / (BALL - BACKGROUND)
    assert share[..., 0].sum() == pytest.approx(np.pi * (RADIUS * SIDE) ** 2, rel=0.01)
    balls.mass *= HEAVY
    heavy = (paint(balls.position, balls, room) - room) / (BALL - BACKGROUND)
    assert heavy[..., 0].sum() == pytest.approx(0.75 * share[..., 0].sum(), rel=0.02)


def test_paces_cover_their_range_evenly_and_change_nothing_else() -> None:
    worlds = [draw_world(0, number) for number in range(0, 96, 3)]
    paces = np.sqrt([balls.gravity[1] / GRAVITY for balls in worlds])
    thirds = np.histogram(np.log(paces), bins=3, range=np.log(PACE))[0]
    assert thirds.sum() == len(worlds)
    assert thirds.min() >= len(worlds) // 3 - 2
    for balls, pace in zip(worlds, paces, strict=True):
        speed = np.linalg.norm(balls.velocity, axis=1) / pace
        assert (speed >= SPEED[0] - 1e-9).all()
        assert (speed <= SPEED[1] + 1e-9).all()


def test_clips_are_real_and_follow_from_the_seed(tmp_path: Path) -> None:
    for name, seed in (("a.mp4", 0), ("b.mp4", 0), ("c.mp4", 1)):
        render_clip(tmp_path / name, seed, 3, seconds=1.0)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4", "c.mp4"))
    assert a == b
    assert a != c
    with av.open(str(tmp_path / "a.mp4")) as clip:
        stream = clip.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.average_rate) == ("h264", SIDE, RATE)
        assert len(list(clip.decode(stream))) == RATE


def test_a_clip_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for where, name in ((demo, "sync_file"), (demo, "sync_folder"), (os, "replace")):
        real = getattr(where, name)
        monkeypatch.setattr(
            where, name, lambda *paths, n=name, r=real: (done.append(f"{n} {paths[0].name}"), r(*paths))
        )
    render_clip(tmp_path / "a.mp4", 0, 3, seconds=1.0)
    assert done == ["sync_file .a.mp4", "replace .a.mp4", f"sync_folder {tmp_path.name}"]


def test_rendering_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert render_demo(tmp_path, 2, seed=0) == 2
    assert render_demo(tmp_path, 2, seed=0) == 0
    next(tmp_path.glob("*001.mp4")).unlink()
    assert render_demo(tmp_path, 2, seed=0, workers=2) == 1
    next(tmp_path.glob("*001.mp4")).write_bytes(b"")  # what a power cut leaves
    assert render_demo(tmp_path, 2, seed=0) == 1
    assert render_demo(tmp_path, 1, seed=5) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["balls-5-000.mp4"]
