"""What calibration measures, against closed forms and loops, and at its ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from judges import OneAtATime
from torch import Tensor, nn

from ebwm_cli.model.latent_space import LatentSpace
from ebwm_cli.model.ngram import Bigram
from ebwm_cli.model.references import Copy
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.calibration import measure_calibration, shuffled_orders
from ebwm_cli.run.judging import Baseline
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.pairs import pair_windows
from ebwm_cli.run.report_calibration import CalibrationRow, Telling
from ebwm_cli.world.false_states import shuffle

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


class Oracle(OneAtATime, Blind):
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
    assert row.score_spearman.ci95 == pytest.approx((1, 1))
    assert row.partial_spearman.value == pytest.approx(1)
    assert telling(row, "score").auroc["two_ahead"].ci95 == (1, 1)
    errors = [each.mean_error for each in row.reliability.bins]
    assert len(errors) == 10
    assert errors == sorted(errors)
    assert all(one.ci95[0] <= one.mean_error <= one.ci95[1] for one in row.reliability.bins)
    assert sum(each.positions for each in row.reliability.bins) == 40 * 5 * CONTEXT
    assert row.doubt_spearman.value is not None
    assert row.doubt_spearman.ci95 is not None
    assert row.doubt_spearman.ci95[0] < row.doubt_spearman.value < row.doubt_spearman.ci95[1] < 0.6


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
        assert found.auroc[key].value is found.auroc[key].ci95 is found.same_place[key].value is None
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
