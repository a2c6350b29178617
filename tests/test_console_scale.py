"""A study on the terminal: everything said, nothing cut, at any width; what runs, what is planned, what came out."""

from __future__ import annotations

import io
import json
import math
import re

import numpy as np
import pytest
import scale_reports as made
from rich.console import Console, RenderableType

from ebwm_cli.console import View, show
from ebwm_cli.console_live import Progress
from ebwm_cli.console_running import RunningStudy
from ebwm_cli.console_tables import render
from ebwm_cli.console_text import plain_line
from ebwm_cli.run.power_law import EXPONENTS
from ebwm_cli.run.report_scale import ScaleReport, SlopeRatio
from ebwm_cli.run.study_words import (
    SEARCHED,
    interval_in_words,
    levels_of,
    loss_in_words,
    ratio_in_words,
    ratio_shows,
    x_in_words,
)

FINAL = {
    "finished": made.finished(),
    "few": made.finished(made.FEW),
    "large": made.large(),
    "nothing": made.finished(points=[], fits=[], slope_ratio=[], frontier=[]),
    "plan": made.plan(made.finished()),
    "plan-large": made.plan(made.large(), devices=5),
    "plan-untimed": made.plan(made.finished(), timed=False),
}


def drawn(renderable: RenderableType, width: int, height: int = 40) -> str:
    paper = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    paper.print(renderable)
    return paper.file.getvalue()  # type: ignore[attr-defined]


