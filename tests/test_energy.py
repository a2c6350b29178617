"""The energy against arithmetic done another way: dense, one position at a time, and in finite differences."""

from __future__ import annotations

import naive
import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.twice import normalise, swiglu

CONDITIONINGS = [("none", 1), ("embedding", 3), ("adaln", 3)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def network_of(
    conditioning: str = "none", landscapes: int = 1, dtype=torch.float64, width: int = 32
) -> EnergyTransformer:
    torch.manual_seed(0)
    network = EnergyTransformer(width, 3, 4, step_conditioning=conditioning, num_landscapes=landscapes).to(dtype)
    for block in network.trunk.blocks:
        if block.modulation is not None:
            torch.nn.init.normal_(block.modulation, std=0.3)
    return network


def states_of(batch: int, length: int, width: int = 32, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, length, width, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max().clamp_min(1.0)).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("conditioning", "landscapes"), CONDITIONINGS)
@pytest.mark.parametrize("oracle", [naive.dense_energy, naive.two_stream_energy])
def test_energy_gradient_and_second_order_agree_with_the_dense_form(conditioning, landscapes, dtype, oracle):
    network = network_of(conditioning, landscapes, dtype)
    observed, start = states_of(2, 7, dtype=dtype), states_of(2, 7, dtype=dtype, seed=1)
    weights = list(network.parameters())

    def three_orders(energy_of):
        context = observed.clone().requires_grad_()
        candidate = start.clone().requires_grad_()
        energy = energy_of(context, candidate)
        (first,) = grad(energy.sum(), candidate, create_graph=True)
        second = grad(first.square().sum(), [candidate, context, *weights], allow_unused=True)
        return energy, first, [torch.zeros(()) if s is None else s for s in second]

    landscape = landscapes - 1
    fast = three_orders(lambda x, y: network.energy(y, network.observe(x), landscape))
    slow = three_orders(lambda x, y: oracle(network, x, y, landscape))
    assert relative(fast[0], slow[0]) < TOLERANCE[dtype]
    assert relative(fast[1], slow[1]) < TOLERANCE[dtype]
    for mine, theirs in zip(fast[2], slow[2], strict=True):
        assert relative(mine, theirs) < 10 * TOLERANCE[dtype]  # sums over positions of products of three factors


