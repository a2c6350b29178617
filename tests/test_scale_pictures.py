"""A study's pictures and page: colours where runs are, bands solved another way, HTML that stands alone."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import scale_reports as made
from PIL import Image
from scipy.optimize import curve_fit

from ebwm_cli.run.law_band import band_of, law_of, line_of, refitted
from ebwm_cli.run.picture_scale import draw_axis, draw_frontier, write_pictures
from ebwm_cli.run.report_scale import FitReport, FrontierPoint, SlopeRatio
from ebwm_cli.run.study_page import page_of, write_fits, write_page
from ebwm_cli.run.study_words import frontier_rows

WHEN = datetime(2025, 1, 2, 3, 4, tzinfo=UTC)
RECIPE = "name: video_data\naxes:\n  data: [0.25, 1.0] # <b>&amp;\n"
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
X = np.array([512.0, 1024, 2048, 4096, 8192])


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of just that colour."""
    return int((np.abs(pixels.astype(int) - colour).max(-1) <= 2).sum())


def law(exponent: float = 0.5, coefficient: float = 2.0, offset: float = 0.1, **changes: object) -> FitReport:
    report = made.fitted("data", "ebt", made.finished().points)
    values = {"exponent": exponent, "coefficient": coefficient, "offset": offset, **changes}
    return report.model_copy(update=values)


# -------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("values", [made.ENOUGH, made.FEW])
def test_pictures_hold_every_series_in_its_colour(tmp_path: Path, values: tuple[float, ...]) -> None:
    files = write_pictures(made.finished(values), tmp_path)
    assert [file.name for file in files] == ["loss_by_data.png", "frontier.png"]
    for file in files:
        pixels = read(file)
        assert pixels.shape[0] > 500
        assert pixels.shape[1] == 860
        assert near(pixels, BLUE) > 300
        assert near(pixels, ORANGE) > 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frontier.png", "loss_by_data.png"]


