"""Mixing keeps variance, keeps dynamics that are linear, and draws from (seed, step) alone."""

from __future__ import annotations

import numpy as np

from ebwm_cli.data.mixing import mix_windows


def windows(count: int = 4000) -> np.ndarray:
    """Windows that follow x <- R x for one fixed R."""
    rng = np.random.default_rng(0)
    step = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    states = [rng.normal(size=(count, 3))]
    for _ in range(4):
        states.append(states[-1] @ step.T)
    return np.stack(states, axis=1).astype(np.float32)


def test_variance_is_kept_and_windows_become_others():
    states = windows()
    mixed = mix_windows(states, seed=1, step=0)
    assert mixed.dtype == np.float32
    assert abs(mixed.var() / states.var() - 1) < 0.05
    assert np.abs(mixed - states).mean() > 0.5


def test_what_follows_in_the_mix_is_the_mix_of_what_follows():
    states = windows()
    step = np.linalg.lstsq(states[:, 0], states[:, 1], rcond=None)[0]
    mixed = mix_windows(states, seed=1, step=0, frozen=0.0)
    for t in range(4):
        assert np.allclose(mixed[:, t] @ step, mixed[:, t + 1], atol=1e-4)


def test_frozen_partners_leave_the_motion_of_one_scaled_down():
    states = windows()
    mixed = mix_windows(states, seed=1, step=0, frozen=1.0)
    motion, own = np.diff(mixed, axis=1), np.diff(states, axis=1)
    scale = (motion * own).sum((1, 2)) / (own * own).sum((1, 2))
    assert np.allclose(motion, scale[:, None, None] * own, atol=1e-4)
    assert np.abs(scale).max() <= 1 + 1e-4
    assert np.abs(scale).min() < 0.01 < 0.99 < np.abs(scale).max()
    some = np.diff(mix_windows(states, seed=1, step=0), axis=1)
    parallel = np.isclose(some, ((some * own).sum((1, 2)) / (own * own).sum((1, 2)))[:, None, None] * own, atol=1e-4)
    assert 0.7 < parallel.all((1, 2)).mean() < 0.8


def test_draws_are_a_pure_function_of_seed_and_step():
    states = windows(16)
    assert np.array_equal(mix_windows(states, 1, 5), mix_windows(states, 1, 5))
    assert not np.array_equal(mix_windows(states, 1, 5), mix_windows(states, 1, 6))
    assert not np.array_equal(mix_windows(states, 1, 5), mix_windows(states, 2, 5))
