"""The odds that a candidate is false: what heights, directions, clues and the order of what was seen make of them."""

from __future__ import annotations

import pytest
import torch
from kinds import rng
from torch.nn import functional as F

from ebwm_cli.model.odds import IN_FULL, KINDS, NEVER, Judged, Odds
from ebwm_cli.model.solving import with_products

WIDTH, CLUES, AVERAGES, WAYS, COUNT = 3, 4, 2, 2, 4000
NONE = Judged(torch.empty(0), torch.empty(0, WAYS), torch.empty(0, WIDTH + CLUES))
NO_WAY = torch.zeros(COUNT, WAYS).double()


def contexts(seed: int) -> torch.Tensor:
    """What odds are read from, where the last two clues are averages."""
    return torch.randn(COUNT, WIDTH + CLUES, generator=rng(seed)).double()


def heights(least: float, most: float, seed: int) -> torch.Tensor:
    """Their logarithms."""
    return (least * (most / least) ** torch.rand(COUNT, generator=rng(seed)).double()).log()


def shuffled(seed: int) -> torch.Tensor:
    """Contexts whose averages are not those of any other."""
    return contexts(seed) + torch.tensor([0.0] * (WIDTH + CLUES - 1) + [5.0])


def telling(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :WIDTH], with_products(x[:, WIDTH:])], -1)


def seen(log_height: torch.Tensor, x: torch.Tensor, shares: torch.Tensor = NO_WAY):
    return Judged(log_height, shares, telling(x))


def fitted(*further, shuffled_ones=NONE, true=None, order: bool = True) -> Odds:
    """By default true states lie half a unit to two high, false ones two to eight."""
    odds = Odds(WIDTH, CLUES, AVERAGES, WAYS)
    if order:
        odds.fit_order(contexts(0)[:, -AVERAGES:], shuffled(1)[:, -AVERAGES:])
    further = further or (seen(heights(2, 8, 4), contexts(2)),)
    false = [*further, *[NONE] * (KINDS - 1 - len(further)), shuffled_ones]
    odds.fit(true or seen(heights(0.5, 2, 3), contexts(2)), false)
    return odds


def chance(odds: Odds, log_height: torch.Tensor, x: torch.Tensor, shares: torch.Tensor = NO_WAY) -> torch.Tensor:
    """That a candidate is true."""
    sharpness, threshold = odds(telling(x))
    against = (sharpness * log_height[:, None] - threshold + odds.against(shares)).logsumexp(-1)
    return (-against).sigmoid()


