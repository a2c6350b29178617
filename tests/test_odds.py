"""The odds that a candidate is false: what heights, clues and the order of what was seen make of them."""

from __future__ import annotations

import torch
from kinds import rng

from ebwm_cli.model.odds import Odds
from ebwm_cli.model.solving import with_products

WIDTH, CLUES, AVERAGES, COUNT = 3, 4, 2, 4000


def contexts(seed: int) -> torch.Tensor:
    """What odds are read from, where the last two clues are averages."""
    return torch.randn(COUNT, WIDTH + CLUES, generator=rng(seed)).double()


def heights(least: float, most: float, seed: int) -> torch.Tensor:
    """Their logarithms."""
    return (least * (most / least) ** torch.rand(COUNT, generator=rng(seed)).double()).log()


def shuffled(seed: int) -> torch.Tensor:
    """Contexts whose averages are not those of any other."""
    return contexts(seed) + torch.tensor([0.0] * (WIDTH + CLUES - 1) + [5.0])


def fitted(*further: tuple[torch.Tensor, torch.Tensor], order: bool = True) -> Odds:
    odds = Odds(WIDTH, CLUES, AVERAGES)
    if order:
        odds.fit_order(contexts(0)[:, -AVERAGES:], shuffled(1)[:, -AVERAGES:])
    odds.fit((heights(0.5, 2, 3), contexts(2)), [(heights(2, 8, 4), contexts(2)), *further])
    return odds


def chance(odds: Odds, log_height: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """That a candidate is true."""
    sharpness, threshold = odds(x)
    return (threshold - sharpness * log_height).sigmoid()


def test_what_lies_high_is_false():
    odds, x = fitted(), contexts(5)
    chances = [
        chance(odds, torch.full((COUNT,), height).log().double(), x).median() for height in (0.2, 1.0, 2.0, 4.0, 20.0)
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[1] > 0.9 > 0.1 > chances[3]
    assert 0.3 < chances[2] < 0.7


def test_after_states_in_no_order_nothing_is_true_however_low_it_lies():
    low = heights(0.5, 2, 6)
    odds = fitted((low, shuffled(7)))
    assert chance(odds, low, shuffled(8)).median() < 0.2
    assert chance(odds, low, contexts(9)).median() > 0.7


def test_states_in_order_are_judged_as_if_none_were_without():
    """Only odds above even count, so contexts as they are hardly pay for what tells the others."""
    low, x = heights(0.5, 2, 6), contexts(9)
    with_order, without = fitted((low, shuffled(7))), fitted()
    blind = fitted((low, shuffled(7)), order=False)
    truth = chance(without, low, x)
    assert (chance(with_order, low, x) - truth).abs().mean() < 0.1
    assert chance(blind, low, shuffled(8)).median() < 0.5  # the threshold has clues of its own,
    assert chance(with_order, low, shuffled(8)).median() < chance(blind, low, shuffled(8)).median()  # but sees less


def test_order_is_not_told_where_nothing_tells_it():
    odds = Odds(WIDTH, CLUES, 0)
    odds.fit_order(torch.empty(5, 0).double(), torch.empty(5, 0).double())
    odds.fit((heights(0.5, 2, 3), contexts(2)), [(heights(2, 8, 4), contexts(2))])
    assert torch.equal(odds.order, torch.zeros(1))
    assert chance(odds, heights(0.5, 1, 3), contexts(4)).median() > 0.9
    again = fitted()
    again.fit_order(torch.empty(0, AVERAGES).double(), shuffled(1)[:, -AVERAGES:])
    assert not again.order.any()


def test_products_of_features():
    x = torch.tensor([[2.0, 3.0]])
    assert torch.equal(with_products(x), torch.tensor([[2.0, 3.0, 2.0, 3.0, 4.5]]))
    assert with_products(torch.empty(4, 0)).shape == (4, 0)
