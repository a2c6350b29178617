"""A study on one page, and its fits as JSON: report.html stands alone, opens anywhere, and says what was left out.

Tables are those of `study_words.py`, pictures those of `picture_scale.py` as inline SVG. No script, no address outside
the page; every word that comes from a report is escaped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ebwm_cli import __version__
from ebwm_cli.run.picture_compare import FAINT
from ebwm_cli.run.picture_scale import draw_all
from ebwm_cli.run.pictures import BLUE, GREEN, INK, ORANGE, PAPER, SOFT
from ebwm_cli.run.report_scale import PointReport, ScaleReport
from ebwm_cli.run.safe_write import replace_file
from ebwm_cli.run.scale_layout import RULE, TITLE
from ebwm_cli.run.study_words import (
    FIT_HEADS,
    FITTED,
    LEVEL_HEADS,
    UNENDED,
    axes_of,
    axis_in_words,
    best_of,
    ended_badly,
    fit_cells,
    frontier_rows,
    level_cells,
    levels_of,
    ratio_in_words,
    reasons,
    runs_in_words,
    x_in_words,
)
from ebwm_cli.run.words import count, duration, number, safe

PAGE, FITS = "report.html", "fits.json"
COLOURS = {
    PAPER: "paper", INK: "ink", SOFT: "soft", FAINT: "faint", RULE: "rule", BLUE: "blue", ORANGE: "orange",
    GREEN: "green", "#cc79a7": "pink", "#a6761d": "brown", "#56b4e9": "sky",
}  # fmt: skip
"""Of the pictures, and the page's variable that stands for each, so that pictures turn dark with the page."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #23262b; --soft: #8a8f98; --faint: #6b7079; --rule: #e4e2dd;
  --card: #f3f1ec; --blue: #0072b2; --orange: #d55e00; --green: #009e73; --pink: #cc79a7; --brown: #a6761d;
  --sky: #56b4e9; --bad: #a04000; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e4df; --soft: #7d838d; --faint: #9aa0aa;
  --rule: #2e3238; --card: #1e2126; --blue: #4aa8e0; --orange: #f08a4b; --green: #35c79d; --pink: #dd94bb;
  --brown: #cf9f4a; --sky: #8fd0f5; --bad: #f0a070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .75rem; font-size: 1.3rem; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1rem; color: var(--faint); font-weight: 600; }
p { margin: .4rem 0; }
.quiet, figcaption { color: var(--faint); font-size: .9rem; }
.found { margin: 1.5rem 0 0; padding: 1rem 1.25rem; background: var(--card); border-left: 4px solid var(--blue);
  border-radius: 4px; }
.found ul { margin: .25rem 0; padding-left: 1.1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 1.25rem 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--faint); border-bottom: 1px solid var(--soft); }
th, td { padding: .3rem .75rem .3rem 0; vertical-align: top; white-space: nowrap; }
td { text-align: right; border-bottom: 1px solid var(--rule); }
th.name, td.name { text-align: left; }
td.name { white-space: normal; min-width: 6.5rem; }
.name:not(:first-child) { padding-left: .75rem; }
.best { font-weight: 700; color: var(--green); }
.bad { color: var(--bad); }
details > summary { cursor: pointer; color: var(--faint); }
pre { padding: 1rem; background: var(--card); border-radius: 4px; white-space: pre-wrap; font-size: .85rem; }
"""


def write_fits(report: ScaleReport, folder: Path) -> Path:
    """Write fits.json: `study`, `fits`, `slope_ratio` and `frontier` of the report. Raises OSError."""
    content = report.model_dump_json(include={"study", "fits", "slope_ratio", "frontier"}, indent=2)
    replace_file(folder / FITS, content.encode())
    return folder / FITS


def write_page(report: ScaleReport, recipe_yaml: str, folder: Path, when: datetime | None = None) -> Path:
    """Write report.html, with the study's recipe as the text `recipe_yaml`; `when` is now where it isn't given.

    Raises OSError where the disk refuses.
    """
    replace_file(folder / PAGE, page_of(report, recipe_yaml, when or datetime.now(UTC)).encode(errors="replace"))
    return folder / PAGE


def page_of(report: ScaleReport, recipe_yaml: str, when: datetime) -> str:
    """The page's HTML."""
    study, figures, line_feed = _text(report.study), draw_all(report), "\n"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{study} · scaling study</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        f'<header>\n<p class="quiet">scaling study</p>\n<h1>{study}</h1>',
        f'<p class="quiet">{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC · ebwm {__version__}</p>\n</header>',
        "<main>",
        _found(report),
        _facts(report),
        *(_axis(report, axis, figures.get(f"loss_by_{axis}")) for axis in axes_of(report.points)),
        _frontier(report, figures.get("frontier")),
        _left_out(report),
        _every_run(report.points),
        "<section>\n<h2>The study's recipe</h2>",
        f"<pre>{line_feed.join(map(_text, recipe_yaml.splitlines()))}</pre>\n</section>",
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


