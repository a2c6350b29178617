"""Levelled worlds: what a level is fitted to, what is known after a context, and that it moves no prediction."""

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
from ebwm_cli.model.latent_space import LONGER, LatentSpace
from ebwm_cli.model.level import MOVES, Level
from ebwm_cli.model.state_space import differ
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
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
    assert fit_level(world, pairs_of(states), states.split(16), states.split(16), THINK, rng())
    return world, states


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
    for part in ("zero", "unit", "said", "sharpness", "threshold", "reached"):
        assert torch.allclose(getattr(some, part), getattr(every, part)[:, -2:], atol=1e-4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_level_is_fitted_to_true_next_states_and_four_kinds_of_false_ones(modality, monkeypatch):
    world, states = levelled(modality), windows(modality, batch=32)
    states[0, 3] = states[0, 2]  # two steps ahead the same comes again
    states[16, 1:] = states[0, 1:]  # in the other window, too
    fits = []
    monkeypatch.setattr(Level, "fit", lambda self, *given, **_: fits.append(given))
    unlearned = windows(modality, batch=8, seed=3)
    assert fit_level(world, pairs_of(states), states.split(16), unlearned.split(4), THINK, rng())
    ((errors, held_out, ended, true, false, (ordered, shuffled)),) = fits
    context, truth, space = states[:, :-1], states[:, 1:], world.space
    memory, count = world.observe(context), truth.shape[:2].numel()

    def energies(candidates):
        return world.total(candidates, memory)

    def is_of(seen, expected, where, candidate=None):
        if candidate is not None:
            expected = energies(candidate)
            assert torch.allclose(seen.point, space.point(candidate)[where].double())
        assert torch.allclose(seen.energy, expected[where].double(), atol=1e-5)
        assert torch.allclose(seen.signs.hidden, memory.kept.hidden[where].double(), atol=1e-5)

    everywhere = torch.ones(truth.shape[:2], dtype=torch.bool)
    is_of(true, None, everywhere, space.certain(truth))
    run, _ = world.descended(memory, THINK, rng())
    is_of(errors, space.ideal_energy(run.final, truth), everywhere)
    assert torch.allclose(ended, run.energies[..., -1].flatten(), atol=1e-5)
    assert len(held_out.energy) == unlearned[:, 1:].shape[:2].numel()
    unknown = world.observe(unlearned[:, :-1])
    assert torch.allclose(held_out.signs.hidden, unknown.kept.hidden.flatten(0, 1).double(), atol=1e-5)
    other, ahead, near, order = false
    clues = clues_after(world, memory)
    known = ~clues.isnan().any(-1)
    assert torch.allclose(ordered, clues[known], atol=1e-4)
    assert len(shuffled) == len(ordered)
    assert not clues.shape[-1] or not torch.allclose(shuffled, ordered, atol=0.1)
    others = states.roll(16, 0)[:, 1:]
    is_of(other, None, differ(others, truth), space.certain(others))
    assert len(other.energy) <= count - 2 * truth.shape[1]
    later = torch.cat([states[:, 2:], states[:, -1:]], 1)
    is_of(ahead, None, differ(later, truth), space.certain(later))
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
    assert torch.allclose(made.energies, measure(run.energies, world.space.point(run.final)), atol=1e-4)
    assert torch.allclose(made.bare, run.energies, atol=1e-5)
    assert (run.energies[..., -1] - measure.zero).std() < run.energies[..., -1].std()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_level_moves_nothing(modality):
    """It measures all energies on the way to a candidate in the same, and choices go by those below: predictions and
    descents stay what they are."""
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
            point = level.space.point
            assert torch.allclose(measure(one.energies, point(one.state)), two.energies, atol=1e-4)
            assert torch.allclose(one.bare, two.bare, atol=1e-5)
            assert one.bare_energies is None
            for sample in range(think.samples):
                mine = one.sample_energies[..., sample : sample + 1]
                expected = measure(mine, point(one.sample_states[..., sample, :]))
                assert torch.allclose(expected, two.sample_energies[..., sample : sample + 1], atol=1e-4)
            assert torch.equal(one.steps_used, two.steps_used)
            # First moves may be shorter, or left out: then those that energies are measured by are looked up.
            more = int(think.backtrack or think.stop == "energy")
            assert torch.equal(one.looks + MOVES * more, two.looks)
            assert torch.equal(one.tries + more, two.tries)
            again = torch.zeros_like(two.steps_used[:2])
            items = torch.tensor([3, 1])
            kept, other = (each.keep(again, items) for each in (two, one))
            assert torch.allclose(kept.bare, other.bare, atol=1e-5)
            theirs = measure.at(lambda each: each[torch.tensor([3, 1])])
            assert torch.allclose(theirs(kept.bare, point(kept.state)), kept.energies, atol=1e-4)
    truth = level.space.certain(states[:, 1:])
    judged = [world.judge(truth, memory) for world, memory in zip((plain, level), known, strict=True)]
    assert torch.allclose(measure(judged[0][..., None], level.space.point(truth))[..., 0], judged[1], atol=1e-4)


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
def test_candidates_of_a_descent_are_judged_as_it_was_where_they_are_measured_as_its_end(modality):
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    found = world.predict(memory, THINK, rng(), record=True)
    judged = world.judging(memory, memory.length)
    measured = torch.stack([judged(each, like=found.state) for each in found.path.unbind(2)], -1)
    assert torch.allclose(measured, found.energies, atol=1e-4)
    own = torch.stack([judged(each) for each in found.path.unbind(2)], -1)
    assert torch.allclose(own[..., -1], found.energy, atol=1e-4)
    assert (own[..., 0] - found.energies[..., 0]).abs().max() > 0.01


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
    assert fit_level(world, pairs_of(states), states.split(16), states.split(16), THINK, rng())
    for name, tensor in world.network.level.state_dict().items():
        assert torch.allclose(tensor, before[name], rtol=1e-3, atol=1e-4), name


def test_an_abandoned_fit_changes_nothing():
    world, states = levelled("video"), windows("video", batch=64)
    before = {name: tensor.clone() for name, tensor in world.network.level.state_dict().items()}
    asked = iter([False, False, True])
    assert not fit_level(world, pairs_of(states), states.split(32), states.split(32), THINK, rng(), lambda: next(asked))
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


def test_a_world_whose_contexts_have_no_order_is_kept_too(tmp_path):
    """Of one state, no other order is false, and the odds of that are none."""
    data = make_set(tmp_path / "set").path
    recipe = with_level(short_recipe(steps=2, validate_every=2, warmup=0))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"context": 1})})
    report, _ = finish(recipe, data, tmp_path / "run")
    assert report.step == 2
    kept = load_file(tmp_path / "run/model.safetensors")
    assert kept["world.network.level.odds.sharpness"][0].any()
    assert not kept["world.network.level.odds.sharpness"][-1].any()


def test_a_level_is_fitted_in_bf16_too(tmp_path):
    data = make_set(tmp_path / "set").path
    finish(with_level(short_recipe(precision="bf16", steps=2, validate_every=2)), data, tmp_path / "run")
    assert load_file(tmp_path / "run/model.safetensors")["world.network.level.zero"].any()
