"""One contract for every kind of world model, of states and of tokens: learn, remember, predict, cost."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flops import counted_flops
from kinds import (
    CONTEXT,
    ONE_PASS,
    SPECS,
    STATE_DIM,
    VOCABULARY,
    WORLDS,
    changed_at,
    gradients,
    rng,
    section_of,
    windows,
    world_of,
)

from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.schema import DataSection, Recipe, StateSpec, ThinkSection, TrainSection
from ebwm_cli.run.rollout import roll_out
from ebwm_cli.world import diffusion, observing
from ebwm_cli.world.build import build_world, cost
from ebwm_cli.world.protocol import Judge, Prediction, WorldModel

THINK = ThinkSection(steps=3)

every_world = pytest.mark.parametrize("kind", WORLDS)
one_pass = pytest.mark.parametrize("kind", ONE_PASS)
pytestmark = pytest.mark.parametrize("modality", ["video", "text"])


def equal(a: Prediction, b: Prediction) -> bool:
    """Bit for bit."""
    names = [field.name for field in fields(Prediction) if field.name != "keep"]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs)


def grown(world: Any, states: torch.Tensor, at_once: int = 1) -> Any:
    """The memory of `states`, observed a few at a time."""
    memory = None
    for part in states.split(at_once, dim=1):
        memory = world.observe(part, memory)
    return memory


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
    world, states = world_of(kind, modality, stirred=0.05), windows(modality)
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


# --------------------------------------------------------------------------------------------- remember


@every_world
@pytest.mark.parametrize("position", [0, 3, CONTEXT - 1])
def test_a_state_changes_what_comes_after_it_and_nothing_before(kind, modality, position):
    world, states = world_of(kind, modality), windows(modality)[:, :-1]
    memories = [world.observe(each) for each in (states, changed_at(states, position))]
    before, after = (world.predict(memory, ThinkSection(steps=3, samples=2), rng()) for memory in memories)
    for name in ("state", "energies", "moves", "sample_states", "sample_energies"):
        assert torch.equal(getattr(before, name)[:, :position], getattr(after, name)[:, :position]), name
    assert ((before.state - after.state)[:, position:].abs().amax(-1) > 0).all()
    candidate = before.state
    if world.score:
        assert ((before.energies - after.energies)[:, position:].abs().amax(-1) > 0).all()
        judged = [world.judge(candidate, memory) for memory in memories]
        assert torch.equal(judged[0][:, :position], judged[1][:, :position])
        assert ((judged[0] - judged[1])[:, position:] != 0).all()
    hidden = [world.hidden(candidate, memory) for memory in memories]
    assert torch.equal(hidden[0][:, :position], hidden[1][:, :position])
    assert ((hidden[0] - hidden[1])[:, position:].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("kind", [kind for kind in WORLDS if kind != "ebt"])
@pytest.mark.parametrize("position", [1, 4, CONTEXT])
def test_in_training_too(kind, modality, position, monkeypatch):
    """What is read out for position t depends on states up to t, and for a denoiser on t+1, its noisy target."""
    seen = []
    world, states = world_of(kind, modality), windows(modality)
    monkeypatch.setattr(world, "_read_out", lambda context, hidden, target: seen.append(hidden) or hidden.sum())
    for each in (states, changed_at(states, position)):
        world.loss(each, rng())
    first = position - (kind == "diffusion")
    assert torch.equal(seen[0][:, :first], seen[1][:, :first])
    assert ((seen[0] - seen[1])[:, first:].abs().amax(-1) > 0).all()


@every_world
@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-5), (True, 1e-10)])
def test_a_memory_grown_bit_by_bit_predicts_the_same(kind, modality, double, tolerance):
    world, states = world_of(kind, modality), windows(modality)[:, :-1]
    if double:
        world, states = world.double(), states if modality == "text" else states.double()
    for length in (1, 4, CONTEXT):
        whole = world.observe(states[:, :length])
        for at_once in (1, 2):
            memory = grown(world, states[:, :length], at_once)
            assert memory.length == length
            assert torch.equal(memory.states, whole.states)
            for positions in (1, None):
                found, expected = (
                    world.predict(each, THINK, rng(), positions=positions, record=True) for each in (memory, whole)
                )
                for name in ("state", "energies", "path", "sample_states", "sample_energies"):
                    close = torch.allclose(
                        getattr(found, name), getattr(expected, name), atol=tolerance, rtol=tolerance
                    )
                    assert close, name
            if world.score:
                candidate = world.space.certain(states[:, :length])
                assert torch.allclose(
                    world.judge(candidate, memory), world.judge(candidate, whole), atol=tolerance, rtol=tolerance
                )


@every_world
def test_one_position_is_predicted_as_among_all(kind, modality, monkeypatch):
    world, states = world_of(kind, modality), windows(modality)[:, :-1]
    if kind == "diffusion":
        size = 16 if modality == "text" else STATE_DIM
        monkeypatch.setattr(
            diffusion, "gaussian", lambda shape, *_: torch.randn(1, 1, size, generator=rng()).expand(shape)
        )
    whole = world.predict(world.observe(states), THINK, rng(), record=True)
    for t in range(CONTEXT):
        one = world.predict(world.observe(states[:, : t + 1]), THINK, rng(), positions=1, record=True)
        assert torch.allclose(one.path[:, 0], whole.path[:, t], atol=1e-5)
        assert torch.allclose(one.energies[:, 0], whole.energies[:, t], atol=1e-5)


@every_world
def test_a_rollout_costs_one_position_per_state_and_never_outgrows_the_context(kind, modality, monkeypatch):
    world, states = world_of(kind, modality), windows(modality)[:, :-1]
    read, proposed, lengths = [], [], []
    observe, remember = world.network.observe, world.observe
    monkeypatch.setattr(world.network, "observe", lambda x, memory=None: read.append(x.shape[1]) or observe(x, memory))

    def watched(states: torch.Tensor, memory: Any = None) -> Any:
        longer = remember(states, memory)
        lengths.append(longer.length)
        return longer

    monkeypatch.setattr(world, "observe", watched)
    if kind not in ONE_PASS:
        propose = world.network.trunk.propose
        monkeypatch.setattr(
            world.network.trunk,
            "propose",
            lambda x, *rest, **more: proposed.append(x.shape[1]) or propose(x, *rest, **more),
        )
    loaded: Any = SimpleNamespace(world=world, space=world.space)
    predictions = roll_out(loaded, states[:, :4], THINK, rng(), 5)
    assert read == [4, 1, 1, 1, 1]
    assert set(proposed) <= {1}
    assert lengths == [4, 5, 6, 6, 6]
    assert all(p.state.shape == (3, 1, SPECS[modality].state_dim) for p in predictions)
    # The first two were made of all that came before, as if it had been there from the beginning.
    said = torch.cat([states[:, :4], world.space.commit(predictions[0].state)], 1)
    if kind != "diffusion":
        again = world.predict(remember(said), THINK, rng(), positions=1)
        assert torch.allclose(again.state, predictions[1].state, atol=1e-5)


@every_world
def test_the_old_memory_stays_as_it_was(kind, modality):
    world, states = world_of(kind, modality), windows(modality, length=CONTEXT + 3)
    for length in (3, CONTEXT):
        old = world.observe(states[:, :length])
        before = world.predict(old, THINK, rng())
        longer = world.observe(states[:, length : length + 2], old)
        world.predict(longer, THINK, rng())
        world.observe(changed_at(states, length)[:, length : length + 1], old)
        assert old.length == length
        assert longer.length == min(length + 2, CONTEXT)
        assert equal(world.predict(old, THINK, rng()), before)


# ---------------------------------------------------------------------------------------------- predict


@every_world
@pytest.mark.parametrize("positions", [None, 2])
@pytest.mark.parametrize("steps", [0, 3])
def test_predictions_have_their_shapes(kind, modality, positions, steps):
    world, size = world_of(kind, modality), SPECS[modality].state_dim
    memory = world.observe(windows(modality)[:, :-1])
    think = ThinkSection(steps=steps, samples=4)
    count, moves = positions or CONTEXT, 0 if kind in ONE_PASS else steps
    made = world.predict(memory, think, rng(), positions=positions, record=True)
    assert made.state.shape == made.start.shape == (3, count, size)
    assert made.energies.shape == (3, count, moves + 1)
    assert made.energy.shape == (3, count)
    assert made.moves.shape == (3, count, moves)
    assert made.steps_used.shape == (3, count)
    assert made.steps_used.dtype == torch.int64
    assert (made.steps_used == moves).all()
    assert made.sample_states.shape == (3, count, 4, size)
    assert made.sample_energies.shape == (3, count, 4)
    assert made.path is not None
    assert made.path.shape == (3, count, moves + 1, size)
    assert torch.equal(made.path[:, :, 0], made.start)
    assert torch.equal(made.path[:, :, -1], made.state)
    assert world.predict(memory, think, rng(), positions=positions).path is None
    assert not made.state.requires_grad


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_of_several_samples_the_lowest_score_is_kept(kind, modality):
    world = world_of(kind, modality)
    memory = world.observe(windows(modality)[:, :-1])
    many = world.predict(memory, ThinkSection(steps=3, samples=6, start_noise=1.0), rng(), record=True)
    assert torch.equal(many.energy, many.sample_energies.amin(-1))
    assert (many.sample_energies.amax(-1) > many.energy).all()
    best = many.sample_energies.argmin(-1)
    for b in range(3):
        for t in range(CONTEXT):
            assert torch.equal(many.state[b, t], many.sample_states[b, t, best[b, t]])
    assert best.unique().numel() > 1


@one_pass
def test_in_one_pass_thinking_changes_nothing(kind, modality):
    world = world_of(kind, modality)
    memory = world.observe(windows(modality)[:, :-1])
    plain = world.predict(memory, ThinkSection(steps=0), rng())
    for think in (ThinkSection(steps=9), ThinkSection(samples=3, start_noise=2.0), ThinkSection(stop="energy")):
        other = world.predict(memory, think, rng(1))
        assert torch.equal(other.state, plain.state)
        assert torch.equal(other.energies, plain.energies)
        assert all(torch.equal(other.sample_states[:, :, m], plain.state) for m in range(think.samples))
        assert (other.sample_energies == 0).all()


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_stopping_on_energy_spends_fewer_steps(kind, modality):
    world = world_of(kind, modality)
    memory = world.observe(windows(modality)[:, :-1])
    run = world.predict(memory, ThinkSection(steps=48, stop="energy", tolerance=0.1), rng(), record=True)
    whole = world.predict(memory, ThinkSection(steps=48), rng(), record=True)
    assert run.steps_used.max() < 48
    assert (run.steps_used >= 1).all()
    for b in range(3):
        for t in range(CONTEXT):
            used = int(run.steps_used[b, t])
            assert torch.allclose(run.state[b, t], whole.path[b, t, used], atol=1e-5)
            assert torch.allclose(run.energy[b, t], whole.energies[b, t, used], atol=1e-5)


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_a_judge_tells_candidates_apart(kind, modality):
    world, states = world_of(kind, modality), windows(modality)
    memory = world.observe(states[:, :-1])
    truth = world.space.certain(states[:, 1:])
    judged = world.judge(truth, memory)
    assert judged.shape == (3, CONTEXT)
    assert torch.isfinite(judged).all()
    assert (judged != world.judge(truth.roll(1, 0), memory)).any()
    assert torch.allclose(world.judge(truth[:, -2:], memory), judged[:, -2:], atol=1e-5)  # of the last positions
    assert world.hidden(truth[:, -2:], memory).shape == (3, 2, 16)


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
