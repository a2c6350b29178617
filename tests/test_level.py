"""The level: what energies after a context are measured in, so that they compare with those after another."""

from __future__ import annotations

import pytest
import torch
from kinds import rng

from ebwm_cli.model.level import CLOSE, MOVES, SAY, FirstMoves, Level, Seen, Signs
from ebwm_cli.model.odds import BLUNTEST, NEVER
from ebwm_cli.run.statistics import auroc, spearman

HIDDEN = torch.randn(2000, 5, generator=rng())
ZERO = HIDDEN @ torch.tensor([0.3, 0.0, -0.1, 0.0, 0.2]) - 40
UNIT = (HIDDEN @ torch.tensor([0.0, 0.7, 0.0, -0.3, 0.0]) + 1).exp()
NOTHING = torch.zeros(2000)
NO_CLUES = torch.empty(2000, 0)
NOWHERE = torch.empty(2000, 0)
STILL = FirstMoves(ZERO[:, None].expand(2000, MOVES + 1), torch.zeros(2000, MOVES))
"""First moves that went nowhere: the bottom was there."""


def seen(signs, energy, point=None):
    return Seen.joined([Seen(signs, energy, NOWHERE[: len(energy)] if point is None else point)])


def level_of(error, ended=ZERO, clues=NO_CLUES, first=STILL, floor=0.01, true=None, false=None, held_out=None):
    """A level of predictions that were so wrong, after descents that ended there, on held-out windows as elsewhere. By
    default true states lie half an error to two above the end, false ones two to eight. No clue is an average."""
    level, signs = Level(5, clues.shape[1], 0), Signs(HIDDEN, clues, NOWHERE, first)
    if true is None:
        true, false = (ended + error * low * torch.rand(2000, generator=rng(9)).mul(2).exp2() for low in (0.5, 2))
    kinds = false if isinstance(false, list) else [false]
    wrong = error if held_out is None else held_out
    found = [seen(signs, each) for each in (error, wrong, true, *kinds)]
    level.fit(found[0], found[1], ended, found[2], found[3:], (clues, clues), floor)
    return level


def after(level, clues=NO_CLUES, first=STILL, hidden=HIDDEN):
    return level(Signs(hidden, clues, NOWHERE, first))


def measured(measure, energies):
    """Nothing is known of where those candidates lie."""
    return measure(energies, NOWHERE)


def test_a_level_finds_zero_and_unit_where_they_are_what_it_can_say():
    """Errors log-linear in what the trunk says, in how far first moves go and in what the state space tells; descents
    that end at what is linear in energies and squares of lengths of first moves."""
    energies = 2 * torch.randn(2000, MOVES + 1, generator=rng(1)) - 40
    first = FirstMoves(energies, torch.randn(2000, MOVES, generator=rng(2)).exp())
    clues = torch.randn(2000, 1, generator=rng(3))
    ended = 0.3 * energies[:, 1] + 0.5 * energies[:, 2] - first.lengths[:, 1]
    error = UNIT * first.lengths[:, 0] * (clues[:, 0] / 2).exp()
    level = level_of(error, ended, clues, first, floor=1e-3)
    measure = after(level, clues, first)
    assert (measure.zero - ended).std() < 0.05 * ended.std()
    assert (measure.unit.log() - error.log()).std() < 0.2 * error.log().std()
    assert torch.allclose(measure.said, measure.unit.log() - error.log().mean(), atol=0.05)
    energies = ended[:, None] + torch.tensor([-0.5, 0.0, 0.5, 3.0, 100.0]) * error[:, None]
    found = measured(measure, energies)
    assert (found[:, 1:] > found[:, :-1]).all()
    assert spearman(found[:, 1].numpy(), error.numpy()) > 0.9  # predictions are ordered by their errors
    levelled, raw = (auroc(each[:, 3].numpy(), each[:, 2].numpy()) for each in (found, energies))
    assert levelled > 0.9 > raw + 0.05  # one threshold serves all contexts


def test_a_levelled_energy_is_the_doubt_that_a_candidate_is_true_and_the_density():
    measure = after(level_of(UNIT))
    height = torch.tensor([0.1, 1.0, 2.0, 20.0]).expand(2000, 4)
    found = measured(measure, measure.zero[:, None] + height * measure.unit[:, None])
    density = SAY * (height + measure.said[:, None])
    false = 1 - torch.exp(density - found)  # of as many true ones as false ones
    assert torch.allclose(false[:, 1], (-measure.threshold[:, 0]).sigmoid(), atol=1e-4)
    assert (false[:, 0] < 0.1).all()
    assert (false[:, 3] > 0.9).all()
    assert 0.3 < false[:, 2].median() < 0.7  # true and false ones meet two errors above the end