# ------------------------------------------------------------------------------------------------- sections


def _found(report: ScaleReport) -> str:
    """What came out, in sentences."""
    best = best_of(report.points)
    said = [f"by {axis_in_words(ratio.axis)}: {ratio_in_words(ratio)}" for ratio in report.slope_ratio]
    if best is not None:
        said.append(f"lowest loss: {number(best.loss)}, by {safe(best.key)}")
    bad, unended = ended_badly(report.points), [point for point in report.points if point.status in UNENDED]
    if bad:
        said.append(f"{len(bad):,} of {len(report.points):,} runs ended badly, and are in no fit")
    if unended:
        said.append(f"{len(unended):,} of {len(report.points):,} runs have not ended")
    items = "".join(f"<li>{_text(each)}</li>" for each in said or ["no run ended well"])
    return f'<section class="found">\n<ul>{items}</ul>\n</section>'


def _facts(report: ScaleReport) -> str:
    spent = sum(point.flops for point in report.points if point.status == "done")
    hours = [point.device_hours for point in report.points if point.device_hours is not None]
    facts = {
        "set": report.data,
        "runs": f"{len(report.points):,}: {runs_in_words(report.points)}",
        "devices": f"{report.devices:,} × {report.device}",
        "compute": f"{count(spent)}FLOP, inner steps counted",
        "device time": duration(3600 * sum(hours)) if hours else "–",
        "wall-clock": f"{duration(report.seconds)} in the last call",
    }
    if report.overhead is not None:
        facts["waiting"] = f"{report.overhead:.1%} of the devices' time, while runs were left"
    facts["folder"] = report.out
    return "<dl>" + "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items()) + "</dl>"


def _axis(report: ScaleReport, axis: str, figure: Figure | None) -> str:
    """One axis: picture, who scales faster, laws, losses."""
    words = axis_in_words(axis)
    parts = [f"<section>\n<h2>Loss by {_text(words)}</h2>"]
    parts.append(_figure(figure, axis, f"Loss by {words}") if figure else '<p class="bad">No run ended well.</p>')
    parts += [f"<p>{_text(ratio_in_words(ratio))}</p>" for ratio in report.slope_ratio if ratio.axis == axis]
    fits = [fit for fit in report.fits if fit.axis == axis]
    if fits:
        rows = [[_cell(each) for each in fit_cells(fit)] for fit in fits]
        parts += ["<h3>Scaling laws</h3>", _table(FIT_HEADS, rows), f'<p class="quiet">{_text(FITTED)}</p>']
        parts += [f'<p class="quiet">{_text(f"{series}: {why}")}</p>' for series, why in reasons(fits)]
    levels, rows = levels_of(report.points, axis), []
    for level in levels:
        rivals = [other.mean for other in levels if other.value == level.value and other.mean is not None]
        series, loss, *rest = level_cells(level)
        first = len(rivals) > 1 and level.mean == min(rivals)
        cells = [_cell(series), _cell(x_in_words(axis, level.x)), _cell(loss, "best" if first else "")]
        rows.append([*cells, *map(_cell, rest)])
    heads = (LEVEL_HEADS[0], words, *LEVEL_HEADS[1:])
    parts += ["<h3>Losses, mean ± standard deviation over seeds</h3>", _table(heads, rows), "</section>"]
    return "\n".join(parts)


def _frontier(report: ScaleReport, figure: Figure | None) -> str:
    if figure is None:
        return ""
    rows = [
        [
            _cell(series),
            _cell(count(point.flops)),
            _cell(number(point.loss), "best" if unbeaten else ""),
            _cell(point.key),
        ]
        for series, point, unbeaten in frontier_rows(report)
    ]
    parts = ["<section>\n<h2>Compute-optimal frontier</h2>", _figure(figure, "frontier", "Loss against FLOPs")]
    parts.append(_table(("series", "FLOPs", "loss", "run"), rows, names=(0, 3)))
    parts.append('<p class="quiet">Lowest loss on as many FLOPs, of each series; bold: of all series.</p>\n</section>')
    return "\n".join(parts)


