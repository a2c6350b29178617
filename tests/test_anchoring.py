"""The anchor of thinking: fitted to validation windows, so that descents end where those say; training has its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from kinds import rng, windows, world_of
from safetensors.torch import load_file
from small_set import make_set
from training import finish, short_recipe

from ebwm_cli.errors import RecipeError
from ebwm_cli.model.latent_space import LatentSpace
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.model import DescentSection
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.world.anchoring import AT_REST, LAMBDAS, fit_anchor

MODALITIES = ("video", "text")
THINK = ThinkSection(steps=3)
TRAINED = 0.5
ANCHORED = {"anchor": TRAINED, "anchor_fit": True}


class Slope:
    """A world without curvature: descents of step size 1 rest at start - slope / lambda."""

    def __init__(self, slope: torch.Tensor) -> None:
        self.slope, self.anchor, self.space = slope, 0.1, LatentSpace(8, 8)
        self.model = SimpleNamespace(descent=SimpleNamespace(anchor=TRAINED))
        self.steps: list[int] = []

    def set_anchor(self, anchor: float) -> None:
        self.anchor = anchor

    def observe(self, context: torch.Tensor) -> torch.Tensor:
        return context

    def descended(self, context: torch.Tensor, think: ThinkSection, rng: torch.Generator):
        self.steps.append(think.steps)
        return SimpleNamespace(final=context - self.slope / self.anchor), context


@pytest.mark.parametrize("best", [0.3, 0.5, 0.8])
def test_the_anchor_that_ends_at_the_truth_is_found(best):
    slope = torch.randn(8, generator=rng())
    start, noise = (torch.randn(20, 8, generator=rng(seed)) for seed in (1, 2))
    noise -= noise @ slope[:, None] * slope / slope.square().sum()  # says nothing of how far to go
    pairs = torch.stack([start, start - slope / best + 0.01 * noise], 1)
    world = Slope(slope)
    assert fit_anchor(world, pairs.split(7), THINK, rng())  # type: ignore[arg-type]
    assert world.anchor == pytest.approx(best, rel=1e-3)
    assert set(world.steps) == {AT_REST}


@pytest.mark.parametrize(("best", "bound"), [(0.01, TRAINED / 2), (100.0, LAMBDAS[1])])
def test_it_stays_a_pull_that_does_not_overshoot(best, bound):
    slope, start = torch.ones(8), torch.randn(20, 8, generator=rng())
    world = Slope(slope)
    fit_anchor(world, [torch.stack([start, start - slope / best], 1)], THINK, rng())  # type: ignore[arg-type]
    assert world.anchor == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("modality", MODALITIES)
def test_long_descents_then_end_nearer_to_the_truth(modality):
    world, states = world_of("ebt", modality, descent=ANCHORED, stirred=0.3), windows(modality, batch=64)
    long = ThinkSection(steps=AT_REST)

    def loss() -> float:
        made = world.predict(world.observe(states[:, :-1]), long, rng())
        return world.space.distance(made.state, states[:, 1:]).mean().item()

    before = loss()
    assert fit_anchor(world, states.split(16), THINK, rng())
    assert world.anchor != TRAINED
    assert loss() < before


@pytest.mark.parametrize("modality", MODALITIES)
def test_predictions_are_judged_with_the_anchor_they_were_made_with(modality):
    world, states = world_of("ebt", modality, descent=ANCHORED), windows(modality)
    world.set_anchor(0.2)
    memory = world.observe(states[:, :-1])
    for options in ({}, {"stop": "energy", "tolerance": 0.3}, {"backtrack": True}, {"samples": 3}):
        made = world.predict(memory, THINK.model_copy(update=options), rng())
        assert torch.allclose(world.judge(made.state, memory), made.energy, atol=1e-4), options
    by_recipe = world_of("ebt", modality, descent={"anchor": 0.2})
    same = by_recipe.predict(by_recipe.observe(states[:, :-1]), THINK, rng())
    made = world.predict(memory, THINK, rng())
    assert torch.allclose(made.state, same.state, atol=1e-6)
    assert torch.allclose(made.energies, same.energies, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_training_does_not_see_it(modality):
    states, losses = windows(modality), []
    for anchor in (TRAINED, 0.1):
        world = world_of("ebt", modality, descent=ANCHORED)
        world.set_anchor(anchor)
        loss, _ = world.loss(states, rng())
        loss.backward()
        losses.append((loss.item(), world.network.head.weight.grad.clone()))
        assert world.anchor == pytest.approx(anchor)
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])


def test_fitting_again_finds_the_same_and_an_abandoned_fit_changes_nothing():
    world, states = world_of("ebt", "video", descent=ANCHORED, stirred=0.3), windows("video", batch=64)
    assert fit_anchor(world, states.split(16), THINK, rng())
    found = world.anchor
    assert fit_anchor(world, states.split(16), THINK, rng())
    assert world.anchor == found
    asked = iter([False, True])
    world.set_anchor(0.33)
    assert not fit_anchor(world, states.split(32), THINK, rng(), lambda: next(asked))
    assert world.anchor == pytest.approx(0.33)


def test_the_model_a_training_leaves_has_one_of_its_own_and_the_weights_of_one_that_has_none(tmp_path):
    data = make_set(tmp_path / "set").path
    plain = short_recipe(ema=0.8)
    descent = plain.model.descent.model_copy(update={"anchor_fit": True})
    fitted = plain.model_copy(update={"model": plain.model.model_copy(update={"descent": descent})})
    (done, _), (better, _) = finish(plain, data, tmp_path / "plain"), finish(fitted, data, tmp_path / "fitted")
    tensors, more = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "fitted"))
    assert set(more) - set(tensors) == {"world.pull"}
    assert done.step == better.step
    assert all(torch.equal(more[name], tensors[name]) for name in tensors)
    world = load_world(tmp_path / "fitted", device="cpu").world
    assert world.anchor == more["world.pull"].item() != plain.model.descent.anchor


def test_without_an_anchor_there_is_none_to_fit():
    with pytest.raises(RecipeError, match="anchor_fit"):
        load_recipe("video_ebt_4xs", ["model.descent.anchor=0", "model.descent.anchor_fit=true"])
    assert DescentSection(anchor=0).anchor_fit is False
