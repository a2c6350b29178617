"""Difficulty, drawn: a line per class of states, by group and from the easiest on, and how thinking goes with it.

Pure: a report in, something printable out.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_tables import BAD, GOOD, LABEL, QUIET, VALUE, Facts, render, table
from ebwm_cli.console_text import change, duration, number, safe
from ebwm_cli.run.report_difficulty import DifficultyReport, DifficultyRow
from ebwm_cli.run.thought_words import stop_in_words


@render.register
def _difficulty(report: DifficultyReport) -> RenderableType:
    facts = Facts()
    judged = f"judges by {report.score}" if report.score else "predicts in one pass: losses are all there is"
    facts.add("model", Text(safe(report.checkpoint)))
    facts.add("kind", safe(report.kind), safe(judged))
    facts.add("held-out set", Text(f"{safe(report.data)} ({report.split})"))
    facts.add("windows", f"{report.windows:,}", f"{report.stride:,} predictions each, {report.labelled:,} labelled")
    facts.add("reference", safe(report.reference))
    wrote = Text(duration(report.seconds), QUIET)
    for file in report.files:
        wrote.append(f"\n{safe(file)}", LABEL)
    title = f"by difficulty · {safe(report.labels)}"
    return Group(facts.panel(title), "", _classes(report), "", _correlations(report), "", _how(report), "", wrote)


def _classes(report: DifficultyReport) -> Table:
    """Losses of every class that there is any of."""
    thinks = report.many is not None
    few, many = (f"{steps} step{'' if steps == 1 else 's'}" for steps in (report.few, report.many))
    more = [few, many, "change", "used", "loss"] if thinks else ["loss"]
    made = table("class", "number", "reference", *more)
    made.collapse_padding = True
    made.columns[0].justify = "left"
    for group in report.groups:
        rows = [row for row in report.rows if row.group == group.group and row.positions]
        if rows and len(report.groups) > 1:
            made.add_row(Text(safe(group.group), LABEL))
        indent = "  " if len(report.groups) > 1 else ""
        for row in rows:
            cells = [number(row.loss)]
            if thinks:
                losses = {each.steps: each.loss for each in row.by_steps}
                fixed = [number(losses.get(steps or 0)) for steps in (report.few, report.many)]
                used = "–" if row.steps_used is None else f"{row.steps_used:.1f}"
                cells = [*fixed, _change(row), used, number(row.stopped_loss)]
            name = safe(row.name).removeprefix(f"{group.group}, ")
            made.add_row(Text(f"{indent}{name}"), f"{row.positions:,}", Text(number(row.reference_loss), QUIET), *cells)
    return made


def _change(row: DifficultyRow) -> Text:
    """In per cent; in brackets where more thinking may have changed nothing, or too little was seen to say."""
    if row.change is None:
        return Text("–", QUIET)
    said = change(1 + row.change, 1.0)
    low, high = row.change_ci95 or (-1.0, 1.0)
    if low <= 0 <= high:
        return Text(f"({said})", QUIET)
    return Text(said, GOOD if row.change < 0 else BAD)


def _correlations(report: DifficultyReport) -> Table:
    names = ["steps"] if report.many is not None else []
    last = ["steps and error"] if names else []
    made = table("correlation with difficulty", *names, "error", "reference", *last)
    made.columns[0].justify = "left"
    for group in report.groups:
        steps = [group.steps_spearman] if names else []
        own = [group.steps_error_spearman] if names else []
        values = [*steps, group.error_spearman, group.reference_spearman, *own]
        made.add_row(
            Text(f"{safe(group.group)}, {group.positions:,} positions"),
            *[Text(number(value), VALUE if value is not None else QUIET) for value in values],
        )
    return made


def _how(report: DifficultyReport) -> RenderableType:
    if report.many is None:
        return Text("number: predictions of the class; losses: their means", QUIET)
    many = f"{report.many} step{'' if report.many == 1 else 's'}"
    text = (
        "number: predictions of the class; losses: their means, when so many steps are spent\n"
        f"change: from {report.few} to {report.many} steps; in brackets where its 95 % interval over windows holds 0, "
        "or windows are too few for one\n"
        f"used, and the loss beside it: {_stop(report)}\n"
        "correlation: of ranks; of the steps used, of the same predictions' error, and of the reference's\n"
        f"steps and error: of the steps used with the model's own error at {many}, whatever the labels say"
    )
    return Text(text, QUIET)


def _stop(report: DifficultyReport) -> str:
    score, drop = safe(report.score or ""), report.drop or ""
    return stop_in_words(score, report.tolerance or 0.0, drop, report.patience or 1, report.budget or 0)
