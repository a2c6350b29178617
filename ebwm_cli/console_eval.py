"""What `ebwm eval` found, drawn: the loss beside its references, more thinking, more starts, rollouts, checkpoints.

Pure: a report in, something printable out.
"""

from __future__ import annotations

from string import ascii_uppercase
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_tables import BAD, GOOD, LABEL, QUIET, Facts, against, render, table
from ebwm_cli.console_text import count, difference, duration, number, safe, sparkline, tail
from ebwm_cli.run.report import EvalReport, QuestionsRow, SamplesRow
from ebwm_cli.run.report_compare import ComparisonRow

VERDICTS = {"lower": GOOD, "higher": BAD, "not told apart": QUIET}
AHEAD = 4
"""Most horizons that the comparison shows."""
KIND = 11
"""Columns of the longest kind; references are wrapped to as many."""


@render.register
def _eval(report: EvalReport) -> RenderableType:
    facts = Facts()
    facts.add("model", Text(safe(report.checkpoint)))
    facts.add("held-out set", Text(f"{safe(report.data)} ({report.split})"))
    starts = f"{report.samples:,} starts, " if report.samples > 1 else ""
    steps = f"{report.steps} {'descent' if report.score == 'energy' else 'denoising'} steps, " if report.score else ""
    facts.add("held-out loss", number(report.loss), f"{steps}{starts}{report.windows:,} windows")
    if report.perplexity is not None:
        facts.add("perplexity", number(report.perplexity))
    if report.bits_per_byte is not None:
        facts.add("bits per byte", number(report.bits_per_byte))
    for row in report.references:
        beside = against(report.loss, row.loss)
        if row.perplexity is not None:
            beside = Text(f"perplexity {number(row.perplexity)}  ", QUIET).append(beside)
        facts.add(row.name, Text(number(row.loss), QUIET), beside)
    for row in report.against[: 1 if report.comparison else None]:  # the table says the rest
        mean, interval = _ends(row.mean, row.ci95)
        verdict = _verdict(row.ci95)
        other = row.other.removesuffix("/model.safetensors")
        facts.add(f"minus {tail(safe(other), 20)}", mean, Text(f"{interval} 95 %, {verdict}", VERDICTS[verdict]))
    doubt = number(report.doubt_error_spearman)
    if report.score:
        facts.add("energy and error", number(report.energy_error_spearman), f"rank correlation of {report.score}")
        facts.add("  without energy", Text(doubt, QUIET), f"{report.doubt}, the trivial predictor")
        facts.add("  energy beyond it", number(report.partial_spearman), "partial correlation")
    else:
        facts.add("doubt and error", Text(doubt, QUIET), f"rank correlation of {report.doubt}, the trivial predictor")
    spent = f"{count(report.flops_per_state)}FLOP per state"
    spent += f", {report.steps} steps, {report.samples:,} starts" if starts else ""
    facts.add("size", f"{count(report.params)} parameters", spent)
    parts: list[RenderableType] = [_by_steps(report)] if report.by_steps else []
    if report.by_stop:
        parts.append(_by_stop(report))
    if report.by_samples:
        parts.append(_by_samples(report))
    if report.questions:
        parts.append(_questions(report.questions))
    if report.rollout:
        parts.append(_rollout(report))
    if report.comparison:
        parts += _comparison(report.comparison)
    wrote = Text(f"{duration(report.seconds)}", QUIET)
    for file in report.files:
        wrote.append(f"\n{safe(file)}", LABEL)
    return Group(facts.panel("eval"), *[Group("", part) for part in parts], "", wrote)


def _by_steps(report: EvalReport) -> Table:
    reference = report.references[0]
    extra = ["perplexity"] if report.perplexity is not None else []
    told = f"{_of_one(report)}, {report.score} as descents go by it" if report.score == "energy" else _of_one(report)
    rows = table(
        "steps",
        "loss",
        *extra,
        f"against {reference.name}",
        str(report.score),
        "rises",
        "per state",
        title=f"more thinking{told}",
    )
    best = min((row.loss for row in report.by_steps), default=0.0)
    for row in report.by_steps:
        loss = Text(number(row.loss), f"bold {GOOD}" if row.loss == best else "")
        cells = [number(row.perplexity)] if extra else []
        found = [number(row.energy), f"{row.rises:.1%}", f"{row.seconds * 1e3:.3g} ms"]
        rows.add_row(f"{row.steps}", loss, *cells, against(row.loss, reference.loss), *found)
    return rows


def _of_one(report: EvalReport) -> str:
    """What is said where the loss above is of several starts."""
    return " from one start" if report.samples > 1 else ""


def _by_stop(report: EvalReport) -> Table:
    """What stopping saves, and what it costs."""
    rows = table(
        "stop",
        "loss",
        "change",
        "steps",
        "FLOPs",
        "of all",
        "used 0 1 2 ..",
        title=f"stopping by itself{_of_one(report)}",
    )
    whole = report.by_stop[0]
    for row in report.by_stop:
        change = against(row.loss, whole.loss) if row is not whole else Text("")
        share = f"{row.flops_per_state / whole.flops_per_state:.0%}"
        spread = Text(sparkline([float(each) for each in row.counts], len(row.counts)), LABEL)
        cells = [number(row.loss), change, f"{row.steps_used:.1f} of {row.steps}", count(row.flops_per_state)]
        rows.add_row(safe(row.stop), *cells, share, spread)
    return rows


