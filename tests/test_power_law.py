"""Scaling laws against laws that are known: without noise exactly, with noise as often as the interval promises."""

import numpy as np
import pytest

from ebwm_cli.commands.scale import fit_power_law
from ebwm_cli.run.power_law import EXPONENTS, fit_line, slope_ratio


def law(x, exponent, coefficient, offset):
    return offset + coefficient * np.asarray(x) ** -exponent


@pytest.mark.parametrize("decades", [1, 2, 4])
@pytest.mark.parametrize("points", [4, 6, 10])
@pytest.mark.parametrize("offset", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("exponent", [0.05, 0.3, 0.76, 1.5])
def test_a_law_without_noise_is_recovered(exponent, offset, points, decades):
    x = np.geomspace(1e6, 10 ** (6 + decades), points)
    coefficient = 3 * 1e6**exponent
    fit = fit_power_law(x, law(x, exponent, coefficient, offset), draws=50)
    assert fit.exponent == pytest.approx(exponent, abs=1e-4)
    assert fit.coefficient == pytest.approx(coefficient, rel=1e-4)
    assert fit.offset == pytest.approx(offset, abs=1e-4)
    assert fit.ci95[0] <= fit.exponent <= fit.ci95[1]
    assert fit.ci95[1] - fit.ci95[0] < 1e-3
    assert fit.predict(x) == pytest.approx(law(x, exponent, coefficient, offset), rel=1e-6)


@pytest.mark.parametrize(
    ("points", "seeds", "exponent", "offset", "decades"),
    [(8, 1, 0.3, 0.5, 3), (5, 3, 0.3, 0.5, 3), (6, 1, 0.5, 0.2, 2), (4, 3, 0.5, 0.5, 1)],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(points, seeds, exponent, offset, decades):
    x = np.repeat(np.geomspace(1, 10**decades, points), seeds)
    covered = []
    for draw in range(200):
        noise = 1 + 0.005 * np.random.default_rng(draw).standard_normal(len(x))
        fit = fit_power_law(x, law(x, exponent, 1, offset) * noise, draws=400)
        covered.append(fit.ci95[0] <= exponent <= fit.ci95[1])
    assert 0.90 <= np.mean(covered) <= 0.98


def test_units_change_neither_exponent_nor_interval():
    x = np.geomspace(1e3, 1e6, 7)
    loss = law(x, 0.3, 10, 1) * (1 + 0.005 * np.random.default_rng(3).standard_normal(7))
    here, there = fit_power_law(x, loss), fit_power_law(1e-9 * x, 50 * loss)
    assert there.exponent == pytest.approx(here.exponent, rel=1e-6)
    assert there.ci95 == pytest.approx(here.ci95, rel=1e-4)
    assert there.offset == pytest.approx(50 * here.offset, rel=1e-6)


def test_order_does_not_matter_and_nothing_is_drawn_from_outside():
    x = np.geomspace(1, 100, 6)
    loss = law(x, 0.4, 1, 0.3) * (1 + 0.005 * np.random.default_rng(1).standard_normal(6))
    assert fit_power_law(x, loss) == fit_power_law(list(x), list(loss))
    assert fit_power_law(x[::-1], loss[::-1]).exponent == pytest.approx(fit_power_law(x, loss).exponent, rel=1e-6)


def test_one_wild_run_moves_the_law_little():
    x = np.repeat(np.geomspace(1, 1000, 8), 3)
    loss = law(x, 0.3, 1, 0.5) * (1 + 0.002 * np.random.default_rng(0).standard_normal(24))
    wild = loss.copy()
    wild[10] *= 1.1
    least_squares_moves = abs(fit_power_law(x[:10], loss[:10]).exponent - 0.3)
    moved = abs(fit_power_law(x, wild).exponent - fit_power_law(x, loss).exponent)
    assert moved < 0.01
    assert least_squares_moves < 0.1


@pytest.mark.parametrize(
    ("x", "loss", "reason"),
    [
        ([1, 2, 4, 1, 2, 4], [3, 2, 1, 3, 2, 1], "3 points; a law needs 4"),
        ([5], [1], "1 point; a law needs 4"),
        ([1, 2, 4, 8, 16], [1, 1.1, 1.2, 1.3, 1.4], "does not fall"),
        (np.geomspace(1, 100, 6), 5 - 0.01 * np.log(np.geomspace(1, 100, 6)), "no power law"),
        ([1, 2, 4, 8, 16], [10, 1, 1, 1, 1], "no power law"),
    ],
)
def test_where_there_is_no_law_there_is_a_reason(x, loss, reason):
    fit = fit_power_law(x, loss)
    assert (fit.exponent, fit.coefficient, fit.offset, fit.ci95) == (None, None, None, None)
    assert reason in fit.reason
    with pytest.raises(ValueError, match="no law"):
        fit.predict([1.0])


@pytest.mark.parametrize("wrong", [[1, 2, 3, 0], [1, 2, 3, -1], [1, 2, 3, np.nan], [1, 2, 3, np.inf], [1, 2, 3]])
def test_numbers_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError):
        fit_power_law([1, 2, 3, 4], wrong)
    with pytest.raises(ValueError):
        fit_power_law(wrong, [1, 2, 3, 4])


def test_a_line_is_least_squares_in_logarithms_and_its_interval_holds():
    x = np.repeat(np.geomspace(1, 100, 5), 3)
    covered, ratios = [], []
    for draw in range(200):
        rng = np.random.default_rng(draw)
        loss, other = (x**-slope * (1 + 0.005 * rng.standard_normal(15)) for slope in (0.2, 0.1))
        line, ratio = fit_line(x, loss, draws=400), slope_ratio(x, loss, x, other, draws=400)
        assert line.slope == pytest.approx(np.polyfit(np.log(x), np.log(loss), 1)[0])
        covered.append(line.ci95[0] <= -0.2 <= line.ci95[1])
        ratios.append(ratio.ci95[0] <= 2 <= ratio.ci95[1])
    assert 0.90 <= np.mean(covered) <= 0.99
    assert 0.90 <= np.mean(ratios) <= 0.99


def test_a_ratio_to_a_slope_that_may_be_zero_says_nothing():
    x = np.geomspace(1, 100, 6)
    noise = 1 + 0.05 * np.random.default_rng(0).standard_normal(6)
    ratio = slope_ratio(x, x**-0.2, x, noise)
    assert (ratio.value, ratio.ci95) == (None, None)
    assert "not told from 0" in ratio.reason
    assert slope_ratio([1, 2, 3], [3, 2, 1], x, noise).reason == "3 points; a law needs 4"


def test_the_search_is_dense():
    assert np.all(np.diff(np.log(EXPONENTS)) < 0.02)