def told(level, clues, true, false):
    """How well one threshold tells false from true states."""
    measure = after(level, clues)
    one, other = (measured(measure, each[:, None])[:, 0].numpy() for each in (true, false))
    return auroc(other, one)


def test_where_much_moves_false_states_are_expected_to_lie_higher():
    """Errors tell nothing of it: a clue does."""
    moves = torch.rand(2000, generator=rng(4)) * 4
    clues, noise = moves[:, None], torch.randn(2, 2000, generator=rng(5)).mul(0.3).exp()
    true, false = ZERO + UNIT * noise[0] * (1 + moves), ZERO + UNIT * noise[1] * (1.5 + 2 * moves)
    blind, seeing = level_of(UNIT, true=true, false=false), level_of(UNIT, clues=clues, true=true, false=false)
    assert told(seeing, clues, true, false) > told(blind, NO_CLUES, true, false) + 0.05
    threshold = (after(seeing, clues).threshold / after(seeing, clues).sharpness)[:, 0]
    assert spearman(threshold.numpy(), moves.numpy()) > 0.9


def test_the_trunk_may_know_that_false_states_lie_higher():
    """Of what is not in the clues, as a context in another order."""
    odd = HIDDEN[:, 2] > 0
    heights = torch.rand(2, 2000, generator=rng(8)).mul(2).exp2()
    true = ZERO + UNIT * heights[0] * torch.where(odd, 4.0, 1.0)
    level = level_of(UNIT, true=true, false=ZERO + UNIT * heights[1] * torch.where(odd, 16.0, 4.0))
    threshold = after(level).threshold[:, 0]
    assert threshold[odd].median() > threshold[~odd].median() + 1
    assert spearman(threshold.numpy(), HIDDEN[:, 2].numpy()) > 0.9


def test_where_nothing_moves_what_can_not_be_told_is_left_undecided():
    """There true and false lie alike, elsewhere far apart: sure where it can be, and no candidate falls as it rises."""
    still = torch.arange(2000) % 2 == 0
    clues = torch.where(still, -2.0, 2.0)[:, None]
    heights = torch.rand(2, 2000, generator=rng(6)).mul(2).exp2()
    true, false = ZERO + UNIT * heights[0], ZERO + UNIT * heights[1] * torch.where(still, 1.0, 30.0)
    level = level_of(UNIT, clues=clues, true=true, false=false)
    measure = after(level, clues)
    assert (measure.sharpness >= BLUNTEST).all()
    assert measure.sharpness[~still].mean() > measure.sharpness[still].mean()
    assert told(level, clues, true, false) > 0.8
    one, other = (measured(measure, each[:, None])[:, 0] for each in (true, false))
    assert one[still].median() > one[~still].median()
    assert other[still].median() < other[~still].median()


def test_every_kind_of_false_state_counts_the_same():
    """However many there are of it."""
    near, far = ZERO + 2 * UNIT, ZERO + 30 * UNIT
    true = ZERO + UNIT * torch.rand(2000, generator=rng(7)).exp2()
    twice = after(level_of(UNIT, true=true, false=[near, far]))
    level, signs = Level(5, 0, 0), Signs(HIDDEN, NO_CLUES, NOWHERE, STILL)
    many = [Seen.joined([seen(signs, far)] * 5), seen(signs, near)]
    error, truth = (seen(signs, each) for each in (UNIT, true))
    none = seen(signs.at(torch.zeros(2000, dtype=torch.bool)), torch.empty(0))
    for kinds in (many, [*many, none]):
        level.fit(error, error, ZERO, truth, kinds, (NO_CLUES, NO_CLUES), 0.01)
        found = after(level).threshold
        assert torch.allclose(found[:, :2].flip(1), twice.threshold[:, :2], atol=1e-3)
        assert (found[:, 2:] > 0.9 * NEVER).all()


