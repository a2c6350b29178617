"""What people and programs see: JSON that parses, few plain lines, tables that fit, no way for a name to break them."""

import io
import json
import math
import time

import pytest
from rich.console import Console

from ebwm_cli import console
from ebwm_cli.console import View, show, show_error
from ebwm_cli.console_live import Progress
from ebwm_cli.console_tables import render
from ebwm_cli.console_text import change, count, difference, duration, number, plain_line, size, sparkline
from ebwm_cli.run import report as reports

CLIP = reports.ClipReport(
    clip="a/ball_[red].mp4", frames=444, states=68, reused=False, reason=None, quarantined=False, done=1, total=3,
    frames_per_second=1203.4, eta_seconds=2.0,
)  # fmt: skip
ASIDE = CLIP.model_copy(update={"clip": "bad\n\x1b[31m.mp4", "reason": "no video", "quarantined": True, "done": 2})
PREPARED = reports.PrepareReport(
    out="data/clips", clips=2, frames=888, states=136, windows=reports.WindowCounts(train=90, val=3, test=4),
    context=16, latent_dim=128, encoder="pca", explained_variance=0.9423, split_by="time",
    quarantined=[reports.Quarantined(file="bad\n.mp4", reason="no video")] * 20, reused_clips=1, seconds=1.5,
    frames_per_second=600.0,
)  # fmt: skip
PLAN = reports.PlanReport(
    recipe="video_ebt_4xs", kind="ebt", params=412345, params_non_embedding=396000, flops_per_step=3.2e9,
    flops_total=1.3e13, flops_per_state=3.2e7, devices=2, memory_bytes=123456789, disk_bytes=23456789, steps=4000,
    windows=None, seconds_estimate=None,
)  # fmt: skip
HELD_OUT = reports.ValidationLine(
    step=20, val_loss=0.15, perplexity=None, reference="copying the last", reference_loss=0.2, energy_start=1.0,
    energy_final=0.5, best=True, seconds=0.1,
)  # fmt: skip
TRAINED = reports.TrainReport(
    out="runs/r", checkpoint="runs/r/model.safetensors", step=100, val_loss=math.nan, perplexity=None,
    reference="copying the last", reference_loss=0.2, params=412345, flops_per_step=3.2e9, seconds=75.0,
    states_per_second=4213.0, skipped=1,
)  # fmt: skip
EVALUATED = reports.EvalReport(
    checkpoint="runs/a_long_name_of_a_run_that_goes_on/model.safetensors", data="data/clips", split="test", windows=41,
    loss=0.118, score="energy", steps=4,
    by_steps=[
        reports.StepsRow(steps=k, loss=0.2 / k, perplexity=None, energy=-k, rises=0.0, seconds=1e-4) for k in (1, 16)
    ],
    by_stop=[
        reports.StopRow(stop="fixed", steps=4, loss=0.12, steps_used=4, counts=[0, 0, 0, 0, 9], flops_per_state=2e6),
        reports.StopRow(stop="energy", steps=4, loss=0.121, steps_used=2, counts=[0, 3, 3, 3, 0], flops_per_state=1e6),
    ],
    by_samples=[reports.SamplesRow(samples=4, select="lowest energy", loss=0.1, perplexity=None)],
    copy_last_loss=0.181, mean_loss=0.3,
    references=[reports.ReferenceRow(name="copying the last", loss=0.181, perplexity=None)], stride=16, questions=None,
    against=[reports.Difference(other="copy last", mean=-0.06, ci95=(-0.07, -0.05))], comparison=[],
    energy_error_spearman=None, doubt="size of the predicted move", doubt_error_spearman=0.5, partial_spearman=0.1,
    rollout=[reports.RolloutRow(horizon=1, loss=0.1, reference_loss=0.2, psnr=None)], perplexity=None,
    bits_per_byte=None, params=412345, flops_per_state=3.2e7, seconds=3.0, files=["runs/r/eval/report.json"],
)  # fmt: skip
ENERGIES = [2.0 * 0.9**k for k in range(65)]
THOUGHT = reports.ThinkReport(
    score="energy",
    checkpoint="runs/r/model.safetensors", source="data/clips", context=16, horizon=2, samples=2,
    select="energy", beam=1, stop="fixed", backtrack=False,
    steps=64, steps_used=[64, 64], flops=4.2e6, stopped="all 64 steps were spent", energies=ENERGIES, energy_gap=1.9,
    descent=[
        reports.DescentRow(step=k, energy=e, drop=0.1, move=0.01, error=None) for k, e in enumerate(ENERGIES)
    ],
    position_energies=[0.1] * 18, sample_energies=[0.1, 0.2], sample_agreement=None, sample_spread=0.02,
    energy_rank=0.83, ranked_energies=512, ranked_among="held-out energies", error=0.1, reference=None,
    reference_error=None, predicted_text=None, true_text=None, likeliest=[],
    rollout_errors=[0.1, 0.2], states=2, files=["runs/r/think/strip.png"], seconds=0.5,
)  # fmt: skip
FINAL = [PREPARED, PLAN, TRAINED, EVALUATED, THOUGHT]


