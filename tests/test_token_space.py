"""Logits that descend: each rule comes to rest where its equation says, and its derivatives are the true ones."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from ebwm_cli.model.ngram import Bigram, Unigram
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.model import DescentSection, EbtSection, TokenSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.sampler.descent import descend
from ebwm_cli.world import observing
from ebwm_cli.world.build import build_world

VOCABULARY, WIDTH, CONTEXT = 11, 8, 6
SPEC = StateSpec(modality="text", state_dim=VOCABULARY, context=CONTEXT)
RULES = ["mirror", "logits", "replace"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def space_of(rule: str = "mirror", start: str = "zeros", table: str = "shared") -> TokenSpace:
    torch.manual_seed(0)
    return TokenSpace(VOCABULARY, WIDTH, start, rule, table).double().requires_grad_(False)


def world_of(**model):
    torch.manual_seed(0)
    rules = {"steps": 1, "free_steps": (0, 0), "anchor": 0.0, "step_control": "fixed", **model.pop("descent", {})}
    tokens = TokenSection(**model.pop("tokens", {}))
    section = EbtSection(
        layers=2, width=WIDTH, heads=2, tokens=tokens, descent=DescentSection(**rules), **{"start": "zeros", **model}
    )
    world = build_world(section, SPEC)
    for name, parameter in world.named_parameters():
        if "turn" in name:  # so that tests know it
            torch.nn.init.eye_(parameter)
    return world


def tokens_of(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, CONTEXT + 1), generator=rng(seed))


BOTTOM = torch.randn(2, 3, WIDTH, generator=rng(), dtype=torch.float64)
LOGITS = torch.randn(2, 3, VOCABULARY, generator=rng(1), dtype=torch.float64)


def bowl(point: torch.Tensor) -> torch.Tensor:
    """E(e) = |e - bottom|^2 / 2."""
    return (point - BOTTOM).square().sum(-1) / 2


def slopes(space: TokenSpace, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dE/dp and dE/dz of the bowl at logits z, by autograd through p and through z."""
    z = logits.clone().requires_grad_()
    p = z.softmax(-1)
    return torch.autograd.grad(bowl(p @ space.table).sum(), (p, z))


# ---------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("start", [torch.zeros_like(LOGITS), LOGITS])
def test_the_mirror_rule_rests_where_the_slope_in_p_balances_the_anchor(start):
    space, alpha, pull = space_of("mirror"), 0.4, 0.3
    run = descend(bowl, start, steps=400, step_size=alpha, anchor=pull, geometry=space)
    by_p, _ = slopes(space, run.final)
    assert torch.allclose(by_p, pull / alpha * (start - run.final), atol=1e-9)
    assert (run.energies.diff(dim=-1) <= 1e-12).all()  # E + kappa KL falls


@pytest.mark.parametrize("start", [torch.zeros_like(LOGITS), LOGITS])
def test_the_logits_rule_rests_where_the_slope_in_z_balances_the_anchor(start):
    space, alpha, pull = space_of("logits"), 0.4, 0.3
    run = descend(bowl, start, steps=400, step_size=alpha, anchor=pull, geometry=space)
    _, by_z = slopes(space, run.final)
    assert torch.allclose(by_z, pull / alpha * (start - run.final), atol=1e-9)


def test_the_published_rule_rests_where_it_forgets_nothing_any_more():
    space, alpha = space_of("replace"), 0.4
    run = descend(bowl, LOGITS, steps=400, step_size=alpha, geometry=space)
    by_p, _ = slopes(space, run.final)
    assert torch.allclose(run.final, run.final.softmax(-1) - alpha * by_p, atol=1e-9)


def test_on_a_slope_the_mirror_rule_arrives_at_a_softmax():
    """E(p) = <c, p>: z -> z0 - c / kappa, the distribution that weighs energy against entropy."""
    space, alpha, pull = space_of("mirror"), 0.5, 0.25
    slope = torch.randn(WIDTH, generator=rng(2), dtype=torch.float64)
    run = descend(
        lambda e: e @ slope, torch.zeros_like(LOGITS), steps=200, step_size=alpha, anchor=pull, geometry=space
    )
    assert torch.allclose(run.final, (-(space.table @ slope) * alpha / pull).expand_as(run.final), atol=1e-9)


def test_one_move_of_each_rule_is_its_equation():
    for rule in RULES:
        space = space_of(rule)
        by_p, by_z = slopes(space, LOGITS)
        expected = {
            "mirror": LOGITS - 0.7 * by_p,
            "logits": LOGITS - 0.7 * by_z,
            "replace": LOGITS.softmax(-1) - 0.7 * by_p,
        }[rule]
        moved = descend(bowl, LOGITS, steps=1, step_size=0.7, geometry=space).final
        assert torch.allclose(moved, expected, atol=1e-12), rule