def test_pictures_know_no_clock_and_leave_no_setting(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_pictures(made.finished(), tmp_path / name)
    assert (tmp_path / "one/frontier.png").read_bytes() == (tmp_path / "two/frontier.png").read_bytes()
    assert page_of(made.finished(), RECIPE, WHEN) == page_of(made.finished(), RECIPE, WHEN)
    assert dict(matplotlib.rcParams) == before


def test_the_drawn_law_is_the_reported_one() -> None:
    report = made.finished()
    axes = draw_axis(report, "data").axes[0]
    lines = [np.asarray(line.get_xydata()) for line in axes.get_lines() if line.get_linewidth() == 1.9]
    assert len(lines) == 2
    for line, fit in zip(lines, report.fits, strict=True):
        np.testing.assert_allclose(line[:, 1], fit.offset + fit.coefficient * line[:, 0] ** -fit.exponent)  # type: ignore[operator]
    assert len(axes.collections) == 2, "a band each"


def test_an_axis_without_a_law_has_means_and_its_reason() -> None:
    report = made.finished(made.FEW)
    figure = draw_axis(report, "data")
    said = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert all("no law: 3 points; a law needs 4" in words for words in said)
    assert not figure.axes[0].collections
    means = {round(y, 12) for line in figure.axes[0].get_lines() for y in np.asarray(line.get_ydata(), float)}
    for value in made.FEW:
        own = [each.loss for each in report.points if (each.kind, each.value) == ("ebt", value) and each.loss]
        assert round(float(np.mean(own)), 12) in means


def test_unknown_places_one_value_and_a_single_run_can_be_drawn(tmp_path: Path) -> None:
    points = [made.point(("ebt", None), "device_hours", 0.5, 0, x=None)]
    report = made.finished(points=points, fits=[], slope_ratio=[], frontier=made.frontier(points))
    assert [file.name for file in write_pictures(report, tmp_path)] == ["loss_by_device_hours.png", "frontier.png"]


def test_where_no_run_ended_well_there_is_no_picture(tmp_path: Path) -> None:
    points = [made.point(("ebt", None), "data", 0.5, 0, **made.DIVERGED)]
    report = made.finished(points=points, fits=[], slope_ratio=[], frontier=[])
    assert write_pictures(report, tmp_path) == []
    with pytest.raises(ValueError, match="no run by data ended well"):
        draw_axis(report, "data")
    with pytest.raises(ValueError, match="no run ended well"):
        draw_frontier(report)
    assert "No run ended well" in page_of(report, RECIPE, WHEN)


def test_names_are_never_formulas(tmp_path: Path) -> None:
    points = [each.model_copy(update={"variant": "$x^$\n✗"}) for each in made.finished().points]
    fits = [fit.model_copy(update={"kind": "ebt $x^$\n✗", "reason": "$\\frac$"}) for fit in made.finished().fits]
    report = made.finished(points=points, fits=fits, study="$\\alpha_$", frontier=made.frontier(points))
    assert len(write_pictures(report, tmp_path)) == 2


def test_the_frontier_of_all_series_is_marked() -> None:
    points = [
        FrontierPoint(kind=kind, flops=flops, loss=loss, key=f"{kind}{flops}")
        for kind, flops, loss in (("a", 1, 0.5), ("a", 4, 0.3), ("b", 2, 0.6), ("b", 8, 0.2))
    ]
    rows = frontier_rows(made.finished(points=[], frontier=points[::-1]))
    assert sorted(point.key for _, point, unbeaten in rows if unbeaten) == ["a1", "a4", "b8"]


# ---------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.3])
def test_a_refitted_law_is_what_another_solver_finds(exponent: float) -> None:
    fit, rng = law(), np.random.default_rng(0)
    losses = (0.1 + 2.0 * X**-0.5) * (1 + 0.03 * rng.standard_normal(len(X)))
    weights = 0.1 + 2.0 * X**-0.5  # residuals relative to `fit`
    (offset, coefficient), _ = curve_fit(
        lambda x, offset, coefficient: offset + coefficient * (x / 2048) ** -exponent, X, losses, (0.1, 0.05), weights,
        bounds=([0, 0], np.inf), xtol=1e-14, ftol=1e-14, gtol=1e-14,
    )  # fmt: skip
    found = refitted(fit, X, losses, exponent, X)
    assert found is not None
    np.testing.assert_allclose(found, offset + coefficient * (X / 2048) ** -exponent, rtol=1e-5)


def test_bands_hold_their_law_and_close_with_the_interval() -> None:
    losses = 0.1 + 2.0 * X**-0.5
    wide = band_of(law(ci95=(0.3, 0.8)), X, losses, X)
    assert wide is not None
    own = law_of(law(), X)
    assert own is not None
    assert (wide[0] <= own).all()
    assert (wide[1] >= own).all()
    assert ((wide[1] - wide[0]) / own).max() > 0.002
    closed = band_of(law(ci95=(0.5, 0.5)), X, losses, X)
    assert closed is not None
    np.testing.assert_allclose(closed[1], closed[0], rtol=1e-9)
    assert band_of(law(ci95=None), X, losses, X) is None
    assert band_of(law(exponent=None), X, losses, X) is None  # type: ignore[arg-type]


def test_a_rising_loss_has_no_law_and_an_offset_is_never_below_zero() -> None:
    assert refitted(law(), X, 0.1 + 0.001 * np.sqrt(X), 0.5, X) is None
    steep = refitted(law(), X, 9.0 / X, 0.5, X)  # free, its offset would be below 0
    assert steep is not None
    np.testing.assert_allclose(steep * np.sqrt(X), steep[0] * np.sqrt(X[0]), rtol=1e-9)


def test_the_straight_line_is_least_squares_in_logs() -> None:
    losses = (0.1 + 2.0 * X**-0.5) * np.array([1.02, 0.99, 1.0, 1.01, 0.98])
    slope, level = np.polyfit(np.log(X), np.log(losses), 1)
    found = line_of(law(slope=float(slope)), X, losses, X)
    assert found is not None
    np.testing.assert_allclose(found, np.exp(level + slope * np.log(X)), rtol=1e-10)
    assert line_of(law(slope=None), X, losses, X) is None


# ----------------------------------------------------------------------------------------------- page

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags in balance, ids, references and the words to be read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data if self.open and self.open[-1] not in ("style", "script") else ""

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("src", "srcset", "action", "data")
            if name == "id":
                self.ids.append(str(value))
            if name.endswith("href"):
                self.links.append(str(value))
            self.links += re.findall(r"url\((.*?)\)", value or "")


STUDIES = {"all": made.finished(), "few": made.finished(made.FEW), "large": made.large()}


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_is_whole_and_alone(name: str) -> None:
    report = STUDIES[name]
    text = page_of(report, RECIPE, WHEN)
    page = Page(text)
    assert page.open == []
    assert page.seen.count("svg") == len({point.axis for point in report.points}) + 1
    assert not {"script", "link", "iframe", "img", "image", "object", "base", "form"} & set(page.seen)
    assert len(set(page.ids)) == len(page.ids) > 50
    assert page.links
    assert {link[:1] for link in page.links} == {"#"}
    assert {link[1:] for link in page.links} <= set(page.ids)
    for forbidden in ("http:", "https:", "//", "@import", "javascript:", "file:"):
        assert forbidden not in text, forbidden
    assert "2025-01-02 03:04 UTC" in page.words
    assert RECIPE.strip() in page.words


def test_the_page_says_what_was_left_out_and_why() -> None:
    page = Page(page_of(made.finished(made.FEW), RECIPE, WHEN))
    left_out = page.words.split("What was left out, and why")[1].split("Every run")[0]
    assert "transformer-data-0.25-seed0" in left_out
    assert str(made.DIVERGED["reason"]) in left_out
    assert left_out.count("3 points; a law needs 4") == 2
    whole = made.finished()
    whole = whole.model_copy(update={"points": [each for each in whole.points if each.status == "done"]})
    assert "Nothing: every run ended well" in page_of(whole, RECIPE, WHEN)


def test_hostile_words_are_words() -> None:
    plain = Page(page_of(made.finished(), RECIPE, WHEN))
    report = made.finished(study=made.HOSTILE, data=made.HOSTILE, out=made.HOSTILE, device=made.HOSTILE)
    points = [report.points[1].model_copy(update={"reason": made.HOSTILE, "key": made.HOSTILE}), *report.points[2:]]
    fits = [fit.model_copy(update={"reason": made.HOSTILE}) for fit in report.fits]
    ratios = [SlopeRatio(axis="data", kind="ebt", against="x", value=None, ci95=None, reason=made.HOSTILE)]
    report = report.model_copy(update={"points": points, "fits": fits, "slope_ratio": ratios})
    text = page_of(report, f"name: {made.HOSTILE}\n</pre>", WHEN)
    page = Page(text)
    assert page.open == []
    assert "<script" not in text
    assert "\x1b" not in text
    assert page.words.count("<script>alert('x')</script>&\"") > 8
    assert set(page.seen) == set(plain.seen)


def test_files_are_written_whole(tmp_path: Path) -> None:
    report = made.finished()
    page = write_page(report, RECIPE, tmp_path)
    assert page == tmp_path / "report.html"
    assert html.escape(RECIPE.strip()) in page.read_text(encoding="utf-8")
    first = page.read_text(encoding="utf-8")
    write_page(report.model_copy(update={"study": "another"}), RECIPE, tmp_path)
    assert "<h1>another</h1>" in page.read_text(encoding="utf-8")
    assert "<h1>video_data</h1>" in first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_fits_come_back_as_they_were(tmp_path: Path) -> None:
    report = made.large()
    file = write_fits(report, tmp_path)
    assert file == tmp_path / "fits.json"
    document = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert set(document) == {"study", "fits", "slope_ratio", "frontier"}
    assert [FitReport.model_validate(each) for each in document["fits"]] == report.fits
    assert [SlopeRatio.model_validate(each) for each in document["slope_ratio"]] == report.slope_ratio
    assert [FrontierPoint.model_validate(each) for each in document["frontier"]] == report.frontier
    assert document["study"] == report.study