def test_a_command_whose_reports_can_not_be_drawn_is_closed(monkeypatch):
    closed = []

    def command():
        try:
            yield reports.Notice(notice="hello")
        finally:
            closed.append(1)

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr("ebwm_cli.console._Plain.take", gone)
    running = command()
    with pytest.raises(BrokenPipeError):
        show(running, View())
    assert closed


def line(step, **changes):
    values = {
        "step": step, "steps": 100, "loss": 1 / step, "energy_start": 1.0, "energy_final": 0.5, "step_size": 1.0,
        "grad_norm": 0.3, "learning_rate": 1e-3, "states_per_second": 4213.0, "seconds": step / 10,
        "eta_seconds": 10.0, "skipped": 0,
    }  # fmt: skip
    return reports.TrainLine(**(values | changes))


def drawn(renderable, width):
    paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    paper.print(renderable)
    return paper.file.getvalue()


def test_a_sparkline_goes_from_lowest_to_highest():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▄▄▄"
    assert sparkline([]) == ""
    assert sparkline([math.nan, 1, 2, math.inf]) == " ▁█ "
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline(list(range(1000)), 2) == "▁█"


def test_small_differences_have_the_digits_that_tell_them_from_nothing():
    assert difference(-0.0091, -0.0266, 0.0008) == ("-0.0091", "[-0.0266, +0.0008]")
    assert difference(-4.2e-5, -6.71e-5, -2.04e-5) == ("-0.000042", "[-0.000067, -0.000020]")
    assert difference(-1e-9, -2e-9, 0.0) == ("+0.000000", "[+0.000000, +0.000000]")
    assert difference(-0.0, -0.0, 0.0) == ("+0.0000", "[+0.0000, +0.0000]")
    assert difference(math.nan, math.nan, math.nan) == ("+nan", "[+nan, +nan]")