@pytest.mark.parametrize(("conditioning", "landscapes"), CONDITIONINGS)
def test_the_gradient_differentiates_twice(conditioning, landscapes):
    network = network_of(conditioning, landscapes, width=8)
    context = states_of(1, 3, 8)
    memory = network.observe(context)
    candidate = states_of(1, 3, 8, seed=1).requires_grad_()
    energy = lambda y: network.energy(y, memory, landscapes - 1)  # noqa: E731
    assert gradcheck(energy, candidate)
    assert gradgradcheck(energy, candidate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_computed_in_fp32_in_mixed_precision_too(dtype):
    """Also where it is differentiated twice; bf16 has three digits."""
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made = normalise(x, 1e-5)
    assert torch.allclose(made.float().square().mean(-1), torch.ones(8), atol=1e-4)
    (slope,) = torch.autograd.grad(made.pow(3).sum(), x, create_graph=True)
    exact = x.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(normalise(exact, 1e-5).pow(3).sum(), exact, create_graph=True)
    (twice,) = torch.autograd.grad(slope.float().square().sum(), x)
    (twice_wanted,) = torch.autograd.grad(wanted.square().sum(), exact)
    digits = 1e-5 if dtype == torch.float32 else 1e-2  # of the largest
    for found, expected in ((slope, wanted), (twice, twice_wanted)):
        assert (found - expected).abs().max() < digits * expected.abs().max()


@pytest.mark.parametrize("function", [lambda x: normalise(x, 1e-5), swiglu])
def test_written_derivatives_match_finite_differences(function):
    x = states_of(2, 3, 6).requires_grad_()
    assert gradcheck(function, x)
    assert gradgradcheck(function, x)


def test_a_position_feels_only_its_context_and_its_own_candidate():
    network = network_of()
    observed = states_of(2, 6).requires_grad_()
    candidate = states_of(2, 6, seed=1).requires_grad_()
    energy = network.energy(candidate, network.observe(observed))
    for t in range(6):
        by_state, by_candidate = grad(energy[0, t], [observed, candidate], retain_graph=True)
        assert by_state[0, : t + 1].abs().sum(-1).min() > 0  # all of the context counts ...
        assert by_state[0, t + 1 :].abs().max() == 0 if t < 5 else True  # ... and nothing after it,
        assert by_state[1].abs().max() == 0  # nor any other item,
        others = torch.arange(6) != t
        assert by_candidate[0, others].abs().max() == 0  # nor any other candidate
        assert by_candidate[0, t].abs().max() > 0


def test_a_memory_grown_state_by_state_equals_one_observed_at_once():
    network = network_of()
    observed, candidate = states_of(2, 7), states_of(2, 7, seed=1)
    whole = network.observe(observed)
    grown = None
    for t in range(7):
        grown = network.observe(observed[:, t : t + 1], grown)
    parts = network.observe(observed[:, 3:], network.observe(observed[:, :3]))
    for memory in (grown, parts):
        assert relative(memory.hidden, whole.hidden) < 1e-12
        assert relative(network.energy(candidate, memory), network.energy(candidate, whole)) < 1e-12
    one = network.energy(candidate[:, -1:], grown)
    assert relative(one, network.energy(candidate, whole)[:, -1:]) < 1e-12


def test_named_positions_share_one_memory():
    network = network_of()
    memory, candidate = network.observe(states_of(2, 7)), states_of(2, 7, seed=1)
    where = torch.tensor([3, 3, 0, 6])
    energy = network.energy(candidate[:, where], memory, positions=where)
    assert relative(energy, network.energy(candidate, memory)[:, where]) < 1e-12


def test_long_contexts_in_blocks_equal_the_dense_form(monkeypatch):
    monkeypatch.setattr("ebwm_cli.model.attention.QUERY_BLOCK", 4)
    network = network_of()
    observed, candidate = states_of(1, 11), states_of(1, 11, seed=1)
    assert (
        relative(network.energy(candidate, network.observe(observed)), naive.dense_energy(network, observed, candidate))
        < 1e-10
    )


def test_forgetting_keeps_the_newest_states_and_their_places():
    network = network_of()
    observed = states_of(1, 9)
    memory = network.observe(observed).last(4)
    assert (memory.length, memory.position) == (4, 9)
    assert relative(memory.hidden, network.observe(observed).hidden[:, -4:]) == 0
    longer = network.observe(states_of(1, 1, seed=2), memory)
    assert (longer.length, longer.position) == (5, 10)
    assert network.energy(states_of(1, 1, seed=3), longer).shape == (1, 1)


def test_items_of_a_batch_do_not_touch():
    network = network_of(dtype=torch.float32)
    observed, candidate = states_of(16, 5, dtype=torch.float32), states_of(16, 5, dtype=torch.float32, seed=1)
    together = network.energy(candidate, network.observe(observed))
    alone = torch.cat([network.energy(candidate[i : i + 1], network.observe(observed[i : i + 1])) for i in range(16)])
    assert relative(together, alone) < 1e-6


def test_landscapes_differ_and_the_last_serves_all_later_steps():
    for conditioning, landscapes in CONDITIONINGS[1:]:
        network = network_of(conditioning, landscapes)
        memory, candidate = network.observe(states_of(1, 4)), states_of(1, 4, seed=1)
        energies = [network.energy(candidate, memory, step) for step in range(4)]
        assert relative(energies[0], energies[1]) > 1e-3
        assert torch.equal(energies[2], energies[3])