def test_what_lies_high_is_false():
    odds, x = fitted(), contexts(5)
    chances = [
        chance(odds, torch.full((COUNT,), height).log().double(), x).median() for height in (0.2, 1.0, 2.0, 4.0, 20.0)
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[1] > 0.9 > 0.1 > chances[3]
    assert 0.3 < chances[2] < 0.7


def test_what_lies_where_true_states_do_not_is_false_however_low():
    """And what lies along their way is true where heights alone would not say so."""
    mine, theirs = (F.one_hot(torch.full((COUNT,), way), WAYS).double() for way in (0, 1))
    odds = fitted(seen(heights(1, 4, 4), contexts(2), theirs), true=seen(heights(0.5, 2, 3), contexts(2), mine))
    blind = fitted(seen(heights(1, 4, 4), contexts(2)))
    high, low = heights(1, 2, 6), heights(0.5, 1, 6)
    assert chance(odds, low, contexts(7), theirs).median() < 0.2 < 0.8 < chance(odds, high, contexts(7), mine).median()
    assert chance(blind, low, contexts(7)).median() > 0.8
    assert 0.2 < chance(blind, high, contexts(7)).median() < 0.8


def test_each_kind_has_odds_of_its_own():
    """One lies high, the other along another way: neither sign must tell both."""
    away = F.one_hot(torch.zeros(COUNT, dtype=torch.long), WAYS).double()
    low = heights(0.5, 2, 8)
    odds = fitted(seen(heights(4, 16, 4), contexts(2)), seen(low, contexts(9), away))
    assert chance(odds, low, contexts(5)).median() > 0.8
    assert chance(odds, low, contexts(5), away).median() < 0.2
    assert chance(odds, heights(4, 16, 6), contexts(5)).median() < 0.2


def test_kinds_are_as_many_together_as_true_states_are():
    """Where nothing tells, a candidate is as likely true as false, of however many kinds."""
    same = seen(heights(0.5, 2, 3), contexts(2))
    for count in (1, 2, 3):
        odds = fitted(*[same] * count, true=same)
        assert chance(odds, odds.middle.expand(COUNT), contexts(4)).median() == pytest.approx(0.5, abs=0.05)


def test_of_kinds_that_there_are_none_of_nothing_is_said():
    odds = fitted()
    sharpness, threshold = odds(telling(contexts(5)))
    assert threshold[:, 0].isfinite().all()
    assert (threshold[:, 1:] > 0.9 * NEVER).all()
    assert all(kept.isfinite().all() for kept in odds.state_dict().values())
    assert sharpness.isfinite().all()
    none = fitted(NONE)
    assert torch.equal(chance(none, heights(2, 8, 4), contexts(2)), torch.ones(COUNT).double())


def test_after_states_in_no_order_nothing_is_true_however_low_it_lies():
    low = heights(0.5, 2, 6)
    odds = fitted(shuffled_ones=seen(low, shuffled(7)))
    assert chance(odds, low, shuffled(8)).median() < 0.2
    assert chance(odds, low, contexts(9)).median() > 0.7


def test_disorder_counts_in_full():
    """Though a regression that has seen the same windows in order would do with less."""
    low = heights(0.5, 2, 6)
    odds = fitted(shuffled_ones=seen(low, shuffled(7)))
    assert odds.disorder >= IN_FULL
    changed = shuffled(8)
    changed[:, :-AVERAGES] = contexts(9)[:, :-AVERAGES]
    kind = [odds(telling(x))[1][:, -1] for x in (contexts(9), changed)]
    assert (kind[0] - kind[1]).median() > 2.0


def test_states_in_order_are_judged_as_if_none_were_without():
    """Only odds above even count, so contexts as they are hardly pay for what tells the others."""
    low, x = heights(0.5, 2, 6), contexts(9)
    with_order, without = fitted(shuffled_ones=seen(low, shuffled(7))), fitted()
    blind = fitted(shuffled_ones=seen(low, shuffled(7)), order=False)
    truth = chance(without, low, x)
    assert (chance(with_order, low, x) - truth).abs().mean() < 0.1
    assert chance(blind, low, shuffled(8)).median() < 0.5  # the threshold has clues of its own,
    assert chance(with_order, low, shuffled(8)).median() < chance(blind, low, shuffled(8)).median()  # but sees less


def test_order_is_not_told_where_nothing_tells_it():
    odds = Odds(WIDTH, CLUES, 0, WAYS)
    odds.fit_order(torch.empty(5, 0).double(), torch.empty(5, 0).double())
    odds.fit(seen(heights(0.5, 2, 3), contexts(2)), [seen(heights(2, 8, 4), contexts(2)), NONE, NONE, NONE])
    assert torch.equal(odds.order, torch.zeros(1))
    assert chance(odds, heights(0.5, 1, 3), contexts(4)).median() > 0.9
    again = fitted()
    again.fit_order(torch.empty(0, AVERAGES).double(), shuffled(1)[:, -AVERAGES:])
    assert not again.order.any()


def test_products_of_features():
    x = torch.tensor([[2.0, 3.0]])
    assert torch.equal(with_products(x), torch.tensor([[2.0, 3.0, 2.0, 3.0, 4.5]]))
    assert with_products(torch.empty(4, 0)).shape == (4, 0)
