"""Losses and steps by difficulty, against naive loops and worlds whose errors are known; refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from known_worlds import CONTEXTS, WINDOWS, make_worlds, measured
from small_runs import model_of
from small_set import make_run, make_set
from torch import Tensor, nn

from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.data.labels import ranked
from ebwm_cli.data.store import open_set
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run import difficulty as measuring
from ebwm_cli.run.checkpoint import LoadedWorld, load_world
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.report import EvalReport
from ebwm_cli.run.statistics import LEAST_WINDOWS, spearman


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("difficulty")
    make_worlds(folder)
    return folder


# ------------------------------------------------------------------------------------- naive loops


def one_by_one(home: Path, world: str, think: dict[str, Any]) -> dict[int, list[tuple[float, int]]]:
    """By label, error and steps used of every prediction, window by window."""
    loaded = load_world(model_of(home, world, "ebt"))
    split, context = open_set(home / "data" / world).split("test"), CONTEXTS[world]
    budget = loaded.recipe.think.model_copy(update={"samples": 1, **think})
    starts = [at for a, b in split.segments for at in range(a, b - context, context)]
    starts = [starts[place] for place in naive_spread(len(starts), WINDOWS)]
    found: dict[int, list[tuple[float, int]]] = {}
    for start in starts:
        window = torch.tensor(split.states[start : start + context + 1])
        window = (window.long() if window.dtype == torch.int32 else window)[None]
        rng = torch.Generator().manual_seed(0)
        prediction = loaded.world.predict(loaded.world.observe(window[:, :-1]), budget, rng)
        errors = loaded.space.distance(prediction.state, window[:, 1:])[0]
        for place in range(context):
            assert split.labels is not None
            label = int(split.labels[start + 1 + place])
            found.setdefault(label, []).append((float(errors[place]), int(prediction.steps_used[0, place])))
    return found


def naive_spread(count: int, most: int) -> list[int]:
    """`most` of `count` windows, evenly spread, rounded down."""
    return list(range(count)) if count <= most else [int(i * (count - 1) / (most - 1) + 1e-9) for i in range(most)]


@pytest.mark.parametrize("world", ["balls", "sums"])
def test_numbers_are_those_of_windows_one_by_one(home: Path, world: str) -> None:
    report = measured(model_of(home, world, "ebt"))
    fixed = {steps: one_by_one(home, world, {"steps": steps, "stop": "fixed"}) for steps in (2, 16)}
    free = one_by_one(home, world, {"steps": measuring.BUDGET, "stop": "energy"})
    there = [row for row in report.rows if row.positions]
    assert len(there) > 3
    assert {row.label for row in there} == set(free) - {-1}
    assert report.labelled == sum(row.positions for row in there)
    for row in there:
        assert row.positions == len(free[row.label])
        assert [each.steps for each in row.by_steps] == [1, 2, 4, 8, 16]
        losses = {each.steps: each.loss for each in row.by_steps}
        for steps in (2, 16):
            mean = np.mean([error for error, _ in fixed[steps][row.label]])
            assert losses[steps] == pytest.approx(mean, rel=1e-4), (row.name, steps)
        assert row.change == pytest.approx(losses[16] / losses[2] - 1, rel=1e-9, abs=1e-12)
        assert row.stopped_loss == pytest.approx(np.mean([error for error, _ in free[row.label]]), rel=1e-3)
        assert row.steps_used == pytest.approx(np.mean([used for _, used in free[row.label]]), rel=1e-2)
        assert row.loss is None
    assert (report.few, report.many, report.budget) == (2, 16, 16)


def test_no_steps_are_where_descents_start(home: Path) -> None:
    report = measured(model_of(home, "balls", "ebt"), by_steps=[0, 1])
    assert (report.few, report.many) == (0, 1)
    for row in report.rows:
        if row.positions:
            start, _ = row.by_steps
            assert start.loss == pytest.approx(row.reference_loss, rel=1e-5)  # the last state


def test_the_reference_is_copying_or_the_bigram(home: Path) -> None:
    report = measured(model_of(home, "balls", "ebt"), most_windows=None)
    assert report.reference == "copying the last"
    split, context = open_set(home / "data" / "balls").split("test"), CONTEXTS["balls"]
    errors: dict[int, list[float]] = {}
    for a, b in split.segments:
        for start in range(a, b - context, context):
            for at in range(start + 1, start + context + 1):
                gap = np.abs(split.states[at].astype(np.float64) - split.states[at - 1])
                loss = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
                errors.setdefault(int(split.labels[at]), []).append(float(loss))  # type: ignore[index]
    for row in report.rows:
        if row.positions:
            assert row.reference_loss == pytest.approx(np.mean(errors[row.label]), rel=1e-5)
    # Copying is the worse, the more collides: labels are of this very world.
    assert report.groups[0].reference_spearman == pytest.approx(
        spearman(
            [loss for losses in errors.values() for loss in losses],
            [label for label, losses in errors.items() for _ in losses],
        )
    )
    assert measured(model_of(home, "sums", "ebt")).reference == "bigram"


@pytest.mark.parametrize("kind", ["ebt", "diffusion"])
def test_losses_over_all_classes_are_those_of_eval(home: Path, kind: str) -> None:
    """Every state of a clip that is predicted has a label."""
    model = model_of(home, "balls", kind)
    report = measured(model, most_windows=None, by_steps=[1, 4])
    assert report.labelled == report.windows * report.stride
    *_, whole = evaluate(model, steps=[1, 4], samples=[1], rollout=0, device="cpu")
    assert isinstance(whole, EvalReport)
    for place, each in enumerate(whole.by_steps):
        losses = [row.by_steps[place].loss * row.positions for row in report.rows if row.positions]
        assert sum(losses) / report.labelled == pytest.approx(each.loss, rel=1e-6)
    assert (report.few, report.many) == (1, 4)


def test_one_pass_has_losses_and_nothing_else(home: Path) -> None:
    report = measured(model_of(home, "sums", "transformer"), most_windows=100)
    assert report.score is report.few is report.many is report.budget is report.tolerance is None
    for row in report.rows:
        assert row.by_steps == []
        assert row.change is row.change_ci95 is row.steps_used is row.stopped_loss is None
        assert row.positions > 0
        assert row.loss is not None
        assert row.loss > 0
    assert [group.steps_spearman for group in report.groups] == [None, None]
    assert all(group.error_spearman is not None for group in report.groups)


def test_classes_and_groups_are_those_of_the_set(home: Path) -> None:
    report = measured(model_of(home, "sums", "diffusion"))
    assert [row.name for row in report.rows][:5] == [
        "sum, carry 0", "sum, carry 1", "sum, carry 2", "sum, carry 3+", "sort of 3",
    ]  # fmt: skip
    assert [group.group for group in report.groups] == ["sum", "sort"]
    for group in report.groups:
        assert group.positions == sum(row.positions for row in report.rows if row.group == group.group)
    assert report.labels == "digits"
    assert report.windows == WINDOWS


# -------------------------------------------------------------------------------------- known worlds


class Slow(nn.Module):
    """A world whose errors and steps are known: `hard` / steps off, and done after `hard` steps where it may stop.

    Of each window it is told how hard every state is.
    """

    measures: tuple[str, ...] = ()
    score: str | None = "distance"

    def __init__(self, windows: Tensor, hard: Tensor) -> None:
        super().__init__()
        self.windows, self.hard = nn.Parameter(windows, requires_grad=False), hard  # (W, C+1, D), (W, C)

    def observe(self, states: Tensor, memory: Any = None) -> Tensor:
        return states

    def predict(
        self, memory: Tensor, think: ThinkSection, rng: torch.Generator, *, positions: int | None = None, record=False
    ) -> SimpleNamespace:
        """What is looked at of a Prediction."""
        which = (self.windows[None, :, :-1] - memory[:, None]).square().sum((2, 3)).argmin(1)
        hard, truth = self.hard[which], self.windows[which][:, 1:]
        used = torch.full_like(hard, think.steps) if think.stop == "fixed" else hard.clamp_max(think.steps)
        state = truth + torch.sqrt(2 * hard / used)[..., None]  # SmoothL1 below 1: half the square
        return SimpleNamespace(state=state, steps_used=used.long())


CLASSES = ranked("work", {"even": [(0, "easy"), (2, "hard")], "odd": [(3, "easier"), (1, "harder")]})


def known(home: Path) -> tuple[LoadedWorld, HeldOut, np.ndarray]:
    """A Slow world, its windows, and labels 0 .. 3 and -1 in turn, label 1 and 2 being the hard ones."""
    held_out, context = HeldOut(open_set(home / "data" / "balls").split("test"), CONTEXTS["balls"]), CONTEXTS["balls"]
    starts = held_out.split.windows(context, context)
    windows = torch.tensor(held_out.split.states[starts[:, None] + np.arange(context + 1)])
    labels = np.arange(len(starts) * context).reshape(-1, context) % 5 - 1
    hard = torch.tensor(np.where((labels == 1) | (labels == 2), 0.4, 0.1), dtype=torch.float32)
    loaded = load_world(model_of(home, "balls", "ebt"))
    world: Any = Slow(windows, hard)
    return replace(loaded, world=world), held_out, labels


def test_a_world_that_needs_steps_where_it_is_hard_is_told_as_such(home: Path) -> None:
    loaded, held_out, labels = known(home)
    found = measuring.measure(loaded, held_out, (2, 8), seed=0)
    reference = np.ones(labels.shape)
    rows = {row.label: row for row in measuring.rows_of(CLASSES, labels, found, reference, seed=0)}
    assert list(rows) == [0, 2, 3, 1]
    for label, hard in ((0, 0.1), (1, 0.4), (2, 0.4), (3, 0.1)):
        row = rows[label]
        assert row.positions == (labels == label).sum()
        assert row.reference_loss == 1
        assert {each.steps: each.loss for each in row.by_steps} == {
            2: pytest.approx(hard / 2, rel=1e-4), 8: pytest.approx(hard / 8, rel=1e-4),
        }  # fmt: skip
        assert row.change == pytest.approx(-0.75, abs=1e-4)
        enough = (labels == label).any(1).sum() >= LEAST_WINDOWS
        assert enough or label == 3
        assert row.change_ci95 == (pytest.approx((-0.75, -0.75), abs=1e-4) if enough else None)


def test_correlations_are_within_groups_by_rank_not_by_label(home: Path) -> None:
    _, _, labels = known(home)
    hard = np.where((labels == 1) | (labels == 2), 5, 2)
    errors = -1.0 * hard
    found = measuring.Measurement(measuring.Thought(errors, hard), {2: errors, 8: errors}, 2, 8)
    groups = {each.group: each for each in measuring.groups_of(CLASSES, labels, found, np.ones(labels.shape))}
    assert list(groups) == ["even", "odd"]
    for name, members in (("even", (0, 2)), ("odd", (1, 3))):
        assert groups[name].positions == np.isin(labels, members).sum()
        assert groups[name].steps_spearman == pytest.approx(1)
        assert groups[name].error_spearman == pytest.approx(-1)
        assert groups[name].reference_spearman is None  # the same everywhere
        assert groups[name].steps_error_spearman == pytest.approx(-1)  # with the error at most steps


def test_a_class_that_is_nowhere_has_no_numbers(home: Path) -> None:
    loaded, held_out, labels = known(home)
    found = measuring.measure(loaded, held_out, (2, 8), seed=0)
    row = measuring.rows_of(CLASSES, np.where(labels == 2, -1, labels), found, np.ones(labels.shape), seed=0)[1]
    assert (row.label, row.positions, row.by_steps) == (2, 0, [])
    assert row.reference_loss is row.change is row.change_ci95 is row.steps_used is row.stopped_loss is None


def test_labels_of_windows_are_those_of_predicted_states(home: Path) -> None:
    split, context = open_set(home / "data" / "sums").split("test"), CONTEXTS["sums"]
    assert split.labels is not None
    for stride, most in ((context, None), (3, None), (5, 7)):
        labels = measuring.window_labels(HeldOut(split, stride, most), context)
        assert labels is not None
        starts = split.windows(context, stride)
        starts = starts[naive_spread(len(starts), most)] if most else starts
        assert labels.shape == (len(starts), stride)
        for row, start in zip(labels.tolist(), starts.tolist(), strict=True):
            assert row == split.labels[start + context + 1 - stride : start + context + 1].tolist()


# ----------------------------------------------------------------------------------------- intervals


def test_intervals_hold_what_is_true_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(0), 0
    for trial in range(100):
        few = rng.gamma(2.0, 1.0, 80)
        many = few * 0.9 + 0.1 * rng.normal(0, 1, 80)
        interval = measuring.change_interval(few, many, trial)
        assert interval is not None
        held += interval[0] <= -0.1 <= interval[1]
    assert 88 <= held <= 99


def test_windows_without_the_class_widen_no_interval_and_few_windows_have_none() -> None:
    few, many = np.array([1.0, 2.0, 3.0, 1.0, 2.0]), np.array([1.0, 1.0, 4.0, 1.5, 1.0])
    assert len(few) == LEAST_WINDOWS
    assert measuring.change_interval(np.append(few, [0, 0]), np.append(many, [0, 0]), 3) == measuring.change_interval(
        few, many, 3
    )
    assert measuring.change_interval(np.append(few[1:], 0), np.append(many[1:], 0), 0) is None
    low, high = measuring.change_interval(few, few, 0) or (1.0, 1.0)
    assert low == high == 0


# ------------------------------------------------------------------------------------------ refusals


def test_sets_that_do_not_say_how_hard_they_are_are_refused(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "data" / "old")
    model = make_run(tmp_path / "runs" / "old", prepared)
    with pytest.raises(DataError, match="doesn't say how hard") as caught:
        measured(model)
    assert "ebwm prepare demo --world balls (or sums)" in caught.value.hint
    assert not (tmp_path / "runs" / "old" / "eval").exists()


def test_windows_without_any_label_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebwm_cli.commands.difficulty.window_labels", lambda *_: np.full((2, 4), -1))
    with pytest.raises(DataError, match="no state of 2 test windows"):
        measured(model_of(home, "balls", "ebt"))


@pytest.mark.parametrize("options", [{"by_steps": []}, {"by_steps": [0]}, {"by_steps": [-1, 2]}, {"most_windows": 0}])
def test_budgets_that_mean_nothing_are_refused(home: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        measured(model_of(home, "balls", "ebt"), **options)
    assert caught.value.hint
