"""Denoising against distributions whose exact denoiser, and whose whole way from noise to state, is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.sampler.denoising import LAST_TIME, PURE, denoise, level_of, signal_and_noise, times_of
from ebwm_cli.sampler.stopping import EnergySettled

MU, SIGMA = 0.7, 0.4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


EPS = noise_of(2, 3, 5)
START = torch.zeros_like(EPS)


class Gaussian:
    """The exact denoiser of N(mu, sigma^2): E[y | x] = mu + sigma^2 s (x - s mu) / (s^2 sigma^2 + n^2), n being the
    noise in units of `unit`. Keeps what it was asked and what it said."""

    def __init__(self, mu: float | torch.Tensor = MU, sigma: float = SIGMA, unit: float = 1.0) -> None:
        self.mu, self.sigma, self.unit = mu, sigma, unit
        self.asked: list[torch.Tensor] = []
        self.said: list[torch.Tensor] = []

    def __call__(self, noisy: torch.Tensor, level: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        signal = torch.where(level <= -PURE, 0.0, level.sigmoid().sqrt())[..., None]
        noise = (1 - signal**2).sqrt() * self.unit
        gain = self.sigma**2 * signal / (signal**2 * self.sigma**2 + noise**2)
        self.asked.append(noisy)
        self.said.append(self.mu + gain * (noisy - signal * self.mu))
        return self.said[-1]


# --------------------------------------------------------------------------------------------- schedule


def test_signal_and_noise_share_one_and_the_level_falls():
    time = torch.linspace(0, 1, 1001, dtype=torch.float64)
    signal, noise = signal_and_noise(time)
    assert torch.allclose(signal**2 + noise**2, torch.ones_like(time), atol=1e-15)
    level = level_of(time)
    assert (level.diff() <= 0).all()
    assert (level[0], level[-1]) == (PURE, -PURE)
    told = level.abs() < PURE
    assert told[20:-20].all()  # all but the first and the last 2 %
    assert (level[told].diff() < 0).all()
    assert torch.allclose(level[told], (signal**2 / noise**2).log()[told], atol=1e-9)
    assert torch.allclose(level.sigmoid().sqrt()[told], signal[told], atol=1e-12)


def test_where_denoising_starts_is_a_level_that_training_draws():
    """The denoiser is never asked at a level at which it was not taught: 1 % of evenly drawn times share the first."""
    drawn = level_of(torch.rand(10_000, generator=rng()))
    assert (drawn == level_of(torch.ones(1))).float().mean() > 0.01
    assert drawn.min() <= level_of(torch.tensor(times_of(3))).min()
    assert drawn.max() >= level_of(torch.tensor([LAST_TIME])).max()


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_times_fall_evenly_from_noise_alone_to_the_last(steps):
    times = torch.tensor(times_of(steps), dtype=torch.float64)
    assert len(times) == steps + 1
    assert times[0] == 1
    assert times[-1].item() == pytest.approx(LAST_TIME)
    assert torch.allclose(times.diff(), torch.full((steps,), -(1 - LAST_TIME) / steps, dtype=torch.float64))
    assert times_of(0) == [1.0]


# --------------------------------------------------------------------------------------------- a Gaussian


@pytest.mark.parametrize("unit", [1.0, 0.25])
def test_every_step_is_the_closed_form(unit):
    """With the exact denoiser x' - s' mu = (s s' sigma^2 + n n') / (s^2 sigma^2 + n^2) (x - s mu)."""
    denoiser = Gaussian(unit=unit)
    denoise(denoiser, START, EPS, steps=6, unit=unit)
    away = EPS * unit  # x - s mu, of nothing but noise
    angles = [math.pi / 2 * time for time in times_of(6)]
    for step, (angle, later) in enumerate(zip(angles, [*angles[1:], 0.0], strict=True)):
        s, n, s2, n2 = math.cos(angle), math.sin(angle) * unit, math.cos(later), math.sin(later) * unit
        variance = s * s * SIGMA**2 + n * n
        assert torch.allclose(denoiser.asked[step], s * MU + away, atol=1e-12)
        assert torch.allclose(denoiser.said[step], MU + SIGMA**2 * s * away / variance, atol=1e-12)
        away = away * (s * s2 * SIGMA**2 + n * n2) / variance


def test_more_steps_come_closer_to_the_flow_of_probability():
    """Noise eps flows to mu + sigma eps; one step errs by about 1 / steps."""
    errors = [
        (denoise(Gaussian(), START, EPS, steps=steps).final - (MU + SIGMA * EPS)).abs().max().item()
        for steps in (4, 16, 64, 256)
    ]
    assert all(later < before / 2.5 for before, later in pairwise(errors))
    assert errors[-1] < 0.02


def test_many_draws_have_the_mean_and_the_spread():
    draws = denoise(Gaussian(), torch.zeros(1, 1, 20_000).double(), noise_of(1, 1, 20_000), steps=100).final
    assert draws.mean().item() == pytest.approx(MU, abs=4 * SIGMA / 20_000**0.5)
    assert draws.std().item() == pytest.approx(SIGMA, rel=0.04)  # as 100 steps know it


def test_one_step_says_the_mean():
    run = denoise(Gaussian(), START, EPS, steps=1)
    assert torch.allclose(run.final, torch.full_like(EPS, MU), atol=1e-14)


# ---------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("unit", [1.0, 0.5])
def test_an_energy_is_how_far_the_next_estimate_is_off(steps, unit):
    denoiser = Gaussian(unit=unit)
    run = denoise(denoiser, START, EPS, steps=steps, unit=unit, record=True)
    candidates = [START, *denoiser.said]
    assert len(denoiser.said) == steps + 1  # one more pass than steps
    assert run.energies.shape == (2, 3, steps + 1)
    for k in range(steps + 1):
        assert torch.equal(run.path[:, :, k], candidates[k])
        expected = ((candidates[k + 1] - candidates[k]) / unit).square().mean(-1)
        assert torch.allclose(run.energies[..., k], expected, atol=1e-14)
    assert torch.equal(run.final, candidates[steps])
    assert torch.equal(run.start, START)
    assert run.moves.shape == (2, 3, steps)
    for k in range(steps):
        expected = (candidates[k + 1] - candidates[k]).square().mean(-1).sqrt()
        assert torch.allclose(run.moves[..., k], expected, atol=1e-14)
    assert (run.steps_used == steps).all()
    assert (run.energies[..., -1] > 0).all()  # the last candidate too is held against another one


def test_stopping_keeps_the_candidate_of_a_settled_position_and_ends_when_all_have():
    start = START.clone()
    start[:, 0] = MU  # where the first estimate changes nothing, the second can only change more
    options = {"steps": 60, "record": True}
    free = denoise(Gaussian(sigma=0.05), start, EPS, **options)
    run = denoise(Gaussian(sigma=0.05), start, EPS, stopping=EnergySettled(0.01), **options)
    assert (run.steps_used[:, 0] == 1).all()
    assert (run.steps_used[:, 1:] > 1).all()
    assert run.steps_used.max() < 60
    for b in range(2):
        for t in range(3):
            used = int(run.steps_used[b, t])
            assert torch.equal(run.final[b, t], free.path[b, t, used])
            assert torch.equal(run.energies[b, t, : used + 1], free.energies[b, t, : used + 1])
            assert (run.energies[b, t, used:] == free.energies[b, t, used]).all()
            assert (run.moves[b, t, used:] == 0).all()
            assert (run.moves[b, t, 1:used] > 0).all()
    most = int(run.steps_used.max())
    assert run.path.shape == (2, 3, most + 1, 5)
    assert run.energies.shape == (2, 3, most + 1)


def test_who_has_stopped_is_denoised_no_more():
    """What is computed is what is counted, and those who go on are asked about by their own index."""
    spread = torch.tensor([[0.05, 0.2, 0.4], [0.1, 0.3, 0.5]], dtype=torch.float64)
    asked: list[torch.Tensor] = []

    def denoiser(noisy: torch.Tensor, level: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        asked.append(torch.arange(6) if index is None else index)
        assert noisy.shape[0] * noisy.shape[1] == level.numel() == len(asked[-1])
        sigma = spread.flatten()[asked[-1]].view(level.shape)[..., None]
        return Gaussian(sigma=sigma)(noisy, level)

    start = START.clone()
    start[:, 0] = MU  # where the first estimate changes nothing, the second can only change more
    run = denoise(denoiser, start, EPS, steps=30, stopping=EnergySettled(0.02))
    free = denoise(denoiser, start, EPS, steps=30, record=True)
    asked = asked[: int(run.tries.max())]
    assert len({len(each) for each in asked}) > 1
    assert torch.equal(torch.bincount(torch.cat(asked), minlength=6).view(2, 3), run.tries)
    for b in range(2):
        for t in range(3):
            assert torch.allclose(run.final[b, t], free.path[b, t, int(run.steps_used[b, t])], atol=1e-12)


def test_a_position_is_denoised_by_its_own_noise_only():
    together = denoise(Gaussian(), START, EPS, steps=4)
    alone = denoise(Gaussian(), START[1:, 2:], EPS[1:, 2:], steps=4)
    assert torch.equal(alone.final, together.final[1:, 2:])
    assert torch.equal(alone.energies, together.energies[1:, 2:])


# ----------------------------------------------------------------------------------------------- tokens


def test_tokens_come_as_often_as_they_are_likely():
    """Bayes: p(w | x) ~ p(w) exp(-|x - s e_w|^2 / 2 n^2), logits whose denoised draws must follow p."""
    torch.manual_seed(0)
    space = TokenSpace(5, 8).double().requires_grad_(False)
    likely = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)

    def bayes(noisy: torch.Tensor, level: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
        signal = torch.where(level <= -PURE, 0.0, level.sigmoid().sqrt())[..., None]
        noise = (1 - signal**2).sqrt() * space.unit
        away = noisy.unsqueeze(-2) - signal[..., None] * space.table  # (B, T', V, W)
        return likely.log() - away.square().sum(-1) / (2 * noise**2)

    draws = 4000
    start = torch.zeros(1, draws, 5).double()
    run = denoise(bayes, start, noise_of(1, draws, 8), steps=60, unit=space.unit, geometry=space)
    assert run.final.shape == (1, draws, 5)
    counts = torch.bincount(run.final.argmax(-1).flatten(), minlength=5) / draws
    assert (counts - likely).abs().max() < 0.03  # four standard errors
    assert run.final.softmax(-1).amax(-1).mean() > 0.99  # and each is sure of itself
    first = denoise(bayes, start, noise_of(1, draws, 8), steps=1, unit=space.unit, geometry=space).final
    assert torch.allclose(first.softmax(-1).mean((0, 1)), likely, atol=1e-9)  # one step says the prior
    error = ((likely @ space.table - space.table.mean(0)) / space.unit).square().mean()
    found = denoise(bayes, start, noise_of(1, draws, 8), steps=1, unit=space.unit, geometry=space).energies[..., 0]
    assert torch.allclose(found, error.expand_as(found), atol=1e-9)
