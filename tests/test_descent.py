"""The sampler on energies whose descent is known in closed form."""

from __future__ import annotations

import pytest
import torch

from ebwm_cli.sampler.descent import descend
from ebwm_cli.sampler.schedule import draw_count, draw_step_scale
from ebwm_cli.sampler.selection import lowest_energy, take


def quadratic(curvature: float, bottom: torch.Tensor):
    """E(y) = curvature / 2 * |y - bottom|^2, per position."""
    return lambda y: curvature / 2 * (y - bottom).square().sum(-1)


BOTTOM = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.zeros_like(BOTTOM)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_descent_on_a_quadratic_is_geometric():
    curvature, alpha, steps = 0.8, 0.5, 7
    run = descend(quadratic(curvature, BOTTOM), START, steps=steps, step_size=alpha, record=True)
    for k in range(steps + 1):
        expected = BOTTOM + (1 - alpha * curvature) ** k * (START - BOTTOM)
        assert torch.allclose(run.path[:, :, k], expected, atol=1e-12)
        assert torch.allclose(run.energies[..., k], quadratic(curvature, BOTTOM)(expected), atol=1e-12)
    assert torch.allclose(run.moves[..., 0], (alpha * curvature * BOTTOM).square().mean(-1).sqrt())
    assert torch.equal(run.final, run.path[:, :, -1])
    assert (run.steps_used == steps).all()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_candidates_are_kept_after_as_many_moves_as_asked_for(count):
    options = {"steps": 7, "step_size": 0.5, "record": True}
    run = descend(quadratic(0.8, BOTTOM), START, keep_after=count, **options)
    assert torch.equal(run.kept, run.path[:, :, count])
    assert descend(quadratic(0.8, BOTTOM), START, **options).kept is None


def test_the_anchor_gives_descent_a_fixed_point_and_total_energies_fall():
    """Fixed point of y <- y - alpha c (y - b) - lambda (y - y0): (alpha c b + lambda y0) / (alpha c + lambda)."""
    curvature, alpha, pull = 0.4, 1.0, 0.5
    start = torch.full_like(BOTTOM, 0.7)
    run = descend(quadratic(curvature, BOTTOM), start, steps=60, step_size=alpha, anchor=pull)
    fixed = (alpha * curvature * BOTTOM + pull * start) / (alpha * curvature + pull)
    assert torch.allclose(run.final, fixed, atol=1e-9)
    assert (run.energies.diff(dim=-1) <= 1e-12).all()
    total = quadratic(curvature, BOTTOM)(fixed) + pull / alpha / 2 * (fixed - start).square().sum(-1)
    assert torch.allclose(run.energies[..., -1], total, atol=1e-9)


def test_without_a_bottom_only_the_anchor_stops_descent():
    slope = lambda y: y.sum(-1)  # noqa: E731
    free = descend(slope, START, steps=50, step_size=1.0)
    held = descend(slope, START, steps=50, step_size=1.0, anchor=0.5)
    assert torch.allclose(free.final, START - 50)
    assert torch.allclose(held.final, START - 2, atol=1e-9)  # y0 - alpha / lambda


def test_a_descent_continued_equals_one_run_through():
    energy = quadratic(0.3, BOTTOM)
    whole = descend(energy, START, steps=6, step_size=0.7, anchor=0.2)
    first = descend(energy, START, steps=2, step_size=0.7, anchor=0.2, measure=False)
    second = descend(energy, first.final, steps=4, step_size=0.7, anchor=0.2, origin=START, first_step=2)
    assert torch.allclose(whole.final, second.final, atol=1e-14)
    assert torch.allclose(whole.energies, torch.cat([first.energies, second.energies], -1), atol=1e-14)


def test_each_step_has_its_landscape_and_the_last_serves_all_later_ones():
    steep, flat = quadratic(1.0, BOTTOM), quadratic(0.1, BOTTOM)
    run = descend([steep, flat], START, steps=3, step_size=0.5)
    assert torch.allclose(run.final, BOTTOM * (1 - 0.5 * 0.95**2))  # one steep move, two flat ones
    assert torch.allclose(run.energies[..., 0], steep(START))
    assert torch.allclose(run.energies[..., 1], flat(BOTTOM / 2))
    late = descend([steep, flat], START, steps=1, step_size=0.5, first_step=1)
    assert torch.allclose(late.final, BOTTOM * 0.05)


def test_a_position_is_moved_by_its_own_energy_only():
    """Sum, not mean: the same item moves alike in any batch."""
    energy = quadratic(0.5, BOTTOM)
    together = descend(energy, START, steps=3, step_size=0.9).final
    alone = descend(quadratic(0.5, BOTTOM[:1, :1]), START[:1, :1], steps=3, step_size=0.9).final
    assert torch.allclose(together[:1, :1], alone, atol=1e-15)


