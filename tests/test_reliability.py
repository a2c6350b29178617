"""Curves of error by score: equal parts, equal scores kept together, intervals of whole windows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ebwm_cli.run.reliability import parts, reliability


def test_parts_are_equal_and_keep_equal_scores_together() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(100.0 * np.arange(60)).reshape(10, 6)
    place = parts(scores, 10)
    assert (np.bincount(place.ravel()) == 6).all()
    assert (place == scores // 600).all()
    tied = parts(np.array([1.0, 1, 1, 1, 1, 1, 2, 3, 4, 5]), 10)
    assert len(set(tied[:6].tolist())) == 1
    assert (np.diff(tied) >= 0).all()


def test_a_curve_is_its_means() -> None:
    rng = np.random.default_rng(0)
    errors = rng.gamma(2, size=(50, 8))
    scores = errors + rng.normal(size=errors.shape)
    curve = reliability("score", scores, errors, 0)
    order = np.argsort(scores.ravel())
    for part, members in zip(curve.bins, np.array_split(order, 10), strict=True):
        assert part.positions == len(members) == 40
        assert part.windows == len(set((members // 8).tolist()))
        assert part.mean_error == pytest.approx(errors.ravel()[members].mean())
        assert part.mean_score == pytest.approx(scores.ravel()[members].mean())
    assert reliability("score", scores, errors, 0) == curve
    assert reliability("score", scores, errors, 1) != curve


def test_intervals_are_of_windows_not_of_positions() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.normal(size=(400, 1)), 10, 1)
    scores = rng.normal(size=same.shape)
    widths = []
    for errors in (same, rng.normal(size=same.shape)):
        widths.append(np.mean([each.ci95[1] - each.ci95[0] for each in reliability("s", scores, errors, 0).bins]))
    # 400 positions of about 0.65 * 400 windows, some of which are there twice: 1 / sqrt(n) over sum m^2 / (sum m)^2
    assert widths[1] == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.1)
    assert widths[0] == pytest.approx(widths[1] * math.sqrt(1.9), rel=0.1)


def test_what_can_not_be_sorted_has_no_curve() -> None:
    errors = np.random.default_rng(0).normal(size=(4, 5))
    assert reliability("s", np.ones((4, 5)), errors, 0).bins == []
    assert "same" in reliability("s", np.ones((4, 5)), errors, 0).how
    errors[0, 0] = np.inf
    assert "finite" in reliability("s", np.arange(20.0).reshape(4, 5), errors, 0).how
    few = reliability("s", np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones((2, 2)), 0)
    assert [each.positions for each in few.bins] == [1] * 4


def test_few_windows_have_a_curve_and_no_intervals() -> None:
    rng = np.random.default_rng(0)
    for windows in (4, 5):
        curve = reliability("s", rng.normal(size=(windows, 20)), rng.gamma(2, size=(windows, 20)), 0)
        assert len(curve.bins) == 10
        assert {each.ci95 is None for each in curve.bins} == {windows < 5}
        assert ("too few windows for intervals" in curve.how) == (windows < 5)
