"""Calibration, drawn: what a score says of the error, what it tells apart, and below how each number was obtained.

Pure: a report in, something printable out.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_tables import GOOD, LABEL, QUIET, VALUE, Facts, letter, render, said, table
from ebwm_cli.console_text import duration, number, safe, sparkline
from ebwm_cli.run.report_calibration import CalibrationReport, CalibrationRow, Reliability, Resampled, Telling
from ebwm_cli.run.report_facets import Measured

COLUMNS = 4
"""Checkpoints side by side; more of them get tables of their own."""
SAME_PLACE = ("score", "score_without_anchor", "prediction")
"""What is shown at the same position too; of the others it is in the report."""
WITHIN = ("score_above", "score_without_anchor", "candidate_doubt")
"""What is a variant of the line above it."""
CHANCE = 0.5
SURE = "  95 %"


@render.register
def _calibration(report: CalibrationReport) -> RenderableType:
    facts = Facts()
    facts.add("held-out set", Text(f"{safe(report.data)} ({report.split})"))
    facts.add("windows", f"{report.windows:,}", f"{report.stride:,} predictions each")
    if report.nats:
        facts.add("in nats", Text(safe(", ".join(report.nats))))
    for index, row in enumerate(report.rows):
        judged_by = f"judges by {row.score}" if row.score else "judges nothing"
        facts.add(letter(index), Text(safe(row.kind), VALUE), f"{safe(row.checkpoint)}, {safe(judged_by)}")
    parts: list[RenderableType] = [facts.panel("calibration")]
    for first in range(0, len(report.rows), COLUMNS):
        parts += ["", _correlations(report, report.rows[first : first + COLUMNS], first)]
    parts += ["", _curves(report)]
    for index, row in enumerate(report.rows):
        parts += ["", _apart(report, row, index)]
    wrote = Text(duration(report.seconds), QUIET)
    for file in report.files:
        wrote.append(f"\n{safe(file)}", LABEL)
    return Group(*parts, "", _how(report), "", wrote)


def _correlations(report: CalibrationReport, rows: list[CalibrationRow], first: int) -> Table:
    """A column per checkpoint, the first of them number `first`."""
    made = _table("rank correlation with the error", *[letter(first + index) for index in range(len(rows))])
    doubt = safe(report.doubt)
    lines: list[tuple[str, Sequence[Measured]]] = [
        ("the score", [row.score_spearman for row in rows]),
        (f"  given the {doubt}", [row.partial_spearman for row in rows]),
        (doubt, [row.doubt_spearman for row in rows]),
        (f"error of {safe(report.reference)}, knows truth", [row.reference_spearman for row in rows]),
    ]
    if any(row.doubt_gap.value is not None for row in rows):
        lines.append((f"{doubt} - error, nats", [row.doubt_gap for row in rows]))
    for label, values in lines:
        made.add_row(label, *[_value(each) for each in values])
        if any(_sure(each) for each in values):
            made.add_row(Text(SURE, QUIET), *[Text(_sure(each), QUIET) for each in values])
    made.add_row("mean error", *[Text(number(row.loss)) for row in rows])
    return made


def _curves(report: CalibrationReport) -> Table:
    """Reliability at a glance: how the error climbs, and its ends."""
    made = _table("error by tenth", "low → high", "where lowest", "where highest")
    for index, row in enumerate(report.rows):
        for name, curve in (("score", row.reliability), ("trivial", row.doubt_reliability)):
            label = f"{letter(index)} by {name}"
            if curve.bins:
                made.add_row(label, sparkline([each.mean_error for each in curve.bins]), *_ends(curve))
            else:
                made.add_row(label, *[Text("–", QUIET)] * 3)
    return made


def _ends(curve: Reliability) -> list[Text]:
    ends = [curve.bins[0], curve.bins[-1]]
    return [Text(f"{each.mean_error:.3g}").append(_interval(each.ci95), QUIET) for each in ends]


def _interval(ci95: tuple[float, float] | None) -> str:
    return f" [{ci95[0]:.3g}, {ci95[1]:.3g}]" if ci95 else ""


def _apart(report: CalibrationReport, row: CalibrationRow, index: int) -> Table:
    """How well true next states are told from false ones; green what tells them best."""
    made = _table(f"{letter(index)} tells true from", *[each.name for each in report.false_states])
    keys = [each.key for each in report.false_states]
    best = {key: max([_known(telling.auroc[key]) for telling in row.telling], default=0.0) for key in keys}
    for telling in row.telling:
        variant = telling.key in WITHIN
        if variant and all(each.value is None for each in telling.auroc.values()):
            continue
        indent = "  " * variant
        made.add_row(f"{indent}{safe(telling.name)}", *[_told(telling.auroc[key], best[key]) for key in keys])
        if telling.key == "score":
            made.add_row(Text(SURE, QUIET), *[Text(_half(telling.auroc[key].ci95), QUIET) for key in keys])
        if telling.key in SAME_PLACE and any(each.value is not None for each in telling.same_place.values()):
            made.add_row(f"{indent}  at the same place", *[_told(telling.same_place[key]) for key in keys])
    return made


def _told(measured: Measured, best: float | None = None) -> Text:
    good = best is not None and measured.value == best and best > CHANCE
    words = number(None) if measured.value is None else f"{measured.value:.3f}"
    return Text(words, f"bold {GOOD}" if good else QUIET if measured.value is None else "")


def _sure(measured: Measured) -> str:
    """The interval of a correlation, where there is one."""
    ends = measured.ci95 if isinstance(measured, Resampled) else None
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""


def _half(ci95: tuple[float, float] | None) -> str:
    """Half of an AUROC's interval, short enough to stand below it: ±.05."""
    return f"±{(ci95[1] - ci95[0]) / 2:.2f}".replace("±0", "±") if ci95 else ""


