"""The level: what the energies of all candidates after one context are measured in.

level(E) = -ln P(true) + SAY * (h + ln(unit / typical unit)),     h = (E - zero) / unit

An energy leads downhill whatever a context adds to it or multiplies it by, so nothing in training makes energies after
one context comparable with those after another. `zero` is the energy at which a descent will end, read from its first
moves; `unit` the energy that its prediction's error will be, read from what the trunk says of the context and from a
few clues and their products: how far those moves go, and what the state space tells, mostly without a network. How much
each of these is believed, windows say that nothing was learned from. So h says how many expected errors a candidate
lies above the prediction: with the ln, a Gaussian's of its variance, minus the log of a density, up to factors,
approximated at its mode (Laplace). It orders predictions by how wrong they will be.

Whether a candidate is the true next state is another question, which logistic regressions answer (`model/odds.py`).
They are told, too, which way it lies off where the first moves led (`model/directions.py`). Whichever way that is, a
level rises with E; energies along a descent are measured as that of its end is, so that they fall where E falls. At the
bottom a candidate is hardly false, so that there the density alone is left: therefore `zero` must be known to much less
than a unit where units are small, too.

All is solved from predictions that were made; nothing is learned with the weights. Knows no world and no state space.
"""

# N predictions, W width, C clues of the state space, D numbers of a candidate's point

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.model.directions import Directions
from ebwm_cli.model.odds import Judged, Odds
from ebwm_cli.model.solving import read, ridge, with_products, with_products_of

MOVES = 2
"""How many first moves are looked at: where the second goes far, the first has not come to the bottom."""
FACTS = 2 * MOVES + 1
"""Known of them."""
HIDDEN_PULLS, CLUE_PULLS, PRODUCT_PULLS = (0.3, 1.0), (0.01, 0.1), (0.03, 1.0)
"""Pulls to 0 of coefficients of standardised features, for features' variance 1, of which held-out errors choose: what
the trunk says is many numbers, whose chance agreements with errors would be believed; clues are few; of their products,
some tell scenes apart that will not come again."""
ZERO_PULL = 1e-4
"""Where a descent ends hardly depends on chance."""
SAY = 0.05
"""How much the density adds: more orders predictions better by their errors, less tells true from false states better
over contexts of which some are hard (CHANGELOG, Tried)."""
CLOSE, TIMES, MOST = 0.005, 2.0, 0.95
"""How well zero is known: to CLOSE units, or TIMES what MOST descents miss it by, and MOST true states lie below it."""
ALIKE = 0.4
"""Errors below so much of their geometric mean are hardly told apart, where that is less than the state space has: in a
world that mostly stands still, all of them would be."""
NONE = 1e-6
"""Errors below so much of what the state space has are none: they tell nothing of scale."""
STEADY = 1e-3
"""Clues, logarithms, that vary by less say nothing."""
BEYOND = 3.0
"""Clues farther than so many standard deviations from what is usual are taken for as far."""


@dataclass(frozen=True)
class Measure:
    """What energies after some states are measured in, (...) each; `sharpness` 0 changes none."""

    zero: Tensor
    unit: Tensor
    said: Tensor
    """ln(unit / typical unit)."""
    close: Tensor
    """To how many units zero is known."""
    sharpness: Tensor
    threshold: Tensor
    """In odds at h = 1, of each kind of false states, (..., KINDS)."""
    reached: Tensor
    """By the first moves, (..., D)."""
    against: Callable[[Tensor, Tensor], Tensor]
    """What an offset from there (..., D) adds to odds of those kinds, where that is the unit."""

    def __call__(self, energy: Tensor, point: Tensor) -> Tensor:
        """Energies (..., K) on the way to a candidate at `point` (..., D) after each of those states, measured so."""
        zero, unit, said, close = (each.unsqueeze(-1) for each in (self.zero, self.unit, self.said, self.close))
        height = (energy - zero) / unit
        threshold = self.threshold - self.against(point - self.reached, self.unit)
        logs = log_height(height, close).unsqueeze(-1)
        odds = (self.sharpness.unsqueeze(-2) * logs - threshold.unsqueeze(-2)).logsumexp(-1)
        levelled = F.softplus(odds) + SAY * (height + said)
        return torch.where(self.sharpness[..., :1] > 0, levelled, energy)

    def at(self, pick: Callable[[Tensor], Tensor]) -> Measure:
        """Of what that makes of those states."""
        return Measure(
            pick(self.zero),
            pick(self.unit),
            pick(self.said),
            pick(self.close),
            pick(self.sharpness),
            pick(self.threshold),
            pick(self.reached),
            self.against,
        )

    def repeated(self, times: int) -> Measure:
        """Of the same states (B, P), `times` over, (B, times * P)."""
        return self.at(lambda each: torch.cat([each] * times, 1))


