"""What happened in a thought, in words: did the energy settle, did it rise, do samples agree, how low is the answer's.

Settled at step k: from there on no step lowers the energy by tolerance * drop or more, the drop being the typical one
in training or the state's own, E_0 - E_k. Pure functions of numbers: no terminal, no markup.
"""

# H predicted states, K descent steps

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.report_think import ThinkReport
from ebwm_cli.run.words import number, safe

ROUNDING = 5e-6
"""Changes of an energy smaller than this part of it are its last digits."""
MOST_DECIMALS = 9
"""Of a share in per cent."""
DROPS = {"own": "its own drop so far", "typical": "the typical drop in training"}
"""What a step's share is taken of, by the report's `drop`."""
KEPT = {"energy": "lowest kept", "gap": "largest fall kept", "mean": "their mean kept", "random": "any one kept"}
"""What became of several starts, by `think.select`."""


@dataclass(frozen=True)
class Course:
    """What the energy of one predicted state did, steps counted from 1."""

    steps: int
    """Taken."""
    lost: int | None
    """Before which it was still a number."""
    rose: int | None
    """The first that raised it."""
    rise: float
    """By how much."""
    settled: int | None
    """From which on it hardly fell; where it stopped, if it did."""
    falling: float
    """What the last one still took, as a part of the drop."""


def stop_in_words(score: str, tolerance: float, drop: str, patience: int, budget: int) -> str:
    """When a position stops that stops by its score, `drop` being a key of DROPS."""
    times = f"{patience} times in a row, " if patience > 1 else ""
    return (
        f"each position stops once a step lowers its {score} by less than {tolerance:g} of {DROPS[drop]}, {times}after "
        f"at most {budget} steps"
    )


def course_of(
    energies: Sequence[float], told: Sequence[float], used: int, budget: ThinkSection, drop: float | None
) -> Course:
    """Read the energies E_0 .. E_K of a state that `used` steps were taken for, in the unit of `drop`, which is what
    `budget.tolerance` is a fraction of, None: its own. `told` are the same as they are shown."""
    seen = energies[: used + 1]
    lost = next((k for k, energy in enumerate(seen) if not math.isfinite(energy)), None)
    seen = seen[:lost]
    digits = ROUNDING * max((abs(energy) for energy in seen), default=0.0)
    drops = [seen[k - 1] - seen[k] for k in range(1, len(seen))]
    rose = next((k for k, each in enumerate(drops, start=1) if each < -digits), None)
    wholes = [seen[0] - energy if drop is None else drop for energy in seen[1:]]
    fell = [each > 0 and each >= budget.tolerance * whole for each, whole in zip(drops, wholes, strict=True)]
    moving = max((k for k, still in enumerate(fell, start=1) if still), default=0)
    settled = used if used < budget.steps else moving + 1 if moving < len(fell) else None
    return Course(
        steps=used,
        lost=lost,
        rose=rose,
        rise=told[rose] - told[rose - 1] if rose else 0.0,
        settled=settled,
        falling=drops[-1] / wholes[-1] if wholes and wholes[-1] > 0 else 0.0,
    )


def descent_in_words(
    score: str,
    energies: Sequence[Sequence[float]],
    used: Sequence[int],
    budget: ThinkSection,
    drop: float | None = None,
    bare: Sequence[Sequence[float]] | None = None,
) -> str:
    """Whether and when the energies (H, K+1) of H predicted states settled, after `used` (H,) of the budget's steps;
    `score` is what they are, `drop` as `course_of` has it. What they did is read from `bare`, the same as the descent
    went by them, where they are levelled."""
    if not budget.steps:
        return "no step was taken"
    read = energies if bare is None else bare
    courses = [
        course_of(each, told, steps, budget, drop) for each, told, steps in zip(read, energies, used, strict=True)
    ]
    lost = [each for each in courses if each.lost is not None]
    rose = [each for each in courses if each.lost is None and each.rose]
    settled = [each for each in courses if each.lost is None and not each.rose and each.settled is not None]
    falling = [each for each in courses if each.lost is None and not each.rose and each.settled is None]
    said = []
    if lost:
        said.append((len(lost), _lost(score, lost)))
    if rose:
        said.append((len(rose), _rose(score, rose, budget.steps)))
    if settled:
        said.append((len(settled), _settled(score, settled, budget)))
    if falling:
        said.append((len(falling), _falling(falling, budget, "its whole" if drop is None else "the typical")))
    if len(said) == 1:
        return said[0][1]
    return "; ".join(f"{count} of {len(courses)} states: {words}" for count, words in said)


