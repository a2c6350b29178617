"""The energy world: its loss against the loss written plainly, its memory, its predictions, its cost."""

from __future__ import annotations

import naive
import pytest
import torch
from flops import counted_flops

from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.model import DescentSection, EbtSection
from ebwm_cli.recipe.schema import DataSection, Recipe, StateSpec, ThinkSection, TrainSection
from ebwm_cli.world.build import build_world, cost
from ebwm_cli.world.optim import build_optimizer, learning_rate, set_learning_rate
from ebwm_cli.world.protocol import Judge, WorldModel

SPEC = StateSpec(state_dim=12, context=6)
THINK = ThinkSection(steps=4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world_of(seed: int = 0, spec: StateSpec = SPEC, **model):
    torch.manual_seed(seed)
    descent = model.pop("descent", {"free_steps": (0, 0)})
    return build_world(
        EbtSection(**{"layers": 2, "width": 16, "heads": 2, **model}, descent=DescentSection(**descent)), spec
    )


def windows(batch: int = 3, seed: int = 0, spec: StateSpec = SPEC) -> torch.Tensor:
    return torch.randn(batch, spec.context + 1, spec.state_dim, generator=rng(seed))


def gradients(world) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in world.named_parameters() if p.grad is not None}


def plain_loss(world, states: torch.Tensor, steps: int, anchor: float) -> torch.Tensor:
    """Mean over steps of the loss after each detached step, both streams recomputed, one graph."""
    context, target = states[:, :-1], states[:, 1:]
    candidate, loss = context, torch.zeros(())
    before = torch.cat([context[:, :1], context[:, :-1]], 1)
    for _ in range(steps):
        candidate = candidate.detach().requires_grad_()
        observed = world.space.embed_observed(context, before)
        energy = naive.dense_energy(world.network, observed, world.space.embed_candidate(candidate))
        (gradient,) = torch.autograd.grad(energy.sum(), candidate, create_graph=True)
        candidate = candidate - world.alpha * gradient - anchor * (candidate - context)
        loss = loss + torch.nn.functional.smooth_l1_loss(candidate, target) / steps
    return loss


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("anchor", [0.0, 0.5])
@pytest.mark.parametrize("motion", [0.0, 2.0])
def test_loss_and_its_gradients_equal_the_plain_form(steps, anchor, motion):
    world = world_of(motion=motion, descent={"steps": steps, "free_steps": (0, 0), "anchor": anchor}).double()
    states = windows().double()
    plain = plain_loss(world, states, steps, anchor)
    plain.backward()
    expected = gradients(world)
    world.zero_grad()
    loss, metrics = world.loss(states, rng())
    (2 * loss).backward()  # a scalar like any other: it may be scaled
    assert torch.allclose(loss, plain, atol=1e-12)
    found = gradients(world)
    assert found.keys() == expected.keys() == dict(world.named_parameters()).keys()
    for name, grad in expected.items():
        assert torch.allclose(found[name], 2 * grad, atol=1e-11), name
    assert set(metrics) == {"energy_start", "energy_final", "step_size"}


def test_free_steps_move_the_start_and_carry_no_gradient():
    world = world_of(descent={"steps": 1, "free_steps": (2, 2), "anchor": 0.3})
    states = windows()
    with torch.no_grad():
        moved = world.predict(world.observe(states[:, :-1]), ThinkSection(steps=3), rng(), record=True)
        expected = world.space.distance(moved.path[:, :, 3], states[:, 1:]).mean()
        quiet, _ = world.loss(states, rng())
    assert torch.allclose(quiet, expected, atol=1e-6)
    loss, _ = world.loss(states, rng())
    assert torch.allclose(loss.detach(), quiet, atol=1e-6)


