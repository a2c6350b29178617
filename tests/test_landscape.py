"""Landscapes: planes that contain what they claim, energies that a formula gives too, pictures of all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebwm_cli.run.landscape import Landscape, survey
from ebwm_cli.run.picture_think import Cell, Line, draw_candidates, draw_landscape, drawable, told_apart
from ebwm_cli.run.pictures import Curve

STATE_DIM = 24


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bowl(centre: np.ndarray, bends: np.ndarray | float = 1.0):
    """Energies sum_i b_i (x_i - c_i)^2 / 2D."""
    return lambda x: ((bends * (x - centre) ** 2).mean(-1) / 2).astype(np.float32)


def descent(seed: int = 0, steps: int = 4) -> np.ndarray:
    return rng(seed).normal(size=(steps + 1, STATE_DIM)).astype(np.float32)


def at(found: Landscape, start: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The state (D,) at coordinates `place` (2,)."""
    return start + place @ found.axes


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


# ---------------------------------------------------------------------------------------------- planes


@pytest.mark.parametrize("second", ["truth", "random"])
def test_both_planes_hold_start_and_final_exactly(second) -> None:
    path, truth = descent(), descent(1)[0]
    found = survey(bowl(truth), path, truth, rng(), second, grid=9)
    assert at(found, path[0], found.path[0]) == pytest.approx(path[0], abs=1e-6)
    assert at(found, path[0], found.path[-1]) == pytest.approx(path[-1], abs=1e-5)
    assert found.path[-1, 1] == pytest.approx(0, abs=1e-6)
    # In state units: lengths in the plane are root mean squares.
    assert found.path[-1, 0] == pytest.approx(np.sqrt(np.mean((path[-1] - path[0]) ** 2)), rel=1e-5)
    assert found.axes @ found.axes.T / STATE_DIM == pytest.approx(np.eye(2), abs=1e-9)


def test_the_truth_lies_in_the_plane_towards_it_and_is_projected_into_the_other() -> None:
    path, truth = descent(), descent(1)[0]
    towards, other = (survey(bowl(truth), path, truth, rng(), second, grid=9) for second in ("truth", "random"))
    assert at(towards, path[0], towards.truth) == pytest.approx(truth, abs=1e-5)
    left = truth - at(other, path[0], other.truth)
    assert np.sqrt(np.mean(left**2)) > 0.1
    assert other.axes @ left == pytest.approx([0, 0], abs=1e-4)  # the nearest point of the plane
    assert towards.axes[0] == pytest.approx(other.axes[0])
    for found in (towards, other):
        assert found.u[0] < min(found.path[:, 0].min(), found.truth[0])
        assert found.v[-1] > max(found.path[:, 1].max(), found.truth[1])


@pytest.mark.parametrize("second", ["truth", "random"])
def test_energies_on_the_grid_are_those_of_the_formula(second) -> None:
    path, truth = descent(), descent(1)[0]
    bends = rng(2).uniform(0.5, 2, STATE_DIM)
    found = survey(bowl(truth, bends), path, truth, rng(), second, grid=21)
    offset = path[0].astype(float) - truth
    # E(start + u f + v s) as a polynomial in u and v, from the products of the three vectors.
    f, s = found.axes
    for row, v in enumerate(found.v):
        for column, u in enumerate(found.u):
            expected = (
                (bends * offset**2).sum()
                + 2 * u * (bends * offset * f).sum()
                + 2 * v * (bends * offset * s).sum()
                + u * u * (bends * f * f).sum()
                + 2 * u * v * (bends * f * s).sum()
                + v * v * (bends * s * s).sum()
            ) / (2 * STATE_DIM)
            assert found.energies[row, column] == pytest.approx(expected, rel=1e-4)


def test_the_plane_through_the_truth_shows_an_isotropic_bowl_as_circles() -> None:
    path, truth = descent(), descent(1)[0]
    found = survey(bowl(truth), path, truth, rng(), "truth", grid=21)
    u, v = np.meshgrid(found.u, found.v)
    assert found.energies == pytest.approx(((u - found.truth[0]) ** 2 + (v - found.truth[1]) ** 2) / 2, abs=1e-5)


def test_a_truth_close_to_the_path_is_shown_apart_from_it() -> None:
    path = np.zeros((2, STATE_DIM), np.float32)
    path[1, 0], truth = 1.0, np.zeros(STATE_DIM, np.float32)
    truth[1] = 0.1
    found = survey(bowl(truth), path, truth, rng(), "truth", grid=9)
    assert np.ptp(found.u) == pytest.approx(10 * np.ptp(found.v), rel=1e-5)
    assert found.v[0] < 0 < found.truth[1] < found.v[-1]
    truth[1] = 0.5
    even = survey(bowl(truth), path, truth, rng(), "truth", grid=9)
    assert np.ptp(even.u) == pytest.approx(np.ptp(even.v))