def squeezed(text: str) -> str:
    """Without any space, so that what was folded can be found."""
    return "".join(re.sub("[│╭╮╰╯─]", "", text).split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", FINAL)
def test_reports_fit_the_terminal_and_cut_nothing(name: str, width: int) -> None:
    text = drawn(render(FINAL[name]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in re.sub(r"(?<=\d) …", "", text), "the only one stands in an interval"
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_every_level_is_the_mean_and_deviation_of_its_seeds(width: int) -> None:
    report = made.finished()
    rows = drawn(render(report), width).splitlines()
    for series in ("ebt", "transformer"):
        for value in made.ENOUGH:
            losses = [
                each.loss
                for each in report.points
                if (each.series, each.value, each.status) == (series, value, "done") and each.loss
            ]
            said = f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}"
            runs = "3" if len(losses) == 3 else "2 of 3"
            found = [row for row in rows if said in row]
            assert len(found) == 1
            assert f" {series} " in found[0]
            assert re.search(rf" {runs}  +412,345 ", found[0])


def test_a_study_says_what_came_out() -> None:
    report = made.finished()
    text = drawn(render(report), 80)
    assert "no difference shown: ebt scales 12 % faster than transformer (−5 … +31 %)" in text
    assert "23 done, 1 diverged" in text
    assert str(made.DIVERGED["reason"]).replace(" ", "") in squeezed(text.split("ended badly")[1])
    for fit in report.fits:
        assert f"{fit.exponent:.3f}  [{fit.ci95[0]:.3f}, {fit.ci95[1]:.3f}]" in text  # type: ignore[index]
    for file in report.files:
        assert file in text
    assert all(point.key in text for point in report.frontier)


def test_a_law_that_could_not_be_fitted_has_a_reason() -> None:
    text = drawn(render(made.finished(made.FEW)), 80)
    assert "ebt          3 points; a law needs 4" in text
    assert "ebt and transformer can't be compared: 3 points; a slope ratio needs 4" in text


def test_long_names_are_folded_not_cut() -> None:
    report = made.large()
    text = squeezed(drawn(render(report), 80))
    for fit in report.fits:
        assert fit.exponent is None or f"{fit.exponent:.3f}" in text
    assert "a_variant_of_a_long_" in text
    assert report.points[5].key in squeezed(drawn(render(report), 120))


def test_names_and_reasons_can_not_break_the_terminal() -> None:
    report = made.finished(study=made.HOSTILE, data=made.HOSTILE, files=[made.HOSTILE + "\n"])
    bad = report.points[1].model_copy(update={"reason": made.HOSTILE + "\n\n[red]"})
    text = drawn(render(report.model_copy(update={"points": [bad, *report.points[2:]]})), 80)
    assert "\x1b" not in text
    assert "[red]" in text


# ----------------------------------------------------------------------------------------------- words


def ratio(value: float | None, ci95: tuple[float, float] | None, reason: str | None = None) -> SlopeRatio:
    return SlopeRatio(axis="data", kind="ebt", against="rnn", value=value, ci95=ci95, reason=reason)


@pytest.mark.parametrize(
    ("given", "said", "shows"),
    [
        (ratio(1.354, (1.1, 1.7)), "ebt scales 35 % faster than rnn (+10 … +70 %)", True),
        (ratio(0.8, (0.7, 0.9)), "ebt scales 20 % slower than rnn (−30 … −10 %)", False),
        (ratio(1.12, (0.95, 1.31)), "no difference shown: ebt scales 12 % faster than rnn (−5 … +31 %)", None),
        (ratio(1.001, (1.0005, 1.002)), "ebt scales as fast as rnn (+0 … +0 %)", True),
        (ratio(1.2, None, "2 seeds"), "ebt scales 20 % faster than rnn; no interval: 2 seeds", None),
        (ratio(None, None, "3 points"), "ebt and rnn can't be compared: 3 points", None),
        (ratio(-0.5, (-0.9, 0.1)), "ebt's loss and rnn's go opposite ways, slope ratio −0.500 (−190 … −90 %)", False),
    ],
)
def test_slope_ratios_in_words(given: SlopeRatio, said: str, shows: bool | None) -> None:
    assert ratio_in_words(given) == said
    assert ratio_shows(given) is shows


def test_an_interval_that_reaches_the_end_of_the_search_says_so() -> None:
    assert (float(EXPONENTS[0]), float(EXPONENTS[-1])) == pytest.approx(SEARCHED)
    assert interval_in_words((float(EXPONENTS[0]), 1.2), searched=True) == "[<0.01, 1.200]"
    assert interval_in_words((0.3, float(EXPONENTS[-1])), searched=True) == "[0.300, >5]"
    assert interval_in_words((-0.3, 0.2)) == "[−0.300, 0.200]"
    assert interval_in_words(None) == "–"


def test_places_on_an_axis_in_words() -> None:
    said = [x_in_words(*each) for each in (("data", 1024.4), ("depth", 6), ("flops", 3e14), ("device_hours", 0.1234))]
    assert said == ["1,024", "6", "300 T", "0.123"]


def test_losses_of_one_seed_none_and_extreme_sizes() -> None:
    points = [made.point(("ebt", None), "data", 0.5, seed, loss=loss) for seed, loss in enumerate((2e-5, 4e-5))]
    assert loss_in_words(levels_of(points, "data")[0]) == "3.00e-05 ± 1.4e-05"
    assert loss_in_words(levels_of(points[:1], "data")[0]) == "2.00e-05"
    assert loss_in_words(levels_of([made.point(("ebt", None), "data", 0.5, 0, **made.DIVERGED)], "data")[0]) == "–"


# ------------------------------------------------------------------------------------------------ plan


def test_a_plan_names_every_run_and_packs_them() -> None:
    plan = made.plan(made.finished())
    text = drawn(render(plan), 120)
    assert all(run.point.key in text for run in plan.runs)
    assert "43m 12s on 2 devices" in text
    narrow = drawn(render(plan), 80)
    assert narrow.count("-data-*") == 2
    assert len([row for row in narrow.splitlines() if re.match(r"[\d.]+-seed\d ", row)]) == len(plan.runs)


def test_the_packing_shows_each_run_where_it_stands() -> None:
    lanes = [row for row in drawn(render(made.plan(made.finished())), 120).splitlines() if "│ device " in row][-2:]
    assert [row.count("╸") for row in lanes] == [11, 13]
    assert "11 runs" in lanes[0]


def test_many_runs_share_rows_and_it_says_so() -> None:
    report = made.large()
    plan = made.plan(report)
    assert len(plan.runs) > 40
    text = drawn(render(plan), 120)
    assert "168 runs; all seeds of a value in one row" in text
    assert text.count(" × 3 ") == len(plan.runs) / 3
    assert "seed0" not in text


def test_a_plan_without_times_says_so() -> None:
    text = drawn(render(made.plan(made.finished(), timed=False)), 80)
    assert "not timed  no prepared set here" in text
    assert "wall time" not in text
    partly = made.plan(made.finished())
    first = partly.runs[0].model_copy(update={"hours": None, "device": None, "start": None})
    partly = partly.model_copy(
        update={"runs": [first, *partly.runs[1:]], "wall_hours": None, "device_hours": None, "timed_by": "not timed: x"}
    )
    assert drawn(render(partly), 80).count("not timed") == 2


# ------------------------------------------------------------------------------------------------ live


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_fits_and_tells_all(width: int) -> None:
    progress, bad = Progress("starting"), made.finished().points[1]
    progress.take(made.progress(0, ["ebt-data-1-seed0"], queued=22, best=None, eta_seconds=None))
    text = drawn(progress, width)
    assert "run 0 of 23" in text
    assert "– left" in text
    progress.take(made.progress(3, ["ebt-data-1-seed0", "ebt-data-0.5-seed1"], bad=1, last=bad))
    text = drawn(progress, width)
    assert max(map(len, text.splitlines())) <= width
    for words in ("run 4 of 15", "12m 1", "queued", "best 0.1038  ebt-data-1-seed0", "ebt-data-0.5-seed1", "4m 00s"):
        assert words in text, words
    assert squeezed(bad.key + "  diverged  " + str(bad.reason)) in squeezed(text)
    progress.reset()
    assert "starting" in drawn(progress, width)


def test_time_goes_on_between_two_reports() -> None:
    now = [100.0]
    study = RunningStudy(lambda: now[0])
    study.take(made.progress(1, ["a"], seconds=10.0, eta_seconds=50.0))
    study.take(made.progress(2, ["a", "b"], seconds=40.0, eta_seconds=50.0))
    now[0] += 20
    text = drawn(study.drawn(20), 80)
    assert re.search(r"running +2 +a +50 s\n +b +20 s\n", text)
    assert "1m 00s so far" in text
    assert study.left == 30.0
    now[0] += 100
    assert study.left == 0.0
    study.take(made.progress(3, ["b"], eta_seconds=None))
    assert study.left == math.inf


def test_many_runs_at_once_leave_room() -> None:
    progress = Progress("starting")
    progress.take(made.progress(40, [f"ebt-data-0.5-seed{seed}" for seed in range(64)], bad=2))
    text = drawn(progress, 80, height=24)
    assert len(text.splitlines()) <= 24
    shown = len(re.findall(r"seed\d+ ", text.split("queued")[0]))
    assert f"and {64 - shown} more" in text
    assert "2 of them before this call" in text


def test_a_plain_line_per_progress_is_one_line() -> None:
    bad = made.finished().points[1].model_copy(update={"reason": "a\nb\x1b[1m"})
    line = plain_line(made.progress(3, ["x"], bad=1, last=bad))
    assert line is not None
    assert "\n" not in line
    assert "\x1b" not in line
    for words in (
        "run 4/14",
        "1 running",
        "9 queued",
        "1 ended badly",
        "best 0.1038 by",
        "diverged, a",
        "12m 14s left",
    ):
        assert words in line, words


def test_reports_reach_pipes_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [made.progress(0, ["a"], best=None, last=None, eta_seconds=None), made.finished()]
    show(iter(reports), View())
    told = capsys.readouterr().out
    assert told.startswith("run 0/10  1 running  9 queued\n")
    assert "scaling laws by training states" in told
    show(iter(reports), View(json="document"))
    assert ScaleReport.model_validate(json.loads(capsys.readouterr().out)) == reports[1]
