"""A text as it is written, each token tinted by its energy: calm where the model found its way down, glaring where not.

Colours are fifths of the energies seen so far. Pure: reports in, something printable out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from ebwm_cli.console_tables import GOOD, LABEL, QUIET, Facts, render
from ebwm_cli.console_text import duration, number, safe, sparkline
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
    """Pieces of text in the tint of their energies."""
    between, text = borders(energies), Text()
    for piece, energy in zip(pieces, energies, strict=True):
        shown = "\n".join(map(safe, piece.split("\n")))
        text.append(shown, TINTS[bisect_right(between, energy)] if len(set(energies)) > 1 else "default")
    return text


def legend(energies: Sequence[float]) -> Text:
    """What the tints mean."""
    line = Text("energy ", QUIET)
    between = borders(energies)
    for tint, energy in zip(TINTS, [*between, max(energies, default=0.0)], strict=False):
        line.append("█", tint).append(f" to {number(energy)}  ", QUIET)
    return line


def writing(tokens: Sequence[TokenReport], rows: int) -> Text:
    """The end of a text that is being written, as much of it as `rows` lines hold."""
    text = tinted([token.text for token in tokens], [token.energy for token in tokens])
    lines = text.split("\n")
    return Text("\n").join(lines[-rows:])


@render.register
def _generate(report: GenerateReport) -> RenderableType:
    facts = Facts()
    speed = f"{duration(report.seconds)}, {report.tokens_per_second:,.1f} tokens/s"
    facts.add("tokens", f"{len(report.tokens):,}", speed + (", the text ended" if report.ended else ""))
    facts.add(
        "energy",
        Text(sparkline(report.energies, 48), LABEL),
        f"{number(min(report.energies))} to {number(max(report.energies))}",
    )
    facts.add("probability", Text(sparkline(report.probabilities, 48), LABEL), "of each token")
    used = report.steps_used
    spent = f"{min(used)} to {max(used)}" if min(used) != max(used) else f"{used[0]}"
    facts.add("descent steps", spent, f"{sum(used) / len(used):.1f} per token")
    facts.add("model", safe(report.checkpoint))
    below = [Text(safe(file), LABEL) for file in report.files]
    prompt = Text("\n".join(map(safe, report.prompt.split("\n"))), QUIET)
    story = Text("\n").append(prompt).append(tinted(report.pieces, report.energies)).append("\n")
    return facts.panel("think · text", story, legend(report.energies), *below, style=GOOD)
