"""Facets, drawn: one column per checkpoint, one line per number, and below how each number was obtained."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_tables import GOOD, LABEL, QUIET, VALUE, Facts, letter, render, said, table
from ebwm_cli.console_text import duration, number, safe
from ebwm_cli.run.report_facets import FacetsReport, FacetsRow, Measured

COLUMNS = 4
"""Checkpoints side by side; more of them get tables of their own."""

# What a prediction does, the number that says so, and the field that holds it.
LINES = [
    ("1 shapes the state", "hidden state change", "hidden_change"),
    ("2 is evaluated", "told from others", "other_auroc"),
    ("", "told from near miss", "near_auroc"),
    ("3 is thought about", "steps by difficulty", "steps_spearman"),
    ("", "steps used", "steps_used"),
    ("4 is doubted", "score and error", "error_spearman"),
    ("", "foreign context", "context_auroc"),
]
LOSSES_AFTER = "steps_used"


@render.register
def _facets(report: FacetsReport) -> RenderableType:
    facts = Facts()
    facts.add("held-out set", Text(f"{safe(report.data)} ({report.split})"))
    facts.add("windows", f"{report.windows:,}", f"{report.stride:,} predictions each")
    for index, row in enumerate(report.rows):
        judged_by = f"judges by {row.score}" if row.score else "judges nothing"
        facts.add(letter(index), Text(safe(row.kind), VALUE), f"{safe(row.checkpoint)}, {safe(judged_by)}")
    tables = [
        part
        for first in range(0, len(report.rows), COLUMNS)
        for part in (_numbers(report.rows[first : first + COLUMNS], first), "")
    ]
    wrote = Text(duration(report.seconds), QUIET)
    for file in report.files:
        wrote.append(f"\n{safe(file)}", LABEL)
    return Group(facts.panel("facets"), "", *tables, _how(report), "", wrote)


def _numbers(rows: list[FacetsRow], first: int) -> Table:
    """A column per checkpoint, the first of them number `first`."""
    made = table("a prediction", *[letter(first + index) for index in range(len(rows))])
    made.columns[0].justify = "left"
    for facet, label, field in LINES:
        if facet:
            made.add_row(Text(facet, LABEL))
        made.add_row(f"  {label}", *[_value(getattr(row, field)) for row in rows])
        if field == LOSSES_AFTER:
            for steps, losses in _losses(rows).items():
                best = [min((each.loss for each in row.by_steps), default=None) for row in rows]
                cells = [
                    Text(number(loss), f"bold {GOOD}" if loss is not None and loss == low else "")
                    for loss, low in zip(losses, best, strict=True)
                ]
                made.add_row(f"  loss, {steps} step{'s' if steps > 1 else ''}", *cells)
    return made


def _losses(rows: list[FacetsRow]) -> dict[int, list[float | None]]:
    """By steps, the loss of every checkpoint, None where it has none."""
    every = sorted({each.steps for row in rows for each in row.by_steps})
    by_steps = [{each.steps: each.loss for each in row.by_steps} for row in rows]
    return {steps: [losses.get(steps) for losses in by_steps] for steps in every}


def _value(measured: Measured) -> Text:
    return Text(number(measured.value), VALUE if measured.value is not None else QUIET)


def _how(report: FacetsReport) -> Table:
    """How every number came about; what is true of several checkpoints is said once."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=LABEL, max_width=18)
    grid.add_column(style=QUIET, overflow="fold")
    for _, label, field in LINES:
        grid.add_row(label, said([getattr(row, field).how for row in report.rows]))
        if field == LOSSES_AFTER:
            grid.add_row("loss by steps", said([row.by_steps_how for row in report.rows]))
    return grid
