"""The level: what energies after a context are measured in, so that they compare with those after another."""

from __future__ import annotations

import pytest
import torch
from kinds import rng, windows, world_of
from safetensors.torch import load_file
from small_set import make_set
from training import finish, short_recipe
from training import levelled as with_level

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import open_set
from ebwm_cli.model.level import MOVES, SAY, FirstMoves, Level, Measure, ridge
from ebwm_cli.model.state_space import LatentSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.statistics import auroc, spearman
from ebwm_cli.world.levelling import fit_level

MODALITIES = ("video", "text")
THINK = ThinkSection(steps=3)


def levelled(modality: str):
    return world_of("ebt", modality, energies={"level": True}, stirred=0.1)


def fitted(modality: str, batch: int = 64):
    world, states = levelled(modality), windows(modality, batch=batch)
    assert fit_level(world, states.split(16), states.split(16), THINK, rng())
    return world, states


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


def test_a_feature_that_never_changes_is_no_trouble():
    features = torch.cat([torch.randn(50, 2, generator=rng()), torch.ones(50, 1)], 1).double()
    assert torch.isfinite(ridge(features, features[:, 0], 0.1)).all()


HIDDEN = torch.randn(2000, 5, generator=rng())
ZERO = HIDDEN @ torch.tensor([0.3, 0.0, -0.1, 0.0, 0.2]) - 40
UNIT = (HIDDEN @ torch.tensor([0.0, 0.7, 0.0, -0.3, 0.0]) + 1).exp()


NOTHING = torch.zeros(2000)
NO_CLUES = torch.empty(2000, 0)
STILL = FirstMoves(NOTHING, torch.zeros(2000, MOVES))


def level_of(error, ended=ZERO, clues=NO_CLUES, first=STILL, floor=0.01):
    level = Level(5, clues.shape[1])
    level.fit((HIDDEN, clues, first.lengths, error), (first.facts, ended), floor)
    return level


def test_a_level_finds_zero_and_unit_where_they_are_what_it_can_say():
    """Errors log-linear in what the trunk says, in how far first moves go and in what the state space tells; descents
    that end at what is linear in the energy after a first move and in the length of a second."""
    first = FirstMoves(2 * torch.randn(2000, generator=rng(1)) - 40, torch.randn(2000, MOVES, generator=rng(2)).exp())
    clues = torch.randn(2000, 1, generator=rng(3)).exp()
    ended = 0.8 * first.energy - first.lengths[:, 1]
    error = UNIT * first.lengths[:, 0] * clues[:, 0].sqrt()
    level = level_of(error, ended, clues, first, floor=1e-3)
    measure = level(HIDDEN, clues, first)
    assert (measure.zero - ended).std() < 0.05 * ended.std()
    assert (measure.unit.log() - error.log()).std() < 0.2 * error.log().std()
    heights = torch.tensor([0.0, 0.5, 3.0])
    energies = ended[:, None] + heights * error[:, None]
    found = measure(energies)
    assert torch.allclose(found, (energies - measure.zero[:, None]) / measure.unit[:, None] + measure.added[:, None])
    assert torch.allclose(measure.added, SAY * (measure.unit.log() - error.log().mean()), atol=0.01)
    assert (found[:, 1:] > found[:, :-1]).all()
    assert spearman(found[:, 0].numpy(), error.numpy()) > 0.9  # predictions are ordered by their errors
    levelled, raw = (auroc(each[:, 2].numpy(), each[:, 1].numpy()) for each in (found, energies))
    assert levelled > 0.9 > raw + 0.05  # one threshold serves all contexts


def test_a_clue_that_is_not_known_says_nothing():
    """It is taken for what is usual, in fitting and after; nor does it spoil what others say."""
    clues = torch.randn(2000, 2, generator=rng(3)).exp()
    error = clues[:, 0] * clues[:, 1]
    clues[::4, 0] = torch.nan
    clues[:3, 1] = torch.nan
    level = level_of(error, clues=clues)
    unit = level(HIDDEN, clues, STILL).unit
    assert unit.isfinite().all()
    assert spearman(unit[1::4].numpy(), error[1::4].numpy()) > 0.95
    usual = (clues.log().nanmean(0)).exp().expand(2000, 2)
    unknown = level(HIDDEN, torch.full_like(clues, torch.nan), STILL).unit
    assert torch.allclose(unknown, level(HIDDEN, usual, STILL).unit, rtol=0.02)


def test_clues_that_are_never_known_are_no_trouble():
    nothing = torch.full((2000, 1), torch.nan)
    without, level = level_of(UNIT), level_of(UNIT, clues=nothing)
    assert torch.allclose(without(HIDDEN, NO_CLUES, STILL).unit, level(HIDDEN, nothing, STILL).unit, rtol=1e-4)


def test_nothing_is_foretold_beyond_the_errors_that_were_seen():
    level = level_of(UNIT)
    far, near = level(100 * HIDDEN, NO_CLUES, STILL).unit, level(HIDDEN, NO_CLUES, STILL).unit
    assert far.min() >= near.min() - 1e-4
    assert far.max() <= near.max() + 1e-4


def test_errors_that_are_all_nothing_have_the_floor_as_unit():
    level = level_of(NOTHING, NOTHING + 9, floor=0.5)
    assert torch.allclose(level(HIDDEN, NO_CLUES, STILL)(NOTHING[:, None] + 9.5), torch.ones(2000, 1), atol=1e-4)


def test_a_level_that_was_not_fitted_changes_no_energy():
    energies = torch.randn(2000, 3, generator=rng())
    moved = FirstMoves(torch.randn(2000), torch.randn(2000, MOVES).square())
    clues = torch.randn(2000, 2).square()
    assert torch.equal(Level(5, 2)(HIDDEN, clues, moved)(energies), energies)


