"""Labels of the built-in clips: collisions counted another way, beside the right states, and nothing else changed."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_set import make_set

from ebwm_cli.commands.prepare import prepare_demo, prepare_video
from ebwm_cli.data.balls import Balls
from ebwm_cli.data.demo import COLLISIONS, MOST_COLLISIONS, RATE, count_collisions, draw_world
from ebwm_cli.data.labels import UNKNOWN, Labels, ranked, without_firsts
from ebwm_cli.data.store import SPLITS, PreparedSet, open_set

SMALL: dict[str, Any] = {"size": 8, "latent_dim": 6, "context": 3}


# ----------------------------------------------------------------------------------------- counting


def two_balls(speed: float) -> Balls:
    """Equal balls on one line, at 0.2 and 0.8 of a box from 0 to 1, that fly at each other."""
    return Balls(
        position=np.array([[0.2, 0.5], [0.8, 0.5]]),
        velocity=np.array([[speed, 0.0], [-speed, 0.0]]),
        radius=np.array([0.05, 0.05]),
        mass=np.ones(2),
        low=np.zeros(2),
        high=np.ones(2),
        gravity=np.zeros(2),
    )


@pytest.mark.parametrize("seconds", [0.2, 0.3, 0.6, 0.7, 1.0, 1.1, 7.33])
def test_two_balls_collide_as_often_as_the_closed_form_says(seconds: float) -> None:
    # They touch after 0.25 s, then run 0.4 box sides to the walls and 0.4 back, and so on.
    balls = two_balls(1.0)
    balls.advance(seconds)
    assert balls.touches == int(np.floor((seconds - 0.25) / 0.8 + 1))
    assert balls.bounces == 2 * int(np.floor((seconds - 0.65) / 0.8 + 1))
    assert balls.collisions == balls.touches + balls.bounces


def stepped_counts(balls: Balls, seconds: float, interval: float, dt: float) -> list[int]:
    """Collisions per interval of a world that is moved by tiny steps: what overlaps and approaches has collided."""
    x, v, r, m = balls.position.copy(), balls.velocity.copy(), balls.radius, balls.mass
    counts = [0] * round(seconds / interval)
    for step in range(round(seconds / dt)):
        x += v * dt + balls.gravity * dt**2 / 2
        v += balls.gravity * dt
        for i in range(len(x)):
            for axis in (0, 1):
                out_low = x[i, axis] < balls.low[axis] + r[i] and v[i, axis] < 0
                out_high = x[i, axis] > balls.high[axis] - r[i] and v[i, axis] > 0
                if out_low or out_high:
                    v[i, axis] *= -1
                    counts[int(step * dt / interval)] += 1
            for j in range(i):
                apart = x[i] - x[j]
                closing = (v[i] - v[j]) @ apart
                if apart @ apart < (r[i] + r[j]) ** 2 and closing < 0:
                    push = 2 * closing / (apart @ apart) / (1 / m[i] + 1 / m[j]) * apart
                    v[i] -= push / m[i]
                    v[j] += push / m[j]
                    counts[int(step * dt / interval)] += 1
    return counts


@pytest.mark.parametrize("number", [2, 6, 7, 9, 11])
def test_labels_are_the_counts_of_a_finely_stepped_world(number: int) -> None:
    expected = stepped_counts(draw_world(0, number), seconds=1.5, interval=0.25, dt=1e-4)
    labels = count_collisions(f"balls-0-{number:03d}.mp4", range(0, 25, 4))
    assert labels.tolist() == [UNKNOWN, *np.minimum(expected, MOST_COLLISIONS)]
    assert sum(expected) > 0


def test_labels_of_other_frames_add_up() -> None:
    every = count_collisions("balls-2-006.mp4", range(200)).astype(int)
    assert every[0] == UNKNOWN
    frames = [3, 4, 9, 30, 31, 150]
    sums = [every[a + 1 : b + 1].sum() for a, b in pairwise(frames)]
    assert max(sums) > MOST_COLLISIONS
    assert count_collisions("balls-2-006.mp4", frames).tolist() == [-1, *np.minimum(sums, MOST_COLLISIONS)]


@pytest.mark.parametrize(
    "name", ["cat.mp4", "balls-0-001.avi", "balls-0.mp4", "sub/balls-0-001.mp4", "xballs-0-001.mp4"]
)
def test_of_other_clips_nothing_is_known(name: str) -> None:
    assert count_collisions(name, [0, 4, 8]).tolist() == [UNKNOWN] * 3
    assert count_collisions("balls-0-001.mp4", []).shape == (0,)


def test_worlds_of_clips_called_so_stay_what_they_are() -> None:
    """Clips lie on disks by these names, and their labels follow from names alone: another world needs another name."""
    for (seed, number), expected in {
        (0, 2): [[0.63635245, 0.58375671], [0.79947021, 0.84963042], [0.26616397, 0.37851254]],
        (3, 7): [[0.41560306, 0.32796649]],
    }.items():
        *_, last = draw_world(seed, number).frames(3 * RATE + 1, RATE)
        np.testing.assert_allclose(last, expected, atol=1e-7)


# ---------------------------------------------------------------------------------------------- sets


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """Three clips, divided in time."""
    out = tmp_path_factory.mktemp("labels") / "demo"
    list(prepare_demo(out, clips=3, seed=1, workers=1, **SMALL))
    return open_set(out)


def naive_labels(prepared: PreparedSet, name: str) -> list[int]:
    """Row by row, by worlds that run from the beginning."""
    split = prepared.split(name)
    clips, frames, segments = (split.column(each).tolist() for each in ("clip", "frame", "segment"))
    found: list[int] = []
    for row in range(len(split)):
        if not row or segments[row] != segments[row - 1]:
            found.append(UNKNOWN)
            continue
        assert clips[row] == clips[row - 1]
        balls = draw_world(1, int(prepared.manifest["clips"][clips[row]]["file"][-7:-4]))
        before = 0
        for frame in range(frames[row]):
            before = balls.touches + balls.bounces if frame == frames[row - 1] else before
            balls.advance(1 / RATE)
        found.append(min(balls.touches + balls.bounces - before, MOST_COLLISIONS))
    return found


@pytest.mark.parametrize("name", ["val", "test"])
def test_every_label_stands_beside_its_state(demo: PreparedSet, name: str) -> None:
    split = demo.split(name)
    labels = split.labels
    assert labels is not None
    assert labels.dtype == np.int8
    assert labels.shape == (len(split),) == split.states.shape[:1]
    assert labels.tolist() == naive_labels(demo, name)
    assert len(set(labels.tolist())) > 3


def test_other_intervals_have_other_labels(demo: PreparedSet, tmp_path: Path) -> None:
    shutil.copytree(demo.path / "clips", tmp_path / "demo" / "clips")
    (tmp_path / "demo" / ".frames").mkdir()  # whose folder it is: a prepare that was cut off while it rendered
    list(prepare_demo(tmp_path / "demo", clips=3, seed=1, workers=1, every=8, **SMALL))
    prepared = open_set(tmp_path / "demo")
    assert prepared.split("test").labels.tolist() == naive_labels(prepared, "test")  # type: ignore[union-attr]


def test_the_manifest_says_what_labels_mean(demo: PreparedSet) -> None:
    assert demo.labels == COLLISIONS
    record = demo.manifest["labels"]
    assert record["name"] == "collisions"
    assert record["classes"][0] == {"label": 0, "name": "no collision", "group": "collisions"}
    known = {each["label"] for each in record["classes"]}
    for name in SPLITS:
        labels = demo.split(name).labels
        assert labels is not None
        assert set(labels.tolist()) <= {UNKNOWN, *known}


def test_labels_change_no_state_and_no_clip(demo: PreparedSet, tmp_path: Path) -> None:
    list(prepare_video(demo.path / "clips", tmp_path / "plain", workers=1, **SMALL))
    plain = open_set(tmp_path / "plain")
    assert plain.labels is None
    assert "labels" not in plain.manifest
    assert plain.manifest["clips"] == demo.manifest["clips"]  # with the sha256 of each
    assert plain.manifest["files"]["encoder.safetensors"] == demo.manifest["files"]["encoder.safetensors"]
    for name in SPLITS:
        assert plain.split(name).labels is None
        assert "label" not in plain.split(name).table.column_names
        np.testing.assert_array_equal(plain.split(name).states, demo.split(name).states)
        for column in ("clip", "frame", "time", "segment"):
            np.testing.assert_array_equal(plain.split(name).column(column), demo.split(name).column(column))
        np.testing.assert_array_equal(plain.split(name).windows(), demo.split(name).windows())


def test_an_old_set_has_no_labels(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "set")
    assert prepared.labels is None
    assert all(prepared.split(name).labels is None for name in SPLITS)


# ------------------------------------------------------------------------------------------- classes


def test_labels_come_back_from_json_with_their_groups() -> None:
    labels = ranked("n", {"a": [(3, "easy"), (1, "hard")], "b": [(0, "only")]})
    assert Labels.from_json(labels.as_json()) == labels
    assert {name: [each.label for each in group] for name, group in labels.groups.items()} == {"a": [3, 1], "b": [0]}


@pytest.mark.parametrize("numbers", [[1, 1], [-1], [128]])
def test_labels_that_can_not_be_told_apart_or_stored_are_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="each once"):
        ranked("n", {"a": [(number, "x") for number in numbers]})


def test_the_first_state_of_a_segment_has_no_label() -> None:
    labels = without_firsts(np.array([5, 4, 3, 2, 1]), np.array([7, 7, 8, 9, 9]))
    assert labels.tolist() == [UNKNOWN, 4, UNKNOWN, UNKNOWN, 1]
    assert labels.dtype == np.int8
