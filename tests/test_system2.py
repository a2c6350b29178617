"""What training may do beside the published form: unrolling, replay, spectral steps, energies that mean something; and
thinking that stops position by position on a real network."""

from __future__ import annotations

import pytest
import torch
from kinds import SPECS, rng, windows, world_of
from pydantic import ValidationError

from ebwm_cli.recipe.model import DescentSection, EbtSection, EnergiesSection
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.sampler.replay import ReplayBuffer
from ebwm_cli.sampler.selection import pick
from ebwm_cli.world.energies import energy_terms

MODALITIES = ("video", "text")


def gradients(world, states, seed: int = 0):
    world.zero_grad()
    loss, _ = world.loss(states, rng(seed))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in world.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------------------- unrolling


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("loss_on", ["all", "last"])
def test_unrolled_gradients_are_those_of_the_plain_loop(modality, loss_on):
    rules = {"steps": 3, "anchor": 0.3, "unroll": True, "loss_on": loss_on, "step_size": 0.5}
    world, states = world_of("ebt", modality, descent=rules).double(), windows(modality)
    states = states.double() if modality == "video" else states
    loss, mine = gradients(world, states)

    world.zero_grad()
    memory = world.observe(states[:, :-1])
    start = world.space.start(states[:, :-1], memory.kept.hidden, rng())
    candidate, losses = start, []
    for _ in range(3):
        point = world.space.point(candidate)
        point = point if point.requires_grad else point.requires_grad_()
        energy = world.network.energy(world.space.embed_candidate(point), memory.kept)
        (slope,) = torch.autograd.grad(energy.sum(), point, create_graph=True)
        candidate = world.space.move(candidate, slope, 0.5) - 0.3 * (candidate - start)
        losses.append(world.space.distance(candidate, states[:, 1:]).mean())
    plain = torch.stack(losses).mean() if loss_on == "all" else losses[-1]
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-10)
    for name, parameter in world.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(mine[name], parameter.grad, rtol=1e-8, atol=1e-12), name


def test_unrolling_changes_gradients_and_not_the_loss():
    rules = {"steps": 2, "anchor": 0.3}
    states = windows("video")
    apart = gradients(world_of("ebt", "video", descent=rules), states)
    through = gradients(world_of("ebt", "video", descent={**rules, "unroll": True}), states)
    assert apart[0] == pytest.approx(through[0], rel=1e-6)
    assert max((apart[1][n] - through[1][n]).abs().max() for n in apart[1]) > 1e-5


# ------------------------------------------------------------------------------------------- replay


def test_the_ring_keeps_the_newest_and_pairs_stay_together():
    buffer = ReplayBuffer(4)
    for first in range(0, 6, 2):
        numbers = torch.arange(first, first + 2.0)
        buffer.push(numbers[:, None, None].expand(2, 3, 1), 10 * numbers[:, None, None].expand(2, 2, 1))
    states, candidates = buffer.draw(4)
    assert sorted(states[:, 0, 0].tolist()) == [2, 3, 4, 5]
    assert torch.equal(candidates[:, 0, 0], 10 * states[:, 0, 0])
    assert len(buffer) == 4


def test_a_buffer_restored_draws_what_it_would_have_drawn():
    buffer, other = ReplayBuffer(8), ReplayBuffer(8)
    buffer.push(torch.randn(8, 3, 2), torch.randn(8, 2, 2))
    buffer.draw(2)
    other.load(buffer.tensors(), torch.device("cpu"))
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(buffer.draw(3), other.draw(3), strict=True))
    assert ReplayBuffer(8).tensors() == {}


@pytest.mark.parametrize("modality", MODALITIES)
def test_replayed_windows_go_on_where_they_had_arrived(modality):
    world = world_of("ebt", modality, descent={"replay": 0.5, "replay_size": 4, "anchor": 0.5})
    first = windows(modality, batch=4)
    world.loss(first, rng())
    assert len(world.replay) == 4
    kept, arrived = world.replay.tensors()["windows"].clone(), world.replay.tensors()["candidates"].clone()
    assert torch.equal(kept, first)
    seen = []
    start = world.space.distance
    world.space.distance = lambda candidate, target: (seen.append(target.clone()), start(candidate, target))[1]
    world.loss(windows(modality, batch=4, seed=5), rng())
    targets = seen[0]
    for row in range(2):  # half of the batch was seen before
        assert any(torch.equal(targets[row], each[1:]) for each in kept)
    memory = world.observe(kept[:, :-1])
    again = world.predict(memory, ThinkSection(steps=2), rng())
    assert torch.allclose(again.state, arrived, atol=1e-5)  # where both steps from the usual start lead