def test_candidates_are_scored_once_and_few_at_a_time() -> None:
    seen: list[int] = []

    def score(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return np.zeros(len(x), np.float32)

    survey(score, descent(), None, rng(), "random", grid=21)
    assert sum(seen) == 21 * 21
    assert max(seen) <= 256


def test_a_random_direction_is_a_function_of_the_seed() -> None:
    first, again, other = (survey(bowl(np.arange(24)), descent(), None, rng(s), "random") for s in (1, 1, 2))
    assert first.truth is None
    assert np.array_equal(first.energies, again.energies)
    assert not np.allclose(first.energies, other.energies)


def test_no_plane_leads_to_an_unknown_truth() -> None:
    with pytest.raises(ValueError, match="not known"):
        survey(bowl(np.zeros(24)), descent(), None, rng(), "truth")


def test_a_truth_straight_ahead_leaves_the_second_direction_free() -> None:
    path = descent(steps=1)
    found = survey(bowl(path[1]), path, 2 * path[1] - path[0], rng(), "truth", grid=9)
    assert found.truth == pytest.approx([2 * found.path[-1, 0], 0], abs=1e-5)
    assert found.axes @ found.axes.T / STATE_DIM == pytest.approx(np.eye(2), abs=1e-9)


# ---------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_descent_that_goes_nowhere_still_has_a_landscape(size: int, tmp_path: Path) -> None:
    path = np.zeros((1, size), np.float32)
    found = survey(bowl(np.ones(size)), path, path[0], rng(), "truth", grid=9)
    assert np.isfinite(found.energies).all()
    draw_landscape(tmp_path / "flat.png", "flat", [found], [Curve("energy", [0], [1.0])])
    assert pixels(tmp_path / "flat.png").std() > 1


def test_a_flat_energy_can_be_drawn(tmp_path: Path) -> None:
    found = survey(lambda x: np.zeros(len(x), np.float32), descent(), None, rng(), "random", grid=9)
    draw_landscape(tmp_path / "flat.png", "flat", [found], [Curve("energy", range(5), [0.0] * 5)])
    assert pixels(tmp_path / "flat.png").std() > 1


def test_two_planes_stand_beside_each_other_each_in_its_own_scale_of_colours(tmp_path: Path) -> None:
    path, truth = descent(), descent(1)[0]
    curves = [Curve("energy", range(5), [5.0, 4, 3, 2, 1]), Curve("loss", range(5), [1.0] * 5)]
    towards = survey(bowl(truth), path, truth, rng(), "truth", grid=9)
    flatter = survey(lambda x: 1e-3 * bowl(truth)(x) + 1, path, truth, rng(), "random", grid=9)
    draw_landscape(tmp_path / "one.png", "one", [towards], curves)
    draw_landscape(tmp_path / "two.png", "two", [towards, flatter], curves)
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert one.shape[0] == two.shape[0]
    assert two.shape[1] > one.shape[1] + 400
    planes = slice(150, 480), slice(450, 870), slice(1080, 1380)
    assert np.array_equal(one[planes[0], planes[1]], two[planes[0], planes[1]])  # the other changes nothing of it
    for columns in planes[1:]:
        colours = two[planes[0], columns].mean(-1).ravel()
        assert np.ptp(np.percentile(colours, (20, 80))) > 30  # path and marks aside


def test_scales_of_hardly_differing_energies_are_told_apart() -> None:
    assert told_apart([0.015, 2.84, -4.43]) == ["0.0", "2.8", "−4.4"]
    assert told_apart([-0.0269, -0.0252, 9.4e-05, 0.0338]) == ["−0.0269", "−0.0252", "0.0001", "0.0338"]
    assert told_apart([0.014991, 0.015049, 0.015222]) == ["0.014991", "0.015049", "0.015222"]
    assert told_apart([15.014991, 15.015049]) == ["15.01", "15.02"]
    assert told_apart([1.0, 1.0]) == ["1", "1"]
    assert told_apart([2e6, 5e6, 2.00001e7]) == ["2e+06", "5e+06", "2e+07"]


def test_tokens_are_shaded_by_probability_and_the_true_one_is_framed(tmp_path: Path) -> None:
    def picture(name: str, probability: float, true: bool) -> np.ndarray:
        cells = [Cell("$a$", probability, true), Cell("\n\x1b", 0.0)]
        draw_candidates(tmp_path / name, "title", [Line("start", 1.0, cells), Line("step 1", 0.5, cells)], "energy")
        return pixels(tmp_path / name).astype(int)

    likely, unlikely, framed = picture("a.png", 0.9, False), picture("b.png", 0.01, False), picture("c.png", 0.9, True)
    changed = (likely != unlikely).any(-1)
    assert changed.sum() > 2 * 90 * 30  # two cells
    assert likely[changed].mean() < unlikely[changed].mean() - 50
    green = (np.abs(framed - (0, 158, 115)) < 20).all(-1).sum()
    assert green > 2 * 2 * (96 + 40)
    assert (np.abs(likely - (0, 158, 115)) < 20).all(-1).sum() == 0


def test_a_table_without_energies_and_with_a_truth_can_be_drawn(tmp_path: Path) -> None:
    line = Line("in one pass", None, [Cell(" a very long token indeed", 0.5)], Cell("", 1e-9, True))
    draw_candidates(tmp_path / "one.png", "title", [line], "")
    assert pixels(tmp_path / "one.png").std() > 1


def test_what_the_font_lacks_is_spelled_out() -> None:
    assert drawable("a·⏎⇥∅…") == "a·⏎⇥∅…"
    assert drawable("猫🦊") == "U+732BU+1F98A"
