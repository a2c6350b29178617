"""Intervals of rank statistics: those of resamples written out, and as sure as they say."""

from __future__ import annotations

import numpy as np
import pytest

from ebwm_cli.run import resampling
from ebwm_cli.run.resampling import auroc_of, interval, mean_of, partial_spearman_of, spearman_of
from ebwm_cli.run.statistics import auroc, partial_spearman, spearman

WINDOWS, EACH = 12, 5
PLACES = np.repeat(np.arange(WINDOWS), EACH)


def alike(rng: np.random.Generator, windows: int = WINDOWS, each: int = EACH) -> np.ndarray:
    """(windows * each,) numbers of variance 1, those of one window alike; ties among them."""
    shared = np.repeat(rng.normal(size=windows), each)
    return np.round((shared + rng.normal(size=windows * each)) / np.sqrt(2), 1)


@pytest.mark.parametrize("name", ["spearman", "partial", "auroc", "mean"])
def test_resamples_are_those_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y, given = (alike(rng) for _ in range(3))
    quick, slow = {
        "spearman": (spearman_of(x, y), lambda i: spearman(x[i], y[i])),
        "partial": (partial_spearman_of(x, y, given), lambda i: partial_spearman(x[i], y[i], given[i])),
        "auroc": (auroc_of(x, y), lambda i: auroc(x[i], y[i])),
        "mean": (mean_of(x), lambda i: x[i].mean()),
    }[name]
    monkeypatch.setattr(resampling, "DRAWS", 40)
    times = np.random.default_rng(3).multinomial(WINDOWS, np.full(WINDOWS, 1 / WINDOWS), size=40)
    expected = [slow(np.repeat(np.arange(len(x)), each[PLACES])) for each in times]
    assert quick(times[:, PLACES].astype(float)) == pytest.approx(expected, abs=1e-12)
    assert interval(quick, PLACES, 3) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-12)
    whole = quick(np.ones((1, len(x))))[0]
    assert whole == pytest.approx(slow(np.arange(len(x))), abs=1e-12)


def test_weights_held_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y = alike(rng), alike(rng)
    whole = interval(auroc_of(x, y), PLACES, 0)
    monkeypatch.setattr(resampling, "AT_ONCE", 7 * len(x))
    assert interval(auroc_of(x, y), PLACES, 0) == pytest.approx(whole, abs=1e-12)


def test_intervals_hold_what_is_true_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spearman of normals of correlation 0.5: 6 / pi asin(0.25); AUROC of normals sqrt(2) apart: Phi(1)."""
    monkeypatch.setattr(resampling, "DRAWS", 300)
    windows, each, held, naive = 60, 6, np.zeros(2), 0
    places = np.repeat(np.arange(windows), each)
    for trial in range(100):
        rng = np.random.default_rng(trial)

        def normal(rng: np.random.Generator = rng) -> np.ndarray:
            shared = np.repeat(rng.normal(size=windows), each)
            return (shared + 0.5 * rng.normal(size=windows * each)) / np.sqrt(1.25)

        x, other, third = normal(), normal(), normal()
        y = 0.5 * x + np.sqrt(0.75) * other
        found = [interval(spearman_of(x, y), places, trial), interval(auroc_of(x + np.sqrt(2), third), places, trial)]
        truth = [6 / np.pi * np.arcsin(0.25), 0.8413]
        for index, (ends, true) in enumerate(zip(found, truth, strict=True)):
            assert ends is not None
            held[index] += ends[0] <= true <= ends[1]
        apart = interval(spearman_of(x, y), np.arange(len(x)), trial)
        assert apart is not None
        naive += apart[0] <= truth[0] <= apart[1]
    assert ((held >= 87) & (held <= 99)).all(), held
    assert naive < 80  # predictions of one window taken for independent ones


def test_what_has_no_interval() -> None:
    x = np.arange(20.0)
    few = np.repeat(np.arange(4), 5)
    assert interval(mean_of(x), few, 0) is None
    assert interval(mean_of(x), np.repeat([1, 3, 5, 7, 9], 4), 0) is not None
    many = np.repeat(np.arange(10), 2)
    assert interval(spearman_of(x, np.ones(20)), many, 0) is None
    assert interval(partial_spearman_of(x, -x, x), many, 0) is None
    assert interval(mean_of(np.array([])), np.array([], dtype=np.int64), 0) is None