def _by_samples(report: EvalReport) -> Table:
    extra = ["perplexity"] if report.perplexity is not None else []
    rows = table("samples", "chosen by", "loss", *extra, "minus any of them, 95 %", title="more starts")
    for row in report.by_samples:
        cells = [number(row.perplexity)] if extra else []
        rows.add_row(f"{row.samples}", safe(row.select), number(row.loss), *cells, _beside(row))
    return rows


def _beside(row: SamplesRow) -> Text:
    """What choosing has brought, coloured where it is told apart."""
    if row.difference is None:
        return Text("")
    return Text(" ".join(_ends(row.difference, row.ci95)), VERDICTS[_verdict(row.ci95)])


def _ends(mean: float, ci95: tuple[float, float] | None) -> tuple[str, str]:
    """A difference and its interval; a dash where there were too few windows for one."""
    return difference(mean, *ci95) if ci95 else (f"{mean:+z.4f}", "–")


def _verdict(ci95: tuple[float, float] | None) -> str:
    """What an interval tells, in a key of VERDICTS."""
    low, high = ci95 or (-1.0, 1.0)
    return "lower" if high < 0 else "higher" if low > 0 else "not told apart"


def _questions(row: QuestionsRow) -> Table:
    chance = "" if row.chance is None else f", chance {row.chance:.1%}"
    rows = table("questions", "by energy", "by likelihood", title=f"{row.questions:,} questions{chance}")
    picked, written = row.multiple_choice, row.questions - row.multiple_choice
    for name, asked, energy, likelihood in (
        ("picked right", picked, row.accuracy_by_energy, row.accuracy_by_likelihood),
        ("written right", written, row.exact_match_by_energy, row.exact_match_by_likelihood),
    ):
        if asked:
            rows.add_row(
                f"{asked:,} {name}", *("–" if share is None else f"{share:.1%}" for share in (energy, likelihood))
            )
    return rows


def _rollout(report: EvalReport) -> Table:
    errors = sparkline([row.loss for row in report.rollout])
    rows = table(
        "ahead", "loss", report.references[0].name, "change", "psnr", title=f"rollout, predictions fed back  {errors}"
    )
    for row in report.rollout:
        psnr = "–" if row.psnr is None else f"{row.psnr:.1f} dB"
        referred = number(row.reference_loss)
        rows.add_row(f"{row.horizon}", number(row.loss), referred, against(row.loss, row.reference_loss), psnr)
    return rows


def _comparison(compared: list[ComparisonRow]) -> list[RenderableType]:
    """Checkpoints are lettered, so that their names have a line each and the numbers all the room."""
    first, shown = compared[0], _shown_horizons(len(compared[0].rollout))
    nats = first.perplexity is not None
    heads = ["loss\nperplexity" if nats else "loss", "A minus this\n95 %\nA is"]
    heads += ["ahead\n" + ", ".join(f"{ahead + 1}" for ahead in shown)] if shown else []
    rows = table("\nkind", *heads, "size\nper state", "training\nFLOPs\ntime")
    rows.columns[0].justify = "left"
    rows.padding = (0, 1, 0, 0)
    names = Table.grid(padding=(0, 2))
    names.add_column(style=LABEL, no_wrap=True)
    names.add_column(overflow="fold")
    for place, row in enumerate(compared):
        if row.kind is None:
            if compared[place - 1].kind is not None:
                rows.add_section()
            who, spent = Text("\n".join(wrap(safe(row.name), KIND)), QUIET), ["", ""]
        else:
            letter = _letter(place)
            names.add_row(letter, safe(row.name))
            who, spent = Text(letter, LABEL).append(f"\n{safe(row.kind)}", "default"), _spent(row)
        loss = Text(number(row.loss)).append(f"\n{number(row.perplexity)}" if nats else "", QUIET)
        ahead = [_pairs([number(row.rollout[each]) for each in shown])] if shown else []
        rows.add_row(who, loss, _apart(row), *ahead, *spent)
    return [Group(Text("side by side, on the same windows", LABEL), names, "", rows)]


def _letter(place: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    return ascii_uppercase[place % 26] + (str(place // 26) if place >= 26 else "")


def _spent(row: ComparisonRow) -> list[str]:
    """Size over time per state; training FLOPs over training time."""
    params = "–" if row.params is None else count(row.params)
    per_state = "–" if row.seconds_per_state is None else f"{row.seconds_per_state * 1e3:.3g} ms"
    flops = "–" if row.train_flops is None else count(row.train_flops)
    took = "–" if row.train_seconds is None else duration(row.train_seconds)
    return [f"{params}\n{per_state}", f"{flops}\n{took}"]


def _apart(row: ComparisonRow) -> Text:
    """Difference, interval and verdict, coloured as what it means for the first."""
    if row.difference is None or row.verdict is None:
        return Text("–", QUIET)
    return Text("\n".join((*_ends(row.difference, row.ci95), row.verdict)), VERDICTS[row.verdict])


def _shown_horizons(longest: int) -> list[int]:
    """At most AHEAD of 0 .. longest - 1, both ends included."""
    shown = min(AHEAD, longest)
    return [round(each * (longest - 1) / max(1, shown - 1)) for each in range(shown)]


def _pairs(words: list[str]) -> str:
    """Two a line."""
    return "\n".join(" ".join(words[at : at + 2]) for at in range(0, len(words), 2))
