"""One contract for every kind of world model, of states and of tokens: learn and cost. How each remembers and predicts
stands in test_kinds_predict."""

from __future__ import annotations

import pytest
import torch
from flops import counted_flops
from kinds import (
    CONTEXT,
    ONE_PASS,
    SPECS,
    STATE_DIM,
    THINK,
    VOCABULARY,
    WORLDS,
    equal,
    every_world,
    gradients,
    grown,
    rng,
    section_of,
    windows,
    world_of,
)

from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.schema import DataSection, Recipe, StateSpec, ThinkSection, TrainSection
from ebwm_cli.world import diffusion, observing
from ebwm_cli.world.build import build_world, cost
from ebwm_cli.world.protocol import Judge, WorldModel

pytestmark = pytest.mark.parametrize("modality", ["video", "text"])


# ------------------------------------------------------------------------------------------------ learn


@every_world
def test_it_keeps_the_protocol(kind, modality):
    world = world_of(kind, modality)
    assert isinstance(world, WorldModel)
    assert isinstance(world, Judge) == (world.score is not None) == (kind not in ONE_PASS)
    _, measures = world.loss(windows(modality), rng())
    assert tuple(measures) == world.measures
    assert all(value.shape == () and torch.isfinite(value) for value in measures.values())


@every_world
def test_every_parameter_is_learned(kind, modality):
    world = world_of(kind, modality)
    loss, _ = world.loss(windows(modality), rng())
    assert loss.shape == ()
    loss.backward()
    learned = {name for name, p in world.named_parameters() if p.requires_grad}
    assert {name for name, _ in world.named_parameters()} - learned == ({"alpha"} if kind == "ebt" else set())
    found = gradients(world)
    assert found.keys() == learned
    for name, gradient in found.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


@every_world
def test_a_fresh_network_learns_at_every_weight_that_is_not_behind_a_zero(kind, modality):
    world = world_of(kind, modality, stirred=0.0)
    world.loss(windows(modality), rng())[0].backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(world).values())
    assert len(gradients(world)) == sum(p.requires_grad for p in world.parameters())


@every_world
def test_a_seed_says_what_is_drawn(kind, modality):
    world, states = world_of(kind, modality), windows(modality)
    same = [world.loss(states, rng(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2]) == (kind != "diffusion")
    memory = world.observe(states[:, :-1])
    assert equal(world.predict(memory, THINK, rng(1)), world.predict(memory, THINK, rng(1)))
    if world.score:
        assert torch.equal(*(world.judge(world.space.certain(states[:, 1:]), memory) for _ in range(2)))


@pytest.mark.parametrize("kind", [kind for kind in WORLDS if kind != "diffusion"])
def test_the_gradient_of_a_batch_is_the_mean_over_its_items(kind, modality):
    """Where nothing is drawn per item; so is the loss."""
    world, states = world_of(kind, modality).double(), windows(modality, 16)
    states = states if modality == "text" else states.double()
    loss, _ = world.loss(states, rng())
    loss.backward()
    whole = gradients(world)
    world.zero_grad()
    losses = []
    for item in states:
        one, _ = world.loss(item[None], rng())
        (one / 16).backward()
        losses.append(one.detach())
    assert torch.allclose(torch.stack(losses).mean(), loss, atol=1e-12)
    for name, gradient in gradients(world).items():
        assert torch.allclose(gradient, whole[name], atol=1e-12), name


@every_world
def test_an_item_does_not_feel_its_neighbours(kind, modality, monkeypatch):
    world, states = world_of(kind, modality).double(), windows(modality, 16)  # so that rounding can't hide or feign it
    states = states.double() if states.is_floating_point() else states
    if kind == "diffusion":  # of which each item has its own, whoever stands beside it
        size = 16 if modality == "text" else STATE_DIM
        noise = torch.randn(16, CONTEXT, size, generator=rng(1)).double()
        time = torch.rand(16, CONTEXT, generator=rng(2)).double()
        item = slice(0, 16)
        monkeypatch.setattr(diffusion, "gaussian", lambda shape, *_: noise[item] if len(shape) > 1 else noise[0, 0])
        monkeypatch.setattr(diffusion, "uniform", lambda *_: time[item])
    memory = world.observe(states[:, :-1])
    together = world.predict(memory, THINK, rng())
    hidden = world.hidden(together.state, memory)
    losses = []
    whole, _ = world.loss(states, rng())
    for i in range(16):
        item = slice(i, i + 1)
        losses.append(world.loss(states[item], rng())[0].detach())
        if i not in (0, 7, 15):
            continue
        memory = world.observe(states[item, :-1])
        alone = world.predict(memory, THINK, rng())
        assert torch.allclose(alone.state[0], together.state[i], atol=1e-9)
        assert torch.allclose(alone.energies[0], together.energies[i], atol=1e-9)
        assert torch.allclose(world.hidden(together.state[item], memory)[0], hidden[i], atol=1e-9)
    assert torch.allclose(torch.stack(losses).mean(), whole, atol=1e-9)


@every_world
@pytest.mark.parametrize("at_once", [1, 2])
def test_of_a_large_state_a_few_windows_are_learned_at_once(kind, modality, at_once, monkeypatch):
    def learn() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        world = world_of(kind, modality)
        loss, _ = world.loss(windows(modality, 5), rng())
        (3 * loss).backward()
        with torch.no_grad():
            assert torch.allclose(world.loss(windows(modality, 5), rng())[0], loss, atol=1e-5)
        return loss.detach(), gradients(world)

    loss, whole = learn()
    monkeypatch.setattr(observing, "NUMBERS_AT_ONCE", at_once * CONTEXT * SPECS[modality].state_dim)
    in_parts, found = learn()
    assert torch.allclose(in_parts, loss, atol=1e-5)
    assert found.keys() == whole.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, whole[name], rtol=1e-4, atol=1e-5), name


