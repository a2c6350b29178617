"""Rollouts with several futures side by side, against every sequence tried one by one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from kinds import rng, windows, world_of
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.rollout import roll_out
from ebwm_cli.sampler.descent import Trajectory
from ebwm_cli.world.observing import best_of

HORIZON, SAMPLES = 3, 3


@dataclass(frozen=True)
class Told:
    """Remembers what was observed."""

    states: Tensor

    def rows(self, items: Tensor) -> Told:
        return Told(self.states[items])


class Branching:
    """Offers SAMPLES next states, 0, 1, 2, each at a price that depends on all before it: the cheapest first state
    leads where everything is dear."""

    score = "energy"

    def __init__(self, prices: Tensor) -> None:
        self.prices = prices  # (B, 3, 3, 3) by the states so far, 0 beyond them

    def observe(self, states: Tensor, memory: Told | None = None) -> Told:
        return Told(states if memory is None else torch.cat([memory.states, states], 1))

    def price(self, window: int, states: tuple[int, ...]) -> float:
        return float(self.prices[(len(states) - 1, window, *states, *[0] * (HORIZON - len(states)))])

    def predict(self, memory: Told, think: ThinkSection, rng: torch.Generator, *, positions=None, record=False):
        rows = memory.states[..., 0].long().tolist()
        final = torch.arange(SAMPLES).float()[None, :, None].expand(len(rows), -1, 1)
        energies = torch.tensor([[self.price(row[0], (*row[1:], k)) for k in range(SAMPLES)] for row in rows])
        count = torch.ones(len(rows), SAMPLES, dtype=torch.int64)
        energies = torch.stack([energies + 1, energies], -1)
        run = Trajectory(final, final, energies, energies[..., :1], count, None, count, count)
        return best_of(run, SAMPLES, select="energy", space=None, rng=rng)  # type: ignore[arg-type]


def branching(windows: int) -> tuple[Branching, SimpleNamespace, Tensor]:
    torch.manual_seed(3)
    world = Branching(torch.rand(HORIZON, windows, *[SAMPLES] * HORIZON))
    loaded = SimpleNamespace(world=world, space=SimpleNamespace(commit=lambda state: state))
    return world, loaded, torch.arange(windows).float()[:, None, None]  # the first state names the window


def total(world: Branching, window: int, states: tuple[int, ...]) -> float:
    return sum(world.price(window, states[: k + 1]) for k in range(HORIZON))


def test_a_beam_wide_enough_finds_the_sequence_of_the_lowest_sum():
    world, loaded, observed = branching(4)
    think = ThinkSection(samples=SAMPLES, beam=SAMPLES**HORIZON)
    chosen = roll_out(loaded, observed, think, rng(), HORIZON)  # type: ignore[arg-type]
    found = torch.cat([each.state[..., 0] for each in chosen], 1).long()  # (B, H)
    greedy = roll_out(loaded, observed, replace_beam(think, 1), rng(), HORIZON)  # type: ignore[arg-type]
    for window in range(4):
        every = list(product(range(SAMPLES), repeat=HORIZON))
        best = min(every, key=lambda states: total(world, window, states))
        assert tuple(found[window].tolist()) == best
        assert sum(float(each.energy[window, 0]) for each in chosen) == pytest.approx(total(world, window, best))
    said = [tuple(int(each.state[window, 0, 0]) for each in greedy) for window in range(4)]
    assert any(said[window] != tuple(found[window].tolist()) for window in range(4))  # greed is dearer somewhere


@pytest.mark.parametrize("beam", [2, 4])
def test_a_narrow_beam_keeps_the_lowest_sums_at_every_state(beam):
    world, loaded, observed = branching(3)
    chosen = roll_out(loaded, observed, ThinkSection(samples=SAMPLES, beam=beam), rng(), HORIZON)  # type: ignore[arg-type]
    for window in range(3):
        kept: list[tuple[int, ...]] = [()]
        for _ in range(HORIZON):
            longer = [(*states, k) for states in kept for k in range(SAMPLES)]
            kept = sorted(longer, key=lambda s: sum(world.price(window, s[: k + 1]) for k in range(len(s))))[:beam]
        assert tuple(int(each.state[window, 0, 0]) for each in chosen) == kept[0]


def replace_beam(think: ThinkSection, beam: int) -> ThinkSection:
    return think.model_copy(update={"beam": beam})


@pytest.mark.parametrize("world", ["ebt", "diffusion", "gru", "lstm", "transformer"])
@pytest.mark.parametrize("modality", ["video", "text"])
def test_every_kind_rolls_out_a_beam(world, modality):
    built, states = world_of(world, modality), windows(modality)
    loaded = SimpleNamespace(world=built, space=built.space)
    think = ThinkSection(steps=2, samples=3, beam=2, start_noise=1.0)
    chosen = roll_out(loaded, states[:, :4], think, rng(), 2, record=True)  # type: ignore[arg-type]
    assert [each.state.shape[:2] for each in chosen] == [(3, 1)] * 2
    assert all(each.path is not None and each.path.shape[0] == 3 for each in chosen)
    memory = built.observe(states[:, :4])
    again = memory.rows(torch.tensor([2, 2, 0]))
    next_ones = [built.observe(built.space.commit(chosen[0].state), each) for each in (memory, again)]
    assert torch.equal(next_ones[1].states[0, :4], states[2, :4])
    same = replace_beam(think, 1)
    plain = built.predict(memory, same, rng(), positions=1)
    rows = built.predict(memory.rows(torch.arange(3)), same, rng(), positions=1)
    assert torch.allclose(plain.state, rows.state)