def _left_out(report: ScaleReport) -> str:
    """Runs without a loss, fits without numbers; never silently nothing."""
    parts = ["<section>\n<h2>What was left out, and why</h2>"]
    rows = [
        [_cell(point.key), _cell(point.status.replace("_", " "), "bad"), _cell(point.reason or "–")]
        for point in [*ended_badly(report.points), *(each for each in report.points if each.status in UNENDED)]
    ]
    if rows:
        parts.append(_table(("run", "ended", "why"), rows, names=(0, 1, 2)))
    unfitted = [[*map(_cell, (axis_in_words(fit.axis), fit.kind, fit.reason))] for fit in report.fits if fit.reason]
    if unfitted:
        parts += ["<h3>Laws that were not fitted</h3>", _table(("axis", "series", "why"), unfitted, names=(0, 1, 2))]
    if not rows and not unfitted:
        parts.append("<p>Nothing: every run ended well, and every law was fitted.</p>")
    return "\n".join([*parts, "</section>"])


def _every_run(points: Sequence[PointReport]) -> str:
    heads = ("run", "status", "loss", "lowest val loss", "size", "params", "updates", "FLOPs", "device time")
    rows = []
    for point in points:
        hours = "–" if point.device_hours is None else duration(3600 * point.device_hours)
        cells = [number(point.loss), number(point.val_loss), point.size, count(point.params), f"{point.steps:,}"]
        status = _cell(point.status.replace("_", " "), "bad" if ended_badly([point]) else "")
        rows.append([_cell(point.key), status, *map(_cell, [*cells, count(point.flops), hours])])
    whole = f"<summary>{len(points):,} runs, one by one</summary>\n{_table(heads, rows)}"
    return f"<section>\n<h2>Every run</h2>\n<details>{whole}</details>\n</section>"


# ------------------------------------------------------------------------------------------------- pieces


def _text(words: str) -> str:
    """Words as HTML that says just them."""
    return escape(safe(words))


def _cell(words: str, kind: str = "") -> tuple[str, str]:
    return _text(words), kind


def _table(heads: Iterable[str], rows: Sequence[Sequence[tuple[str, str]]], names: Sequence[int] = (0,)) -> str:
    """Columns at the places `names` hold names, and stand left."""
    head = "".join(
        f'<th class="name">{_text(each)}</th>' if place in names else f"<th>{_text(each)}</th>"
        for place, each in enumerate(heads)
    )
    lines = []
    for row in rows:
        cells = []
        for place, (words, kind) in enumerate(row):
            classes = " ".join(dict.fromkeys([*(["name"] if place in names else []), *kind.split()]))
            cells.append(f'<td class="{classes}">{words}</td>' if classes else f"<td>{words}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _figure(figure: Figure, name: str, label: str) -> str:
    return f"<figure>{svg_of(figure, name, label)}</figure>"


def svg_of(figure: Figure, name: str, label: str) -> str:
    """A figure as an <svg> element, without its title: ids begin with `name`, colours are the page's."""
    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawn = content.getvalue()
    box = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', drawn)
    assert box is not None, "matplotlib writes a viewBox, in points"
    width, height, title = float(box.group(1)), float(box.group(2)), 72 * TITLE
    inside = drawn[drawn.index(">", box.end()) + 1 : drawn.rindex("</svg>")]
    inside = re.sub(r"<!--.*?-->|<style.*?</style>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'\bid="', f'id="{name}-', inside)
    inside = re.sub(r'\b(?:xlink:)?href="#', f'href="#{name}-', inside).replace("url(#", f"url(#{name}-")
    inside = re.sub(r"#[0-9a-f]{6}", lambda found: _page_colour(found.group()), inside)
    view = f"0 {title:g} {width:g} {height - title:g}"
    return f'<svg role="img" aria-label="{_text(label)}" viewBox="{view}">{inside}</svg>'


def _page_colour(colour: str) -> str:
    return f"var(--{COLOURS[colour]})" if colour in COLOURS else colour
