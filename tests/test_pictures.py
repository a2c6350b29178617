"""Pictures: whole pixels, right sizes, planes that contain what they claim, films with every frame in its place."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ebwm_cli.run.landscape import survey
from ebwm_cli.run.pictures import Curve, Row, Tile, difference_frame, draw_curves, draw_landscape, draw_strip
from ebwm_cli.run.thought_files import shown_steps
from ebwm_cli.run.video_writer import FRAMES_PER_SECOND, write_rollout

RED, BLUE = (200, 30, 30), (30, 60, 200)


def plain(colour: tuple[int, int, int], size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), colour, np.uint8)


def checkers(size: int = 16) -> np.ndarray:
    board = (np.indices((size, size)).sum(0) % 2 * 255).astype(np.uint8)
    return np.repeat(board[..., None], 3, axis=-1)


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def bowl(centre: np.ndarray):
    """Energies |x - centre|^2 / 2D."""
    return lambda x: (((x - centre) ** 2).mean(-1) / 2).astype(np.float32)


# ---------------------------------------------------------------------------------------------- strip


def test_strip_enlarges_pixels_to_whole_squares(tmp_path: Path) -> None:
    file = tmp_path / "strip.png"
    draw_strip(file, "title", [Row("row", [Tile(checkers(), "above", "below")])])
    pixels = read(file).mean(-1)
    centre = pixels[76:176, 140:240]  # inside the only tile, whose pixels are squares of 7 x 7
    values, counts = np.unique(centre, return_counts=True)
    assert set(values[counts > 100]) == {0, 255}
    assert counts[np.isin(values, (0, 255))].sum() == centre.size  # nothing was smoothed
    runs = np.diff(np.flatnonzero(np.diff(centre[3])))
    assert set(runs) == {7}


def test_strip_holds_rows_of_different_length_and_no_clock(tmp_path: Path) -> None:
    rows = [Row("a", [Tile(plain(RED))] * 3), Row("b", [Tile(plain(BLUE), colour="#009e73")])]
    for name in ("one.png", "two.png"):
        draw_strip(tmp_path / name, "same", rows, "a footnote")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    pixels = read(tmp_path / "one.png").reshape(-1, 3)
    assert (pixels == RED).all(-1).sum() > 2.5 * (pixels == BLUE).all(-1).sum() > 0


def test_difference_is_paper_where_equal_and_dark_where_wrong() -> None:
    same = difference_frame(plain(RED), plain(RED))
    assert np.unique(same.reshape(-1, 3), axis=0).tolist() == [[251, 250, 248]]
    slightly, wholly = (
        difference_frame(plain((9, 9, 9)), plain((0, 0, 0))),
        difference_frame(checkers(), 255 - checkers()),
    )
    assert wholly.mean() < slightly.mean() < same.mean()


@pytest.mark.parametrize(
    ("steps", "shown"),
    [(0, [0]), (1, [0, 1]), (3, [0, 1, 2, 3]), (4, [0, 1, 2, 4]), (16, [0, 1, 2, 4, 8, 16])],
)
def test_shown_steps_double(steps: int, shown: list[int]) -> None:
    assert shown_steps(steps) == shown


@pytest.mark.parametrize("steps", [17, 64, 100, 1000])
def test_shown_steps_are_few_and_hold_both_ends(steps: int) -> None:
    shown = shown_steps(steps, 6)
    assert len(shown) == 6
    assert shown[:2] == [0, 1]
    assert shown[-1] == steps
    assert shown == sorted(set(shown))


# ---------------------------------------------------------------------------------------------- landscape


def test_plane_contains_start_final_and_truth() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=24).astype(np.float32)
    path = np.stack([rng.normal(size=24), rng.normal(size=24), rng.normal(size=24)]).astype(np.float32)
    seen: list[np.ndarray] = []

    def score(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return bowl(truth)(x)

    found = survey(score, path, truth, rng, grid=21)
    assert found.truth is not None
    assert found.path[0] == pytest.approx([0, 0], abs=1e-6)
    assert found.path[-1, 1] == pytest.approx(0, abs=1e-6)
    # In state units: distances in the plane are root mean squares between the states.
    assert found.path[-1, 0] == pytest.approx(np.sqrt(np.mean((path[-1] - path[0]) ** 2)), rel=1e-5)
    assert np.hypot(*found.truth) == pytest.approx(np.sqrt(np.mean((truth - path[0]) ** 2)), rel=1e-5)
    # The truth lies in the plane, so the energy at (u, v) is the bowl in these two coordinates alone.
    u, v = np.meshgrid(found.u, found.v)
    expected = ((u - found.truth[0]) ** 2 + (v - found.truth[1]) ** 2) / 2
    assert found.energies == pytest.approx(expected, abs=1e-5)
    assert len(np.concatenate(seen)) == 21 * 21
    assert found.u[0] < min(found.path[:, 0].min(), found.truth[0])
    assert found.v[-1] > max(found.path[:, 1].max(), found.truth[1])


def test_second_direction_is_random_without_a_truth_and_a_function_of_the_seed() -> None:
    path = np.linspace(0, 1, 5)[:, None] * np.ones((1, 8), np.float32)
    first, again, other = (survey(bowl(np.arange(8)), path, None, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.truth is None
    assert first.second == "random"
    assert np.array_equal(first.energies, again.energies)
    assert not np.allclose(first.energies, other.energies)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_descent_that_goes_nowhere_still_has_a_landscape(size: int, tmp_path: Path) -> None:
    path = np.zeros((1, size), np.float32)
    found = survey(bowl(np.ones(size)), path, path[0], np.random.default_rng(0), grid=9)
    assert np.isfinite(found.energies).all()
    draw_landscape(tmp_path / "flat.png", "flat", found, [Curve("energy", [0], [1.0])])
    assert read(tmp_path / "flat.png").shape == (580, 1060, 3)


def test_flat_energy_and_single_points_can_be_drawn(tmp_path: Path) -> None:
    path = np.eye(3, dtype=np.float32)
    found = survey(lambda x: np.zeros(len(x), np.float32), path, None, np.random.default_rng(0), grid=9)
    draw_landscape(tmp_path / "flat.png", "flat", found, [Curve("energy", [0, 1, 2], [0.0, 0.0, 0.0])])
    draw_curves(
        tmp_path / "one.png", "one", [Curve("loss", [0], [0.1], reference=("copy last", 0.1))], "steps", log2=True
    )
    assert read(tmp_path / "one.png").shape[1] == 640


# ---------------------------------------------------------------------------------------------- film


@pytest.mark.parametrize("with_truth", [True, False])
def test_film_plays_memory_then_prediction_beside_the_truth(tmp_path: Path, with_truth: bool) -> None:
    remembered = np.stack([plain((120, 120, 120))] * 2)
    predicted, truth = np.stack([plain(RED)] * 2), np.stack([plain(BLUE)] * 2)
    write_rollout(tmp_path / "film.mp4", remembered, predicted, truth if with_truth else None, interval=0.25)
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    assert len(frames) == 4 * 6 + FRAMES_PER_SECOND  # 0.25 s each, and a second at the end
    height, width = frames[0].shape[:2]
    left, right = frames[-1][height // 2, 60], frames[-1][height // 2, width - 60]
    assert left == pytest.approx(RED, abs=12)
    assert right == pytest.approx(BLUE if with_truth else RED, abs=12)
    assert frames[0][height // 2, 60] == pytest.approx((120, 120, 120), abs=12)


def test_film_of_a_single_state_lasts_long_enough_to_be_seen(tmp_path: Path) -> None:
    one = plain(RED, 33)[None]  # odd sizes too
    write_rollout(tmp_path / "new" / "film.mp4", one, one, None, interval=0.01)
    with av.open(str(tmp_path / "new" / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) >= FRAMES_PER_SECOND
