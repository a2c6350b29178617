"""Facets against numbers computed another way, at their ends, for all kinds, as people and programs see them."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judges import OneAtATime
from rich.console import Console
from small_runs import KINDS, make_home, model_of
from small_set import CONTEXT
from torch import Tensor, nn

from ebwm_cli.cli import run
from ebwm_cli.commands import evaluate
from ebwm_cli.commands.facets import facets
from ebwm_cli.console import render
from ebwm_cli.data.store import PreparedSet, open_set
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run import facets as measuring
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.facets import Difficulty, measure_facets
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.report import EvalReport, Notice
from ebwm_cli.run.report_facets import FacetsReport, FacetsRow, Measured, StepsLoss
from ebwm_cli.world.protocol import Prediction

NUMBERS = ["hidden_change", "other_auroc", "near_auroc", "steps_spearman", "steps_used", "error_spearman"]
NUMBERS += ["context_auroc"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("facets"))


def measured(checkpoint: Path, **options: Any) -> FacetsReport:
    """The report at the end."""
    *notices, report = facets(checkpoint, **{"device": "cpu", "most_windows": 40, **options})
    assert isinstance(report, FacetsReport)
    assert notices
    assert all(isinstance(notice, Notice) for notice in notices)
    return report


@pytest.fixture(scope="module", params=["video", "text"])
def report(request: pytest.FixtureRequest, home: Path) -> FacetsReport:
    """All four kinds on one set."""
    first, *others = [model_of(home, request.param, kind) for kind in KINDS]
    return measured(first, against=others)


# --------------------------------------------------------------------------------------- all kinds


def test_every_kind_is_measured_on_the_same_windows(report: FacetsReport) -> None:
    assert [row.kind for row in report.rows] == KINDS
    assert report.windows > 1
    for row in report.rows:
        assert all(getattr(row, name).how for name in NUMBERS)
        assert row.by_steps_how


@pytest.mark.parametrize("kind", ["transformer", "rnn"])
def test_one_pass_kinds_have_no_state_of_predictions_no_score_and_no_steps(report: FacetsReport, kind: str) -> None:
    row = report.rows[KINDS.index(kind)]
    assert row.hidden_change.value == 0
    assert "0 by construction" in row.hidden_change.how
    assert row.score is None
    assert row.by_steps == []
    for name in NUMBERS[1:]:
        assert getattr(row, name).value is None, name
        assert "no score" in getattr(row, name).how


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_judging_kinds_have_numbers_in_range(report: FacetsReport, kind: str) -> None:
    row = report.rows[KINDS.index(kind)]
    assert row.score
    assert row.hidden_change.value is not None
    assert row.hidden_change.value > 0
    for name in ("other_auroc", "near_auroc", "context_auroc"):
        value = getattr(row, name).value
        assert 0 <= value <= 1, name
        assert row.score in getattr(row, name).how
    for name in ("steps_spearman", "error_spearman"):
        value = getattr(row, name).value
        assert value is None or -1 <= value <= 1, name
        assert value is not None or "undefined" in getattr(row, name).how
    assert row.steps_used.value is not None
    assert 0 < row.steps_used.value <= measuring.BUDGET
    assert [each.steps for each in row.by_steps] == [1, 2, 4, 8, 16]
    assert all(math.isfinite(each.loss) and each.loss > 0 for each in row.by_steps)


def test_steps_used_say_when_positions_stop(home: Path) -> None:
    typical = {"drop": "typical", "tolerance": 0.003, "patience": 2}
    models = {kind: model_of(home, "video", kind) for kind in ("ebt", "diffusion")}
    how = {kind: measured(model, thinking=typical).rows[0].steps_used.how for kind, model in models.items()}
    assert "less than 0.003 of the typical drop in training, 2 times in a row, after at most 16 steps" in how["ebt"]
    assert "less than 0.003 of its own drop so far, 2 times in a row" in how["diffusion"]  # which keeps no typical one


def test_the_hidden_change_is_that_of_windows_one_by_one(home: Path) -> None:
    loaded, prepared = load_world(model_of(home, "video", "ebt")), open_set(home / "data" / "video")
    states = prepared.split("test").states
    starts = list(range(0, len(states) - CONTEXT, CONTEXT))
    changes, true, other = [], [], []
    for index, start in enumerate(starts):
        far = starts[(index + len(starts) // 2) % len(starts)]
        window, rival = (torch.tensor(states[at : at + CONTEXT + 1])[None] for at in (start, far))
        memory = loaded.world.observe(window[:, :-1])
        one, two = (loaded.world.hidden(each[:, 1:], memory).double() for each in (window, rival))
        changes += [float((a - b).norm() / a.norm()) for a, b in zip(one[0], two[0], strict=True)]
        true += loaded.world.judge(window[:, 1:], memory)[0].tolist()  # type: ignore[operator]
        other += loaded.world.judge(rival[:, 1:], memory)[0].tolist()  # type: ignore[operator]
    [row] = measured(model_of(home, "video", "ebt")).rows
    assert row.hidden_change.value == pytest.approx(np.mean(changes), rel=1e-4)
    won = [(o > t) + (o == t) / 2 for o in other for t in true]
    assert row.other_auroc.value == pytest.approx(np.mean(won), abs=1e-3)


def test_losses_by_steps_are_those_of_eval(home: Path) -> None:
    model = model_of(home, "video", "diffusion")
    [row] = measured(model).rows
    *_, whole = evaluate.evaluate(model, steps=[1, 4], samples=[1], rollout=0, device="cpu")
    assert isinstance(whole, EvalReport)
    losses = {each.steps: each.loss for each in row.by_steps}
    assert {each.steps: each.loss for each in whole.by_steps} == {steps: losses[steps] for steps in (1, 4)}
    assert row.error_spearman.value == whole.energy_error_spearman


def test_a_report_is_a_function_of_the_seed_not_of_the_batches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(home, "text", "ebt")

    def numbers(**options: Any) -> list:
        return [row.model_dump() for row in measured(model, **options).rows]

    assert numbers(seed=1) == numbers(seed=1)
    assert numbers(seed=1)[0]["near_auroc"] != numbers(seed=2)[0]["near_auroc"]
    before = numbers(seed=1)[0]
    monkeypatch.setattr("ebwm_cli.run.measure.windows_at_once", lambda *_: 3)
    after = numbers(seed=1)[0]
    for name in ("hidden_change", "other_auroc", "error_spearman", "context_auroc"):
        assert after[name]["value"] == pytest.approx(before[name]["value"], abs=1e-3), name


# ------------------------------------------------------------------------------------------- by hand


class Seer(nn.Module):
    """Knows every window, and doubts contexts that it does not know; says nothing of other candidates."""

    measures: tuple[str, ...] = ()
    score = "squared distance"

    def __init__(self, windows: Tensor) -> None:
        super().__init__()
        self.windows = nn.Parameter(windows, requires_grad=False)  # (W, C+1, D)

    def observe(self, states: Tensor, memory: Any = None) -> Tensor:
        return states

    def _known(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The window (B, C+1, D) with the nearest context, and how far away that is (B, 1)."""
        far = (self.windows[None, :, :-1] - memory[:, None]).square().sum((2, 3))  # (B, W)
        return self.windows[far.argmin(1)], far.min(1, keepdim=True).values

    def settling_drop(self, think: ThinkSection) -> Tensor | None:
        return None

    def hidden(self, candidate: Tensor, memory: Tensor) -> Tensor:
        return torch.cat([candidate, memory], -1)

    def predict(
        self, memory: Tensor, think: ThinkSection, rng: torch.Generator, *, positions: int | None = None, record=False
    ) -> Prediction:
        """Steps as many as the last state is far from the next one, in ranks; a prediction wrong by what it scores."""
        window, unknown = self._known(memory)
        count = positions or memory.shape[1]
        truth, last = window[:, -count:], memory[:, -count:]
        hard = (truth - last).abs().mean(-1)
        wrong = hard + unknown
        state = truth + 0.1 * wrong[..., None]
        zero = state.new_zeros(*state.shape[:2], 1)
        none = zero[..., 0].long()
        return Prediction(
            state=state, start=state, energies=wrong[..., None], moves=zero, steps_used=(1e6 * hard).long(),
            sample_states=state[:, :, None].expand(-1, -1, think.samples, -1), sample_energies=zero,
            sample_gaps=zero, looks=none, tries=none,
        )  # fmt: skip


