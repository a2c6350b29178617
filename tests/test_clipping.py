"""Gradients are clipped to a norm, and to a multiple of what norms were of late, which no spike moves far."""

from __future__ import annotations

import math

import pytest
import torch
from kinds import rng, windows, world_of

from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.world import update as module
from ebwm_cli.world.optim import build_optimizer
from ebwm_cli.world.update import norm_of_late, update_weights


def moved(usual_norm: float | None = None, **settings) -> tuple[float, float]:
    """How far one update of plain gradient descent at rate 1 moves the weights, and the norm of its gradient."""
    train = TrainSection(batch_size=4, learning_rate=1.0, warmup=0, **settings)
    world = world_of("transformer", "video")
    before = [p.detach().clone() for p in world.parameters()]
    optimizer = torch.optim.SGD([{"params": list(world.parameters()), "relative_rate": 0.0}], lr=1.0)
    update = update_weights(world, optimizer, windows("video", 4), train=train, seed=0, step=0, usual_norm=usual_norm)
    far = math.sqrt(
        sum(float((p - q).detach().square().sum()) for p, q in zip(world.parameters(), before, strict=True))
    )
    return far, update.grad_norm


def test_the_smaller_of_both_limits_counts():
    free, norm = moved(clip_norm=0)
    assert free == pytest.approx(norm, rel=1e-4)
    assert norm > 0.02
    for settings, usual, limit in (
        ({"clip_norm": 0.01}, None, 0.01),
        ({"clip_norm": 0, "clip_spikes": 2.0}, None, norm),  # nothing is known yet
        ({"clip_norm": 0, "clip_spikes": 2.0}, 0.005, 0.01),
        ({"clip_norm": 0, "clip_spikes": 2.0}, norm, norm),
        ({"clip_norm": 0.004, "clip_spikes": 2.0}, 0.005, 0.004),
        ({"clip_norm": 1.0, "clip_spikes": 0.5}, 0.01, 0.005),
        ({"clip_norm": 0, "clip_spikes": 0.0}, 0.005, norm),
    ):
        far, told = moved(usual, **settings)
        assert far == pytest.approx(limit, rel=1e-4), settings
        assert told == pytest.approx(norm)  # before clipping


def test_what_norms_were_of_late_follows_them_and_not_their_spikes():
    usual = None
    for _ in range(300):
        usual = norm_of_late(usual, 0.01)
    assert usual == pytest.approx(0.01)
    assert norm_of_late(usual, 10.0) < 1.2 * usual
    for _ in range(300):
        usual = norm_of_late(usual, 0.1)
    assert usual == pytest.approx(0.1, rel=0.02)
    assert norm_of_late(usual, 0.0) == usual
    assert norm_of_late(0.0, 0.3) == 0.3


def test_one_wild_batch_stalls_nothing(monkeypatch):
    """Of updates on the same windows, one has a gradient a thousand times as large: after it, AdamW hardly moves."""
    real = module.gradient

    def losses(clip_spikes: float) -> list[float]:
        train = TrainSection(
            batch_size=16, learning_rate=3e-3, warmup=0, steps=60, clip_norm=0, clip_spikes=clip_spikes
        )
        world, usual, found = world_of("transformer", "video"), None, []
        optimizer = build_optimizer(world, train)

        def wild(world, states, **options):
            loss, measures = real(world, states, **options)
            if options["step"] == 40:
                for p in world.parameters():
                    if p.grad is not None:
                        p.grad = 1e3 * torch.randn(p.shape, generator=rng(1)) * p.grad.norm() / math.sqrt(p.numel())
            return loss, measures

        monkeypatch.setattr(module, "gradient", wild)
        for step in range(60):
            done = update_weights(
                world, optimizer, windows("video", 16), train=train, seed=0, step=step, usual_norm=usual
            )
            usual = norm_of_late(usual, done.grad_norm)
            found.append(done.loss)
        return found

    clipped, free = losses(2.0), losses(0.0)
    learned, stalled = (found[41] - found[-1] for found in (clipped, free))
    assert learned > 3 * stalled


def test_squares_of_gradients_are_remembered_as_long_as_the_recipe_says():
    for beta2 in (0.9, 0.999):
        optimizer = build_optimizer(world_of("ebt", "video"), TrainSection(batch_size=4, beta2=beta2))
        assert {group["betas"] for group in optimizer.param_groups} == {(0.9, beta2)}
