"""How well true next states are told from false ones, by a score and by what costs nothing: what they are told from,
what may tell, and what came of it.

AUROC = P(number(false) > number(true)), over all pairs of positions or at the same one, with an interval over windows.
Works on numbers that were found: it asks no world.
"""

# N positions at which a state is false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.run.measure import Floats
from ebwm_cli.run.pairs import NO_SCORE, Pairs, defined, origin, positions
from ebwm_cli.run.report_calibration import FalseStates, Resampled, Telling
from ebwm_cli.run.resampling import auroc_of, interval, mean_of
from ebwm_cli.run.statistics import auroc
from ebwm_cli.world.false_states import OTHER, TWO_AHEAD

NOISES = (0.3, 0.1)
"""How wrong near misses are, as `StateSpace.near_miss` has it."""
SCORE, ABOVE, BARE, PREDICTION, DOUBT, OWN_DOUBT, REFERENCE = (
    "score", "score_above", "score_without_anchor", "prediction", "doubt", "candidate_doubt", "reference",
)  # fmt: skip
SHUFFLED, PAST = "shuffled", "past_shuffled"


@dataclass(frozen=True)
class Told:
    """Numbers of false states and of the true ones in their places, (N,) each, by what tells."""

    numbers: dict[str, tuple[Floats, Floats]]
    windows: NDArray[np.int64]
    """Which window each place lies in, (N,)."""


def near(share: float) -> str:
    """The key of near misses that are wrong by `share`."""
    return f"near_{share * 100:.0f}"


def false_states(space: StateSpace, pairs: Pairs) -> list[FalseStates]:
    """What true next states are told from, in the order they are shown."""
    shuffled = "true next states after contexts whose order is another, at the last position of each window:"
    two_ahead = "states two steps ahead where they differ, none at the last position of a window, after which it ends"
    return [
        FalseStates(key=OTHER, name="other", how=f"next states from {origin(pairs)} where they differ"),
        FalseStates(key=SHUFFLED, name="order", how=f"{shuffled} all states were shuffled"),
        FalseStates(key=PAST, name="past", how=f"{shuffled} all states but the last were shuffled"),
        FalseStates(key=TWO_AHEAD, name="2 ahead", how=two_ahead),
        *[FalseStates(key=near(share), name=f"{share:.0%} off", how=space.near_miss_words(share)) for share in NOISES],
    ]


def telling(
    space: StateSpace, score: str | None, told: dict[str, Told], false: list[FalseStates], reference: str, seed: int
) -> list[Telling]:
    """What of `told`, by the keys of `false`, each way of telling makes; `reference` names the networkless predictor,
    and `seed` draws windows again."""
    return [
        Telling(
            key=key,
            name=name,
            how=_said(told, key, f"{how}; {note}" if note else how),
            auroc={each.key: _rate(key, how, note, each, told[each.key], seed) for each in false},
            same_place={each.key: _rate(key, how, note, each, told[each.key], seed, same=True) for each in false},
        )
        for key, name, how, note in _ways(space, score or "score", reference)
    ]


def _said(told: dict[str, Told], key: str, how: str) -> str:
    """`how`, or that there is no such number."""
    return how if key in told[OTHER].numbers else NO_SCORE


def _ways(space: StateSpace, score: str, reference: str) -> list[tuple[str, str, str, str]]:
    """What may tell true from false: its key, its name, what it is, and what to keep in mind."""
    pull = "half the squared distance from the start"
    apart = "half the squared distance of a candidate from the model's own prediction"
    if space.in_nats:
        pull = "its KL from the start in nats, of a uniform start the same for every certain token and less for others"
        apart = "KL in nats of a candidate from the model's own prediction, of a certain token its -ln p"
    anchored = f"the start is the state space's own, and an anchor, where there is one, adds {pull}"
    levelled = f"{anchored}; a level, where there is one, tells how high a candidate lies, and which way"
    return [
        (SCORE, score, f"total {score} of a candidate", levelled),
        (ABOVE, "above the prediction's", f"{score} of a candidate less that of the model's own prediction", ""),
        (BARE, "without its anchor", f"{score} of a candidate that is its own start, so that no anchor adds to it", ""),
        (PREDICTION, "distance from prediction", apart, ""),
        (DOUBT, space.doubt_name, f"{space.doubt_name}, which sees no candidate", ""),
        (OWN_DOUBT, "of the candidate", f"{space.doubt_name}, taken of a candidate in its place", ""),
        (REFERENCE, f"error of {reference}", f"one-step error that {reference} has if a candidate is true", ""),
    ]


def _rate(key: str, how: str, note: str, false: FalseStates, told: Told, seed: int, *, same: bool = False) -> Resampled:
    """The AUROC of what is called `key` and `how`; or, at the `same` place, how often it is higher there."""
    if key not in told.numbers:
        return Resampled(value=None, ci95=None, how=NO_SCORE)
    wrong, right = told.numbers[key]
    if same:
        higher = (wrong > right) + (wrong == right) / 2
        value, statistic = float(higher.mean()) if wrong.size else None, mean_of(higher)
        said = f"share of {positions(wrong)} at which it is higher, ties half: {how}; higher for {false.how}"
    else:
        value, statistic = defined(auroc(wrong, right)), auroc_of(wrong, right)
        said = f"AUROC of the {how}, at {positions(wrong)}; higher for {false.how}"
    said += ", than for true next states; 0.5 is chance"
    if note:
        said += f"; {note}"
    if not wrong.size:
        said += "; undefined: there are none"
    elif np.array_equal(wrong, right):
        said += "; 0.5 by construction: it is the same for both"
    ci95 = interval(statistic, told.windows, seed) if value is not None else None
    return Resampled(value=value, ci95=ci95, how=said)