def test_numbers_are_short_and_right():
    assert [number(v) for v in (0.12345, 12.3, 12345.6, 1e-5, 0.0, None, math.nan)] == [
        "0.1235", "12.3000", "12,345.6", "1.00e-05", "0.0000", "–", "–",
    ]  # fmt: skip
    assert [duration(v) for v in (0.42, 12, 59.6, 200, 7500, math.inf)] == [
        "0.42 s", "12 s", "1m 00s", "3m 20s", "2h 05m", "–",
    ]  # fmt: skip
    assert [count(v) for v in (999, 123456, 1.3e13)] == ["999", "123,456", "13 T"]
    assert [size(v) for v in (12, 2048, 3 * 2**30)] == ["12 B", "2 KiB", "3 GiB"]
    assert (change(0.9, 1.0), change(2.0, 1.0), change(1.0, 0.0)) == ("−10.0 %", "+100.0 %", "")


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("report", FINAL, ids=lambda report: type(report).__name__)
def test_final_reports_fit_the_terminal(report, width):
    text = drawn(render(report), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_final_reports_say_what_matters():
    assert "94.23%" in drawn(render(PREPARED), 80)
    assert "and 8 more" in drawn(render(PREPARED), 80)
    assert "not told apart" not in drawn(render(EVALUATED), 100)
    thought = drawn(render(THOUGHT), 80)
    assert thought.index("\n   0 ") < thought.index("\n   1 ") < thought.index("\n  64 ")
    assert sum(row.strip()[:1].isdigit() for row in thought.splitlines()) <= 25
    assert sparkline(ENERGIES, 24) in thought


def test_a_rise_within_rounding_is_shown_as_none():
    drops = [0.0, -2e-5, -2e-4]
    rows = [reports.DescentRow(step=k, energy=1.0, drop=drop, move=0.01, error=None) for k, drop in enumerate(drops)]
    thought = drawn(render(THOUGHT.model_copy(update={"descent": rows})), 80)
    assert "+0.0000" in thought
    assert "-0.0000" not in thought
    assert "-0.0002" in thought


@pytest.mark.parametrize("width", [70, 80, 120])
def test_live_views_fit_the_terminal_and_hide_nothing(width):
    progress = Progress("starting")
    assert "starting" in drawn(progress, width)
    progress.take(CLIP)
    progress.take(ASIDE)
    preparing = drawn(progress, width)
    assert "clip 2 of 3" in preparing
    assert "\x1b" not in preparing
    for step in range(1, 50):
        progress.take(line(step, skipped=1))
    progress.take(HELD_OUT)
    training = drawn(progress, width)
    assert max(map(len, training.splitlines())) <= width
    for word in ("step 49 of 100", "10 s left", "gap 0.5000", "1.0000 → 0.5000", "−25.0 %", "4,213 states/s", "NaN"):
        assert word in training, word
    progress.reset()
    assert "starting" in drawn(progress, width)


def test_off_a_terminal_progress_is_told_twice_a_minute_first_and_last(capsys, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    show(iter([*map(line, range(1, 101)), HELD_OUT, TRAINED]), View())
    told = [text for text in capsys.readouterr().out.splitlines() if text.startswith("step ")]
    assert told[0].startswith("step 1/100")
    assert told[-1].startswith("step 100/100")
    assert 3 <= len(told) <= 6
    assert all("\x1b" not in text for text in told)


def test_verbose_tells_every_line_and_quiet_only_the_result(capsys):
    stream = [*map(line, range(1, 11)), HELD_OUT, TRAINED]
    show(iter(stream), View(verbose=True))
    assert capsys.readouterr().out.count("step ") >= 11
    show(iter(stream), View(quiet=True))
    quiet = capsys.readouterr().out
    assert "step 1" not in quiet
    assert "trained" in quiet


def test_json_is_one_document_and_the_log_goes_elsewhere(capsys):
    show(iter([reports.Notice(notice="hello"), CLIP, ASIDE, PREPARED]), View(json="document"))
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["windows"] == {"train": 90, "val": 3, "test": 4}
    assert set(document) == set(reports.PrepareReport.model_fields)
    assert "hello" in told.err
    assert "clip 1/3" in told.err


def test_json_lines_are_valid_even_for_nan(capsys):
    show(iter([line(1, loss=math.inf), HELD_OUT, TRAINED]), View(json="lines"))

    def refuse(word):
        raise AssertionError(word)

    parsed = [json.loads(text, parse_constant=refuse) for text in capsys.readouterr().out.splitlines()]
    assert [entry["step"] for entry in parsed] == [1, 20, 100]
    assert parsed[0]["loss"] is None
    assert parsed[2]["val_loss"] is None


def test_names_can_not_break_a_line_nor_colour_it():
    for text in (plain_line(ASIDE), plain_line(reports.Notice(notice="a\nb\x1b[1m"))):
        assert "\n" not in text
        assert "\x1b" not in text
    assert "[red]" in plain_line(CLIP)


def test_file_names_that_are_not_text_survive_json(capsys):
    strange = CLIP.model_copy(update={"clip": "\udcff.mp4"})
    show(iter([strange]), View(json="lines"))
    assert json.loads(capsys.readouterr().out)["clip"] == "\udcff.mp4"


def test_an_error_is_two_lines_on_stderr(capsys):
    show_error("the file [bold]x[/bold] is " + "very " * 40 + "long", "ebwm prepare demo")
    told = capsys.readouterr()
    assert told.out == ""
    first, second = told.err.splitlines()
    assert first.startswith("error: the file [bold]x[/bold]")
    assert second == "hint: ebwm prepare demo"


def test_the_terminal_is_left_in_order_when_a_command_fails(monkeypatch):
    paper = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(console, "_console", lambda stderr=False: paper)

    def failing():
        yield line(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        show(failing(), View())
    text = paper.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is hidden while live, and comes back"
