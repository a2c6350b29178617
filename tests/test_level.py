"""The level: what energies after a context are measured in, so that they compare with those after another."""

from __future__ import annotations

import math

import pytest
import torch
from kinds import rng, windows, world_of
from safetensors.torch import load_file
from small_set import make_set
from training import finish, short_recipe
from training import levelled as with_level

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import open_set
from ebwm_cli.model.level import CLOSE, MOVES, SAY, FirstMoves, Level, Measure, Seen, Signs
from ebwm_cli.model.odds import BLUNTEST
from ebwm_cli.model.state_space import LONGER, LatentSpace, differ
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.statistics import auroc, spearman
from ebwm_cli.world.levelling import fit_level
from ebwm_cli.world.signs import clues_after, signs_after

MODALITIES = ("video", "text")
THINK = ThinkSection(steps=3)


def levelled(modality: str):
    return world_of("ebt", modality, energies={"level": True}, stirred=0.1)


def pairs_of(states: torch.Tensor):
    return zip(states.split(16), states.roll(len(states) // 2, 0).split(16), strict=True)


def fitted(modality: str, batch: int = 64):
    world, states = levelled(modality), windows(modality, batch=batch)
    assert fit_level(world, pairs_of(states), states.split(16), THINK, rng())
    return world, states


HIDDEN = torch.randn(2000, 5, generator=rng())
ZERO = HIDDEN @ torch.tensor([0.3, 0.0, -0.1, 0.0, 0.2]) - 40
UNIT = (HIDDEN @ torch.tensor([0.0, 0.7, 0.0, -0.3, 0.0]) + 1).exp()
NOTHING = torch.zeros(2000)
NO_CLUES = torch.empty(2000, 0)
STILL = FirstMoves(ZERO[:, None].expand(2000, MOVES + 1), torch.zeros(2000, MOVES))
"""First moves that went nowhere: the bottom was there."""


def level_of(error, ended=ZERO, clues=NO_CLUES, first=STILL, floor=0.01, true=None, false=None):
    """A level of predictions that were so wrong, after descents that ended there. By default true states lie half an
    error to two above the end, false ones two to eight. No clue is an average."""
    level, signs = Level(5, clues.shape[1], 0), Signs(HIDDEN, clues, first)
    if true is None:
        true, false = (ended + error * low * torch.rand(2000, generator=rng(9)).mul(2).exp2() for low in (0.5, 2))
    kinds = false if isinstance(false, list) else [false]
    seen = [Seen.joined([Seen(signs, each)]) for each in (error, true, *kinds)]
    level.fit(seen[0], ended, seen[1], seen[2:], (clues, clues), floor)
    return level


def after(level, clues=NO_CLUES, first=STILL, hidden=HIDDEN):
    return level(Signs(hidden, clues, first))


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
    found = measure(energies)
    assert (found[:, 1:] > found[:, :-1]).all()
    assert spearman(found[:, 1].numpy(), error.numpy()) > 0.9  # predictions are ordered by their errors
    levelled, raw = (auroc(each[:, 3].numpy(), each[:, 2].numpy()) for each in (found, energies))
    assert levelled > 0.9 > raw + 0.05  # one threshold serves all contexts


def test_a_levelled_energy_is_the_doubt_that_a_candidate_is_true_and_the_density():
    measure = after(level_of(UNIT))
    height = torch.tensor([0.1, 1.0, 2.0, 20.0]).expand(2000, 4)
    found = measure(measure.zero[:, None] + height * measure.unit[:, None])
    density = SAY * (height + measure.said[:, None])
    false = 1 - torch.exp(density - found)  # of as many true ones as false ones
    assert torch.allclose(false[:, 1], (-measure.threshold).sigmoid(), atol=1e-4)
    assert (false[:, 0] < 0.1).all()
    assert (false[:, 3] > 0.9).all()
    assert 0.3 < false[:, 2].median() < 0.7  # true and false ones meet two errors above the end


def told(level, clues, true, false):
    """How well one threshold tells false from true states."""
    measure = after(level, clues)
    one, other = (measure(each[:, None])[:, 0].numpy() for each in (true, false))
    return auroc(other, one)


def test_where_much_moves_false_states_are_expected_to_lie_higher():
    """Errors tell nothing of it: a clue does."""
    moves = torch.rand(2000, generator=rng(4)) * 4
    clues, noise = moves[:, None], torch.randn(2, 2000, generator=rng(5)).mul(0.3).exp()
    true, false = ZERO + UNIT * noise[0] * (1 + moves), ZERO + UNIT * noise[1] * (1.5 + 2 * moves)
    blind, seeing = level_of(UNIT, true=true, false=false), level_of(UNIT, clues=clues, true=true, false=false)
    assert told(seeing, clues, true, false) > told(blind, NO_CLUES, true, false) + 0.05
    threshold = after(seeing, clues).threshold / after(seeing, clues).sharpness
    assert spearman(threshold.numpy(), moves.numpy()) > 0.9


def test_the_trunk_may_know_that_false_states_lie_higher():
    """Of what is not in the clues, as a context in another order."""
    odd = HIDDEN[:, 2] > 0
    heights = torch.rand(2, 2000, generator=rng(8)).mul(2).exp2()
    true = ZERO + UNIT * heights[0] * torch.where(odd, 4.0, 1.0)
    level = level_of(UNIT, true=true, false=ZERO + UNIT * heights[1] * torch.where(odd, 16.0, 4.0))
    threshold = after(level).threshold
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
    one, other = measure(true[:, None])[:, 0], measure(false[:, None])[:, 0]
    assert one[still].median() > one[~still].median()
    assert other[still].median() < other[~still].median()


def test_every_kind_of_false_state_counts_the_same():
    """However many there are of it."""
    near, far = ZERO + 2 * UNIT, ZERO + 30 * UNIT
    true = ZERO + UNIT * torch.rand(2000, generator=rng(7)).exp2()
    twice = after(level_of(UNIT, true=true, false=[near, torch.cat([far])]))
    level, signs = Level(5, 0, 0), Signs(HIDDEN, NO_CLUES, STILL)
    many = [Seen.joined([Seen(signs, far)] * 5), Seen.joined([Seen(signs, near)])]
    error, truth = (Seen.joined([Seen(signs, each)]) for each in (UNIT, true))
    level.fit(error, ZERO, truth, many, (NO_CLUES, NO_CLUES), 0.01)
    assert torch.allclose(after(level).threshold, twice.threshold, atol=1e-3)
    none = Seen.joined([Seen(signs.at(torch.zeros(2000, dtype=torch.bool)), torch.empty(0))])
    level.fit(error, ZERO, truth, [*many, none], (NO_CLUES, NO_CLUES), 0.01)
    assert torch.allclose(after(level).threshold, twice.threshold, atol=1e-3)


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
    bottom = measure((ZERO + 0.002 * UNIT * torch.randn(2000, generator=rng(6)))[:, None])[:, 0]
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
    found = measure(measure.zero[:, None] + heights * measure.unit[:, None])
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


def test_nothing_is_foretold_beyond_what_was_seen():
    clues = torch.randn(2000, 1, generator=rng(3))
    level = level_of(UNIT * clues[:, 0].exp(), clues=clues)
    far, near = after(level, clues, hidden=100 * HIDDEN), after(level, clues)
    assert far.unit.min() >= near.unit.min() - 1e-4
    assert far.unit.max() <= near.unit.max() + 1e-4
    assert torch.equal(after(level, clues.sign() * 1e3).threshold, after(level, clues.sign() * 1e6).threshold)
    odds = [each.threshold - each.sharpness * level.odds.middle for each in (far, near)]
    assert odds[0].min() >= odds[1].min() - 1e-2
    assert odds[0].max() <= odds[1].max() + 1e-2


def test_errors_that_are_all_nothing_have_the_floor_as_unit():
    level = level_of(NOTHING, NOTHING + 9, floor=0.5, true=NOTHING + 9.5, false=NOTHING + 11)
    assert torch.allclose(after(level).unit, torch.full((2000,), 0.5), atol=1e-4)


def test_a_level_that_was_not_fitted_changes_no_energy():
    energies = torch.randn(2000, 3, generator=rng())
    moved = FirstMoves(torch.randn(2000, MOVES + 1), torch.randn(2000, MOVES).square())
    clues = torch.randn(2000, 2)
    assert torch.equal(after(Level(5, 2, 1), clues, moved)(energies), energies)


def clues_of(states, starts):
    return LatentSpace(8, 8).clues(states, lambda: starts)


def test_clues_of_latents_are_motions_and_how_wrong_the_last_beginning_was():
    states, starts = torch.randn(2, 2, 5, 8, generator=rng())
    found = clues_of(states, starts).exp()
    assert found.shape == (2, 5, LatentSpace.clue_count)

    def lengths(motion):
        return motion.square().sum(-1) / 2 + 8 * LatentSpace.alike

    moved, missed = lengths(states[:, 1:] - states[:, :-1]), lengths(states[:, 1:] - starts[:, :-1])
    assert torch.allclose(found[:, 2:, 0], moved[:, :-1])
    assert torch.allclose(found[:, 1:, 1], moved)
    assert torch.allclose(found[..., 2], lengths(starts - states))
    assert torch.allclose(found[:, 1:, 3], missed)
    assert torch.allclose(found[:, -1, 4], moved.log().mean(1).exp())
    assert torch.allclose(found[:, -1, -1], (missed / moved).log().mean(1).exp())
    assert found[:, 0, [0, 1, 3, 4, 5, -1]].isnan().all()
    assert found[:, 1, [0, 5]].isnan().all()
    for few in (1, 2, 3):  # later states change nothing
        fewer = clues_of(states[:, :few], starts[:, :few]).exp()
        assert torch.allclose(fewer, found[:, :few], equal_nan=True)


def test_averages_of_latents_tell_motion_that_goes_on_from_one_that_jumps_about():
    """Twice as far in two steps, a number of its square; and no farther, where there is no direction."""
    on = torch.arange(60.0).expand(3, 60)[..., None] * torch.ones(8)
    about = on[:, torch.randperm(60, generator=rng())]
    one, other = (clues_of(each, each)[:, -1, 5 : 5 + len(LONGER)] for each in (on, about))
    assert torch.allclose(one, 2 * torch.tensor(LONGER).float().log().expand(3, -1), atol=0.01)
    assert (other.abs() < 0.5).all()
    still = clues_of(torch.zeros_like(on), torch.zeros_like(on))
    assert torch.equal(still[:, -1, 5:], torch.zeros(3, LatentSpace.average_count - 1))


def test_tokens_tell_how_undecided_first_moves_leave():
    tried = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [80.0, 0.0, 0.0, 0.0]]])
    found = TokenSpace(4, 8).clues_tried(tried)
    assert torch.allclose(found.exp().squeeze(-1), TokenSpace.alike + torch.tensor([[math.log(4.0), 0.0]]), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stop": "energy", "tolerance": 0.3, "patience": MOVES}, {"samples": 3}])
def test_first_moves_are_those_a_descent_made(options):
    """Whatever came after; those of the first sample."""
    world, states = levelled("text"), windows("text")
    memory, think = world.observe(states[:, :-1]), ThinkSection(steps=3, cooling=1.0, **options)
    run, _ = world.descended(memory, think, rng())
    made, looked_up = (signs_after(world, memory, memory.length, think.cooling, each) for each in (run, None))
    assert torch.allclose(made.clues, looked_up.clues, atol=1e-5)
    assert torch.allclose(made.first.energies, looked_up.first.energies, atol=1e-4)
    assert torch.allclose(made.first.lengths, looked_up.first.lengths, atol=1e-5)
    assert made.clues.std() > 1e-5


@pytest.mark.parametrize("modality", MODALITIES)
def test_some_positions_are_measured_as_among_all(modality):
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    every, some = world.measure(memory, memory.length), world.measure(memory, 2)
    for part in ("zero", "unit", "said", "sharpness", "threshold"):
        assert torch.allclose(getattr(some, part), getattr(every, part)[:, -2:], atol=1e-4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_level_is_fitted_to_true_next_states_and_four_kinds_of_false_ones(modality, monkeypatch):
    world, states = levelled(modality), windows(modality, batch=32)
    states[0, 3] = states[0, 2]  # two steps ahead the same comes again
    states[16, 1:] = states[0, 1:]  # in the other window, too
    fits = []
    monkeypatch.setattr(Level, "fit", lambda self, *given, **_: fits.append(given))
    assert fit_level(world, pairs_of(states), states.split(16), THINK, rng())
    ((errors, ended, true, false, (ordered, shuffled)),) = fits
    context, truth, space = states[:, :-1], states[:, 1:], world.space
    memory, count = world.observe(context), truth.shape[:2].numel()

    def energies(candidates):
        return world.total(candidates, memory)

    def is_of(seen, expected, where):
        assert torch.allclose(seen.energy, expected[where].double(), atol=1e-5)
        assert torch.allclose(seen.signs.hidden, memory.kept.hidden[where].double(), atol=1e-5)

    everywhere = torch.ones(truth.shape[:2], dtype=torch.bool)
    is_of(true, energies(space.certain(truth)), everywhere)
    run, _ = world.descended(memory, THINK, rng())
    is_of(errors, space.ideal_energy(run.final, truth), everywhere)
    assert torch.allclose(ended, run.energies[..., -1].flatten(), atol=1e-5)
    other, ahead, near, order = false
    clues = clues_after(world, memory)
    known = ~clues.isnan().any(-1)
    assert torch.allclose(ordered, clues[known], atol=1e-4)
    assert len(shuffled) == len(ordered)
    assert not clues.shape[-1] or not torch.allclose(shuffled, ordered, atol=0.1)
    others = states.roll(16, 0)[:, 1:]
    is_of(other, energies(space.certain(others)), differ(others, truth))
    assert len(other.energy) <= count - 2 * truth.shape[1]
    later = torch.cat([states[:, 2:], states[:, -1:]], 1)
    is_of(ahead, energies(space.certain(later)), differ(later, truth))
    assert len(ahead.energy) < count - len(states)
    assert len(near.energy) == count
    assert not torch.allclose(near.energy, true.energy, atol=1e-3)
    assert len(order.energy) >= 30  # one a window, of which hardly any keeps its order
    last = energies(space.certain(truth))[:, -1].double()
    assert (order.energy[:, None] - last).abs().amin(1).max() > 1e-4


@pytest.mark.parametrize("modality", MODALITIES)
def test_energies_of_predictions_are_measured(modality):
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    made = world.predict(memory, THINK, rng())
    run, _ = world.descended(memory, THINK, rng())
    measure = world.measure(memory, memory.length)
    assert torch.allclose(made.energies, measure(run.energies), atol=1e-4)
    assert torch.allclose(made.bare, run.energies, atol=1e-5)
    assert (run.energies[..., -1] - measure.zero).std() < run.energies[..., -1].std()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_level_moves_nothing(modality):
    """It measures all candidates after a state in the same: their order, and so every descent, stays what it is."""
    level, states = fitted(modality)
    plain = world_of("ebt", modality, stirred=0.1)
    known = [world.observe(states[:, :-1]) for world in (plain, level)]
    measure = level.measure(known[1], states.shape[1] - 1)
    assert measure.zero.std() > 0.001
    assert measure.unit.std() > 0.001
    for stop in ("fixed", "energy"):
        for options in ({}, {"backtrack": True}, {"samples": 2}, {"samples": 3, "select": "gap"}):
            think = ThinkSection(steps=3, stop=stop, tolerance=0.3, **options)
            one, two = (
                world.predict(memory, think, rng(1)) for world, memory in zip((plain, level), known, strict=True)
            )
            assert torch.allclose(one.sample_states, two.sample_states, atol=1e-6)
            assert torch.allclose(one.state, two.state, atol=1e-6)
            assert torch.allclose(one.sample_gaps, two.sample_gaps, atol=1e-5)
            assert torch.allclose(measure(one.energies), two.energies, atol=1e-4)
            assert torch.allclose(one.bare, two.bare, atol=1e-5)
            assert one.bare_energies is None
            assert torch.allclose(measure(one.sample_energies), two.sample_energies, atol=1e-4)
            assert torch.equal(one.steps_used, two.steps_used)
            # First moves may be shorter, or left out: then those that energies are measured by are looked up.
            more = int(think.backtrack or think.stop == "energy")
            assert torch.equal(one.looks + MOVES * more, two.looks)
            assert torch.equal(one.tries + more, two.tries)
            again = torch.zeros_like(two.steps_used[:2])
            items = torch.tensor([3, 1])
            kept, other = (each.keep(again, items) for each in (two, one))
            assert torch.allclose(kept.bare, other.bare, atol=1e-5)
            theirs = Measure(*(each[items] for each in vars(measure).values()))
            assert torch.allclose(theirs(kept.bare), kept.energies, atol=1e-4)
    truth = level.space.certain(states[:, 1:])
    judged = [world.judge(truth, memory) for world, memory in zip((plain, level), known, strict=True)]
    assert torch.allclose(measure(judged[0][..., None])[..., 0], judged[1], atol=1e-4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_prediction_is_judged_as_it_was_predicted(modality):
    """Whether the first move was read off its descent or looked up."""
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    settled = {"stop": "energy", "tolerance": 0.5}
    patient = {**settled, "patience": MOVES}
    cool, single = {"cooling": 1.0}, {"steps": 1}
    for options in ({}, {"backtrack": True}, {"samples": 3}, single, cool, settled, patient):
        made = world.predict(memory, THINK.model_copy(update=options), rng(), positions=2)
        assert torch.allclose(world.judge(made.state, memory), made.energy, atol=1e-4), options


def test_first_moves_are_looked_up_once_for_all_candidates_that_are_judged(monkeypatch):
    world, states = fitted("video")
    memory, truth = world.observe(states[:, :-1]), world.space.certain(states[:, 1:])
    looked_up = []
    monkeypatch.setattr("ebwm_cli.world.energy.signs_after", lambda *given: looked_up.append(0) or signs_after(*given))
    judged = world.judging(memory, memory.length)
    found = [judged(truth.roll(k, 0), start) for k in range(3) for start in (None, truth)]
    assert looked_up == [0]
    expected = [world.judge(truth.roll(k, 0), memory, start) for k in range(3) for start in (None, truth)]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert len(looked_up) == 7


@pytest.mark.parametrize("modality", MODALITIES)
def test_training_neither_sees_nor_changes_it(modality):
    states = windows(modality)
    losses, measures = [], []
    for world in (levelled(modality), fitted(modality)[0]):
        before = {name: tensor.clone() for name, tensor in world.network.level.state_dict().items()}
        loss, measured = world.loss(states, rng())
        loss.backward()
        losses.append(loss.item())
        measures.append(measured["energy_final"].item())
        after = world.network.level.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert losses[0] == losses[1]
    assert measures[0] == measures[1]


def test_fitting_again_finds_the_same_whatever_was_fitted_before():
    world, states = fitted("video")
    before = {name: tensor.clone() for name, tensor in world.network.level.state_dict().items()}
    assert fit_level(world, pairs_of(states), states.split(16), THINK, rng())
    for name, tensor in world.network.level.state_dict().items():
        assert torch.allclose(tensor, before[name], rtol=1e-3, atol=1e-4), name


def test_an_abandoned_fit_changes_nothing():
    world, states = levelled("video"), windows("video", batch=64)
    before = {name: tensor.clone() for name, tensor in world.network.level.state_dict().items()}
    asked = iter([False, False, True])
    assert not fit_level(world, pairs_of(states), states.split(32), THINK, rng(), lambda: next(asked))
    assert all(torch.equal(tensor, before[name]) for name, tensor in world.network.level.state_dict().items())


def test_the_model_a_training_leaves_has_a_level_and_the_weights_of_one_that_has_none(tmp_path):
    """It is fitted to the averaged weights of the best validation, which the file holds."""
    data = make_set(tmp_path / "set").path
    recipe = short_recipe(ema=0.8)
    finish(recipe, data, tmp_path / "plain")
    finish(with_level(recipe), data, tmp_path / "level")
    plain, level = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "level"))
    assert set(level) - set(plain) == {f"world.network.level.{name}" for name in Level(1, 1, 1).state_dict()}
    assert all(torch.equal(level[name], plain[name]) for name in plain)
    assert level["world.network.level.zero"].any()

    loaded, prepared = load_world(tmp_path / "level", device="cpu"), open_set(data)
    (states,) = Loader(prepared.split("train"), 8, 0, loaded.spec.context).plain(1000, 1000)
    made = loaded.world.predict(loaded.world.observe(states[:, :-1]), loaded.recipe.think, rng())
    assert made.energy.mean().item() == pytest.approx(0.0, abs=0.2)


def test_a_level_is_fitted_in_bf16_too(tmp_path):
    data = make_set(tmp_path / "set").path
    finish(with_level(short_recipe(precision="bf16", steps=2, validate_every=2)), data, tmp_path / "run")
    assert load_file(tmp_path / "run/model.safetensors")["world.network.level.zero"].any()
