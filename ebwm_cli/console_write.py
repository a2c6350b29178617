"""A text as it is written, each token tinted by its energy: calm where the model found its way down, glaring where not.

Colours are fifths of the energies seen so far. Pure: reports in, something printable out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from ebwm_cli.console_tables import GOOD, LABEL, QUIET, Facts, render
from ebwm_cli.console_text import count, duration, number, safe, sparkline
from ebwm_cli.run.report_text import GenerateReport, TokenReport

TINTS = ("green", "cyan", "default", "yellow", "red")
"""From the lowest fifth of the energies to the highest."""


def borders(energies: Sequence[float]) -> list[float]:
    """The energies between the fifths."""
    ordered = sorted(energies)
    return (
        [ordered[min(len(ordered) - 1, len(ordered) * i // len(TINTS))] for i in range(1, len(TINTS))]
        if ordered
        else []
    )


def tinted(pieces: Sequence[str], energies: Sequence[float]) -> Text:
    """Pieces of text in the tint of their energies; untinted where there are none, or only one."""
    between, text = borders(energies), Text()
    tints = [TINTS[bisect_right(between, energy)] for energy in energies] if len(set(energies)) > 1 else []
    for piece, tint in zip(pieces, tints or ["default"] * len(pieces), strict=True):
        text.append("\n".join(map(safe, piece.split("\n"))), tint)
    return text


def legend(energies: Sequence[float], score: str = "energy") -> Text:
    """What the tints mean."""
    line = Text(f"{score} ", QUIET)
    between = borders(energies)
    for tint, energy in zip(TINTS, [*between, max(energies, default=0.0)], strict=False):
        line.append("█", tint).append(f" to {number(energy)}  ", QUIET)
    return line


def writing(tokens: Sequence[TokenReport], rows: int) -> Text:
    """The end of a text that is being written, as much of it as `rows` lines hold."""
    text = tinted([token.text for token in tokens], [each.energy for each in tokens if each.energy is not None])
    lines = text.split("\n")
    return Text("\n").join(lines[-rows:])


@render.register
def _generate(report: GenerateReport) -> RenderableType:
    facts = Facts()
    speed = f"{duration(report.seconds)}, {report.tokens_per_second:,.1f} tokens/s"
    facts.add("tokens", f"{len(report.tokens):,}", speed + (", the text ended" if report.ended else ""))
    if report.score:
        ends = f"{number(min(report.energies))} to {number(max(report.energies))}"
        facts.add(report.score, Text(sparkline(report.energies, 48), LABEL), ends)
    facts.add("probability", Text(sparkline(report.probabilities, 48), LABEL), "of each token")
    if report.score:
        used = report.steps_used
        spent = f"{min(used)} to {max(used)}" if min(used) != max(used) else f"{used[0]}"
        facts.add("steps", f"{spent} per token", f"{sum(used) / len(used):.1f} on average")
    spent = f"{count(report.flops)}FLOP"
    facts.add("spent", spent, f"{count(report.flops / len(report.tokens))}FLOP per token")
    facts.add("model", safe(report.checkpoint))
    below = [Text(safe(file), LABEL) for file in report.files]
    prompt = Text("\n".join(map(safe, report.prompt.split("\n"))), QUIET)
    story = Text("\n").append(prompt).append(tinted(report.pieces, report.energies)).append("\n")
    tints = [legend(report.energies, report.score)] if report.score else []
    return facts.panel("think · text", story, *tints, *below, style=GOOD)
