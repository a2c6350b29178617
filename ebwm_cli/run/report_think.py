"""Reports of `ebwm think`: what a descent did, how sure its answer is, and what it says.

They are reports like all others, and stand apart only because they are many. Energies are total energies (anchor
included), or denoising errors: `ThinkReport.score` says which.
"""

from __future__ import annotations

from ebwm_cli.run.report_base import Report


class DescentRow(Report):
    """One line of the descent table: the mean over all predicted states, whatever their number."""

    step: int
    energy: float
    drop: float
    move: float
    """Root mean square of the move that led here, in state units."""
    error: float | None
    """Loss to the truth, where it is known."""


class TokenChance(Report):
    """A token and what an answer gives it."""

    token: str
    probability: float
    true: bool
    """Whether it is the one that really came."""


class ThinkReport(Report):
    """What `ebwm think` did with one window."""

    checkpoint: str
    source: str
    context: int
    horizon: int
    samples: int
    select: str
    """Which of the samples is the answer: `think.select` of the recipe."""
    beam: int
    """Futures that a rollout kept side by side."""
    stop: str
    backtrack: bool
    """Whether moves that would have raised the energy were shortened, or refused."""
    steps: int
    score: str | None
    """What the energies are: energy, or denoising error; None where nothing descends and nothing is judged."""
    steps_used: list[int]
    """Per predicted state."""
    flops: float
    """Really spent on the predicted states, remembering them included."""
    stopped: str
    """Whether and when the energies of all predicted states settled, in words."""
    energies: list[float]
    """Per descent step, of the first predicted state."""
    energy_gap: float
    """How far the energy of the first predicted state fell."""
    descent: list[DescentRow]
    """By step, the mean over all predicted states; fields beside it are of the first one, where they don't say."""
    position_energies: list[float]
    """Final energy per predicted state: of every context position, then the horizon."""
    sample_energies: list[float]
    """Final energy of each start of the first predicted state."""
    sample_agreement: float | None
    """Share of the starts that end at the state the answer stands for; None where states are not picked from a list, or
    there is one start."""
    sample_spread: float | None
    """Mean distance between where two starts end, over the distance from the last state to the answer; None where
    states are picked from a list, there is one start, or the answer has not moved."""
    energy_rank: float | None
    """Share of `ranked_energies` energies that lie above the first predicted state's; None where there are none."""
    ranked_energies: int
    ranked_among: str
    """Whose energies they are, in words."""
    error: float | None
    """Loss of the first predicted state, where the truth is known; `rollout_errors` has all."""
    reference: str | None
    """The predictor beside it, in words; None where nothing can be copied."""
    reference_error: float | None
    predicted_text: str | None
    """What the predicted states say, where they are tokens."""
    true_text: str | None
    likeliest: list[TokenChance]
    """The likeliest next tokens, where states are tokens."""
    rollout_errors: list[float]
    """Loss of every predicted state, where the truth is known."""
    states: int
    """Predicted."""
    files: list[str]
    seconds: float