def test_a_state_along_another_way_is_false_though_no_higher_than_true_ones():
    """Shares of where it lies say so; along every way, energies that rise are measured as rising."""
    count = 8
    reached = torch.randn(2000, count, generator=rng(2))
    spread = torch.tensor([3.0] * 4 + [0.1] * 4)
    points = {
        "true": reached + torch.randn(2000, count, generator=rng(3)) * spread,
        "false": reached + torch.randn(2000, count, generator=rng(4)) * spread.flip(0),
    }
    heights = torch.rand(2, 2000, generator=rng(5)).mul(2).exp2()
    energies = {name: ZERO + UNIT * height for name, height in zip(points, heights, strict=True)}
    level, signs = Level(5, 0, 0, count), Signs(HIDDEN, NO_CLUES, reached, STILL)
    error = seen(signs, UNIT, reached)
    true, false = (seen(signs, energies[name], points[name]) for name in points)
    level.fit(error, error, ZERO, true, [false], (NO_CLUES, NO_CLUES), 0.01)
    measure = level(signs)
    one, other = (measure(energies[name][:, None], points[name])[:, 0] for name in points)
    assert auroc(other.numpy(), one.numpy()) > 0.95
    blind = level_of(UNIT, true=energies["true"], false=energies["false"])
    assert told(blind, NO_CLUES, energies["true"], energies["false"]) < 0.6
    rising = ZERO[:, None] + torch.tensor([0.0, 0.1, 1.0, 10.0]) * UNIT[:, None]
    for point in (*points.values(), reached):
        found = measure(rising, point)
        assert (found[:, 1:] > found[:, :-1]).all()
    bottom = measure(ZERO[:, None], reached)[:, 0]
    assert spearman(bottom.numpy(), UNIT.numpy()) > 0.99


def test_where_units_are_small_a_bottom_is_known_as_well_as_where_they_are_large():
    """It is linear in one energy or in the other: what can't be met in both places is met in units."""
    large = torch.arange(2000) % 2 == 0
    energies = torch.randn(2000, MOVES + 1, generator=rng(1)) * torch.where(large, 10.0, 0.1)[:, None]
    ended = energies[:, 1] + torch.where(large, 0.5, 0.0) * energies[:, 0]
    clues = torch.where(large, 1.0, -1.0)[:, None]
    first = FirstMoves(energies, torch.zeros(2000, MOVES))
    measure = after(level_of(torch.where(large, 10.0, 0.1), ended, clues, first), clues, first)
    missed = (measure.zero - ended).abs() / measure.unit
    assert missed[~large].median() < 0.25
    assert missed[large].median() < 0.25


def test_predictions_are_ordered_by_the_density_alone():
    """Even where true states are hardly told from false ones: at the bottom, none is false."""
    known = torch.rand(2000, generator=rng(4)) * 4
    clues, heights = known[:, None], torch.rand(2, 2000, generator=rng(5)).mul(2).exp2()
    true, false = ZERO + UNIT * heights[0], ZERO + UNIT * heights[1] * (1 + known)
    level = level_of(UNIT, clues=clues, true=true, false=false)
    measure = after(level, clues)
    assert float(level.close) == pytest.approx(2 * CLOSE)
    bottom = measured(measure, (ZERO + 0.002 * UNIT * torch.randn(2000, generator=rng(6)))[:, None])[:, 0]
    assert spearman(bottom.numpy(), UNIT.numpy()) > 0.99


def test_how_well_a_bottom_is_known_is_what_descents_miss_it_by_and_true_states_fall_below_it():
    noise = torch.rand(2000, generator=rng(4))
    first = FirstMoves(STILL.energies + (noise[:, None] - 0.5) * UNIT[:, None], STILL.lengths)
    missed = level_of(UNIT, first=first)
    assert 0.5 < float(missed.close) < 1.1  # twice what 95 of 100 miss it by
    below = level_of(UNIT, true=ZERO + UNIT * (noise - 0.5), false=ZERO + 2 * UNIT)
    assert float(below.close) == pytest.approx(2 * 0.45, abs=0.05)


def test_energies_below_the_zero_and_far_above_have_an_order_and_no_nan():
    measure = after(level_of(UNIT))
    heights = torch.tensor([-1e4, -100.0, -10.0, -1.0, -0.05, 0.0, 0.05, 1.0, 1e4, 1e8])
    found = measured(measure, measure.zero[:, None] + heights * measure.unit[:, None])
    assert found.isfinite().all()
    assert (found[:, 1:] > found[:, :-1]).all()


def test_a_clue_that_is_not_known_says_nothing():
    """It is taken for what is usual, in fitting and after; nor does it spoil what others say."""
    clues = torch.randn(2000, 2, generator=rng(3))
    error = clues.sum(1).exp()
    clues[::4, 0] = torch.nan
    clues[:3, 1] = torch.nan
    level = level_of(error, clues=clues)
    unit = after(level, clues).unit
    assert unit.isfinite().all()
    assert spearman(unit[1::4].numpy(), error[1::4].numpy()) > 0.95
    usual = clues.nanmean(0).expand(2000, 2)
    unknown = after(level, torch.full_like(clues, torch.nan)).unit
    assert torch.allclose(unknown, after(level, usual).unit, rtol=0.02)