@pytest.mark.parametrize("rule", RULES)
def test_gradcheck_of_each_rule(rule):
    space = space_of(rule)
    logits, gradient = LOGITS.clone().requires_grad_(), BOTTOM.clone().requires_grad_()
    length = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(space.move, (logits, gradient, length))

    def moved(table, logits, bottom):
        space.observed_table = torch.nn.Parameter(table, requires_grad=False)
        del space.observed_table
        space.__dict__["observed_table"] = table
        energy = lambda e: ((e - bottom).square().sum(-1) / 2).tanh()  # noqa: E731 - curved, so second order matters
        return descend(energy, logits, steps=1, step_size=0.7, create_graph=True, detach=False, geometry=space).final

    table = space.observed_table.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(moved, (table, logits, BOTTOM.clone().requires_grad_()))


@pytest.mark.parametrize("table", ["shared", "own"])
@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_of_the_loss_is_that_of_finite_differences(rule, table):
    world = world_of(tokens={"rule": rule, "table": table}, compatibility=True, descent={"step_size": 0.8}).double()
    states = tokens_of()
    world.loss(states, rng())[0].backward()
    for name, parameter in world.named_parameters():
        if parameter.grad is None:
            assert name == "alpha"
            continue
        direction = torch.randn(parameter.shape, generator=rng(3), dtype=torch.float64)
        found = (parameter.grad * direction).sum().item()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                losses.append(world.loss(states, rng())[0].item())
                parameter -= sign * 1e-6 * direction
        assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-8), name


# ---------------------------------------------------------------------------------------------- geometry


def test_divergence_distance_average_and_doubt_are_what_they_are_called():
    space, other = space_of(), torch.randn(LOGITS.shape, generator=rng(4), dtype=torch.float64)
    p, q = LOGITS.softmax(-1), other.softmax(-1)
    assert torch.allclose(space.divergence(LOGITS, other), (p * (p / q).log()).sum(-1))
    target = torch.randint(0, VOCABULARY, (2, 3), generator=rng(5))
    assert torch.allclose(space.distance(LOGITS, target), -p.log().gather(-1, target[..., None])[..., 0])
    mean = space.average(torch.stack([LOGITS, other], -2)).softmax(-1)
    assert torch.allclose(mean, (p + q) / 2)
    assert torch.allclose(space.doubt(LOGITS, target), -(p * p.log()).sum(-1))
    assert torch.equal(space.commit(LOGITS), p.argmax(-1))


def test_embeddings_have_unit_size():
    space = TokenSpace(2000, 64, "zeros")
    assert space.embed_observed(torch.arange(2000)[None], torch.arange(2000)[None]).std().item() == pytest.approx(
        1, rel=0.05
    )


@pytest.mark.parametrize("start", ["zeros", "noise", "forecast"])
def test_starts(start):
    space = space_of(start=start)
    hidden = torch.randn(2, 3, WIDTH, generator=rng(), dtype=torch.float64)
    logits = space.start(torch.zeros(2, 3, dtype=torch.int64), hidden, rng())
    assert logits.shape == (2, 3, VOCABULARY)
    if start == "zeros":
        assert (logits == 0).all()
    elif start == "forecast":
        assert space.turn is not None
        assert torch.allclose(space.turn @ space.turn.T, torch.eye(WIDTH).double(), atol=1e-6)
        assert torch.allclose(logits, hidden @ space.turn @ space.table.T)
    else:
        assert logits.std().item() == pytest.approx(1, abs=0.3)


# ---------------------------------------------------------------------------------------------- world


def test_without_descent_it_is_an_autoregressive_transformer():
    world = world_of(start="forecast", descent={"steps": 0})
    states = tokens_of()
    loss, measures = world.loss(states, rng())
    loss.backward()
    found = {name: p.grad.clone() for name, p in world.named_parameters() if p.grad is not None}
    world.zero_grad()
    memory = world.observe(states[:, :-1])
    logits = memory.kept.hidden @ world.space.observed_table.T
    plain = F.cross_entropy(logits.flatten(0, 1), states[:, 1:].flatten())
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert measures["energy_start"].item() == measures["energy_final"].item() == 0
    for name, parameter in world.named_parameters():
        if name in found and parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-6), name
    predicted = world.predict(memory, ThinkSection(steps=0), rng()).state
    assert torch.allclose(predicted, logits, atol=1e-6)


def test_the_compatibility_term_alone_is_an_output_layer():
    world = world_of(compatibility=True)
    torch.nn.init.zeros_(world.network.head.weight)
    memory = world.observe(tokens_of()[:, :-1])
    predicted = world.predict(memory, ThinkSection(steps=1), rng()).state
    assert torch.allclose(predicted, memory.kept.hidden @ world.space.table.T, atol=1e-5)


