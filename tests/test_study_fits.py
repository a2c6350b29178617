"""Runs become laws: only those that are done, per axis and series, the first series over the others."""

import pytest
from scale_reports import point

from ebwm_cli.run.power_law import fit_line, fit_power_law, slope_ratio
from ebwm_cli.run.study_fits import fits_of, frontier_of, ratios_of

VALUES = (0.125, 0.25, 0.5, 1.0)
KINDS = ("ebt", "transformer")
POINTS = [
    point((kind, None), axis, value, seed)
    for axis in ("data", "width")
    for value in VALUES
    for seed in range(3)
    for kind in KINDS
]


def test_every_axis_and_series_is_fitted_apart():
    fits = fits_of(POINTS)
    assert [(fit.axis, fit.kind) for fit in fits] == [(axis, kind) for axis in ("data", "width") for kind in KINDS]
    own = [each for each in POINTS if (each.axis, each.kind) == ("data", "transformer")]
    x, loss = [each.x for each in own], [each.loss for each in own]
    law, line = fit_power_law(x, loss), fit_line(x, loss)
    assert (fits[1].exponent, fits[1].ci95, fits[1].slope) == (law.exponent, law.ci95, line.slope)
    assert (fits[1].points, fits[1].runs) == (4, 12)


def test_runs_that_did_not_end_well_are_left_out_by_name():
    bad = POINTS[0].model_copy(update={"status": "diverged", "loss": None, "reason": "nan"})
    odd = POINTS[2].model_copy(update={"status": "timed_out", "loss": 99.0})
    points = [bad, POINTS[1], odd, *POINTS[3:]]
    fit = fits_of(points)[0]
    assert fit.left_out == [bad.key, odd.key]
    assert fit.runs == 10
    assert fit.exponent == fits_of(POINTS[1:2] + POINTS[3:])[1].exponent


def test_too_few_values_give_a_reason():
    fit = fits_of([each for each in POINTS if each.value < 1])[0]
    assert fit.exponent is None
    assert fit.slope is None
    assert fit.reason == "3 points; a law needs 4"


def test_the_first_series_is_over_the_others():
    ratios = ratios_of(POINTS)
    assert [(ratio.axis, ratio.kind, ratio.against) for ratio in ratios] == [
        ("data", "ebt", "transformer"),
        ("width", "ebt", "transformer"),
    ]
    sides = []
    for kind in KINDS:
        own = [each for each in POINTS if (each.axis, each.kind) == ("data", kind)]
        sides += [[each.x for each in own], [each.loss for each in own]]
    assert ratios[0].value == pytest.approx(slope_ratio(*sides).value)


def test_variants_are_series_of_their_own():
    points = [point(("ebt", name), "data", value, 0) for name in ("noise", "last") for value in VALUES]
    assert [fit.kind for fit in fits_of(points)] == ["ebt noise", "ebt last"]


def test_the_frontier_is_what_nothing_cheaper_beats():
    def run(kind, flops, loss):
        return point((kind, None), "flops", flops, 0, loss=loss, key=f"{kind}{flops:g}-{loss}")

    points = [run("ebt", 1e9, 3.0), run("ebt", 1e9, 2.9), run("ebt", 2e9, 2.95), run("ebt", 4e9, 1.0)]
    points += [run("rnn", 5e9, 9.0), point(("rnn", None), "flops", 1e9, 0, loss=0.1, status="failed")]
    assert [(each.kind, each.flops, each.loss) for each in frontier_of(points)] == [
        ("ebt", 1e9, 2.9),
        ("ebt", 4e9, 1.0),
        ("rnn", 5e9, 9.0),
    ]