def test_counts_are_drawn_from_the_given_generator():
    world = world_of(descent={"steps": (1, 3), "free_steps": (0, 4), "langevin_noise": 0.1, "step_size_jitter": 2.0})
    losses = [world.loss(windows(), rng(seed))[0].item() for seed in (1, 1, 2, 3)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    "option",
    [{"langevin_noise": 0.5}, {"step_size_jitter": 3.0}, {"gradient_clamp": 1e-3}, {"anchor": 0.9}, {"step_size": 3.0}],
)
def test_each_descent_option_changes_the_loss(option):
    plain = world_of().loss(windows(), rng())[0].item()
    assert abs(world_of(descent={"free_steps": (0, 0), **option}).loss(windows(), rng())[0].item() - plain) > 1e-5


@pytest.mark.parametrize("start", ["noise", "zeros", "last", "forecast"])
def test_every_start_trains_and_predicts(start):
    world = world_of(start=start, start_noise=0.1)
    loss, _ = world.loss(windows(), rng())
    loss.backward()
    found = gradients(world)
    assert all(torch.isfinite(g).all() for g in found.values())
    if start == "forecast":
        assert found["space.forecast_head.weight"].abs().max() > 0  # by its own loss
    memory = world.observe(windows()[:, :-1])
    origin = world.predict(memory, ThinkSection(steps=0), rng()).state
    expected = {"zeros": torch.zeros(3, 6, 12), "last": windows()[:, :-1], "forecast": windows()[:, :-1]}
    if start == "noise":
        assert abs(origin.std().item() - 1) < 0.2
    else:
        assert torch.equal(origin, expected[start])  # an untrained forecast is the last state


def test_context_noise_is_read_by_the_network_and_not_by_the_start():
    noisy = world_of(context_noise=0.5)
    origins = []
    keep = noisy.space.start
    noisy.space.start = lambda states, hidden, rng: origins.append(states) or keep(states, hidden, rng)
    loss, _ = noisy.loss(windows(), rng())
    assert torch.equal(origins[0], windows()[:, :-1])
    assert abs(loss.item() - world_of().loss(windows(), rng())[0].item()) > 1e-5


def test_the_forecast_loss_is_added_and_the_descent_does_not_train_it():
    world = world_of(start="forecast")
    states = windows()
    loss, _ = world.loss(states, rng())
    loss.backward()
    by_all = world.space.forecast_head.weight.grad.clone()
    world.zero_grad()
    memory = world.observe(states[:, :-1])
    world.space.distance(world.space.start(states[:, :-1], memory.kept.hidden, rng()), states[:, 1:]).mean().backward()
    assert torch.allclose(by_all, world.space.forecast_head.weight.grad, atol=1e-7)


def test_gradients_of_a_batch_are_the_mean_over_its_items():
    world, states = world_of(), windows(4)
    world.loss(states, rng())[0].backward()
    whole = gradients(world)
    world.zero_grad()
    for item in states:
        (world.loss(item[None], rng())[0] / 4).backward()
    for name, grad in gradients(world).items():
        assert torch.allclose(grad, whole[name], rtol=1e-4, atol=1e-7), name


def test_predictions_do_not_depend_on_neighbours():
    world, states = world_of(), windows(16)[:, :-1]
    together = world.predict(world.observe(states), THINK, rng())
    for i in (0, 7, 15):
        alone = world.predict(world.observe(states[i : i + 1]), THINK, rng())
        assert torch.allclose(alone.state[0], together.state[i], atol=1e-6)
        assert torch.allclose(alone.energies[0], together.energies[i], atol=1e-5)


def test_a_later_state_changes_no_earlier_prediction():
    world, states = world_of(), windows()[:, :-1]
    changed = states.clone()
    changed[:, 4] += 1
    before = world.predict(world.observe(states), THINK, rng()).state
    after = world.predict(world.observe(changed), THINK, rng()).state
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


@pytest.mark.parametrize("reads", [{}, {"appearance": 0.1, "motion": 2.0}, {"appearance": 0.0, "motion": 1.0}])
def test_one_position_is_predicted_as_among_all(reads):
    world, states = world_of(**reads), windows()[:, :-1]
    whole = world.predict(world.observe(states), THINK, rng(), record=True)
    memory = None
    for t in range(6):
        memory = world.observe(states[:, t : t + 1], memory)
    last = world.predict(memory, THINK, rng(), positions=1, record=True)
    assert torch.allclose(last.state, whole.state[:, -1:], atol=1e-5)
    assert torch.allclose(last.path, whole.path[:, -1:], atol=1e-5)
    assert torch.allclose(last.energies, whole.energies[:, -1:], atol=1e-4)