@pytest.mark.parametrize(
    "model", [{}, {"start": "forecast"}, {"descent": {"anchor": 0.5, "free_steps": (2, 2), "steps": 2}}]
)
def test_cutting_the_batch_changes_no_gradient(model, monkeypatch):
    world, states = world_of(compatibility=True, **model), tokens_of(5)
    grads = []
    for numbers in (1 << 23, 2 * CONTEXT * VOCABULARY, 1):
        monkeypatch.setattr(observing, "NUMBERS_AT_ONCE", numbers)
        world.zero_grad()
        loss, measures = world.loss(states, rng())
        loss.backward()
        grads.append(
            {
                "loss": loss.detach(),
                **measures,
                **{n: p.grad.clone() for n, p in world.named_parameters() if p.grad is not None},
            }
        )
    for cut in grads[1:]:
        for name, value in grads[0].items():
            assert torch.allclose(cut[name], value, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("rule", RULES)
def test_no_token_is_seen_before_its_time(rule):
    world = world_of(tokens={"rule": rule}, compatibility=True)
    states = tokens_of()[:, :-1]
    before = world.predict(world.observe(states), ThinkSection(steps=3), rng())
    for place in range(1, CONTEXT):
        changed = states.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY
        after = world.predict(world.observe(changed), ThinkSection(steps=3), rng())
        assert torch.equal(before.state[:, :place], after.state[:, :place])
        assert torch.equal(before.energies[:, :place], after.energies[:, :place])
        assert not torch.allclose(before.state[:, place], after.state[:, place])


def test_a_memory_grown_token_by_token_equals_one_observed_at_once():
    world, states = world_of(compatibility=True).double(), tokens_of()[:, :-1]
    memory = world.observe(states[:, :1])
    for place in range(1, CONTEXT):
        memory = world.observe(states[:, place : place + 1], memory)
    whole = world.predict(world.observe(states), ThinkSection(steps=3), rng(), positions=1)
    assert torch.allclose(
        world.predict(memory, ThinkSection(steps=3), rng(), positions=1).state, whole.state, atol=1e-10
    )


def test_samples_share_one_memory():
    world = world_of(compatibility=True)
    memory = world.observe(tokens_of()[:, :-1])
    prediction = world.predict(memory, ThinkSection(steps=3, samples=3, start_noise=0.5), rng())
    assert prediction.sample_states.shape == (3, CONTEXT, 3, VOCABULARY)
    chosen = prediction.sample_energies.argmin(-1)
    assert torch.equal(prediction.state, prediction.sample_states.take_along_dim(chosen[..., None, None], 2)[:, :, 0])
    alone = world.predict(memory, ThinkSection(steps=3), rng())
    assert torch.allclose(prediction.sample_states[:, :, 0], alone.state, atol=1e-5)


# ---------------------------------------------------------------------------------------------- counting


def test_unigram_and_bigram_equal_counting_by_hand():
    text = torch.randint(0, 5, (200,), generator=rng())
    context, target = (
        torch.randint(0, VOCABULARY, (2, 40), generator=rng(1)),
        torch.randint(0, VOCABULARY, (2, 40), generator=rng(2)),
    )
    single, pairs = Counter(text.tolist()), Counter(zip(text[:-1].tolist(), text[1:].tolist(), strict=True))
    unigram = {w: (single[w] + 1) / (200 + VOCABULARY) for w in range(VOCABULARY)}
    assert sum(unigram.values()) == pytest.approx(1)
    for (row, place), before in zip(
        [(r, c) for r in range(2) for c in range(40)], context.flatten().tolist(), strict=True
    ):
        after = int(target[row, place])
        followers = {w: n for (v, w), n in pairs.items() if v == before}
        seen, kinds = sum(followers.values()), len(followers)
        p = (followers.get(after, 0) + kinds * unigram[after]) / (seen + kinds) if kinds else unigram[after]
        assert Bigram(text, VOCABULARY).loss(context, target)[row, place].item() == pytest.approx(
            -math.log(p), rel=1e-5
        )
        assert Unigram(text, VOCABULARY).loss(context, target)[row, place].item() == pytest.approx(
            -math.log(unigram[after]), rel=1e-5
        )


def test_the_bigram_is_a_distribution():
    bigram = Bigram(torch.randint(0, 5, (200,), generator=rng()), VOCABULARY)
    everything = torch.arange(VOCABULARY)[None]
    for before in range(VOCABULARY):
        assert bigram.loss(
            torch.full_like(everything, before), everything
        ).exp().reciprocal().sum().item() == pytest.approx(1, rel=1e-5)


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (["model.start=last"], "model.start"),
        (["data.mix=true"], "data.mix"),
        (["model.motion=2"], "model.motion"),
        (["model.tokens.rule=replace"], "descent.anchor"),
        (["model.descent.steps=0"], "descent.steps"),
    ],
)
def test_recipes_that_mean_nothing_for_text_are_refused(changes, word):
    with pytest.raises(Exception, match=word):
        load_recipe("text_ebt_4xs", changes)


def test_token_keys_are_refused_for_video():
    with pytest.raises(Exception, match=r"model\.tokens"):
        load_recipe("video_ebt_4xs", ["model.tokens.table=own"])


def test_the_published_form():
    model = load_recipe("paper/text_redpajama_xxs").model
    assert (model.tokens.rule, model.start, model.descent.anchor, model.descent.steps) == ("replace", "noise", 0, 2)