def _known(measured: Measured) -> float:
    return measured.value if measured.value is not None else 0.0


def _value(measured: Measured) -> Text:
    return Text(number(measured.value), VALUE if measured.value is not None else QUIET)


def _table(label: str, *columns: str) -> Table:
    """The first column gives way where a terminal is narrow."""
    made = table(label, *columns)
    made.columns[0].justify, made.columns[0].no_wrap = "left", False
    return made


# ---------------------------------------------------------------------------------------------------- how


def _how(report: CalibrationReport) -> Table:
    """How every number came about; what is true of several checkpoints is said once."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=LABEL, max_width=18)
    grid.add_column(style=QUIET, overflow="fold")
    rows = report.rows
    grid.add_row("score and error", said([row.score_spearman.how for row in rows]))
    grid.add_row("  given", said([row.partial_spearman.how for row in rows]))
    grid.add_row(report.doubt, said([row.doubt_spearman.how for row in rows]))
    grid.add_row(f"error of {safe(report.reference)}", said([row.reference_spearman.how for row in rows]))
    if report.nats:
        grid.add_row("in nats", said([row.doubt_gap.how for row in rows]))
    grid.add_row("error by tenth", said([row.reliability.how for row in rows]))
    grid.add_row("  trivial", said([row.doubt_reliability.how for row in rows]))
    grid.add_row("true from", Text("AUROC: how often what is false has the higher number; 0.5 is chance"))
    for each in report.false_states:
        grid.add_row(f"  {each.name}", Text(safe(each.how)))
    tellings: dict[str, list[Telling]] = {}
    for row in rows:
        for telling in row.telling:
            tellings.setdefault(telling.key, []).append(telling)
    grid.add_row("by", Text(""))
    for key, same in tellings.items():
        name = "score" if key == "score" else same[0].name
        grid.add_row(f"  {safe(name)}", said([telling.how for telling in same]))
    grid.add_row("  at the same place", Text("how often it is higher at the same position, which needs no common zero"))
    sure = f"{report.resamples:,} resamples of whole windows, none where those are few; ± is half of one"
    grid.add_row("95 %", Text(f"interval, from {sure}"))
    return grid