def test_memory_forgets_the_oldest_states_and_leaves_the_old_memory_alone():
    world = world_of()
    memory = world.observe(windows()[:, :-1])
    longer = world.observe(windows(seed=1)[:, :2], memory)
    assert (memory.length, longer.length) == (6, 6)
    assert torch.equal(longer.states[:, -2:], windows(seed=1)[:, :2])
    assert torch.equal(longer.states[:, :4], memory.states[:, 2:])
    assert torch.isfinite(world.predict(longer, THINK, rng(), positions=1).state).all()


def test_samples_share_one_memory_and_the_lowest_energy_is_kept():
    world, states = world_of(), windows()[:, :-1]
    memory = world.observe(states)
    many = world.predict(memory, ThinkSection(steps=4, samples=5, start_noise=0.5), rng())
    one = world.predict(memory, THINK, rng())
    assert many.sample_states.shape == (3, 6, 5, 12)
    assert torch.allclose(many.sample_states[:, :, 0], one.state, atol=1e-5)  # the first starts without noise
    assert torch.equal(many.energy, many.sample_energies.amin(-1))
    assert (many.energy <= one.energy + 1e-5).all()
    assert (many.energy < one.energy - 1e-4).any()
    judged = world.judge(many.state, memory)
    assert torch.allclose(judged, many.energy, atol=1e-4)


def test_samples_of_some_positions_attend_to_the_right_context():
    world, states = world_of(), windows()[:, :-1]
    memory, think = world.observe(states), ThinkSection(steps=3, samples=2, start_noise=0.0)
    some = world.predict(memory, think, rng(), positions=2)
    whole = world.predict(memory, ThinkSection(steps=3), rng())
    for sample in range(2):
        assert torch.allclose(some.sample_states[:, :, sample], whole.state[:, -2:], atol=1e-5)


def test_energy_stopping_spends_fewer_steps():
    world = world_of()
    run = world.predict(world.observe(windows()[:, :-1]), ThinkSection(steps=64, stop="energy", tolerance=0.1), rng())
    assert run.steps_used.max() < 64
    assert (run.steps_used >= 1).all()


def test_worlds_keep_the_protocol():
    assert isinstance(world_of(), WorldModel)
    assert isinstance(world_of(), Judge)


def test_bf16_keeps_energies_and_candidates_fp32_and_stays_close():
    world, states = world_of(), windows()
    exact, _ = world.loss(states, rng())
    world.set_precision("bf16")
    loss, _ = world.loss(states, rng())
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in world.parameters())
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    prediction = world.predict(world.observe(states[:, :-1]), THINK, rng())
    assert prediction.state.dtype == prediction.energies.dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "millions"),
    [("xxs", 6.18), ("xs", 12.4), ("small", 48.8), ("medium", 176), ("large", 396), ("xl", 708)],
)
def test_published_parameter_counts(size, millions):
    recipe = load_recipe(f"video_ebt_{size}")
    counted = cost(recipe, StateSpec(state_dim=recipe.model.width, context=16)).params_non_embedding
    assert counted / 1e6 == pytest.approx(millions, rel=0.02)


VIDEO = StateSpec(state_dim=32, context=16)
TEXT = StateSpec(modality="text", state_dim=200, context=16)


