"""The level: a term of the context alone, fitted to predictions, that makes energies say how wrong those are."""

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
from ebwm_cli.model.level import Level, ridge
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.statistics import spearman
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


def test_a_feature_that_never_changes_is_no_trouble():
    features = torch.cat([torch.randn(50, 2, generator=rng()), torch.ones(50, 1)], 1).double()
    assert torch.isfinite(ridge(features, features[:, 0])).all()


def test_a_level_cancels_energies_and_says_errors_in_their_stead():
    """Where both are what it can say: linear energies, log-linear errors."""
    hidden = torch.randn(2000, 5, generator=rng())
    energy = hidden @ torch.tensor([3.0, 0.0, -1.0, 0.0, 2.0]) - 40
    error = (hidden @ torch.tensor([0.0, 0.7, 0.0, -0.3, 0.0]) + 1).exp()
    level = Level(5)
    assert not level(hidden).any()
    level.fit((hidden, error), (hidden, energy), floor=0.01)
    total = energy + level(hidden)
    assert total.mean().item() == pytest.approx(error.mean().item(), rel=0.02)
    assert spearman(total.numpy(), error.numpy()) > 0.97
    far = level(100 * hidden) + 100 * (energy + 40) * level.energy[0] / 3  # no error is foretold beyond those seen
    assert torch.isfinite(far).all()


def test_errors_that_are_all_nothing_leave_a_level_finite_and_low():
    hidden = torch.randn(100, 5, generator=rng())
    level = Level(5)
    level.fit((hidden, torch.zeros(100)), (hidden, torch.full((100,), 9.0)), floor=0.5)
    assert torch.allclose(level(hidden), torch.full((100,), -9.0), atol=1e-4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_fitted_energies_of_predictions_are_their_errors_on_average(modality):
    world, states = fitted(modality)
    memory = world.observe(states[:, :-1])
    made = world.predict(memory, THINK, rng())
    ideal = world.space.ideal_energy(made.state, states[:, 1:])
    assert made.energy.mean().item() == pytest.approx(ideal.mean().item(), rel=0.1)
    raw = made.energy - world.network.level_of(memory.kept, memory.length)
    assert (made.energy - ideal).square().mean() < (raw - ideal).square().mean()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_level_moves_nothing(modality):
    """What it adds is the same for all candidates after a state."""
    level, states = fitted(modality)
    plain = world_of("ebt", modality, stirred=0.1)
    known = [world.observe(states[:, :-1]) for world in (plain, level)]
    added = level.network.level_of(known[1].kept, states.shape[1] - 1)
    assert added.std() > 0.001
    for stop in ("fixed", "energy"):
        think = ThinkSection(steps=3, samples=2, stop=stop, tolerance=0.3)
        one, two = (world.predict(memory, think, rng(1)) for world, memory in zip((plain, level), known, strict=True))
        assert torch.allclose(one.sample_states, two.sample_states, atol=1e-6)
        assert torch.allclose(one.sample_energies + added[..., None], two.sample_energies, atol=1e-4)
        assert torch.equal(one.steps_used, two.steps_used)
    truth = level.space.certain(states[:, 1:])
    judged = [world.judge(truth, memory) for world, memory in zip((plain, level), known, strict=True)]
    assert torch.allclose(judged[0] + added, judged[1], atol=1e-4)


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
    asked = iter([False, False, True])
    assert not fit_level(world, states.split(32), states.split(32), THINK, rng(), lambda: next(asked))
    assert not any(tensor.any() for tensor in world.network.level.state_dict().values())


def test_the_model_a_training_leaves_has_a_level_and_the_weights_of_one_that_has_none(tmp_path):
    """It is fitted to the averaged weights of the best validation, which the file holds."""
    data = make_set(tmp_path / "set").path
    recipe = short_recipe(ema=0.8)
    finish(recipe, data, tmp_path / "plain")
    finish(with_level(recipe), data, tmp_path / "level")
    plain, level = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "level"))
    assert set(level) - set(plain) == {f"world.network.level.{name}" for name in Level(1).state_dict()}
    assert all(torch.equal(level[name], plain[name]) for name in plain)
    assert level["world.network.level.scale"] > 0

    loaded, prepared = load_world(tmp_path / "level", device="cpu"), open_set(data)
    states = Loader(prepared.split("train"), 8, 0, loaded.spec.context).plain(1000)
    made = loaded.world.predict(loaded.world.observe(states[:, :-1]), loaded.recipe.think, rng())
    errors = loaded.space.ideal_energy(made.state, states[:, 1:])
    assert made.energy.mean().item() == pytest.approx(errors.mean().item(), rel=0.1)


def test_a_level_is_fitted_in_bf16_too(tmp_path):
    data = make_set(tmp_path / "set").path
    finish(with_level(short_recipe(precision="bf16", steps=2, validate_every=2)), data, tmp_path / "run")
    assert load_file(tmp_path / "run/model.safetensors")["world.network.level.scale"] > 0