class Oracle(OneAtATime, Seer):
    """Scores by squared distance to the truth."""

    def judge(self, candidate: Tensor, memory: Tensor, start: Tensor | None = None) -> Tensor:
        return (candidate - self._known(memory)[0][:, -candidate.shape[1] :]).square().sum(-1)


def by_hand(home: Path, prepared: PreparedSet, kind: type[Seer]) -> FacetsRow:
    split = prepared.split("test")
    held_out = HeldOut(split, CONTEXT)
    pairs = pair_windows(held_out, CONTEXT)
    windows = torch.tensor(split.states[pairs.starts[:, None] + np.arange(CONTEXT + 1)])
    difficulty = Difficulty("moving far", (windows[:, 1:] - windows[:, :-1]).abs().mean(-1).double().numpy())
    loaded = load_world(model_of(home, "video", "ebt"))
    world: Any = kind(windows)
    return measure_facets(replace(loaded, world=world), held_out, pairs, difficulty, seed=0)


def test_an_oracle_has_all_facets(home: Path) -> None:
    row = by_hand(home, open_set(home / "data" / "video"), Oracle)
    assert row.other_auroc.value == 1
    assert row.near_auroc.value == 1
    assert row.steps_spearman.value == pytest.approx(1, abs=1e-2)
    assert row.error_spearman.value == pytest.approx(1, abs=1e-2)
    assert row.context_auroc.value is not None
    assert row.context_auroc.value > 0.8
    assert row.hidden_change.value is not None
    assert row.hidden_change.value > 0


