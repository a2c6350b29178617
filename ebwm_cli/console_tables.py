"""Final reports of prepare and train as Rich panels, and what every panel is made of. A report in, something printable
out; only which command comes next depends on where it would look."""

from __future__ import annotations

from functools import singledispatch

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_text import change, count, duration, number, safe, size
from ebwm_cli.run.report import (
    PlanReport,
    PrepareReport,
    Quarantined,
    Report,
    TrainReport,
)
from ebwm_cli.run.report_text import PrepareTextReport
from ebwm_cli.run.what_next import after_preparing, after_training

LABEL, VALUE, GOOD, BAD, QUIET = "cyan", "bold", "green", "yellow", "dim"
QUARANTINE_ROWS = 12


@singledispatch
def render(report: Report) -> RenderableType:
    """A report that ends a command, drawn; unknown kinds as their fields."""
    facts = Facts()
    for key, value in report.model_dump().items():
        facts.add(key.replace("_", " "), safe(str(value)))
    return facts.panel("done")


class Facts:
    """Labelled values in two columns, for a panel."""

    def __init__(self) -> None:
        self.grid = Table.grid(padding=(0, 2))
        self.grid.add_column(style=LABEL, no_wrap=True)
        self.grid.add_column(overflow="fold")

    def add(self, label: str, value: str | Text, note: str | Text = "") -> None:
        line = Text(value, VALUE) if isinstance(value, str) else value.copy()
        if note:
            line.append("  ").append(Text(note, QUIET) if isinstance(note, str) else note)
        self.grid.add_row(label, line)

    def add_drawn(self, label: str, value: RenderableType) -> None:
        self.grid.add_row(label, value)

    def panel(self, title: str, *below: RenderableType, style: str = LABEL) -> Panel:
        body = Group(self.grid, *below) if below else self.grid
        return framed(title, body, style)


class Pieces:
    """Pieces of text side by side; a line ends between two of them and tears none apart that fits one. Rich breaks
    lines at any white space, which a space that forbids it is, too."""

    def __init__(self, pieces: list[Text], between: str = "   ") -> None:
        self.pieces, self.between = pieces, between

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for piece in self.pieces:
            if line and line.cell_len + cell_len(self.between) + piece.cell_len > options.max_width:
                yield line
                line = Text()
            line.append(self.between if line else "").append_text(piece)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        sizes = [piece.cell_len for piece in self.pieces] or [0]
        whole = sum(sizes) + cell_len(self.between) * (len(sizes) - 1)
        return Measurement(min(max(sizes), options.max_width), min(whole, options.max_width))


def framed(title: str, body: RenderableType, style: str = LABEL) -> Panel:
    """The one frame of this tool."""
    return Panel(
        body,
        title=Text(title, "bold"),
        title_align="left",
        border_style=style,
        box=box.ROUNDED,
        padding=(0, 1),
    )


def table(*columns: str, title: str = "") -> Table:
    """A light table: the first column left, numbers right."""
    made = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_style=LABEL, title_justify="left", header_style=QUIET,
        pad_edge=False, padding=(0, 1), show_edge=False,
    )  # fmt: skip
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    return made


def against(loss: float, reference: float) -> Text:
    """The change of a loss against a reference, green where it is lower."""
    return Text(change(loss, reference), GOOD if loss < reference else BAD)


def next_command(*commands: str) -> Text:
    """What a person will want to type now."""
    text = Text("\n")
    for index, command in enumerate(commands):
        text.append("\n      " if index else "next  ", QUIET).append(safe(command), "bold cyan")
    return text


@render.register
def _prepare(report: PrepareReport) -> RenderableType:
    facts = Facts()
    reused = f"{report.reused_clips:,} unchanged since the last time" if report.reused_clips else ""
    facts.add("clips", f"{report.clips:,}", reused)
    speed = f"{report.frames_per_second:,.0f} frames/s" if report.frames_per_second else "nothing to decode"
    facts.add("frames", f"{report.frames:,}", f"{speed}, {duration(report.seconds)}")
    facts.add("states", f"{report.states:,}", f"of {report.latent_dim:,} numbers each")
    windows = report.windows
    train, held = f"train {windows.train:,}", f"val {windows.val:,}  test {windows.test:,}"
    facts.add("windows", train, Text(held, VALUE).append(f"  {report.context} states of context", QUIET))
    whole = "whole clips" if report.split_by == "clip" else "time blocks inside each clip, a window apart"
    facts.add("held out", Text(whole))
    explained = f"keeps {report.explained_variance:.2%} of the variance" if report.explained_variance else ""
    facts.add("encoder", report.encoder, explained)
    facts.add("written to", safe(report.out))
    ahead = next_command(*after_preparing(report.out))
    return facts.panel("prepared", *_aside(report.quarantined, report.out), ahead, style=GOOD)


