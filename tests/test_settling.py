"""Descents in which each position stops by itself: against plain descent, closed forms and a naive loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.sampler.curvature import EVERY, StepControl, largest_curvature, stable_scale
from ebwm_cli.sampler.descent import EUCLIDEAN, descend
from ebwm_cli.sampler.settling import settle
from ebwm_cli.sampler.stopping import EnergySettled, Still

torch.manual_seed(0)
BOTTOM = torch.randn(2, 3, 4, dtype=torch.float64)
START = torch.zeros(2, 3, 4, dtype=torch.float64)


def quadratic(curvature: float, bottom: Tensor):
    return lambda y: curvature / 2 * (y - bottom).square().sum(-1)


class Bowls:
    """A bowl per position, of its own curvature, which counts the candidates it was asked about."""

    def __init__(self, curvature: Tensor, bottom: Tensor) -> None:
        self.curvature, self.bottom, self.asked = curvature, bottom, 0

    def energy(self, point: Tensor) -> Tensor:
        self.asked += point.shape[0] * point.shape[1]
        return self.curvature / 2 * (point - self.bottom).square().sum(-1)

    def narrow(self, index: Tensor):
        part = Bowls(self.curvature.flatten()[index][None], self.bottom.flatten(0, 1)[index][None])

        def energy(point: Tensor) -> Tensor:
            self.asked += point.shape[0] * point.shape[1]
            return part.energy(point)

        return energy


SLOW = torch.tensor([[1.0, 0.05, 0.3], [0.9, 0.2, 1.0]], dtype=torch.float64)


def test_moves_that_cool_are_descents_of_ever_shorter_moves_to_the_same_place():
    """Against a naive loop; on a bowl so steep that full moves run away, and to the bottom of the anchored energy."""
    energy, options = quadratic(1.5, BOTTOM), {"step_size": 1.0, "anchor": 0.8}  # a full move goes 2.3 times too far
    free = descend(energy, START, steps=40, **options)
    assert (free.energies[..., -1] > free.energies[..., 0]).all()
    naive = START
    for k in range(40):
        naive = naive - (1.5 * (naive - BOTTOM) + 0.8 * (naive - START)) / (1 + 0.5 * k)
    for run in (
        descend(energy, START, steps=40, cooling=0.5, **options),
        settle(energy, START, steps=40, cooling=0.5, **options),
    ):
        assert torch.allclose(run.final, naive, atol=1e-12)
        assert (run.energies[..., 2:].diff(dim=-1) <= 1e-12).all()
    bottom = (1.5 * BOTTOM + 0.8 * START) / 2.3
    assert torch.allclose(descend(energy, START, steps=400, cooling=0.5, **options).final, bottom, atol=1e-9)


def test_a_descent_in_two_parts_cools_as_one():
    energy = quadratic(0.7, BOTTOM)
    options = {"step_size": 1.0, "anchor": 0.2, "origin": START, "cooling": 1.0}
    whole = descend(energy, START, steps=7, **options)
    first = descend(energy, START, steps=3, **options)
    second = descend(energy, first.final, steps=4, first_step=3, **options)
    assert torch.allclose(whole.final, second.final, atol=1e-14)


def test_stopping_freezes_settled_positions_and_ends_when_all_have():
    scale = torch.tensor([[1.0, 0.05, 1.0]] * 2, dtype=torch.float64)  # the middle position is flat, hence slow
    energy = lambda y: scale / 2 * (y - BOTTOM).square().sum(-1)  # noqa: E731
    run = settle(energy, START, steps=200, step_size=0.9, stopping=EnergySettled(0.01), record=True)
    assert run.steps_used.max() < 200
    assert (run.steps_used[:, 1] > run.steps_used[:, 0]).all()
    free = descend(energy, START, steps=200, step_size=0.9, record=True)
    for b in range(2):
        for t in range(3):
            used = int(run.steps_used[b, t])
            assert torch.equal(run.final[b, t], free.path[b, t, used])
            drop = free.energies[b, t, used - 1] - free.energies[b, t, used]
            assert drop < 0.01 * (free.energies[b, t, 0] - free.energies[b, t, used])


def test_stopping_ends_at_once_where_energy_rises():
    run = settle(quadratic(1.0, BOTTOM), START, steps=9, step_size=2.5, stopping=EnergySettled(0.01))
    assert (run.steps_used == 1).all()


def test_without_stopping_it_is_descent():
    options = {"steps": 5, "step_size": 0.7, "anchor": 0.3, "gradient_clamp": 0.5, "keep_after": 2}
    mine, plain = (
        settle(quadratic(1.0, BOTTOM), START, record=True, **options),
        descend(quadratic(1.0, BOTTOM), START, record=True, **options),
    )
    for name in ("final", "energies", "moves", "steps_used", "path", "looks", "tries", "kept"):
        assert torch.equal(getattr(mine, name), getattr(plain, name)), name


@pytest.mark.parametrize("stopping", [lambda: EnergySettled(0.02), lambda: Still(0.1), lambda: EnergySettled(0.05, 2)])
@pytest.mark.parametrize("backtrack", [False, True])
def test_who_has_stopped_leaves_the_batch_and_costs_nothing(stopping, backtrack):
    options = {"steps": 60, "step_size": 0.8, "anchor": 0.1, "backtrack": backtrack, "record": True}
    whole, packed = Bowls(SLOW, BOTTOM), Bowls(SLOW, BOTTOM)
    kept = settle(whole.energy, START, stopping=stopping(), **options)
    left = settle(packed.energy, START, stopping=stopping(), narrow=packed.narrow, **options)
    for name in ("final", "energies", "moves", "path"):
        assert torch.allclose(getattr(kept, name), getattr(left, name), atol=1e-12), name
    assert torch.equal(kept.steps_used, left.steps_used)
    assert left.steps_used.unique().numel() > 2  # they stopped at different times
    assert packed.asked == int((left.looks + left.tries).sum())  # and nothing else was computed
    assert packed.asked < 0.7 * whole.asked


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_so_many_calm_steps_in_a_row(patience):
    rule, start = EnergySettled(0.1, patience), torch.tensor([[10.0]])
    falls = [5.0, 4.9, 3.0, 2.99, 2.98, 2.97, 2.96]  # calm: no, yes, no, yes, yes, yes ...
    energies, going = [start], []
    for value in falls:
        energies.append(torch.tensor([[value]]))
        going.append(bool(rule.going(energies, [])))
    assert going == {1: [True] + [False] * 6, 3: [True] * 5 + [False] * 2}[patience]


def test_a_typical_drop_lets_who_has_farther_to_fall_think_longer():
    far = torch.tensor([[[1.0] * 4, [10.0] * 4]], dtype=torch.float64)
    start = torch.zeros_like(far)
    options = {"steps": 50, "step_size": 0.5}
    own = settle(quadratic(1.0, far), start, stopping=EnergySettled(0.01), **options).steps_used
    typical = settle(quadratic(1.0, far), start, stopping=EnergySettled(0.01, drop=2.0), **options).steps_used
    assert own[0, 0] == own[0, 1]  # a tenfold distance is the same curve
    assert typical[0, 1] >= typical[0, 0] + 3


def test_still_is_a_move_shorter_than_a_share_of_the_first():
    run = settle(quadratic(1.0, BOTTOM), START, steps=50, step_size=0.5, stopping=Still(0.1))
    assert (run.steps_used == 5).all()  # moves halve: 1, 1/2, 1/4, 1/8, 1/16 < 1/10


@pytest.mark.parametrize("step_size", [0.5, 1.9, 2.5, 40.0])
@pytest.mark.parametrize("anchor", [0.0, 0.4])
def test_backtracking_never_lets_the_total_energy_rise(step_size, anchor):
    bowls = Bowls(SLOW * 3, BOTTOM)
    run = settle(bowls.energy, START, steps=400, step_size=step_size, anchor=anchor, backtrack=True)
    assert (run.energies.diff(dim=-1) <= 0).all()
    kappa = anchor / step_size
    lowest = bowls.curvature * bowls.bottom.square().sum(-1) * kappa / (bowls.curvature + kappa) / 2
    high = bowls.curvature * bowls.bottom.square().sum(-1) / 2
    if step_size > 1:  # a refused move is tried again shorter, so all arrive
        assert ((run.energies[..., -1] - lowest) < 0.02 * (high - lowest).clamp_min(1e-9)).all()


def test_backtracking_leaves_a_descent_that_never_rises_alone():
    options = {"steps": 6, "step_size": 0.6, "anchor": 0.2}
    plain, careful = (
        descend(quadratic(1.0, BOTTOM), START, **options),
        settle(quadratic(1.0, BOTTOM), START, backtrack=True, **options),
    )
    assert torch.allclose(plain.final, careful.final, atol=1e-14)
    assert (careful.tries == 6).all()


# ------------------------------------------------------------------------------------------- curvature


def symmetric(rng: torch.Generator, size: int) -> Tensor:
    root = torch.randn(size, size, generator=rng, dtype=torch.float64)
    return root @ root.T / size


def test_the_largest_curvature_is_the_largest_eigenvalue_at_every_position():
    rng = torch.Generator().manual_seed(1)
    matrices = torch.stack([symmetric(rng, 6) for _ in range(4)]).reshape(2, 2, 6, 6)
    energy = lambda y: torch.einsum("btd,btde,bte->bt", y, matrices, y) / 2  # noqa: E731
    start = torch.randn(2, 2, 6, generator=rng, dtype=torch.float64)
    found, direction = largest_curvature(energy, start, torch.randn_like(start), iterations=200)
    assert torch.allclose(found, torch.linalg.eigvalsh(matrices)[..., -1], rtol=1e-8)
    assert torch.allclose(direction.norm(dim=-1), torch.ones(2, 2, dtype=torch.float64))


def test_for_tokens_it_is_that_of_the_mirror_map():
    torch.manual_seed(2)
    space = TokenSpace(5, 3).double()
    root = torch.randn(3, 3, dtype=torch.float64)
    hessian = root @ root.T
    energy = lambda e: torch.einsum("btd,de,bte->bt", e, hessian, e) / 2  # noqa: E731
    logits = torch.randn(1, 1, 5, dtype=torch.float64)
    found, _ = largest_curvature(energy, logits, torch.randn_like(logits), 500, space)
    p, table = logits[0, 0].softmax(-1), space.table.detach()
    by_logits = table @ hessian @ table.T @ (p.diag() - torch.outer(p, p))  # d(E H e(z))/dz, written out
    assert found.item() == pytest.approx(torch.linalg.eigvals(by_logits).abs().max().item(), rel=1e-6)


@pytest.mark.parametrize("fraction", [0.5, 1.0, 1.9])
def test_a_bowl_too_steep_for_a_fixed_step_is_descended_with_a_spectral_one(fraction):
    steep, anchor, step_size = 8.0, 0.3, 1.0
    fixed = descend(quadratic(steep, BOTTOM), START, steps=30, step_size=step_size, anchor=anchor)
    assert fixed.final.abs().max() > 1e6  # 1 * 8 + 0.3 > 2
    control = StepControl(step_size=step_size, anchor=anchor, fraction=fraction, rng=torch.Generator().manual_seed(0))
    run = settle(quadratic(steep, BOTTOM), START, steps=200, step_size=step_size, anchor=anchor, control=control)
    rest = steep * BOTTOM / (steep + anchor / step_size)
    assert torch.allclose(run.final, rest, atol=1e-6)
    # y - rest shrinks by 1 - fraction a step
    first = descend(
        quadratic(steep, BOTTOM), START, steps=1, step_size=step_size, anchor=anchor, step_scale=fraction / 8.3
    ).final
    assert torch.allclose(first - rest, (1 - fraction) * (START - rest), atol=1e-12)


def test_a_flat_bowl_keeps_its_step():
    assert stable_scale(torch.tensor([0.1, 4.0]), step_size=0.5, anchor=0.0, fraction=1.0).tolist() == [1.0, 0.5]


def test_control_looks_again_every_so_many_steps_and_follows_who_is_left():
    asked = []

    def energy(point: Tensor) -> Tensor:
        asked.append(point.shape)
        return point.square().sum(-1)

    control = StepControl(step_size=1.0, anchor=0.0, fraction=1.0, rng=torch.Generator().manual_seed(0))
    for step in range(2 * EVERY):
        scale = control.scale(energy, START, EUCLIDEAN, step)
    assert len(asked) == 2
    assert torch.allclose(scale, torch.full((2, 3, 1), 0.5, dtype=torch.float64))
    control.keep(torch.tensor([0, 4]))
    assert control.scale(energy, START, EUCLIDEAN, 1).shape == (1, 2, 1)