@dataclass(frozen=True)
class FirstMoves:
    """Those from the start that the state space has after some states (...)."""

    energies: Tensor
    """Total, at the start and after each, (..., MOVES + 1)."""
    lengths: Tensor
    """Half of their squares, (..., MOVES)."""

    @property
    def facts(self) -> Tensor:
        """What tells where a descent will end, (..., FACTS): energies, and the squares of slopes between."""
        return torch.cat([self.energies, self.lengths], -1)


@dataclass(frozen=True)
class Signs:
    """What is known after some states (...) before anything is predicted."""

    hidden: Tensor
    """What the trunk says, (..., W)."""
    clues: Tensor
    """What the state space says, (..., C), nan where it does not know."""
    reached: Tensor
    """The point where the first moves led, (..., D)."""
    first: FirstMoves

    def at(self, where: Tensor) -> Signs:
        """After those states (N,) at which `where` (...) holds."""
        first = FirstMoves(self.first.energies[where], self.first.lengths[where])
        return Signs(self.hidden[where], self.clues[where], self.reached[where], first)


@dataclass(frozen=True)
class Seen:
    """Signs (N, ...), an energy (N,) that was found after each, and the point (N, D) of the candidate that has it."""

    signs: Signs
    energy: Tensor
    point: Tensor

    @staticmethod
    def joined(parts: Sequence[Seen]) -> Seen:
        """All of them, in double precision on the CPU."""

        def join(tensors: list[Tensor]) -> Tensor:
            return torch.cat([each.cpu().double() for each in tensors])

        signs = [part.signs for part in parts]
        first = FirstMoves(join([each.first.energies for each in signs]), join([each.first.lengths for each in signs]))
        hidden, clues = join([each.hidden for each in signs]), join([each.clues for each in signs])
        known = Signs(hidden, clues, join([each.reached for each in signs]), first)
        return Seen(known, join([part.energy for part in parts]), join([part.point for part in parts]))