def test_clues_that_are_never_known_are_no_trouble():
    nothing = torch.full((2000, 1), torch.nan)
    without, level = level_of(UNIT), level_of(UNIT, clues=nothing)
    for part in ("unit", "threshold", "sharpness"):
        one, other = (getattr(each, part) for each in (after(without), after(level, nothing)))
        assert torch.allclose(one, other, rtol=1e-4)


def test_clues_that_only_together_tell_how_wrong_predictions_are_do():
    clues = torch.randn(2000, 2, generator=rng(3))
    error = clues.prod(1).exp()
    unit = after(level_of(error, clues=clues), clues).unit
    assert spearman(unit.numpy(), error.numpy()) > 0.95


def test_held_out_errors_choose_how_much_is_believed():
    """What tells scenes apart that will not come again is not foretold from; what holds there, too, is."""
    clues = torch.randn(2000, 3, generator=rng(3))
    learned = clues[:, 0] + clues[:, 1] * clues[:, 2]
    units = {}
    for name, elsewhere in (("the same", learned), ("another", clues[:, 0])):
        units[name] = after(level_of(learned.exp(), clues=clues, held_out=elsewhere.exp()), clues).unit.log()
    chance = (clues[:, 1] * clues[:, 2])[:, None]
    believed = {name: (unit @ chance / chance.square().sum()).item() for name, unit in units.items()}
    assert believed["the same"] > 0.9
    assert believed["another"] < 0.6
    assert all(spearman(unit.numpy(), clues[:, 0].numpy()) > 0.6 for unit in units.values())


def test_a_clue_that_hardly_varies_says_nothing():
    """Rounding is no clue, nor is what it makes of others."""
    clues = torch.randn(2000, 2, generator=rng(3))
    clues[:, 1] = 5.0 + 1e-5 * clues[:, 1]
    error = clues[:, 0].exp()
    level = level_of(error, clues=clues)
    apart = clues + torch.tensor([0.0, 0.5])
    assert torch.allclose(after(level, apart).unit, after(level, clues).unit, rtol=1e-4)


def test_nothing_is_foretold_beyond_what_was_seen():
    clues = torch.randn(2000, 1, generator=rng(3))
    level = level_of(UNIT * clues[:, 0].exp(), clues=clues)
    far, near = after(level, clues, hidden=100 * HIDDEN), after(level, clues)
    assert far.unit.min() >= near.unit.min() - 1e-4
    assert far.unit.max() <= near.unit.max() + 1e-4
    assert torch.equal(after(level, clues.sign() * 1e3).threshold, after(level, clues.sign() * 1e6).threshold)
    odds = [(each.threshold - each.sharpness * level.odds.middle)[:, 0] for each in (far, near)]
    assert odds[0].min() >= odds[1].min() - 1e-2
    assert odds[0].max() <= odds[1].max() + 1e-2


def test_errors_that_are_all_nothing_have_the_floor_as_unit():
    level = level_of(NOTHING, NOTHING + 9, floor=0.5, true=NOTHING + 9.5, false=NOTHING + 11)
    assert torch.allclose(after(level).unit, torch.full((2000,), 0.5), atol=1e-4)


def test_predictions_are_ordered_by_their_errors_where_all_are_smaller_than_what_states_differ_by():
    """As in a world that mostly stands still: there, true and false states are told apart worst where least moves."""
    scene = torch.randn(2000, 1, generator=rng(5))
    error = (1.5 * scene[:, 0]).exp()
    lie = torch.rand(2000, generator=rng(6)) * error
    states = {"true": ZERO + lie, "false": ZERO + lie + error * (scene[:, 0] > -1)}
    for floor in (error.max() * 10, error.max() * 1000):
        measure = after(level_of(error, clues=scene, floor=float(floor), **states), scene)
        assert spearman(measured(measure, ZERO[:, None])[:, 0].numpy(), error.numpy()) > 0.95


def test_a_level_that_was_not_fitted_changes_no_energy():
    energies = torch.randn(2000, 3, generator=rng())
    moved = FirstMoves(torch.randn(2000, MOVES + 1), torch.randn(2000, MOVES).square())
    clues = torch.randn(2000, 2)
    assert torch.equal(measured(after(Level(5, 2, 1), clues, moved), energies), energies)
