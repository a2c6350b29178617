"""Functions of logits that keep nothing beside them equal the plain ones; a product cut across cores, the whole one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ebwm_cli.model import product as product_module
from ebwm_cli.model.distribution import cross_entropy, expected_embedding, relative_entropy
from ebwm_cli.model.product import product
from ebwm_cli.recipe.model import DescentSection, EbtSection
from ebwm_cli.recipe.schema import StateSpec
from ebwm_cli.world.build import build_world

VOCABULARY, WIDTH = 12, 8


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_they_equal_the_plain_ones_and_so_do_their_gradients():
    logits, table, other = (
        numbers(2, 3, VOCABULARY),
        numbers(VOCABULARY, WIDTH, seed=1),
        numbers(2, 3, VOCABULARY, seed=2),
    )
    target = torch.randint(0, VOCABULARY, (2, 3), generator=torch.Generator().manual_seed(3))
    assert torch.allclose(expected_embedding(logits, table), logits.softmax(-1) @ table)
    assert torch.autograd.gradcheck(expected_embedding, (logits, table))
    plain = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(2, 3)
    assert torch.allclose(cross_entropy(logits, target), plain)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, target), (logits,))
    p, q = logits.log_softmax(-1), other.log_softmax(-1)
    assert torch.allclose(relative_entropy(logits, other), (p.exp() * (p - q)).sum(-1))
    assert torch.autograd.gradcheck(relative_entropy, (logits, other))
    assert relative_entropy(logits, logits).abs().max() < 1e-12


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_a_cut_product_is_the_whole_one_and_differentiates_twice(rows, turned, monkeypatch):
    monkeypatch.setattr(product_module, "WORTH_CUTTING", 1)
    x, matrix = numbers(1, rows, WIDTH), numbers(WIDTH, VOCABULARY) if turned else numbers(VOCABULARY, WIDTH)
    weight = matrix.t() if turned else matrix
    assert torch.allclose(product(x, weight), x @ weight.t())
    assert torch.autograd.gradgradcheck(lambda x, m: product(x, m.t() if turned else m).square(), (x, matrix))


@pytest.mark.parametrize("shape", [(10, 8), (12, 6)])
def test_what_the_parts_dont_divide_is_not_cut(shape, monkeypatch):
    monkeypatch.setattr(product_module, "WORTH_CUTTING", 1)
    weight = numbers(*shape)
    for matrix in (weight, weight.t().contiguous().t()):
        x = numbers(1, 1, shape[1])
        assert torch.allclose(product(x, matrix), x @ matrix.t())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_descent_step_on_tokens_keeps_one_tensor_of_candidates(steps):
    """Beside the start, what autograd keeps of the size of the candidates is one tensor a step: the candidates."""
    rules = DescentSection(steps=steps, free_steps=(0, 0), anchor=0.5, step_control="fixed")
    world = build_world(
        EbtSection(layers=1, width=WIDTH, heads=2, start="zeros", compatibility=True, descent=rules),
        StateSpec(modality="text", state_dim=VOCABULARY + 1, context=5),
    )
    states = torch.randint(0, VOCABULARY + 1, (3, 6), generator=torch.Generator().manual_seed(0))
    kept: dict[int, torch.Tensor] = {}  # held, so that no address comes twice

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.numel() == 3 * 5 * (VOCABULARY + 1):
            kept[x.data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        world.loss(states, torch.Generator().manual_seed(0))[0].backward()
    assert len(kept) == steps + 1