def test_replay_is_off_where_nothing_is_learned():
    world = world_of("ebt", "video", descent={"replay": 0.5})
    with torch.no_grad():
        world.loss(windows("video"), rng())
    assert len(world.replay) == 0


# ------------------------------------------------------------------------------------------- spectral


def sharpened(control: str, factor: float = 8.0, **think):
    """A world whose energies are so much steeper than those it began with."""
    world = world_of("ebt", "video", descent={"step_control": control, "anchor": 0.3, "free_steps": (6, 6)})
    with torch.no_grad():
        world.network.head.weight.mul_(factor * 40)
        world.network.trunk.norm.weight.mul_(3)
    return world


def test_a_landscape_too_sharp_for_a_fixed_step_trains_and_thinks_with_a_spectral_one():
    states, far = windows("video"), ThinkSection(steps=24)
    losses = {}
    for control in ("fixed", "spectral"):
        world = sharpened(control)
        for step in range(2):
            loss, _ = world.loss(states, rng(step))
        loss.backward()
        prediction = world.predict(world.observe(states[:, :-1]), far, rng())
        losses[control] = loss.item(), world.space.distance(prediction.state, states[:, 1:]).mean().item()
        rises = (prediction.energies.diff(dim=-1) > 1e-5 * prediction.energies.abs().max()).float().mean()
        losses[control] += (rises.item(),)
    assert losses["spectral"][0] < losses["fixed"][0] / 2
    assert losses["spectral"][1] < losses["fixed"][1] / 2
    assert losses["spectral"][2] < losses["fixed"][2] / 2


# ------------------------------------------------------------------------------------------- energies


class Bowl:
    """A total energy that says exactly how wrong a candidate is, and `extra`."""

    def __init__(self, space, target, extra: float = 0.0) -> None:
        self.space, self.target, self.extra = space, target, extra

    def __call__(self, candidate):
        return self.space.ideal_energy(candidate, self.target) + self.extra


