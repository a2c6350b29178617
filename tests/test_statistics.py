"""Rank correlations against scipy and closed forms; the bootstrap against the normal interval and by coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ebwm_cli.run.statistics import LEAST_WINDOWS, auroc, paired_bootstrap, partial_spearman, spearman


@pytest.mark.parametrize("decimals", [6, 1, 0])  # fewer decimals, more ties
def test_spearman_equals_scipy_with_ties(decimals: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = 0.5 * x + rng.normal(size=200)
    x, y = x.round(decimals), y.round(decimals)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_of_monotone_maps_is_one() -> None:
    x = np.linspace(-3, 3, 50)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)


def test_spearman_by_hand() -> None:
    # No ties: rho = 1 - 6 sum d^2 / (n (n^2 - 1)); ranks differ by (0, 1, 1, 0), so 1 - 12 / 60.
    assert spearman([10, 20, 30, 40], [1, 5, 3, 9]) == pytest.approx(0.8)


def test_spearman_is_undefined_for_a_constant_or_too_few() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1], [2]))
    assert math.isnan(spearman([], []))
    with pytest.raises(ValueError, match="3 values against 2"):
        spearman([1, 2, 3], [1, 2])


def test_partial_spearman_equals_the_regression_of_ranks() -> None:
    rng = np.random.default_rng(1)
    given = rng.normal(size=300)
    x = given + rng.normal(size=300)
    y = given + 0.3 * x + rng.normal(size=300)
    ranks = [stats.rankdata(v) for v in (x, y, given)]
    design = np.stack([np.ones(300), ranks[2]], axis=1)
    residuals = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    assert partial_spearman(x, y, given) == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-9)


def test_partial_spearman_removes_a_common_cause() -> None:
    rng = np.random.default_rng(2)
    cause = rng.normal(size=5000)
    x, y = cause + 0.5 * rng.normal(size=5000), cause + 0.5 * rng.normal(size=5000)
    assert spearman(x, y) > 0.7
    assert abs(partial_spearman(x, y, cause)) < 0.06


def test_partial_spearman_is_undefined_where_given_explains_all() -> None:
    x = np.arange(10.0)
    assert math.isnan(partial_spearman(x, np.random.default_rng(0).normal(size=10), x))
    assert math.isnan(partial_spearman(np.ones(10), x, x[::-1]))


def test_bootstrap_interval_equals_the_normal_one_for_many_windows() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(-0.2, 1.0, size=2000)
    found = paired_bootstrap(differences, 2000, np.random.default_rng(0))
    half = 1.96 * differences.std() / math.sqrt(2000)
    assert found.mean == pytest.approx(differences.mean())
    assert found.ci95[0] == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert found.ci95[1] == pytest.approx(differences.mean() + half, abs=0.1 * half)


def test_bootstrap_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(4)
    draws = [paired_bootstrap(rng.exponential(1.0, size=80), 300, rng).ci95 for _ in range(400)]
    covered = np.mean([low <= 1.0 <= high for low, high in draws])
    assert 0.90 <= covered <= 0.975


def test_bootstrap_is_a_function_of_its_seed_and_refuses_nothing_to_resample() -> None:
    values = np.random.default_rng(5).normal(size=30)
    first, second = (paired_bootstrap(values, 200, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert paired_bootstrap(np.full(LEAST_WINDOWS, 0.25), 50, np.random.default_rng(0)).ci95 == (0.25, 0.25)
    with pytest.raises(ValueError, match="no differences"):
        paired_bootstrap([], 10, np.random.default_rng(0))


def test_a_few_windows_have_a_mean_and_no_interval() -> None:
    for count in range(1, LEAST_WINDOWS):
        found = paired_bootstrap(np.arange(1.0, count + 1), 100, np.random.default_rng(0))
        assert (found.mean, found.ci95) == ((count + 1) / 2, None)


@pytest.mark.parametrize("decimals", [6, 1, 0])  # fewer decimals, more ties
def test_auroc_is_the_share_of_pairs_won(decimals: int) -> None:
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(0.7, 1, 41).round(decimals), rng.normal(0, 1, 30).round(decimals)
    won = sum(1.0 if high > low else 0.5 if high == low else 0.0 for high in positives for low in negatives)
    assert auroc(positives, negatives) == pytest.approx(won / (41 * 30), abs=1e-12)
    assert auroc(negatives, positives) == pytest.approx(1 - won / (41 * 30), abs=1e-12)


def test_auroc_at_its_ends() -> None:
    assert auroc([2, 3], [0, 1]) == 1
    assert auroc([0], [1, 2]) == 0
    assert auroc([1, 1], [1, 1, 1]) == 0.5
    assert math.isnan(auroc([], [1]))
    assert math.isnan(auroc([1], []))
    assert math.isnan(auroc([math.nan], [1]))
