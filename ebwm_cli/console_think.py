"""A descent, drawn: the table of moves, the energy as it falls, what happened in words, how sure the answer is."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from ebwm_cli.console_tables import BAD, GOOD, LABEL, QUIET, Facts, Pieces, against, render, table
from ebwm_cli.console_text import count, duration, number, safe, sparkline
from ebwm_cli.run.report_think import DescentRow, ThinkReport, TokenChance
from ebwm_cli.run.thought_words import KEPT, agreement_in_words, percent, rank_in_words, visible

MAX_ROWS = 20


@render.register
def _think(report: ThinkReport) -> RenderableType:
    facts, of = Facts(), _whose(report)
    facts.add("after", Text(f"{report.context} states of {safe(report.source)}"))
    if report.score:
        _add_energies(facts, report, report.score)
    else:
        facts.add("thinking", Text(safe(report.stopped)))
    if report.error is not None:
        beside = Text()
        if report.reference_error is not None:
            beside = Text(f"{report.reference} {number(report.reference_error)}  ", QUIET)
            beside.append(against(report.error, report.reference_error))
        facts.add(f"error{of}", number(report.error), beside)
    if report.predicted_text is not None:
        truth = "" if report.true_text is None else f"the truth is {report.true_text!r}"
        facts.add("says", safe(repr(report.predicted_text)), safe(truth))
    if report.likeliest:
        facts.add_drawn(f"likeliest{of}", _tokens(report.likeliest))
    if len(report.rollout_errors) > 1:
        line = Text(sparkline(report.rollout_errors, 48), LABEL)
        facts.add("error ahead", line, _span(report.rollout_errors))
    below = [
        Text(f"\n{safe(file)}", LABEL) if not i else Text(safe(file), LABEL) for i, file in enumerate(report.files)
    ]
    ahead = "the next state" if report.horizon == 1 else f"the next {report.horizon:,} states"
    title = f"think · {ahead}"
    took = Text(f"\n{duration(report.seconds)}  {safe(report.checkpoint)}", QUIET)
    panel = facts.panel(title, *below, took)
    return Group(_descent(report, report.score), "", panel) if report.score else panel


def _whose(report: ThinkReport) -> str:
    """What is said beside what is known of the first of several states only."""
    return " (first state)" if report.horizon > 1 else ""


def _add_energies(facts: Facts, report: ThinkReport, name: str) -> None:
    """How the energy fell, what happened in words, how low it is, at every position and for every start."""
    fell, of = report.energy_gap > 0, _whose(report)
    ends = f"{number(report.energies[0])} → {number(report.energies[-1])}" if report.energies else "–"
    line = Text(f"{sparkline(report.energies, 24)}  ", GOOD if fell else BAD).append(ends, "bold")
    facts.add(f"{name}{of}", line, Text(f"gap {number(report.energy_gap)}", GOOD if fell else BAD))
    facts.add("descent", Text(safe(report.stopped)))
    facts.add("spent", Text(f"{count(report.flops)}FLOP"))
    if rank := rank_in_words(report):
        facts.add(f"its rank{of}", Text(rank))
    facts.add("every position", Text(sparkline(report.position_energies, 48), LABEL), _span(report.position_energies))
    if len(report.sample_energies) > 1:
        kept = f"{len(report.sample_energies)} starts, {KEPT[report.select]}"
        facts.add(f"every start{of}", Text(sparkline(report.sample_energies, 24), LABEL), kept)
    if agreement := agreement_in_words(report):
        facts.add(f"agreement{of}", Text(agreement))


def _tokens(likeliest: list[TokenChance]) -> Pieces:
    """Tokens with their probabilities, the true one green."""

    def piece(each: TokenChance) -> Text:
        token = Text(visible(each.token), f"bold {GOOD}" if each.true else "bold", end="")
        return Text("", end="").append_text(token).append(f" {percent(each.probability)}", QUIET)

    return Pieces([piece(each) for each in likeliest])


def _descent(report: ThinkReport, score: str) -> RenderableType:
    """The table of moves; long descents are thinned out, first and last row always there."""
    known = any(row.error is not None for row in report.descent)
    columns = ["step", score, "drop", "move"] + (["error"] if known else [])
    of = f", mean of {report.horizon:,} states" if report.horizon > 1 else ""
    rows = table(*columns, title=f"{'descent' if score == 'energy' else 'denoising'}{of}")
    rows.add_column("", justify="left", no_wrap=True)
    energies = [row.energy for row in report.descent]
    low, span = min(energies, default=0.0), (max(energies) - min(energies)) if energies else 0.0
    for row in _thinned(report.descent):
        first = row.step == 0
        drop = Text("" if first else f"{row.drop:+z.4f}")  # z: rounding is no rise
        drop.stylize(BAD if drop.plain.startswith("-") else GOOD)
        cells = [f"{row.step}", number(row.energy), drop, "" if first else number(row.move)]
        cells += [number(row.error)] if known else []
        bar = Text("█" * round(20 * (row.energy - low) / span) if span else "", LABEL).append("▏", LABEL)
        rows.add_row(*cells, bar)
    return rows


def _thinned(rows: list[DescentRow]) -> list[DescentRow]:
    """At most MAX_ROWS rows: every early step, where the energy moves, then ever fewer, and the last."""
    last = len(rows) - 1
    if last < MAX_ROWS:
        return rows
    kept = {0} | {round(last ** (i / (MAX_ROWS - 2))) for i in range(MAX_ROWS - 1)}
    return [rows[i] for i in sorted(kept)]


def _span(values: list[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}" if values else ""
