"""What a GPU computes is what the CPU computes, for every kind, on video and text: gradients, predictions, and every
verb from training to thinking. Skipped where there is none."""

import math

import pytest
import torch
from kinds import ONE_PASS, WORLDS, gradients, rng, section_of, windows, world_of
from small_set import make_set
from small_text import make_text_set
from training import levelled, outcome, short_recipe, stop_half_way

from ebwm_cli.commands.calibration import calibration
from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.commands.facets import facets
from ebwm_cli.commands.generate import continue_text
from ebwm_cli.commands.think import think
from ebwm_cli.commands.train import plan, train
from ebwm_cli.recipe.schema import DataSection, ThinkSection
from ebwm_cli.run.checkpoint import load_world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

every_kind = pytest.mark.parametrize("kind", WORLDS)
every_modality = pytest.mark.parametrize("modality", ["video", "text"])

HARD_THINKING = {
    "plain": ThinkSection(steps=4),
    "stopping, backtracking": ThinkSection(steps=8, stop="energy", tolerance=0.2, backtrack=True, cooling=0.5),
    "still": ThinkSection(steps=8, stop="still", tolerance=0.5),
    "many": ThinkSection(steps=3, samples=5, select="energy"),
}


def both(kind, modality, **model):
    """The same world on the CPU and on the GPU."""
    return [world_of(kind, modality, **model).to(device) for device in ("cpu", "cuda")]


def close(here, there, tolerance=2e-3):
    """Equal to rounding, of sums that another machine adds in another order."""
    here, there = here.detach(), there.detach().cpu()
    return float((here - there).abs().max()) <= tolerance * max(float(here.abs().max()), 1e-6)


@every_kind
@every_modality
def test_gradients_are_the_cpus(kind, modality):
    here, there = both(kind, modality)
    states = windows(modality)
    losses = [world.loss(states.to(device), rng()) for world, device in ((here, "cpu"), (there, "cuda"))]
    for loss, _ in losses:
        loss.backward()
    (loss, measures), (other, others) = losses
    assert close(loss, other)
    assert all(close(measures[name], others[name]) for name in measures)
    found, learned = gradients(here), gradients(there)
    assert found.keys() == learned.keys()
    most = max(float(gradient.abs().max()) for gradient in found.values())
    for name, gradient in found.items():
        assert float((gradient - learned[name].cpu()).abs().max()) <= 2e-3 * most, name


@pytest.mark.parametrize("thinking", HARD_THINKING)
@every_modality
def test_thinking_is_the_cpus(thinking, modality):
    here, there = both("ebt", modality, energies={"level": True})
    states = windows(modality)
    made = []
    for world, device in ((here, "cpu"), (there, "cuda")):
        memory = world.observe(states.to(device))
        prediction = world.predict(memory, HARD_THINKING[thinking], rng())
        made.append((prediction, world.judge(prediction.state, memory)))
    (one, judged), (other, judged_there) = made
    assert close(one.state, other.state)
    assert close(one.energies, other.energies)
    assert close(judged, judged_there)
    assert (one.steps_used == other.steps_used.cpu()).float().mean() > 0.9  # rounding may settle a position earlier


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    return {"video": make_set(folder / "set").path, "text": make_text_set(folder / "text").path}


def recipe_of(kind, modality, **changes):
    settings = {
        "data": DataSection(modality=modality),
        "model": section_of(kind, modality),
        "think": ThinkSection(steps=2),
    }
    recipe = short_recipe(steps=9, save_every=4, validate_every=3, **changes).model_copy(update=settings)
    return levelled(recipe) if kind == "ebt" else recipe


@every_kind
@every_modality
def test_every_verb_runs(kind, modality, prepared, tmp_path, monkeypatch):
    recipe, data = recipe_of(kind, modality), prepared[modality]
    assert plan(recipe, data, device="cuda").params > 0
    stop_half_way(recipe, data, tmp_path / "run", monkeypatch, device="cuda")
    *_, done = train(recipe, data, tmp_path / "run", device="cuda")
    assert done.step == 9
    list(train(recipe, data, tmp_path / "whole", device="cuda"))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")

    *_, here = evaluate(tmp_path / "run", data=data, steps=[1, 2], samples=[1, 2], rollout=2, device="cpu")
    *_, there = evaluate(tmp_path / "run", data=data, steps=[1, 2], samples=[1, 2], rollout=2, device="cuda")
    assert there.loss == pytest.approx(here.loss, rel=2e-3)
    list(facets(tmp_path / "run", data=data, device="cuda"))
    if kind not in ONE_PASS:
        list(calibration(tmp_path / "run", data=data, device="cuda"))
    *_, thought = think(tmp_path / "run", data=data, steps=3, horizon=2, out=tmp_path / "thought", device="cuda")
    assert len(thought.steps_used) == 2
    if modality == "text":
        *_, written = continue_text(tmp_path / "run", "the cat", max_new=3, device="cuda")
        assert len(written.tokens) <= 3


def evaluated_on_cpu(run, data):
    *_, judged = evaluate(run, data=data, device="cpu")
    return judged.loss


@every_modality
def test_half_precision_learns(modality, prepared, tmp_path):
    recipe = recipe_of("ebt", modality, precision="bf16")
    *_, done = train(recipe, prepared[modality], tmp_path / "run", device="cuda")
    *_, judged = evaluate(tmp_path / "run", data=prepared[modality], device="cuda")
    assert math.isfinite(done.val_loss)
    assert judged.loss == pytest.approx(evaluated_on_cpu(tmp_path / "run", prepared[modality]), rel=2e-2)
    assert load_world(tmp_path / "run", "cuda").world.alpha.is_cuda
