"""Pictures: whole pixels, right sizes, films with every frame in its place."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ebwm_cli.run.pictures import Curve, Row, Tile, difference_frame, draw_curves, draw_strip
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


# ---------------------------------------------------------------------------------------------- curves


def test_single_points_can_be_drawn(tmp_path: Path) -> None:
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