@every_world
def test_bf16_runs_and_keeps_what_leaves_the_network_fp32(kind, modality):
    in_bf16(world_of(kind, modality, stirred=0.05), windows(modality))


@pytest.mark.parametrize("start", ["forecast", "zeros"])
def test_bf16_runs_where_the_context_has_its_own_say(modality, start):
    """Starts and that say are read in fp32: hardly a number of them is one that bf16 has."""
    world, states = world_of("ebt", modality, stirred=0.05, start=start, compatibility=True), windows(modality)
    in_bf16(world, states)
    memory = world.observe(states[:, :-1])
    said = memory.kept.hidden
    assert (said != said.bfloat16()).float().mean() > 0.5
    assert world.hidden(world.space.certain(states[:, 1:]), memory).isfinite().all()
    if start == "forecast":
        begun = world.own_start(memory, CONTEXT)
        assert (begun != begun.bfloat16()).float().mean() > 0.5


def in_bf16(world, states):
    exact, _ = world.loss(states, rng())
    world.set_precision("bf16")
    loss, _ = world.loss(states, rng())
    loss.backward()
    assert all(gradient.dtype == torch.float32 for gradient in gradients(world).values())
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.03)
    prediction = world.predict(grown(world, states[:, :-1], at_once=4), THINK, rng())
    assert prediction.state.dtype == prediction.energies.dtype == torch.float32
    assert torch.isfinite(prediction.state).all()


# ------------------------------------------------------------------------------------------------- cost


COUNTED = {
    "video": StateSpec(state_dim=32, context=16),
    "text": StateSpec(modality="text", state_dim=200, context=16),
}


@every_world
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("samples", [1, 3])
def test_flops_are_those_torch_counts(kind, modality, steps, samples):
    spec = COUNTED[modality]
    model = {"width": 64, "layers": 3, **({"descent": {"steps": steps}} if kind == "ebt" else {})}
    recipe = Recipe(
        data=DataSection(modality=modality),  # type: ignore[arg-type]
        model=section_of(kind, modality, **model),  # type: ignore[arg-type]
        think=ThinkSection(steps=steps, samples=samples),
        train=TrainSection(batch_size=4),
    )
    world, states = build_world(recipe.model, spec), windows(modality, 4, length=17, spec=spec)
    foreseen = cost(recipe, spec)
    if samples == 1:
        learning = counted_flops(lambda: world.loss(states, rng())[0].backward())
        assert foreseen.flops_per_step == pytest.approx(learning, rel=0.05)
    memory = world.observe(states[:1, :15])
    with torch.no_grad():
        thinking = counted_flops(
            lambda: world.predict(world.observe(states[:1, 15:16], memory), recipe.think, rng(), positions=1)
        )
    assert foreseen.flops_per_state == pytest.approx(thinking, rel=0.05)
    assert foreseen.params == sum(p.numel() for p in world.parameters())
    core = [p.numel() for name, p in world.network.named_parameters() if name != "turn.weight"]
    assert foreseen.params_non_embedding == sum(core)


# ----------------------------------------------------------------------------------------------- recipe


@pytest.mark.parametrize("kind", ["transformer", "gru", "lstm", "diffusion"])
def test_an_untrained_residual_predicts_the_last_state(kind, modality):
    if modality == "text":
        name = "rnn" if kind in ("gru", "lstm") else kind
        with pytest.raises(RecipeError, match=r"model\.residual: is for data\.modality=video"):
            load_recipe(f"text_{name}_4xs", ["model.residual=false"])
        return
    states = windows(modality)[:, :-1]
    for residual in (True, False):
        world = world_of(kind, modality, stirred=0.0, residual=residual)
        said = world.predict(world.observe(states), ThinkSection(steps=1), rng()).state
        assert torch.equal(said, states) == residual
        assert torch.isfinite(said).all()


@pytest.mark.parametrize("kind", ["ebt", "transformer", "rnn", "diffusion"])
@pytest.mark.parametrize("table", ["shared", "own"])
def test_tables_of_tokens_are_for_text(kind, modality, table):
    wish = [f"model.tokens.table={table}"]
    if modality == "video" and table == "own":
        with pytest.raises(RecipeError, match=r"model\.tokens: is for data\.modality=text"):
            load_recipe(f"video_{kind}_4xs", wish)
        return
    recipe = load_recipe(f"{modality}_{kind}_4xs", [*wish, "model.width=16", "model.layers=1"])
    world = build_world(recipe.model, SPECS[modality])
    world.loss(windows(modality), rng())[0].backward()
    tables = [p for p in world.space.parameters() if p.shape[0] == VOCABULARY]
    assert len(tables) == (0 if modality == "video" else 1 + (table == "own"))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tables)