@pytest.mark.parametrize(
    ("spec", "steps", "model"),
    [
        (VIDEO, 1, {}),
        (VIDEO, 2, {}),
        (VIDEO, 4, {}),
        (VIDEO, 4, {"start": "forecast"}),
        (VIDEO, 4, {"start": "forecast", "energies": {"level": True}}),
        (VIDEO, 1, {"energies": {"level": True}}),
        (TEXT, 1, {"start": "zeros", "compatibility": True}),
        (TEXT, 3, {"start": "zeros"}),
        (TEXT, 2, {"start": "forecast"}),
        (TEXT, 4, {"start": "forecast", "energies": {"level": True}}),
    ],
)
def test_flops_are_those_torch_counts(spec, steps, model):
    rules = DescentSection(steps=steps, free_steps=(min(steps, 1), min(steps, 1)))
    recipe = Recipe(
        data=DataSection(modality=spec.modality),
        model=EbtSection(width=64, layers=3, heads=2, descent=rules, **model),
        think=ThinkSection(steps=steps),
        train=TrainSection(batch_size=4),
    )
    world = build_world(recipe.model, spec)
    states = torch.randint(0, 200, (4, 17)) if spec == TEXT else torch.randn(4, 17, 32)
    seen = counted_flops(lambda: world.loss(states, rng())[0].backward())
    assert cost(recipe, spec).flops_per_step == pytest.approx(seen, rel=0.05)
    with torch.no_grad():
        memory = world.observe(states[:1, :15])

        def think():
            world.predict(world.observe(states[:1, 15:16], memory), recipe.think, rng(), positions=1)

        assert cost(recipe, spec).flops_per_state == pytest.approx(counted_flops(think), rel=0.05)


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    train = TrainSection(steps=100, warmup=10, learning_rate=1.0, final_lr_fraction=0.1)
    assert learning_rate(0, train) == pytest.approx(0.1)
    assert learning_rate(9, train) == learning_rate(10, train) == pytest.approx(1.0)
    assert learning_rate(55, train) == pytest.approx(0.55)
    assert learning_rate(100, train) == learning_rate(500, train) == pytest.approx(0.1)


def test_matrices_decay_vectors_do_not_and_alpha_keeps_its_own_pace():
    world, train = world_of(descent={"step_size": 0.5, "free_steps": (0, 0)}), TrainSection(warmup=0, learning_rate=0.1)
    optimizer = build_optimizer(world, train)
    set_learning_rate(optimizer, 0, train)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in world.named_parameters():
        group = groups[id(parameter)]
        assert group["weight_decay"] == (0.01 if parameter.ndim >= 2 else 0.0), name
        assert group["lr"] == pytest.approx(3 * 0.5 * 0.1 if name == "alpha" else 0.1), name
    assert "alpha" not in [
        n for n, p in world_of(descent={"step_control": "fixed"}).named_parameters() if p.requires_grad
    ]


def test_alpha_never_falls_below_its_floor():
    world = world_of()
    with torch.no_grad():
        world.alpha.fill_(-1.0)
    assert world.step_size.item() == pytest.approx(1e-4)


def test_a_forecast_is_read_once_however_a_memory_grows(monkeypatch):
    world = build_world(EbtSection(width=64, layers=1, heads=2, start="forecast"), VIDEO)
    torch.nn.init.xavier_normal_(world.space.forecast_head.weight)
    states, read = torch.randn(2, 19, 32, generator=rng()), []
    forecast = type(world.space).forecast

    def counting(space, states, hidden):
        read.append(states.shape[1])
        return forecast(space, states, hidden)

    monkeypatch.setattr(type(world.space), "forecast", counting)
    with torch.no_grad():
        memory = world.observe(states[:, :15])
        for at in (15, 16, 17):  # more than are remembered
            memory = world.observe(states[:, at : at + 1], memory)
            world.predict(memory, ThinkSection(steps=2, samples=3), rng(), positions=1)
            world.judge(states[:, at + 1 : at + 2], memory)
    assert read == [15, 1, 1, 1]
    assert memory.starts.shape == memory.states.shape
    assert torch.allclose(memory.starts, forecast(world.space, memory.states, memory.kept.hidden), atol=1e-5)
    items = torch.tensor([1, 1, 0])
    assert torch.equal(memory.rows(items).starts, memory.starts[items])
    assert torch.equal(memory.last(3).starts, memory.starts[:, -3:])