def _lost(score: str, courses: list[Course]) -> str:
    return f"the {score} was no number from step {_span([each.lost or 0 for each in courses])} on"


def _rose(score: str, courses: list[Course], steps: int) -> str:
    at = [each.rose or 0 for each in courses]
    by = max(each.rise for each in courses)
    ends = ", where it stopped" if all(each.rose == each.steps < steps for each in courses) else ""
    return f"the {score} rose by {'up to ' * (len(courses) > 1)}{number(by)} at step {_span(at)} of {steps}{ends}"


def _settled(score: str, courses: list[Course], budget: ThinkSection) -> str:
    steps = [each.settled or 0 for each in courses]
    early = any(each.steps < budget.steps for each in courses)
    how = "moves became small" if early and budget.stop == "still" else f"the {score} settled"
    taken = "" if early or min(steps) == budget.steps else ", all were taken"
    return f"{how} after {_span(steps)} of {budget.steps} step{'s' * (budget.steps > 1)}{taken}"


def _falling(courses: list[Course], budget: ThinkSection, drop: str) -> str:
    if budget.steps == 1:
        return "one step was taken, too few to tell whether it settles"
    shares = [each.falling for each in courses]
    span = " to ".join(dict.fromkeys(_beyond(share, budget.tolerance) for share in (min(shares), max(shares))))
    return f"not settled after {budget.steps} steps: still falling by {span} % of {drop} drop per step"


def _beyond(share: float, tolerance: float) -> str:
    """A share in per cent: one decimal, but two digits at least, and as many as tell it from `tolerance`."""
    share, tolerance = 100 * share, 100 * tolerance
    decimals = max(1, 1 - math.floor(math.log10(share))) if share > 0 else 1
    while share > tolerance >= round(share, decimals) and decimals < MOST_DECIMALS:
        decimals += 1
    return f"{share:.{decimals}f}"


def _span(values: list[int]) -> str:
    few, most = min(values), max(values)
    return f"{few}" if few == most else f"{few} to {most}"


# ------------------------------------------------------------------------------------------ the answer


def rank_in_words(report: ThinkReport) -> str:
    """How low the answer's energy is beside others; empty where there are none."""
    if report.energy_rank is None:
        return ""
    above = round(report.energy_rank * report.ranked_energies)
    share = 100 * above // report.ranked_energies  # 100 % only where all are
    return f"lower than {share} % of {report.ranked_energies:,} {report.ranked_among}"


def agreement_in_words(report: ThinkReport) -> str:
    """Whether several starts end at the same state; empty where that can't be said."""
    starts = len(report.sample_energies)
    if report.sample_agreement is not None:
        return f"{round(report.sample_agreement * starts)} of {starts} starts end at the answer's token"
    if report.sample_spread is not None:
        return f"starts end apart by {percent(report.sample_spread)} of the predicted move, measured as losses"
    return ""


def among(score: str, held_out: bool) -> str:
    """Energies that an answer is ranked among."""
    several = f"{score[:-1]}ies" if score.endswith("y") else f"{score}s"
    return f"held-out {several}" if held_out else f"{several} of its own context"


def percent(share: float) -> str:
    """A share of 0 to 1, or a little more, in per cent with two digits where it is small."""
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1 %"
    return f"{value:.1f} %" if value < 9.95 else f"{value:.0f} %"


def visible(token: str) -> str:
    """A token with its white space to be seen, and nothing that could move a cursor."""
    return safe(token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")) or "∅"