def test_a_world_that_scores_but_is_no_judge_tells_nothing_apart(home: Path) -> None:
    row = by_hand(home, open_set(home / "data" / "video"), Seer)
    assert row.other_auroc.value is row.near_auroc.value is None
    assert "no score" in row.other_auroc.how
    assert row.error_spearman.value == pytest.approx(1, abs=1e-2)


# ------------------------------------------------------------------------------------------ refusals


def test_what_means_nothing_is_refused(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(home, "video", "ebt")
    with pytest.raises(UsageError, match="at least 2"):
        measured(model, most_windows=1)
    with pytest.raises(DataError, match="different sets"):
        measured(model, against=[model_of(home, "text", "ebt")])
    for typed in (
        ["--steps", "1"],
        ["--samples", "1", "4"],
        ["--rollout", "0"],
        ["--stride", "1"],
        ["--questions", "q"],
    ):
        assert run(["eval", "--checkpoint", str(model), "--facets", *typed]) == 2
        error, hint = capsys.readouterr().err.splitlines()
        assert error == f"error: {typed[0]} and --facets exclude each other"
        assert hint == "hint: ebwm eval --facets"


# -------------------------------------------------------------------------------------------- console


@pytest.mark.parametrize("modality", ["video", "text"])
def test_the_command_line_writes_one_document_and_one_file(
    home: Path, modality: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    first, *others = [f"runs/{modality}_{kind}" for kind in KINDS]
    words = ["--checkpoint", first, "--against", *others, "--windows", "8", "--seed", "3", "--device", "cpu"]
    assert run(["eval", "--facets", *words, "--json"]) == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [row["kind"] for row in document["rows"]] == KINDS
    assert document["files"] == [f"{first}/eval/facets.json"]
    assert FacetsReport.model_validate_json(Path(document["files"][0]).read_bytes()) == FacetsReport(**document)
    assert not (home / others[0] / "eval").exists()

    assert run(["eval", "--facets", *words, "-q"]) == 0
    told = capsys.readouterr().out
    assert "told from near miss" in told
    assert "no score" in told


def drawn(report: FacetsReport, width: int) -> str:
    paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    paper.print(render(report))
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_facets_fit_the_terminal_and_hide_no_number(report: FacetsReport, width: int, count: int) -> None:
    rows = [*report.rows, *report.rows][:count]
    text = drawn(report.model_copy(update={"rows": rows}), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines()]
    shown = [line[-min(count, 4) :] for line in lines if line[:3] == ["told", "from", "others"]]
    said = " ".join(f"{row.other_auroc.value:.4f}" if row.other_auroc.value is not None else "–" for row in rows[:4])
    assert " ".join(shown[0]) == said
    assert "…" not in text


def test_names_can_not_colour_a_table_of_facets() -> None:
    nothing = Measured(value=None, how="no [red]score\x1b[31m\n")
    row = FacetsRow(
        checkpoint="a\x1b[1m[bold].safetensors", kind="ebt", score=None, **dict.fromkeys(NUMBERS, nothing),
        by_steps=[StepsLoss(steps=1, loss=math.inf)], by_steps_how="none",
    )  # fmt: skip
    report = FacetsReport(
        data="d", split="test", windows=2, stride=6, reference="copying", rows=[row], seconds=1.0, files=["x\x1b"]
    )
    text = drawn(report, 80)
    assert "\x1b" not in text
    assert "[red]" in text