@pytest.mark.parametrize("modality", MODALITIES)
def test_regression_is_nothing_where_energies_say_how_wrong_candidates_are(modality):
    world, states = world_of("ebt", modality), windows(modality)
    space, target = world.space, states[:, 1:]
    origin = space.blank(target)
    options = {"origin": origin, "target": target, "final": origin, "rng": rng()}
    wanted = EnergiesSection(regression=2.0)
    assert sum(energy_terms(wanted, space, Bowl(space, target), **options)).item() == pytest.approx(0, abs=1e-10)
    off = sum(energy_terms(wanted, space, Bowl(space, target, extra=3.0), **options)).item()
    assert off == pytest.approx(2.0 * (3.0 / space.numbers) ** 2, rel=1e-4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_contrast_is_the_log_of_the_number_of_states_where_all_are_alike(modality):
    world, states = world_of("ebt", modality), windows(modality)
    target = states[:, 1:]
    origin = world.space.blank(target)
    flat = lambda candidate: candidate.new_zeros(candidate.shape[:2])  # noqa: E731
    options = {"origin": origin, "target": target, "final": origin, "rng": rng()}
    (term,) = energy_terms(EnergiesSection(contrast=1.0), world.space, flat, **options)
    assert term.item() == pytest.approx(torch.tensor(4.0).log().item(), rel=1e-5)
    sharp = lambda candidate: 1e3 * world.space.ideal_energy(candidate, target)  # noqa: E731
    (term,) = energy_terms(EnergiesSection(contrast=1.0), world.space, sharp, **options)
    assert term.item() < 0.8  # near misses and equal tokens are left


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("term", ["regression", "contrast", "regularization"])
def test_each_term_is_added_with_its_weight_and_trains_the_energy(modality, term):
    states = windows(modality)
    plain, _ = gradients(world_of("ebt", modality), states)
    weighed = [gradients(world_of("ebt", modality, energies={term: w}), states) for w in (0.5, 1.0)]
    assert weighed[1][0] - plain == pytest.approx(2 * (weighed[0][0] - plain), rel=1e-3)
    assert weighed[1][0] != pytest.approx(plain, rel=1e-6)


def test_descending_on_regression_teaches_energies_their_meaning():
    world = world_of("ebt", "video", energies={"regression": 1.0})
    states = windows("video", batch=16)[:, :1].expand(-1, 7, -1).contiguous()  # nothing moves
    optimizer = torch.optim.AdamW(world.parameters(), lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        world.loss(states, rng(step))[0].backward()
        optimizer.step()
    memory = world.observe(states[:, :-1])
    true = world.judge(states[:, 1:], memory)
    far = world.judge(states[:, 1:].roll(1, 0), memory)
    assert (far > true).float().mean() > 0.9


def test_squares_are_never_negative_and_refused_beside_compatibility():
    world, states = world_of("ebt", "video", head="squares", stirred=1.0), windows("video")
    candidates = 10 * torch.randn_like(states[:, 1:])
    energy = world.network.energy(world.space.embed_candidate(candidates), world.observe(states[:, :-1]).kept)
    assert (energy >= 0).all()
    assert energy.std() > 0
    with pytest.raises(ValidationError, match="bounded below"):
        EbtSection(head="squares", compatibility=True, start="zeros")


# ------------------------------------------------------------------------------------------- thinking


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("positions", [None, 2])
def test_stopped_positions_leave_the_network_and_change_nothing(modality, samples, positions, monkeypatch):
    world, states = world_of("ebt", modality, descent={"anchor": 0.3, "step_size": 2.0}, stirred=0.5), windows(modality)
    think = ThinkSection(steps=12, samples=samples, stop="energy", tolerance=0.05, start_noise=0.5)
    memory = world.observe(states[:, :-1])
    left = world.predict(memory, think, rng(), positions=positions, record=True)
    fixed = world.predict(memory, think.model_copy(update={"stop": "fixed"}), rng(), positions=positions, record=True)
    if samples == 1:
        assert left.steps_used.unique().numel() > 1
        for b, p in torch.cartesian_prod(*(torch.arange(n) for n in left.steps_used.shape)).tolist():
            used = int(left.steps_used[b, p])
            assert torch.allclose(left.state[b, p], fixed.path[b, p, used], atol=1e-4)
    assert int(left.looks.sum()) < int(fixed.looks.sum())
    assert left.looks.shape == left.tries.shape == left.steps_used.shape


def test_backtracking_energies_never_rise_on_a_real_network():
    world = world_of("ebt", "video", descent={"anchor": 0.2, "step_size": 30.0}, stirred=1.0)
    memory = world.observe(windows("video")[:, :-1])
    plain = world.predict(memory, ThinkSection(steps=10), rng())
    careful = world.predict(memory, ThinkSection(steps=10, backtrack=True), rng())
    assert (plain.energies.diff(dim=-1) > 0).any()
    assert (careful.energies.diff(dim=-1) <= 0).all()


def test_picks():
    energies = torch.tensor([[[[5.0, 1.0], [9.0, 2.0], [2.0, 3.0]]]])  # of three samples: start, final
    assert pick("energy", energies, rng()).item() == 0
    assert pick("gap", energies, rng()).item() == 1
    picked = {pick("random", energies.expand(1, 50, 3, 2), rng())[0, k].item() for k in range(50)}
    assert picked == {0, 1, 2}


@pytest.mark.parametrize("world", ["ebt", "diffusion"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_mean_of_all_samples_is_a_prediction_too(world, modality):
    built, states = world_of(world, modality), windows(modality)
    think = ThinkSection(steps=2, samples=3, select="mean", start_noise=1.0)
    prediction = built.predict(built.observe(states[:, :-1]), think, rng(), record=True)
    assert torch.allclose(prediction.state, built.space.average(prediction.sample_states))
    assert torch.allclose(prediction.energy, prediction.sample_energies.mean(-1))
    assert torch.allclose(prediction.path[:, :, -1], prediction.state, atol=1e-6)


def test_a_typical_drop_is_kept_with_the_weights():
    world = world_of("ebt", "video", descent={"free_steps": (2, 2)})
    assert world.typical_drop == 0
    for start, final, kept in ((5.0, 3.0, 2.0), (5.0, 5.0, 2.0), (4.0, 2.5, 0.99 * 2.0 + 0.01 * 1.5)):
        world.learned({"energy_start": start, "energy_final": final, "step_size": 1.0})
        assert world.typical_drop.item() == pytest.approx(kept)
    assert "typical_drop" in world.state_dict()


def test_descent_rules_are_refused_where_they_mean_nothing():
    for wrong in ({"replay": 1.0}, {"spectral_fraction": 2.0}, {"step_control": "both"}):
        with pytest.raises(ValidationError):
            DescentSection(**wrong)
    assert SPECS["text"].state_dim