def test_gradients_reach_weights_and_step_size_through_one_move_and_through_all():
    weight = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    energy = lambda y: weight / 2 * (y - BOTTOM).square().sum(-1)  # noqa: E731
    for detach, power in ((True, 1), (False, 3)):
        run = descend(energy, START, steps=3, step_size=alpha, create_graph=True, detach=detach)
        by_weight, by_alpha = torch.autograd.grad(run.final.sum(), [weight, alpha])
        # y_3 = b - r^3 b with r = 1 - alpha w; detached, only the last factor depends on them.
        a, w = alpha.item(), weight.item()
        ratio = 1 - a * w
        slope = 3 * ratio**2 if power == 3 else ratio**2
        assert torch.allclose(by_weight, slope * a * BOTTOM.sum())
        assert torch.allclose(by_alpha, slope * w * BOTTOM.sum())
    run = descend(energy, START, steps=3, step_size=alpha)
    assert not run.final.requires_grad


def test_noise_comes_after_the_move_from_the_given_generator_and_zero_is_exact():
    energy = quadratic(1.0, BOTTOM)
    quiet = descend(energy, START, steps=1, step_size=0.5).final
    assert torch.equal(quiet, descend(energy, START, steps=1, step_size=0.5, noise=0.0, rng=rng()).final)
    noisy = descend(energy, START, steps=1, step_size=0.5, noise=0.3, rng=rng()).final
    eps = torch.randn(START.shape, generator=rng())
    assert torch.allclose(noisy, quiet + 0.3 * eps.double())
    with pytest.raises(ValueError, match="generator"):
        descend(energy, START, steps=1, step_size=0.5, noise=0.3)


def test_gradient_clamp_bounds_a_move_and_keeps_its_direction():
    far = BOTTOM * 100
    free = descend(quadratic(1.0, far), START, steps=1, step_size=1.0).final
    clamped = descend(quadratic(1.0, far), START, steps=1, step_size=1.0, gradient_clamp=2.0).final
    assert torch.allclose(clamped.norm(dim=-1), torch.full((2, 3), 2.0, dtype=torch.float64))
    assert torch.allclose(torch.cosine_similarity(free, clamped, dim=-1), torch.ones(2, 3, dtype=torch.float64))
    loose = descend(quadratic(1.0, BOTTOM), START, steps=1, step_size=1.0, gradient_clamp=1e6).final
    assert torch.allclose(loose, BOTTOM)


def test_zero_steps_return_the_start_and_its_energy():
    run = descend(quadratic(1.0, BOTTOM), START, steps=0, step_size=1.0, record=True)
    assert torch.equal(run.final, START)
    assert run.energies.shape == (2, 3, 1)
    assert run.moves.shape == (2, 3, 0)


def test_callbacks_see_every_move_before_the_next():
    seen: list[tuple[int, torch.Tensor]] = []
    energy, options = quadratic(0.5, BOTTOM), {"steps": 4, "step_size": 1.0, "anchor": 0.2}
    run = descend(energy, START, record=True, on_move=lambda *move: seen.append(move), **options)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(torch.stack([START, *(candidate for _, candidate in seen)], 2), run.path)
    unmeasured = descend(energy, START, measure=False, **options)
    assert torch.equal(unmeasured.energies, run.energies[..., [0, 3]])
    assert torch.equal(unmeasured.final, run.final)


def test_draws_stay_in_range_and_follow_their_generator():
    counts = {draw_count(2, 4, rng(seed)) for seed in range(60)}
    assert counts == {2, 3, 4}
    assert draw_count(3, 3, rng()) == 3
    scale = draw_step_scale((4000, 1), 2.0, rng(), torch.device("cpu"))
    assert scale.min() >= 0.5
    assert scale.max() <= 2.0
    assert abs(float(scale.log2().mean())) < 0.05  # log-uniform: as often shorter as longer
    assert torch.equal(scale, draw_step_scale((4000, 1), 2.0, rng(), torch.device("cpu")))


def test_step_scale_lengthens_whole_moves_and_leaves_the_energy():
    scale = torch.tensor([0.5, 1.0, 2.0]).double()[None, :, None].expand(2, 3, 1)
    plain = descend(quadratic(0.3, BOTTOM), START + 1, steps=1, step_size=0.4, anchor=0.2, origin=START)
    scaled = descend(
        quadratic(0.3, BOTTOM), START + 1, steps=1, step_size=0.4, anchor=0.2, origin=START, step_scale=scale
    )
    assert torch.allclose(scaled.final - START - 1, scale * (plain.final - START - 1))
    assert torch.allclose(scaled.energies[..., 0], plain.energies[..., 0])


def test_the_lowest_energy_is_kept_and_nan_never_wins():
    energies = torch.tensor([[[3.0, 1.0, 2.0], [float("nan"), 5.0, 6.0]]])
    best = lowest_energy(energies)
    assert best.tolist() == [[1, 1]]
    values = torch.arange(12.0).view(1, 2, 3, 2)
    assert take(values, best).tolist() == [[[2.0, 3.0], [8.0, 9.0]]]
    assert take(energies, best).tolist() == [[1.0, 5.0]]