def test_clues_of_latents_are_the_last_motions_as_far_as_they_were_seen():
    states = torch.randn(2, 4, 8, generator=rng())
    found = LatentSpace(8, 8).clues(states, 4)
    assert found.shape == (2, 4, LatentSpace.clue_count)
    moved = (states[:, 1:] - states[:, :-1]).square().sum(-1) / 2
    assert torch.equal(found[:, 1:, 1], moved)
    assert torch.equal(found[:, 2:, 0], moved[:, :-1])
    assert found[:, 0].isnan().all()
    assert found[:, 1, 0].isnan().all()
    assert torch.equal(LatentSpace(8, 8).clues(states, 2), found[:, -2:])
    assert LatentSpace(8, 8).clues(states[:, :1], 1).isnan().all()


@pytest.mark.parametrize("modality", MODALITIES)
def test_some_positions_are_measured_as_among_all(modality):
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    every, some = world._level(memory, memory.length), world._level(memory, 2)
    assert world.space.clues(memory.states, 2).shape == (len(states), 2, world.space.clue_count)
    for part in ("zero", "unit", "added"):
        assert torch.allclose(getattr(some, part), getattr(every, part)[:, -2:], atol=1e-4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_fitted_energies_of_predictions_are_nothing_on_average(modality):
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    made = world.predict(memory, THINK, rng())
    run, _ = world.descended(memory, THINK, rng())
    measure = world._level(memory, memory.length)
    assert made.energy.mean().item() == pytest.approx(0.0, abs=0.2)
    assert torch.allclose(made.energy, (run.energies[..., -1] - measure.zero) / measure.unit + measure.added, atol=1e-4)
    assert (run.energies[..., -1] - measure.zero).std() < run.energies[..., -1].std()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_level_moves_nothing(modality):
    """It measures all candidates after a state in the same: their order, and so every descent, stays what it is."""
    level, states = fitted(modality)
    plain = world_of("ebt", modality, stirred=0.1)
    known = [world.observe(states[:, :-1]) for world in (plain, level)]
    measure = level._level(known[1], states.shape[1] - 1)
    assert measure.zero.std() > 0.001
    assert measure.unit.std() > 0.001
    for stop in ("fixed", "energy"):
        for options in ({}, {"backtrack": True}, {"samples": 2}):
            think = ThinkSection(steps=3, stop=stop, tolerance=0.3, **options)
            one, two = (
                world.predict(memory, think, rng(1)) for world, memory in zip((plain, level), known, strict=True)
            )
            assert torch.allclose(one.sample_states, two.sample_states, atol=1e-6)
            assert torch.allclose(measure(one.energies), two.energies, atol=1e-4)
            assert torch.allclose(one.bare, two.bare, atol=1e-5)
            assert one.bare_energies is None
            assert torch.allclose(measure(one.sample_energies), two.sample_energies, atol=1e-4)
            assert torch.equal(one.steps_used, two.steps_used)
            # First moves may be shorter, or left out: then whole ones are looked up.
            more = int(think.backtrack or think.stop == "energy")
            assert torch.equal(one.looks + MOVES * more, two.looks)
            assert torch.equal(one.tries + more, two.tries)
            again = torch.zeros_like(two.steps_used[:2])
            items = torch.tensor([3, 1])
            kept, other = (each.keep(again, items) for each in (two, one))
            assert torch.allclose(kept.bare, other.bare, atol=1e-5)
            theirs = Measure(measure.zero[items], measure.unit[items], measure.added[items])
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
    assert fit_level(world, states.split(16), states.split(16), THINK, rng())
    for name, tensor in world.network.level.state_dict().items():
        assert torch.allclose(tensor, before[name], rtol=1e-3, atol=1e-4), name


def test_an_abandoned_fit_changes_nothing():
    world, states = levelled("video"), windows("video", batch=64)
    before = {name: tensor.clone() for name, tensor in world.network.level.state_dict().items()}
    asked = iter([False, False, True])
    assert not fit_level(world, states.split(32), states.split(32), THINK, rng(), lambda: next(asked))
    assert all(torch.equal(tensor, before[name]) for name, tensor in world.network.level.state_dict().items())


def test_the_model_a_training_leaves_has_a_level_and_the_weights_of_one_that_has_none(tmp_path):
    """It is fitted to the averaged weights of the best validation, which the file holds."""
    data = make_set(tmp_path / "set").path
    recipe = short_recipe(ema=0.8)
    finish(recipe, data, tmp_path / "plain")
    finish(with_level(recipe), data, tmp_path / "level")
    plain, level = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "level"))
    assert set(level) - set(plain) == {f"world.network.level.{name}" for name in Level(1, 1).state_dict()}
    assert all(torch.equal(level[name], plain[name]) for name in plain)
    assert level["world.network.level.zero"].any()

    loaded, prepared = load_world(tmp_path / "level", device="cpu"), open_set(data)
    states = Loader(prepared.split("train"), 8, 0, loaded.spec.context).plain(1000)
    made = loaded.world.predict(loaded.world.observe(states[:, :-1]), loaded.recipe.think, rng())
    assert made.energy.mean().item() == pytest.approx(0.0, abs=0.2)


def test_a_level_is_fitted_in_bf16_too(tmp_path):
    data = make_set(tmp_path / "set").path
    finish(with_level(short_recipe(precision="bf16", steps=2, validate_every=2)), data, tmp_path / "run")
    assert load_file(tmp_path / "run/model.safetensors")["world.network.level.zero"].any()
