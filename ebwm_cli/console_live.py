"""What moves while a command runs: a bar and the clip at hand for prepare, vital signs of training, runs of a study."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ebwm_cli.console_running import RunningStudy
from ebwm_cli.console_tables import BAD, GOOD, LABEL, QUIET, VALUE, against, framed
from ebwm_cli.console_text import duration, number, safe, size, sparkline
from ebwm_cli.console_write import writing
from ebwm_cli.run.report import ClipReport, Report, TrainLine, ValidationLine
from ebwm_cli.run.report_scale import ScaleProgress
from ebwm_cli.run.report_text import TextReport, TokenReport


class Progress:
    """The latest state of a running command; drawn anew at each refresh, at the terminal's width of the moment."""

    def __init__(self, waiting: str) -> None:
        self._spinner = Spinner("dots", Text(f" {waiting}", QUIET), style=LABEL)
        self._encoding = Spinner("dots", Text(" all decoded, encoding and writing", QUIET), style=LABEL)
        self.reset()

    def reset(self) -> None:
        """Forget everything: a command has ended, another may follow."""
        self._lines: list[TrainLine] = []
        self._held_out: list[ValidationLine] = []
        self._clip: ClipReport | None = None
        self._text: TextReport | None = None
        self._tokens: list[TokenReport] = []
        self._aside: list[ClipReport] = []
        self._study = RunningStudy()

    def take(self, report: Report) -> None:
        """Note a progress report; others change nothing."""
        if isinstance(report, TrainLine):
            self._lines.append(report)
        elif isinstance(report, ValidationLine):
            self._held_out.append(report)
        elif isinstance(report, TextReport):
            self._text = report
        elif isinstance(report, TokenReport):
            self._tokens.append(report)
        elif isinstance(report, ScaleProgress):
            self._study.take(report)
        elif isinstance(report, ClipReport):
            self._clip = report
            if report.quarantined:
                self._aside.append(report)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        if self._lines:
            yield self._training(room)
        elif self._clip:
            yield self._preparing(room, self._clip)
        elif self._text:
            yield self._reading(room, self._text)
        elif self._study.progress:
            yield self._studying(room, options.size.height, self._study.progress.study)
        elif self._tokens:
            yield framed("writing", writing(self._tokens, max(4, options.size.height - 6)))
        else:
            yield self._spinner

    def _training(self, room: int) -> RenderableType:
        line = self._lines[-1]
        history = max(4, room - 64)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style=LABEL, no_wrap=True)
        grid.add_column(no_wrap=True, min_width=17)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        loss = sparkline([past.loss for past in self._lines], history)
        grid.add_row("loss", Text(number(line.loss), VALUE), Text(loss, GOOD), "")
        if self._held_out:
            last = self._held_out[-1]
            name = last.reference.removesuffix(" the last")
            beside = Text(f"{name} {number(last.reference_loss)}  ", QUIET)
            trend = sparkline([past.val_loss for past in self._held_out], history)
            beside.append(against(last.val_loss, last.reference_loss))
            grid.add_row("held-out", Text(number(last.val_loss), VALUE), Text(trend, GOOD), beside)
        if line.energy_start is not None and line.energy_final is not None:
            energies = Text(f"{number(line.energy_start)} → {number(line.energy_final)}", VALUE)
            fall = sparkline([past.energy_final for past in self._lines if past.energy_final is not None], history)
            gap = line.energy_start - line.energy_final
            grid.add_row("energy", energies, Text(fall, LABEL), Text(f"gap {number(gap)}", GOOD if gap > 0 else BAD))
        norms = sparkline([past.grad_norm for past in self._lines], history)
        rate = Text(f"lr {line.learning_rate:.2e}", QUIET)
        grid.add_row("gradient", Text(number(line.grad_norm), VALUE), Text(norms, QUIET), rate)
        speed = Text(f"{line.states_per_second:,.0f} states/s", QUIET)
        if line.step_size is None:
            grid.add_row("speed", Text(f"{line.states_per_second:,.0f} states/s", VALUE), "", "")
        else:
            grid.add_row("step size", Text(number(line.step_size), VALUE), "", speed)
        if line.skipped:
            grid.add_row("skipped", Text(f"{line.skipped:,}", BAD), "", Text("NaN or infinity", BAD))
        both = Table.grid(expand=True)
        both.add_row(self._bar(room, f"step {line.step:,} of {line.steps:,}", line.step, line.steps, line.eta_seconds))
        both.add_row(grid)
        return framed("training", both)

    def _preparing(self, room: int, clip: ClipReport) -> RenderableType:
        both = Table.grid(expand=True)
        both.add_row(self._bar(room, f"clip {clip.done:,} of {clip.total:,}", clip.done, clip.total, clip.eta_seconds))
        if clip.done < clip.total:
            line = Text(no_wrap=True, overflow="ellipsis")
            line.append(f"{clip.frames_per_second:,.0f} frames/s  ", QUIET).append(safe(clip.clip), VALUE)
            both.add_row(line)
        else:
            both.add_row(self._encoding)
        for aside in self._aside[-3:]:
            note = Text(f"set aside  {safe(aside.clip)}: {safe(aside.reason or '')}", BAD)
            note.no_wrap, note.overflow = True, "ellipsis"
            both.add_row(note)
        return framed("preparing", both)

    def _reading(self, room: int, text: TextReport) -> RenderableType:
        both = Table.grid(expand=True)
        words = f"{size(text.bytes_done)} of {size(text.bytes_total)}"
        both.add_row(self._bar(room, words, text.bytes_done, text.bytes_total, text.eta_seconds))
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{text.tokens:,} tokens  {size(text.bytes_per_second)}/s  ", QUIET).append(safe(text.file), VALUE)
        both.add_row(line)
        return framed("preparing", both)

    def _studying(self, room: int, height: int, name: str) -> RenderableType:
        ended, total = self._study.counts
        both = Table.grid(expand=True)
        both.add_row(self._bar(room, f"run {ended:,} of {total:,}", ended, total, self._study.left))
        both.add_row(self._study.drawn(height - 3))
        return framed(f"scale · {safe(name)}", both)

    def _bar(self, room: int, what: str, done: int, total: int, eta: float) -> RenderableType:
        row = Table.grid(padding=(0, 2))
        words = Text(what, VALUE)
        left = Text(f"{duration(eta)} left", LABEL)
        bar = ProgressBar(
            total=max(1, total), completed=done, width=max(10, room - 10 - words.cell_len - left.cell_len)
        )
        row.add_row(words, bar, left)
        return row