class Level(nn.Module):
    """Changes no energy until it is fitted. Its numbers are kept with the weights, and no optimizer sees them."""

    zero: Tensor
    unit: Tensor
    usual: Tensor
    scale: Tensor
    bounds: Tensor
    typical: Tensor
    floor: Tensor
    close: Tensor
    cooling: Tensor

    def __init__(self, width: int, clues: int, averages: int, numbers: int = 0) -> None:
        """`clues`: how many, beside the lengths of the first moves; the last `averages` are of all states so far.
        `numbers` say where a candidate lies."""
        super().__init__()
        clues += MOVES
        self.register_buffer("zero", torch.zeros(FACTS + 1))
        self.register_buffer("unit", torch.zeros(width + with_products_of(clues) + 1))  # of its logarithm
        self.register_buffer("usual", torch.zeros(clues))  # logarithms of clues: mean, and what stands for unknown ones
        self.register_buffer("scale", torch.ones(clues))  # their standard deviations into 1; 0 where they say nothing
        self.register_buffer("bounds", torch.zeros(2))  # of what was seen: nothing is foretold beyond
        self.register_buffer("typical", torch.zeros(()))
        self.register_buffer("floor", torch.ones(()))
        self.register_buffer("close", torch.ones(()))
        self.register_buffer("cooling", torch.zeros(()))  # of the first moves
        self.directions = Directions(numbers)
        self.odds = Odds(width, clues, averages, self.directions.bands)

    def forward(self, signs: Signs) -> Measure:
        """What energies are measured in where there are those `signs`."""
        zero, log_unit, telling = self._foretold(signs)
        close = self.close.to(zero).expand_as(zero)
        sharpness, threshold = self.odds(telling)
        said = log_unit - self.typical
        return Measure(zero, log_unit.exp(), said, close, sharpness, threshold, signs.reached, self._against)

    def cools_by(self, cooling: float) -> bool:
        """Whether that shortened the moves it was fitted to."""
        return math.isclose(cooling, float(self.cooling), rel_tol=1e-6)

    @torch.no_grad()
    def fit(
        self,
        errors: Seen,
        held_out: Seen,
        ended: Tensor,
        true: Seen,
        false: Sequence[Seen],
        contexts: tuple[Tensor, Tensor],
        floor: float,
        cooling: float = 0.0,
    ) -> None:
        """`errors`: ideal energies of predictions, those under `floor` (> 0) hardly told apart, or under less where
        most are small; `held_out`: such of windows that nothing was learned from; `ended`: the energies (N,) that
        descents of the first ones ended at; `true` and `false`: energies of true next states and of each kind of false
        ones, as `Odds` has them; `contexts`: the last of the clues, averages among them, after some contexts (N', ...)
        as they are, and in another order; `cooling`: of the first moves."""
        signs, ideal = errors.signs, errors.energy
        some = ideal[ideal > NONE * floor]
        if len(some):
            floor = min(floor, ALIKE * float(some.log().mean().exp()))
        self.floor.fill_(floor)
        self.cooling.fill_(cooling)
        logs = self._logs(signs)
        self.usual.copy_(logs.nanmean(0).nan_to_num())
        spread = (logs - self.usual.to(logs)).square().nanmean(0).sqrt().nan_to_num(1.0)
        self.scale.copy_(torch.where(spread > STEADY, 1 / spread, 0.0))
        self._fit_unit(errors, held_out)
        log_units, bottoms = self._foretold(signs)[1], ended.cpu().double()
        self.zero.copy_(ridge(signs.first.facts, bottoms, ZERO_PULL, (-2 * log_units).exp()))  # its miss in units
        missed, below = self._heights(signs, bottoms)[0].abs(), -self._heights(true.signs, true.energy)[0]
        self.close.copy_(TIMES * torch.stack([missed.quantile(MOST), below.quantile(MOST)]).max().clamp_min(CLOSE))
        averages = slice(len(self.usual) - self.odds.averages, None)
        ordered, shuffled = (F.pad(each.cpu().double(), (len(self.usual) - each.shape[1], 0)) for each in contexts)
        self.odds.fit_order(self._standard(ordered)[:, averages], self._standard(shuffled)[:, averages])
        self.directions.fit(true.point - true.signs.reached)
        self.odds.fit(self._judged(true), [self._judged(kind) for kind in false])

    def _fit_unit(self, errors: Seen, held_out: Seen) -> None:
        """To the logarithms of the first, believing what foretells those of the others best."""
        features, others = self._telling(errors.signs), self._telling(held_out.signs)
        wanted, theirs = ((seen.energy + self.floor.to(features)).log() for seen in (errors, held_out))
        hidden, clues = errors.signs.hidden.shape[-1], len(self.usual)
        counts = hidden, clues, features.shape[-1] - hidden - clues
        least = math.inf
        for pulls in product(HIDDEN_PULLS, CLUE_PULLS, PRODUCT_PULLS):
            each = [pull for pull, count in zip(pulls, counts, strict=True) for _ in range(count)]
            unit = ridge(features, wanted, each)
            foretold = read(unit, features).clamp_min(self.floor.log().to(features))
            bounds = torch.stack(foretold.aminmax())
            missed = float((read(unit, others).clamp(*bounds) - theirs).square().mean())
            if missed < least:
                least = missed
                self.unit.copy_(unit)
                self.bounds.copy_(bounds)
                self.typical.copy_(foretold.mean())

    def _heights(self, signs: Signs, energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of energies (N,), units (N,), and what odds are read from there, (N, W + MOVES + C + ...)."""
        zero, log_unit, telling = self._foretold(signs)
        return (energy - zero) / log_unit.exp(), log_unit.exp(), telling

    def _judged(self, seen: Seen) -> Judged:
        """What odds are fitted to."""
        height, unit, telling = self._heights(seen.signs, seen.energy)
        shares = self.directions(seen.point - seen.signs.reached, unit)
        return Judged(log_height(height, self.close.to(height)), shares, telling)

    def _against(self, offset: Tensor, unit: Tensor) -> Tensor:
        """What offsets (..., D) from where first moves led add to odds, (..., KINDS)."""
        return self.odds.against(self.directions(offset, unit))

    def _foretold(self, signs: Signs) -> tuple[Tensor, Tensor, Tensor]:
        """Zero and ln unit (...), and what that is read from, (..., W + MOVES + C + ...)."""
        telling = self._telling(signs)
        log_unit = read(self.unit, telling).clamp(*self.bounds.to(telling))
        return read(self.zero, signs.first.facts), log_unit, telling

    def _telling(self, signs: Signs) -> Tensor:
        """What units and odds are read from: hidden states, clues, and their products, (..., W + MOVES + C + ...)."""
        return torch.cat([signs.hidden, with_products(self._clues(signs))], -1)

    def _clues(self, signs: Signs) -> Tensor:
        """(..., MOVES + C) in their spread, 0 where one is not known."""
        return self._standard(self._logs(signs))

    def _standard(self, logs: Tensor) -> Tensor:
        """Lengths and clues (..., MOVES + C) in the spread of what was seen."""
        return ((logs - self.usual.to(logs)) * self.scale.to(logs)).clamp(-BEYOND, BEYOND).nan_to_num(0.0)

    def _logs(self, signs: Signs) -> Tensor:
        """Logarithms (..., MOVES + C) of lengths, beside clues, which are logarithms already."""
        lengths = signs.first.lengths
        return torch.cat([(lengths + self.floor.to(lengths)).log(), signs.clues.to(lengths)], -1)


def log_height(height: Tensor, close: Tensor) -> Tensor:
    """ln of heights above a zero that is known within `close`, so that those below have one too."""
    scaled = height / close
    small = scaled < -15.0  # there softplus is exp
    return torch.where(small, scaled, F.softplus(scaled).log()) + close.log()