def _aside(quarantined: list[Quarantined], out: str) -> list[RenderableType]:
    """What was set aside, and why."""
    if not quarantined:
        return []
    aside = Table.grid(padding=(0, 2))
    aside.add_column(overflow="fold", style=BAD)
    aside.add_column(overflow="fold", style=QUIET)
    for row in quarantined[:QUARANTINE_ROWS]:
        aside.add_row(safe(row.file), safe(row.reason))
    more = len(quarantined) - QUARANTINE_ROWS
    if more > 0:
        aside.add_row(f"and {more:,} more", f"in {safe(out)}/quarantine.jsonl")
    return [Text(f"\nset aside: {len(quarantined):,}", BAD), aside]


@render.register
def _prepare_text(report: PrepareTextReport) -> RenderableType:
    facts = Facts()
    facts.add("documents", f"{report.documents:,}", f"in {report.files:,} files" if report.files > 1 else "in one file")
    rate = f"{size(report.bytes_per_second)}/s, " if report.bytes_per_second else "nothing new to tokenize, "
    facts.add("text", size(report.bytes), f"{rate}{duration(report.seconds)}")
    facts.add("tokens", f"{report.tokens:,}", f"{report.bytes_per_token:.2f} bytes per token")
    facts.add("vocabulary", f"{report.vocab_size:,}", f"tokenizer {report.tokenizer}")
    windows = report.windows
    train, held = f"train {windows.train:,}", f"val {windows.val:,}  test {windows.test:,}"
    facts.add("windows", train, Text(held, VALUE).append(f"  {report.context} tokens of context", QUIET))
    whole = "whole documents" if report.split_by == "document" else "blocks inside each document, a window apart"
    facts.add("held out", Text(whole))
    facts.add("begins", sample(report.sample))
    facts.add("written to", safe(report.out))
    ahead = next_command(*after_preparing(report.out))
    return facts.panel("prepared", *_aside(report.quarantined, report.out), ahead, style=GOOD)


def sample(tokens: list[str]) -> Text:
    """Tokens with their borders to be seen."""
    line = Text()
    for index, token in enumerate(tokens):
        shown = safe(token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·"))
        line.append("" if not index else "|", QUIET).append(shown, LABEL if index % 2 else VALUE)
    return line


@render.register
def _plan(report: PlanReport) -> RenderableType:
    facts = Facts()
    facts.add("kind", report.kind)
    facts.add("parameters", count(report.params), f"{count(report.params_non_embedding)} without embeddings")
    steps = f"{count(report.flops_per_step)}FLOP per step, {report.steps:,} steps"
    facts.add("training", f"{count(report.flops_total)}FLOP", f"{steps}, inner steps counted")
    facts.add("thinking", f"{count(report.flops_per_state)}FLOP", "per predicted state, context cached")
    if report.matched:
        facts.add("matched", safe(report.matched))
    facts.add("memory", size(report.memory_bytes), f"on each of {report.devices} devices" if report.devices > 1 else "")
    facts.add("disk", size(report.disk_bytes), "checkpoints kept")
    facts.add("windows", "–" if report.windows is None else f"{report.windows:,}", "to train on")
    unknown = "not known without a prepared set"
    if report.seconds_estimate is None:
        facts.add("time", "–", unknown)
    else:
        told = "of updating, then training ends" if report.deadline else "from a few measured steps"
        if report.devices > 1 and not report.deadline:
            told += " of one device's share, without what they say to each other"
        facts.add("time", f"about {duration(report.seconds_estimate)}", told)
    return facts.panel(f"plan · {report.recipe} · nothing was written")


@render.register
def _train(report: TrainReport) -> RenderableType:
    facts = Facts()
    facts.add("held-out loss", number(report.val_loss), against(report.val_loss, report.reference_loss))
    facts.add(report.reference, Text(number(report.reference_loss), QUIET))
    if report.perplexity is not None:
        facts.add("perplexity", number(report.perplexity))
    facts.add("steps", f"{report.step:,}", f"{duration(report.seconds)}, {report.states_per_second:,.0f} states/s")
    if report.skipped:
        facts.add("skipped", Text(f"{report.skipped:,} steps with a NaN or infinity", BAD))
    facts.add("parameters", count(report.params), f"{count(report.flops_per_step)}FLOP per step")
    facts.add("model", safe(report.checkpoint))
    return facts.panel("trained", next_command(*after_training(report.out, one_pass=report.one_pass)), style=GOOD)


def said(texts: list[str]) -> Text:
    """One text for every checkpoint, in order; what is the same of several is said once, with their letters."""
    unique = list(dict.fromkeys(texts))
    if len(unique) == 1:
        return Text(safe(unique[0]))
    who = {text: ", ".join(letter(index) for index, each in enumerate(texts) if each == text) for text in unique}
    return Text("\n".join(f"{letters}: {safe(text)}" for text, letters in who.items()))


def letter(index: int) -> str:
    """A, B, ... Z, and numbers from there."""
    return chr(ord("A") + index) if index < 26 else f"{index + 1}"
