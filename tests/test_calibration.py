"""Calibration against closed forms and loops, at its ends, for all kinds, as people and programs see it."""

from __future__ import annotations

import io
import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_set import make_run, make_set, small_recipe
from small_text import make_text_set, small_text_recipe
from torch import Tensor, nn

from ebwm_cli.commands import evaluate
from ebwm_cli.commands.calibration import calibration
from ebwm_cli.console import View, render, show
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.model.ngram import Bigram
from ebwm_cli.model.references import Copy
from ebwm_cli.model.state_space import LatentSpace
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.model import DiffusionSection, ModelSection, RnnSection, TransformerSection
from ebwm_cli.recipe.schema import DataSection, Recipe, ThinkSection
from ebwm_cli.run.calibration import measure_calibration, shuffle, shuffled_orders
from ebwm_cli.run.checkpoint import load_world, save_model
from ebwm_cli.run.judging import Baseline
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.picture_calibration import draw_calibration
from ebwm_cli.run.reliability import parts, reliability
from ebwm_cli.run.report import EvalReport, Notice
from ebwm_cli.run.report_calibration import CalibrationReport, CalibrationRow, Telling

RIVALS: dict[str, ModelSection] = {
    "transformer": TransformerSection(layers=1, width=16, heads=2),
    "rnn": RnnSection(layers=1, width=16),
    "diffusion": DiffusionSection(layers=1, width=16, heads=2),
}
KINDS = ["ebt", *RIVALS]
FALSE = ["other", "shuffled", "past_shuffled", "two_ahead", "near_30", "near_10"]
CONTEXT, DIM, CLIP, VOCABULARY = 6, 8, 31, 7

# ------------------------------------------------------------------------------------------- by hand


class Clips:
    """A split of clips of CLIP states each, in memory."""

    name = "test"

    def __init__(self, states: np.ndarray) -> None:
        self.states = states

    def windows(self, context: int, stride: int | None = None, share: float = 1.0) -> np.ndarray:
        begins = np.arange(0, CLIP - context, stride or context)
        return (np.arange(0, len(self.states), CLIP)[:, None] + begins).ravel()

    def sources(self, states: np.ndarray) -> np.ndarray:
        return states // CLIP


def walks(clips: int = 40, seed: int = 0) -> Clips:
    """Random walks of states, with steps of all sizes."""
    rng = np.random.default_rng(seed)
    steps = 0.2 * rng.lognormal(size=(clips, CLIP, 1)) * rng.normal(size=(clips, CLIP, DIM))
    return Clips(steps.cumsum(1).reshape(-1, DIM).astype(np.float32))


