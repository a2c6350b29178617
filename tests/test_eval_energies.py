"""What `eval` says of energies by number of steps, where a level measures every end by where it lies; and what a state
costs where several starts are made."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_set import CONTEXT, make_run, make_set, small_recipe

from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.console_eval import render
from ebwm_cli.model.level import Measure
from ebwm_cli.recipe.model import DescentSection, EnergiesSection
from ebwm_cli.run import pictures
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.measure import HeldOut, predict_windows
from ebwm_cli.run.report import EvalReport
from ebwm_cli.world.build import cost

STEPS = [0, 1, 2, 4, 8]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose level lifts an end the more the farther it lies off where the first moves led."""

    def lifted(self: Measure, energy: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        return energy + 1e3 * (point - self.reached).square().sum(-1, keepdim=True)

    monkeypatch.setattr(Measure, "__call__", lifted)
    descent = DescentSection(step_size=0.05, anchor=0.02)
    recipe = small_recipe(descent=descent, energies=EnergiesSection(level=True))
    return make_run(tmp_path / "run", make_set(tmp_path / "set"), recipe=recipe)


def test_energies_by_steps_fall_where_descents_do(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[pictures.Curve] = []
    monkeypatch.setattr(pictures, "draw_curves", lambda path, title, curves, *rest, **style: drawn.extend(curves))
    *_, report = evaluate(model, steps=STEPS, samples=[1], rollout=0, device="cpu")
    assert isinstance(report, EvalReport)
    loaded = load_world(model, device="cpu")
    held_out = HeldOut(make_set(tmp_path / "again").split("test"), CONTEXT)
    levelled, bare = [], []
    for steps in STEPS:
        think = loaded.recipe.think.model_copy(update={"steps": steps})
        scores = predict_windows(loaded, held_out, think, seed=0)
        levelled.append(scores.energies.mean())
        bare.append(scores.bare.mean())
    assert levelled[2] < levelled[3] < levelled[4]  # those of ends can't be held beside one another
    assert [row.rises for row in report.by_steps] == [0] * len(STEPS)
    energies = [row.energy for row in report.by_steps]
    assert energies == pytest.approx(bare)
    assert all(later < earlier for earlier, later in pairwise(energies))
    assert drawn[1].name == "energy, as descents go by it"
    assert list(drawn[1].y) == energies


def screen(report: EvalReport) -> str:
    paper = Console(width=100, file=io.StringIO(), color_system=None)
    paper.print(render(report))
    return paper.file.getvalue()  # type: ignore[attr-defined]


def test_flops_of_several_starts_and_of_one_are_told_apart(model: Path) -> None:
    def measured(**thinking: int) -> EvalReport:
        *_, found = evaluate(model, steps=[3], samples=[1], rollout=0, device="cpu", thinking=thinking)
        assert isinstance(found, EvalReport)
        return found

    several, one = measured(samples=4), measured()
    assert (several.samples, one.samples) == (4, 1)
    assert several.by_stop == one.by_stop  # of one start, whatever the loss is of
    loaded = load_world(model, device="cpu")
    assert one.flops_per_state == one.by_stop[0].flops_per_state == cost(loaded.recipe, loaded.spec).flops_per_state
    assert several.flops_per_state > 2 * one.flops_per_state
    text = screen(several)
    assert "3 descent steps, 4 starts, 4 windows" in text
    assert "FLOP per state, 3 steps, 4 starts" in text
    for title in ("more thinking", "stopping by itself"):
        assert f"{title} from one start" in text
        assert f"{title} from one start" not in screen(one)
    assert "starts, " not in screen(one)
