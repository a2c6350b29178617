"""Coefficients that have one best value: ridge and logistic regression."""

from __future__ import annotations

import pytest
import torch
from kinds import rng

from ebwm_cli.model.solving import logistic, ridge


def test_ridge_finds_what_is_linear_and_shrinks_what_is_not_pulled_to_zero():
    features = 3 * torch.randn(500, 4, generator=rng(), dtype=torch.float64) + 7
    weight = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    target = features @ weight + 11
    found = ridge(features, target, pull=0.0)
    assert torch.allclose(found[:-1], weight, atol=1e-9)
    assert found[-1].item() == pytest.approx(11, abs=1e-8)
    pulled = ridge(features, target, pull=1.0)
    assert torch.allclose(pulled[:-1], weight / 2, atol=0.1)
    assert (features @ pulled[:-1] + pulled[-1]).mean().item() == pytest.approx(target.mean().item())
    some = ridge(features, target, pull=[1.0, 0.0, 0.0, 1.0])
    assert torch.allclose(some[:-1], weight * torch.tensor([0.5, 1.0, 1.0, 0.5]), atol=0.1)


def test_what_counts_more_in_ridge_is_as_if_there_were_more_of_it():
    features = torch.randn(60, 2, generator=rng(), dtype=torch.float64)
    target = features[:, 0] + torch.randn(60, generator=rng(1), dtype=torch.float64)
    times = torch.arange(60) % 3 + 1
    found = ridge(features, target, 0.1, counts=times.double())
    repeated = ridge(features.repeat_interleave(times, 0), target.repeat_interleave(times), 0.1)
    assert torch.allclose(found, repeated, atol=1e-12)


def test_a_feature_that_never_changes_is_no_trouble():
    features = torch.cat([torch.randn(50, 2, generator=rng()), torch.ones(50, 1)], 1).double()
    assert torch.isfinite(ridge(features, features[:, 0], 0.1)).all()


FEATURES = torch.cat([torch.randn(20000, 3, generator=rng(), dtype=torch.float64), torch.ones(20000, 1)], 1)
ODDS = torch.tensor([2.0, -1.0, 0.0, 0.5], dtype=torch.float64)
HOLDS = (torch.rand(20000, generator=rng(1)) < (FEATURES @ ODDS).sigmoid()).double()
EVEN = torch.full((20000,), 1 / 20000, dtype=torch.float64)


def loss(found, weight=EVEN, pull=0.0):
    odds = FEATURES @ found
    return (weight * torch.nn.functional.binary_cross_entropy_with_logits(odds, HOLDS, reduction="none")).sum() + (
        pull * found.square() / 2
    ).sum()


def test_logistic_finds_the_odds_that_were():
    found = logistic(FEATURES, HOLDS, EVEN, torch.full((4,), 1e-9).double())
    assert torch.allclose(found, ODDS, atol=0.1)


@pytest.mark.parametrize("pull", [1e-6, 0.01, 1.0])
def test_logistic_is_at_the_bottom_of_its_loss(pull):
    """Its slope there, by autograd, is nothing; examples count by their weights, coefficients by their pulls."""
    weight = torch.rand(20000, generator=rng(2), dtype=torch.float64)
    weight /= weight.sum()
    pulls = pull * torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    found = logistic(FEATURES, HOLDS, weight, pulls).requires_grad_()
    (slope,) = torch.autograd.grad(loss(found, weight, pulls), found)
    assert slope.abs().max() < 1e-5


def test_logistic_ends_where_all_is_told_apart():
    """No coefficients are the best then but for their pulls."""
    features = torch.cat([torch.linspace(-1, 1, 200)[:, None], torch.ones(200, 1)], 1).double()
    holds = (features[:, 0] > 0).double()
    found = logistic(features, holds, torch.full((200,), 1 / 200).double(), torch.full((2,), 1e-6).double())
    assert found.isfinite().all()
    assert ((features @ found > 0) == holds.bool()).all()


def test_logistic_halves_moves_that_go_too_far():
    """Examples far out, some on the wrong side, make whole moves of Newton's overshoot: the loss would stay 0.5298."""
    seeded = rng(20)
    features = torch.randn(60, 2, generator=seeded).double()
    features = features * torch.randn(60, 1, generator=seeded).abs().double().pow(-2)
    features = torch.cat([features, torch.ones(60, 1)], 1)
    astray = torch.where(torch.rand(60, generator=seeded) < 0.1, -1, 1)
    holds = (features[:, 0].sign() * astray > 0).double()
    found = logistic(features, holds, torch.full((60,), 1 / 60).double(), torch.full((3,), 1e-6).double())
    bottom = torch.nn.functional.binary_cross_entropy_with_logits(features @ found, holds)
    assert bottom.item() == pytest.approx(0.5259, abs=1e-4)