class Blind(nn.Module):
    """Knows every window and predicts it wrongly; scores nothing. Remembers the contexts it was shown."""

    score: str | None = None

    def __init__(self, split: Clips, wrong: float = 0.1) -> None:
        super().__init__()
        starts = split.windows(CONTEXT)
        self.windows = nn.Parameter(torch.tensor(split.states[starts[:, None] + np.arange(CONTEXT + 1)]), False)
        rng = torch.Generator().manual_seed(5)
        self.wrong = wrong * torch.randn(self.windows[:, 1:].shape, generator=rng).cumsum(-1)
        self.seen: list[Tensor] = []

    def observe(self, states: Tensor, memory: Any = None) -> Tensor:
        self.seen.append(states)
        return states

    def known(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Which window has the nearest context, (B,), and how far off that is, (B, 1)."""
        far = (self.windows[None, :, :-1] - memory[:, None]).square().sum((2, 3))  # (B, W)
        return far.argmin(1), far.min(1, keepdim=True).values

    def predict(self, memory: Tensor, think: Any, rng: Any, *, positions: int | None = None) -> Any:
        which, _ = self.known(memory)
        count = positions or memory.shape[1]
        state = (self.windows[which, 1:] + self.wrong[which])[:, -count:]
        return SimpleNamespace(state=state, energy=self.rate(state, memory))

    def rate(self, candidate: Tensor, memory: Tensor) -> Tensor:
        return torch.zeros(candidate.shape[:2])


class Oracle(Blind):
    """Scores by the squared distance to the truth, and that of the context to the nearest known one."""

    score = "squared distance"

    def rate(self, candidate: Tensor, memory: Tensor) -> Tensor:
        which, unknown = self.known(memory)
        truth = self.windows[which, 1:][:, -candidate.shape[1] :]
        return (candidate - truth).square().sum(-1) + unknown

    def judge(self, candidate: Tensor, memory: Tensor, start: Tensor | None = None) -> Tensor:
        return self.rate(candidate, memory)


class Dice(Oracle):
    """Scores by chance."""

    score = "dice"
    rng = torch.Generator().manual_seed(3)

    def rate(self, candidate: Tensor, memory: Tensor) -> Tensor:
        return torch.randn(candidate.shape[:2], generator=self.rng)


class Leaper(Oracle):
    """Scores by how far the candidate is from twice the last state, and with an anchor by how far from its start."""

    score = "leap"

    def rate(self, candidate: Tensor, memory: Tensor) -> Tensor:
        return (candidate - 2 * memory[:, -candidate.shape[1] :]).square().sum(-1)

    def judge(self, candidate: Tensor, memory: Tensor, start: Tensor | None = None) -> Tensor:
        origin = memory[:, -candidate.shape[1] :] if start is None else start
        return self.rate(candidate, memory) + 7 * (candidate - origin).square().sum(-1)


def by_hand(split: Clips, world: Any, space: Any = None, baseline: Baseline | None = None) -> CalibrationRow:
    space = space or LatentSpace(DIM, DIM)
    loaded: Any = SimpleNamespace(
        world=world, space=space, path=Path("somewhere.safetensors"),
        spec=SimpleNamespace(context=CONTEXT, state_dim=DIM),
        recipe=SimpleNamespace(think=ThinkSection(steps=2), model=SimpleNamespace(kind="by hand")),
    )  # fmt: skip
    held_out = HeldOut(split, CONTEXT)  # type: ignore[arg-type]
    baseline = baseline or Baseline("copying the last", Copy(space.distance))
    return measure_calibration(loaded, "it", held_out, pair_windows(held_out, CONTEXT), baseline, 0)


def telling(row: CalibrationRow, key: str) -> Telling:
    [found] = [each for each in row.telling if each.key == key]
    return found


def values(row: CalibrationRow, key: str, kind: str = "auroc") -> dict[str, float | None]:
    return {name: each.value for name, each in getattr(telling(row, key), kind).items()}


def naive_auroc(false: list[float], true: list[float]) -> float:
    return float(np.mean([(f > t) + (f == t) / 2 for f in false for t in true]))


def test_an_oracle_knows_everything() -> None:
    split = walks()
    row = by_hand(split, Oracle(split))
    assert values(row, "score") == values(row, "score", "same_place") == dict.fromkeys(FALSE, 1.0)
    assert row.score_spearman.value == pytest.approx(1)
    assert row.partial_spearman.value == pytest.approx(1)
    errors = [each.mean_error for each in row.reliability.bins]
    assert len(errors) == 10
    assert errors == sorted(errors)
    assert all(one.ci95[0] <= one.mean_error <= one.ci95[1] for one in row.reliability.bins)
    assert sum(each.positions for each in row.reliability.bins) == 40 * 5 * CONTEXT
    assert row.doubt_spearman.value is not None
    assert row.doubt_spearman.value < 0.6


def test_dice_know_nothing() -> None:
    split = walks()
    row = by_hand(split, Dice(split))
    for kind in ("auroc", "same_place"):
        for key, value in values(row, "score", kind).items():
            assert value == pytest.approx(0.5, abs=0.12 if "shuffled" in key else 0.05), key
    assert row.score_spearman.value == pytest.approx(0, abs=0.1)
    inside = [each.ci95[0] <= row.loss <= each.ci95[1] for each in row.reliability.bins]
    assert sum(inside) >= 7


def test_without_a_score_there_are_references_and_a_reason() -> None:
    split = walks()
    row = by_hand(split, Blind(split))
    assert row.score is None
    for measured in (row.score_spearman, row.partial_spearman, *telling(row, "score").auroc.values()):
        assert measured.value is None
        assert "no score" in measured.how
    assert row.reliability.bins == []
    assert "no score" in row.reliability.how
    assert len(row.doubt_reliability.bins) == 10
    assert None not in values(row, "prediction").values()
    same = by_hand(split, Oracle(split))
    for key in ("prediction", "doubt", "candidate_doubt", "reference"):
        assert telling(row, key) == telling(same, key)  # they ask no judge
    assert row.doubt_spearman.value == same.doubt_spearman.value


def test_every_position_is_held_against_its_own_false_states() -> None:
    """All of it again, one position at a time."""
    split = walks(clips=6)
    world = Leaper(split)
    row = by_hand(split, world)
    held_out: Any = HeldOut(split, CONTEXT)  # type: ignore[arg-type]
    pairs = pair_windows(held_out, CONTEXT)
    numbers: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    within: dict[tuple[str, str], list[float]] = {}
    states = split.states.astype(np.float64)

    def note(key: str, way: str, false: float, true: float) -> None:
        falses, trues = numbers.setdefault((key, way), ([], []))
        falses.append(false)
        trues.append(true)
        within.setdefault((key, way), []).append((false > true) + (false == true) / 2)

    def far(one: np.ndarray, two: np.ndarray) -> float:
        return float(((one - two) ** 2).sum())

    for index, (start, other) in enumerate(zip(pairs.starts, pairs.others, strict=True)):
        for place in range(CONTEXT):
            last, truth = states[start + place], states[start + place + 1]
            said = truth + world.wrong[index, place].double().numpy()
            false = {"other": states[other + place + 1]}
            if place + 1 < CONTEXT:
                false["two_ahead"] = states[start + place + 2]
            for key, wrong in false.items():
                note(
                    key,
                    "score",
                    far(wrong, 2 * last) + 7 * far(wrong, last),
                    far(truth, 2 * last) + 7 * far(truth, last),
                )
                bottom = far(said, 2 * last) + 7 * far(said, last)
                heights = [far(each, 2 * last) + 7 * far(each, last) - bottom for each in (wrong, truth)]
                note(key, "score_above", *heights)
                note(key, "score_without_anchor", far(wrong, 2 * last), far(truth, 2 * last))
                note(key, "prediction", far(wrong, said), far(truth, said))
                note(key, "candidate_doubt", far(wrong, last), far(truth, last))
    for (key, way), (falses, trues) in numbers.items():
        assert values(row, way)[key] == pytest.approx(naive_auroc(falses, trues), abs=1e-3), (key, way)
        assert values(row, way, "same_place")[key] == pytest.approx(np.mean(within[key, way]), abs=5e-3), (key, way)
        assert f"at {len(falses):,} positions" in telling(row, way).auroc[key].how
    assert len(numbers["two_ahead", "score"][0]) == len(pairs.starts) * (CONTEXT - 1)
    assert values(row, "doubt")["other"] == 0.5
    assert "by construction" in telling(row, "doubt").auroc["other"].how
    assert values(row, "candidate_doubt")["past_shuffled"] == 0.5  # the last state and the next one are where they were
    assert values(row, "candidate_doubt")["shuffled"] > 0.6  # type: ignore[operator]  # another state is the last one
    assert values(row, "doubt")["past_shuffled"] != 0.5


def test_states_that_do_not_differ_are_not_counted() -> None:
    split = walks(clips=4)
    split.states[:] = split.states[0]
    row = by_hand(split, Oracle(split))
    found = telling(row, "score")
    for key in ("other", "shuffled", "past_shuffled", "two_ahead"):
        assert found.auroc[key].value is found.same_place[key].value is None
        assert "at 0 positions" in found.auroc[key].how
        assert "undefined" in found.auroc[key].how
    assert found.auroc["near_10"].value == 1
    assert row.doubt_spearman.value is not None


def test_contexts_are_shuffled_whole_and_all_but_their_last_state() -> None:
    split = walks(clips=4)
    world = Oracle(split)
    by_hand(split, world)
    contexts, _, whole, past = world.seen[:4]  # the second: the true order once more, beside the others
    assert not torch.equal(contexts[:, -1], whole[:, -1])
    assert torch.equal(contexts[:, -1], past[:, -1])
    for shuffled in (whole, past):
        assert not torch.equal(contexts, shuffled)
        for one, two in zip(contexts, shuffled, strict=True):
            assert sorted(one.tolist()) == sorted(two.tolist())
    for kept in (0, 1):
        orders = shuffled_orders(500, CONTEXT, seed=1, kept=kept)
        assert (np.sort(orders, 1) == np.arange(CONTEXT)).all()
        assert (orders[:, -1] == CONTEXT - 1).all() == bool(kept)
        assert len({tuple(order) for order in orders.tolist()}) > 100
        assert (shuffled_orders(500, CONTEXT, 1, kept) == orders).all()
        assert (shuffled_orders(500, CONTEXT, 2, kept) != orders).any()
    tokens = torch.arange(12).reshape(2, 6)
    order = torch.from_numpy(orders[:2])
    assert shuffle(tokens, order).tolist() == [[tokens[b, i].item() for i in order[b]] for b in range(2)]
    for context in (1, 2):
        assert (shuffled_orders(3, context, 0, kept=1) == np.arange(context)).all()  # nothing to move


# ---------------------------------------------------------------------------------------------- tokens


class Speaker(nn.Module):
    """Says the logits of a table, `sharp` times as sure as they are."""

    score = None

    def __init__(self, logits: Tensor, sharp: float = 1.0) -> None:
        super().__init__()
        self.logits = nn.Parameter(sharp * logits, False)

    def observe(self, states: Tensor, memory: Any = None) -> Tensor:
        return states

    def predict(self, memory: Tensor, think: Any, rng: Any, *, positions: int | None = None) -> Any:
        state = self.logits[memory][:, -(positions or memory.shape[1]) :]
        return SimpleNamespace(state=state, energy=torch.zeros(state.shape[:2]))


@pytest.fixture(scope="module")
def chains() -> tuple[Clips, Tensor]:
    """Texts of a Markov chain, some of whose tokens say what follows and some do not, and its log p (V, V)."""
    rng = np.random.default_rng(0)
    sure = np.linspace(0.2, 3, VOCABULARY)[:, None]
    log_p = torch.tensor(sure * rng.normal(size=(VOCABULARY, VOCABULARY)), dtype=torch.float32).log_softmax(-1)
    tokens, p = [0], log_p.double().exp().numpy()
    for _ in range(400 * CLIP - 1):
        tokens.append(int(rng.choice(VOCABULARY, p=p[tokens[-1]] / p[tokens[-1]].sum())))
    return Clips(np.array(tokens)), log_p


def test_tokens_are_told_apart_in_nats(chains: tuple[Clips, Tensor]) -> None:
    split, log_p = chains
    space = TokenSpace(VOCABULARY, 16)
    bigram = Baseline("bigram", Bigram(torch.from_numpy(split.states), VOCABULARY))
    row = by_hand(split, Speaker(log_p), space, bigram)
    assert row.doubt_gap.value is not None
    assert row.doubt_gap.value < 0.06
    assert "nats" in row.doubt_gap.how
    sharp = by_hand(split, Speaker(log_p, 3), space, bigram)
    assert sharp.doubt_gap.value is not None
    assert sharp.doubt_gap.value > 0.4
    assert row.reference_spearman.value is not None
    assert row.reference_spearman.value > 0.95  # it counts what the speaker says
    starts = split.windows(CONTEXT)
    windows = split.states[starts[:, None] + np.arange(CONTEXT + 1)]
    before, true, false = windows[:, :-2].ravel(), windows[:, 1:-1].ravel(), windows[:, 2:].ravel()
    where = np.flatnonzero(true != false)
    said = -log_p.double().numpy()
    wrong, right = (said[before[where], each[where]] for each in (false, true))
    more = (wrong > right).mean() + (wrong == right).mean() / 2
    assert values(row, "prediction", "same_place")["two_ahead"] == pytest.approx(more, abs=1e-3)
    assert values(row, "candidate_doubt")["near_30"] == 1  # unsure of itself, as no token is
    assert values(row, "candidate_doubt")["other"] == 0.5
    for share in (0.3, 0.1):
        assert f"{share:.0%}" in telling(row, "prediction").auroc[f"near_{100 * share:.0f}"].how


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_near_misses_are_wrong_by_their_share(share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    latents, tokens = torch.randn(8, 32, 64, generator=rng), torch.randint(50, (8, 64), generator=rng)
    assert float((LatentSpace(64, 64).near_miss(latents, rng, share) - latents).std()) == pytest.approx(share, rel=0.02)
    p = TokenSpace(50, 16).near_miss(tokens, rng, share).softmax(-1)
    assert torch.allclose(p.gather(-1, tokens[..., None]), torch.tensor(1 - share), atol=1e-4)
    assert torch.allclose(p.topk(2).values[..., 1], torch.tensor(share), atol=1e-4)


# ------------------------------------------------------------------------------------------ reliability


def test_parts_are_equal_and_keep_equal_scores_together() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(100.0 * np.arange(60)).reshape(10, 6)
    place = parts(scores, 10)
    assert (np.bincount(place.ravel()) == 6).all()
    assert (place == scores // 600).all()
    tied = parts(np.array([1.0, 1, 1, 1, 1, 1, 2, 3, 4, 5]), 10)
    assert len(set(tied[:6].tolist())) == 1
    assert (np.diff(tied) >= 0).all()


def test_a_curve_is_its_means() -> None:
    rng = np.random.default_rng(0)
    errors = rng.gamma(2, size=(50, 8))
    scores = errors + rng.normal(size=errors.shape)
    curve = reliability("score", scores, errors, 0)
    order = np.argsort(scores.ravel())
    for part, members in zip(curve.bins, np.array_split(order, 10), strict=True):
        assert part.positions == len(members) == 40
        assert part.windows == len(set((members // 8).tolist()))
        assert part.mean_error == pytest.approx(errors.ravel()[members].mean())
        assert part.mean_score == pytest.approx(scores.ravel()[members].mean())
    assert reliability("score", scores, errors, 0) == curve
    assert reliability("score", scores, errors, 1) != curve


def test_intervals_are_of_windows_not_of_positions() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.normal(size=(400, 1)), 10, 1)
    scores = rng.normal(size=same.shape)
    widths = []
    for errors in (same, rng.normal(size=same.shape)):
        widths.append(np.mean([each.ci95[1] - each.ci95[0] for each in reliability("s", scores, errors, 0).bins]))
    # 400 positions of about 0.65 * 400 windows, some of which are there twice: 1 / sqrt(n) over sum m^2 / (sum m)^2
    assert widths[1] == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.1)
    assert widths[0] == pytest.approx(widths[1] * math.sqrt(1.9), rel=0.1)


def test_what_can_not_be_sorted_has_no_curve() -> None:
    errors = np.random.default_rng(0).normal(size=(4, 5))
    assert reliability("s", np.ones((4, 5)), errors, 0).bins == []
    assert "same" in reliability("s", np.ones((4, 5)), errors, 0).how
    errors[0, 0] = np.inf
    assert "finite" in reliability("s", np.arange(20.0).reshape(4, 5), errors, 0).how
    few = reliability("s", np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones((2, 2)), 0)
    assert [each.positions for each in few.bins] == [1] * 4


# ------------------------------------------------------------------------------------------- all kinds


def recipe_of(kind: str, modality: str) -> Recipe:
    """A small world of one kind."""
    if kind == "ebt":
        return small_recipe() if modality == "video" else small_text_recipe()
    return Recipe(name="small", data=DataSection(modality=modality), model=RIVALS[kind], think=ThinkSection(steps=3))  # type: ignore[arg-type]


def speaking(path: Path) -> None:
    """Give the model at `path` random weights where it has zeros: an untrained forecast says that nothing changes."""
    loaded = load_world(path)
    torch.manual_seed(1)
    weights = {
        name: 0.2 * torch.randn_like(weight) if weight.ndim > 1 and not weight.any() else weight
        for name, weight in loaded.world.state_dict().items()
    }
    facts: dict[str, Any] = {name: getattr(loaded, name) for name in ("recipe", "spec", "encoder", "data", "step")}
    save_model(path, weights, **facts)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/video and data/text, and a run of every kind on each."""
    home = tmp_path_factory.mktemp("calibration")
    sets = {"video": make_set(home / "data" / "video"), "text": make_text_set(home / "data" / "text", sentences=250)}
    for (modality, prepared), kind in product(sets.items(), KINDS):
        speaking(make_run(home / "runs" / f"{modality}_{kind}", prepared, recipe=recipe_of(kind, modality)))
    return home


def model_of(home: Path, modality: str, kind: str) -> Path:
    return home / "runs" / f"{modality}_{kind}" / "model.safetensors"


def measured(checkpoint: Path, **options: Any) -> CalibrationReport:
    """The report at the end."""
    *notices, report = calibration(checkpoint, **{"device": "cpu", "most_windows": 40, **options})
    assert isinstance(report, CalibrationReport)
    assert notices
    assert all(isinstance(notice, Notice) for notice in notices)
    return report


@pytest.fixture(scope="module", params=["video", "text"])
def report(request: pytest.FixtureRequest, home: Path) -> CalibrationReport:
    """All four kinds on one set."""
    first, *others = [model_of(home, request.param, kind) for kind in KINDS]
    return measured(first, against=others)


def test_every_kind_is_measured_and_says_how(report: CalibrationReport) -> None:
    assert [row.kind for row in report.rows] == KINDS
    assert [each.key for each in report.false_states] == FALSE
    assert len({row.name for row in report.rows}) == len(KINDS)
    for row in report.rows:
        assert [each.key for each in row.telling] == [
            "score", "score_above", "score_without_anchor", "prediction", "doubt", "candidate_doubt", "reference",
        ]  # fmt: skip
        for each in row.telling:
            for found in (each.auroc, each.same_place):
                assert list(found) == FALSE
                assert all(measured.how for measured in found.values())
                assert all(0 <= m.value <= 1 for m in found.values() if m.value is not None)
        judged = telling(row, "score")
        assert (judged.auroc["other"].value is None) == (row.score is None)
        assert row.score is None or row.score in judged.auroc["other"].how
        assert bool(row.reliability.bins) == (row.score is not None)


def test_what_is_in_nats_is_said(report: CalibrationReport) -> None:
    text = report.reference == "bigram"
    assert bool(report.nats) == text
    assert ("entropy of the prediction" in report.nats) == text
    noted = telling(report.rows[0], "score").auroc["other"].how
    assert ("the same for every certain token" in noted) == text
    assert all((row.doubt_gap.value is None) != text for row in report.rows if row.doubt_reliability.bins)


@pytest.mark.parametrize(("modality", "kind"), [("video", "diffusion"), ("text", "ebt")])
def test_errors_are_those_of_eval(home: Path, modality: str, kind: str) -> None:
    model = model_of(home, modality, kind)
    [row] = measured(model).rows
    *_, whole = evaluate.evaluate(model, steps=[], samples=[], rollout=0, device="cpu", most_windows=40)
    assert isinstance(whole, EvalReport)
    assert row.loss == whole.loss
    assert row.score_spearman.value == whole.energy_error_spearman
    assert row.doubt_spearman.value == whole.doubt_error_spearman
    assert row.partial_spearman.value == whole.partial_spearman


def test_a_report_is_a_function_of_the_seed(home: Path) -> None:
    model = model_of(home, "video", "ebt")
    first, again, other = [measured(model, seed=seed).rows[0].model_dump_json() for seed in (1, 1, 2)]
    assert first == again
    assert first != other


def test_what_means_nothing_is_refused(home: Path) -> None:
    model = model_of(home, "video", "ebt")
    with pytest.raises(UsageError, match="at least 2"):
        measured(model, most_windows=1)
    with pytest.raises(UsageError, match="differs from itself"):
        measured(model, against=[model])
    with pytest.raises(DataError, match="different sets"):
        measured(model, against=[model_of(home, "text", "ebt")])


# --------------------------------------------------------------------------------- files and the screen


def test_a_run_gets_a_picture_and_the_report(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    show(calibration(Path("runs/text_ebt"), device="cpu", most_windows=8), View("document"))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert document["files"] == ["runs/text_ebt/eval/calibration.png", "runs/text_ebt/eval/calibration.json"]
    written = CalibrationReport.model_validate_json(Path(document["files"][1]).read_bytes())
    assert written == CalibrationReport.model_validate(document)
    with Image.open(document["files"][0]) as image:
        assert min(image.size) > 300
    alone = home / "alone.safetensors"
    alone.write_bytes(model_of(home, "text", "ebt").read_bytes())
    assert measured(alone, most_windows=8).files == []


def test_pictures_hold_every_curve_and_no_clock(report: CalibrationReport, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        draw_calibration(tmp_path / name, report)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    fewer = report.model_copy(update={"rows": [row for row in report.rows if row.score is None]})
    draw_calibration(tmp_path / "fewer.png", fewer)  # no score, and yet a picture
    odd = report.rows[0].model_copy(update={"name": "_$\\frac{" + "x" * 200})
    draw_calibration(tmp_path / "odd.png", report.model_copy(update={"rows": [odd]}))
    sizes = {}
    for name in ("one", "fewer", "odd"):
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
    assert len({width for width, _ in sizes.values()}) == 1
    assert sizes["one"][1] > sizes["fewer"][1] > sizes["odd"][1]


def drawn(report: CalibrationReport, width: int) -> str:
    paper = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, legacy_windows=False)
    paper.print(render(report))
    assert isinstance(paper.file, io.StringIO)
    return paper.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_it_fits_the_terminal_and_hides_no_number(report: CalibrationReport, width: int, count: int) -> None:
    rows = [*report.rows, *report.rows][:count]
    text = drawn(report.model_copy(update={"rows": rows}), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "…" not in text
    lines = text.splitlines()
    [line] = [line for line in lines if line.startswith("the score ")][:1]
    said = [f"{r.score_spearman.value:.4f}" if r.score_spearman.value is not None else "–" for r in rows[:4]]
    assert line.split()[-min(count, 4) :] == said
    for row in rows[:1]:
        found = telling(row, "prediction").auroc
        [line] = [line for line in lines if line.startswith("distance from prediction")][:1]
        assert line.split()[3:] == [f"{found[key].value:.3f}" for key in FALSE]
    assert sum(line.startswith(tuple("ABCDEF")) and "tells true from" in line for line in lines) == count


def test_names_can_not_colour_a_table(report: CalibrationReport) -> None:
    row = report.rows[0].model_copy(update={"checkpoint": "a\x1b[1m[bold].safetensors", "score": "s\x1b[31m[red]"})
    text = drawn(report.model_copy(update={"rows": [row], "data": "d\x1b[0m", "files": ["x\x1b"]}), 80)
    assert "\x1b" not in text
    assert "[red]" in text
