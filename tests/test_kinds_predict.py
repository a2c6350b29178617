"""One contract for every kind of world model, of states and of tokens: remember and predict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kinds import (
    CONTEXT,
    ONE_PASS,
    SPECS,
    STATE_DIM,
    THINK,
    WORLDS,
    changed_at,
    equal,
    every_world,
    grown,
    rng,
    windows,
    world_of,
)

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.rollout import roll_out
from ebwm_cli.world import diffusion

one_pass = pytest.mark.parametrize("kind", ONE_PASS)
pytestmark = pytest.mark.parametrize("modality", ["video", "text"])


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


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
@pytest.mark.parametrize("positions", [1, CONTEXT])
def test_many_candidates_are_judged_as_each(kind, positions, modality):
    world, states = world_of(kind, modality), windows(modality)
    memory = world.observe(states[:, :-1])
    judged = world.judging(memory, positions)
    for candidate in (states[:, 1:], states[:, :-1], states[:, 1:].roll(1, 0)):
        given = world.space.certain(candidate)[:, -positions:]
        assert torch.equal(judged(given), world.judge(given, memory))
        assert torch.equal(judged(given, given), world.judge(given, memory, given))
