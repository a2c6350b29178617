"""Which way a candidate lies off: shares that know no size."""

from __future__ import annotations

import pytest
import torch
from kinds import rng

from ebwm_cli.model import directions
from ebwm_cli.model.directions import BANDS, LARGEST, NEAR, Directions

NUMBERS, COUNT = 64, 4000
SPREAD = torch.linspace(-3, 1, NUMBERS).exp()
TURN = torch.linalg.qr(torch.randn(NUMBERS, NUMBERS, generator=rng(1)))[0]


def errors(seed: int) -> torch.Tensor:
    """That vary much along a few directions, none of which is a number's own."""
    return (torch.randn(COUNT, NUMBERS, generator=rng(seed)) * SPREAD @ TURN.T).double()


def noise(seed: int) -> torch.Tensor:
    """As large, along all alike."""
    plain = torch.randn(COUNT, NUMBERS, generator=rng(seed)).double()
    return plain * SPREAD.square().mean().sqrt()


def fitted(numbers: int = NUMBERS) -> Directions:
    found = Directions(numbers)
    found.fit(errors(0)[:, :numbers])
    return found


def small(count: int = COUNT) -> torch.Tensor:
    """Units beside which all of these are large."""
    return torch.full((count,), 1e-12).double()


def test_errors_have_the_directions_of_errors_and_noise_has_others():
    shares = {name: fitted()(each, small()) for name, each in (("errors", errors(2)), ("noise", noise(3)))}
    assert shares["errors"].shape == (COUNT, BANDS)
    usual = shares["errors"].median(0).values
    assert usual.abs().max() < 1.0
    found = shares["noise"].median(0).values
    assert found[0] > usual[0] + 1  # where true states hardly vary, noise does
    assert found[-1] < usual[-1] - 1
    apart = [each[:, : BANDS // 2].mean(1) - each[:, BANDS // 2 :].mean(1) for each in shares.values()]
    assert (apart[1] > apart[0]).float().mean() > 0.99


def test_how_far_a_candidate_lies_is_no_share():
    known, far = fitted(), errors(2)
    assert torch.allclose(known(far, small()), known(100 * far, small()), atol=1e-3)
    assert torch.allclose(known(far, small()), known(far.neg(), small()))


def test_what_lies_near_has_no_direction():
    """A hundredth of an expected error is none; where it lies makes no difference of note."""
    offset = errors(2)
    unit = offset.square().sum(-1) / 2
    shares = [fitted()(offset * size, unit) for size in (0.0, 0.01, 10.0)]
    assert torch.equal(shares[0], torch.zeros_like(shares[0]))
    assert shares[1].abs().max() < 0.01 / NEAR
    assert shares[2].abs().median() > 0.3


def test_without_numbers_there_is_nothing_to_say():
    none = Directions(0)
    none.fit(torch.empty(5, 0))
    assert none.bands == 0
    assert none(torch.empty(2, 3, 0), torch.ones(2, 3)).shape == (2, 3, 0)


def test_few_numbers_have_a_band_each():
    assert fitted(3)(errors(2)[:, :3], small()).shape == (COUNT, 3)


def test_numbers_that_never_vary_are_no_trouble():
    """Nor are states that are all foreseen."""
    offsets = errors(0)
    offsets[:, :8] = 0
    known = Directions(NUMBERS)
    known.fit(offsets)
    assert known(noise(3), small()).isfinite().all()
    known.fit(torch.zeros(COUNT, NUMBERS).double())
    assert known(noise(3), small()).isfinite().all()
    assert torch.equal(known(torch.zeros(2, NUMBERS), torch.ones(2)), torch.zeros(2, BANDS))


def test_large_states_are_not_turned(monkeypatch):
    assert Directions(LARGEST).basis.shape == (LARGEST, LARGEST)
    monkeypatch.setattr(directions, "LARGEST", 8)
    known = Directions(NUMBERS)
    own = (torch.randn(COUNT, NUMBERS, generator=rng(4)) * SPREAD).double()
    known.fit(own)
    assert known.basis.numel() == 0
    mine, others = (known(each, small()).median(0).values for each in (own, noise(3)))
    assert mine.abs().max() < 1.0
    assert others[0] > mine[0] + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shares_are_of_the_kind_of_what_they_are_of(dtype):
    assert fitted()(errors(2).to(dtype), small().to(dtype)).dtype == dtype
