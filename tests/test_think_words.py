"""What happened in a thought: every case has its words, and every number of them can be had by hand."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from small_set import make_run, make_set, small_recipe
from small_text import make_text_set, small_text_recipe

from ebwm_cli.commands.think import think
from ebwm_cli.console_think import render
from ebwm_cli.model.latent_space import LatentSpace
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import load_world
from ebwm_cli.run.report_think import DescentRow, ThinkReport, TokenChance
from ebwm_cli.run.thought_measures import (
    RANKED,
    candidate_of,
    committed_share,
    held_out_energies,
    likeliest,
    rank,
    relative_spread,
    token_labels,
)
from ebwm_cli.run.thought_words import among, descent_in_words, percent, stop_in_words, visible


def halving(steps: int, by: float = 0.5) -> list[float]:
    """Energies by^k - 7: every step takes (1 - by) of what is left."""
    return [by**k - 7 for k in range(steps + 1)]


def words(energies: list[list[float]], used: list[int], steps: int, **habits) -> str:
    return descent_in_words("energy", energies, used, ThinkSection(steps=steps, **habits))


# ---------------------------------------------------------------------------------------------- what happened


def test_an_energy_that_still_falls_says_how_fast() -> None:
    # The last of 4 halvings takes 1/16 of a whole drop of 15/16.
    assert words([halving(4)], [4], 4) == (
        "not settled after 4 steps: still falling by 6.7 % of its whole drop per step"
    )


def test_what_hardly_falls_has_the_digits_that_tell_it_from_the_tolerance() -> None:
    budget = ThinkSection(steps=2, tolerance=5e-5)
    for last, share in ((5.12e-5, "0.0051"), (5.0003e-5, "0.0050003"), (3e-3, "0.30"), (0.25, "25.0")):
        told = descent_in_words("energy", [[1.0, last, 0.0]], [2], budget, 1.0)
        assert told == f"not settled after 2 steps: still falling by {share} % of the typical drop per step"
    # The same for all states is said once.
    assert "by 6.7 % of" in words([halving(4), halving(4)], [4, 4], 4)


def test_an_energy_that_has_settled_says_when() -> None:
    # Step k takes 2^-k of a drop of 1 - 2^-k, first less than a hundredth of it at step 7.
    assert words([halving(16)], [16], 16) == "the energy settled after 7 of 16 steps, all were taken"
    assert words([halving(7)], [7], 7) == "the energy settled after 7 of 7 steps"
    assert words([halving(7)], [7], 16, stop="energy") == "the energy settled after 7 of 16 steps"
    # A pause is no rest: the energy falls on afterwards.
    assert words([[9.0, 5.0, 4.999, 1.0]], [3], 3).startswith("not settled after 3 steps: still falling by 50.0 %")


def test_a_typical_drop_settles_whoever_falls_less() -> None:
    # Of a drop of 4, step k takes 2^-k / 4, first less than a hundredth at step 5; of one of 0.04 only step 12 does.
    energies, budget = [halving(16)], ThinkSection(steps=16)
    settled = [descent_in_words("energy", energies, [16], budget, drop) for drop in (4.0, 0.04)]
    assert settled == [f"the energy settled after {steps} of 16 steps, all were taken" for steps in (5, 12)]
    assert descent_in_words("energy", [halving(4)], [4], ThinkSection(steps=4), 2.0) == (
        "not settled after 4 steps: still falling by 3.1 % of the typical drop per step"
    )


def test_what_energies_did_is_read_as_the_descent_went_by_them() -> None:
    """Levelled ones are in another unit than the typical drop."""
    bare, budget = halving(16), ThinkSection(steps=16)
    told = [energy / 100 for energy in bare]
    said = descent_in_words("energy", [told], [16], budget, 4.0, [bare])
    assert said == "the energy settled after 5 of 16 steps, all were taken"
    assert "settled after 1 of 16" in descent_in_words("energy", [told], [16], budget, 4.0)
    rising = [*bare[:2], bare[1] + 0.5, *bare[3:]]
    said = descent_in_words("energy", [[each / 4 for each in rising]], [16], budget, 4.0, [rising])
    assert said == "the energy rose by 0.1250 at step 2 of 16"  # as it is shown


def test_a_rule_for_stopping_has_words() -> None:
    assert stop_in_words("energy", 0.002, "typical", 2, 16) == (
        "each position stops once a step lowers its energy by less than 0.002 of the typical drop in training, 2 times "
        "in a row, after at most 16 steps"
    )
    assert stop_in_words("denoising error", 0.01, "own", 1, 8) == (
        "each position stops once a step lowers its denoising error by less than 0.01 of its own drop so far, after at "
        "most 8 steps"
    )


def test_what_stopped_stopped_there_whatever_its_energies_say() -> None:
    assert words([halving(3)], [3], 16, stop="energy", patience=3) == "the energy settled after 3 of 16 steps"
    assert words([halving(3)], [3], 16, stop="still") == "moves became small after 3 of 16 steps"
    assert words([[*halving(3), -6.875]], [3], 16, stop="energy") == "the energy settled after 3 of 16 steps"


def test_an_energy_that_rose_says_where_and_by_how_much() -> None:
    assert words([[2.0, 1.0, 1.25, 0.5, 0.4]], [4], 4) == "the energy rose by 0.2500 at step 2 of 4"
    assert words([[2.0, 1.0, 1.25]], [2], 4, stop="energy") == (
        "the energy rose by 0.2500 at step 2 of 4, where it stopped"
    )
    # Last digits are none of its doing.
    assert "rose" not in words([[1000.0, 500.0, 500.0001, 500.0]], [3], 3)


def test_few_steps_and_no_numbers() -> None:
    assert words([[3.0]], [0], 0) == "no step was taken"
    assert words([[3.0, 1.0]], [1], 1) == "one step was taken, too few to tell whether it settles"
    assert words([[3.0, 3.0]], [1], 1) == "the energy settled after 1 of 1 step"
    assert words([[3.0, 1.0, math.nan]], [2], 2) == "the energy was no number from step 2 on"


def test_several_states_share_a_sentence_or_are_counted() -> None:
    alike = [halving(16), halving(16, 0.25)]
    assert words(alike, [16, 16], 16) == "the energy settled after 5 to 7 of 16 steps, all were taken"
    falling = [halving(4), halving(4, 0.6)]
    assert words(falling, [4, 4], 4) == (
        "not settled after 4 steps: still falling by 6.7 to 9.9 % of its whole drop per step"
    )
    mixed = [halving(4, 0.1), halving(4), [2.0, 3.0, 1.0, 0.5, 0.2]]
    assert words(mixed, [4, 4, 4], 4) == (
        "1 of 3 states: the energy rose by 1.0000 at step 1 of 4; 1 of 3 states: the energy settled after 3 of 4 "
        "steps, all were taken; 1 of 3 states: not settled after 4 steps: still falling by 6.7 % of its whole drop "
        "per step"
    )


# ---------------------------------------------------------------------------------------------- the panel


def report(**changes) -> ThinkReport:
    values = {
        "checkpoint": "x.safetensors", "source": "data/one", "context": 16, "horizon": 1, "samples": 1,
        "select": "energy", "beam": 1, "stop": "fixed", "backtrack": False, "steps": 2, "score": "energy",
        "steps_used": [2], "flops": 1e6,
        "stopped": "the energy settled after 1 of 2 steps", "energies": [3.0, 1.0, 1.0], "energy_gap": 2.0,
        "descent": [DescentRow(step=k, energy=e, drop=0, move=0.1, error=None) for k, e in enumerate([3.0, 1.0, 1.0])],
        "position_energies": [1.0], "sample_energies": [1.0], "sample_agreement": None, "sample_spread": None,
        "energy_rank": None, "ranked_energies": 0, "ranked_among": "", "error": None, "reference": None,
        "reference_error": None, "predicted_text": None, "true_text": None, "likeliest": [], "rollout_errors": [],
        "states": 1, "files": [], "seconds": 0.1,
    }  # fmt: skip
    return ThinkReport(**(values | changes))


def panel(width: int = 100, **changes) -> str:
    paper = Console(width=width, file=io.StringIO(), color_system=None)
    paper.print(render(report(**changes)))
    text = paper.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return text


def test_the_panel_says_what_happened_and_nothing_it_does_not_know() -> None:
    text = panel()
    assert text.count("the energy settled after 1 of 2 steps") == 1
    assert not any(each in text for each in ("rank", "agreement", "likeliest"))


@pytest.mark.parametrize(
    ("above", "count", "said"),
    [(425, 512, "lower than 83 % of 512"), (511, 512, "lower than 99 % of"), (512, 512, "100 %"), (0, 3, "0 % of 3")],
)
def test_the_panel_ranks_the_energy(above: int, count: int, said: str) -> None:
    text = panel(energy_rank=above / count, ranked_energies=count, ranked_among="held-out energies")
    assert f"{said}" in text
    assert "held-out energies" in text


def test_the_panel_says_whether_starts_agree() -> None:
    several = {"samples": 8, "sample_energies": [1.0] * 8}
    assert "6 of 8 starts end at the answer's token" in panel(**several, sample_agreement=0.75)
    assert "starts end apart by 2.5 % of the predicted move" in panel(**several, sample_spread=0.025)
    assert "8 starts, lowest kept" in panel(**several)
    assert "8 starts, their mean kept" in panel(**several, select="mean")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_shows_tokens_that_can_break_nothing(width: int) -> None:
    chances = [TokenChance(token=t, probability=p, true=p < 0.1) for t, p in ((" the\n", 0.5), ("\x1b[31m", 0.04))]
    text = panel(width, likeliest=chances * 4)
    assert "·the⏎" in text
    assert "50" in text
    assert "\x1b" not in text


def test_no_token_is_torn_from_its_probability() -> None:
    chances = [TokenChance(token=" token", probability=0.015, true=False)] * 8
    for width in range(40, 120):
        assert panel(width, likeliest=chances).count("·token 1.5 %") == 8, width
    long = TokenChance(token="x" * 90, probability=0.5, true=False)
    assert panel(60, likeliest=[long]).count("x") >= 90  # folded where it fits no line


def test_of_several_states_each_line_says_which_it_is_of() -> None:
    energies, chances = [1.0, 1.0], [TokenChance(token="a", probability=0.5, true=False)]
    known = {"energy_rank": 0.5, "ranked_energies": 2, "ranked_among": "energies", "error": 0.1, "likeliest": chances}
    known |= {"sample_energies": energies, "sample_agreement": 1.0, "samples": 2}
    lines = ("energy", "its rank", "every start", "agreement", "error", "likeliest")
    one, several = panel(**known), panel(**known, horizon=4, rollout_errors=[0.1, 0.2, 0.3, 0.4])
    assert "first state" not in one
    assert "mean of" not in one
    assert "descent, mean of 4 states" in several
    for line in lines:
        assert f"│ {line} (first state) " in several
    for line in ("descent", "spent", "every position", "error ahead"):
        assert f"│ {line}  " in several
    denoised = panel(score="denoising error", horizon=2)
    assert "denoising, mean of 2 states" in denoised


def test_a_world_that_moves_nothing_says_so() -> None:
    assert "said in one pass" in panel(score=None, stopped="said in one pass, which moves nothing")


def test_reports_are_read_back_as_they_were_written() -> None:
    full = report(likeliest=[TokenChance(token="�", probability=1.0, true=True)], energy_rank=0.5, sample_agreement=1.0)
    assert ThinkReport.model_validate_json(full.model_dump_json()) == full


def test_short_words() -> None:
    assert [percent(p) for p in (0, 1e-5, 0.012, 0.0996, 0.5, 1)] == [
        "0.0 %",
        "<0.1 %",
        "1.2 %",
        "10 %",
        "50 %",
        "100 %",
    ]
    assert [visible(t) for t in (" a", "\n\t", "", "\x07")] == ["·a", "⏎⇥", "∅", "�"]
    assert among("energy", True) == "held-out energies"
    assert among("denoising error", False) == "denoising errors of its own context"


# ---------------------------------------------------------------------------------------------- numbers


def test_samples_of_states_agree_by_distance() -> None:
    space = LatentSpace(2, 4)
    samples = torch.tensor([[0.0, 0.0], [0.2, 0.0], [0.0, 0.4]])
    last = torch.tensor([0.8, 0.0])
    # Half the squares, averaged over two numbers: pairs 0.01, 0.04, 0.05; the answer moved by 0.8.
    assert relative_spread(space, samples, samples[0], last) == pytest.approx((0.01 + 0.04 + 0.05) / 3 / 0.16)
    assert relative_spread(space, samples, samples[0], samples[0]) is None
    assert relative_spread(space, samples[:1], samples[0], last) is None
    assert committed_share(space, samples, samples[0]) is None


def test_samples_of_tokens_agree_by_what_they_commit_to() -> None:
    space = TokenSpace(3, 4)
    samples = torch.tensor([[1.0, 2.0, 0.0], [0.0, 9.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    assert committed_share(space, samples, samples[1]) == 0.75
    assert committed_share(space, samples, samples[2]) == 0.25
    assert committed_share(space, samples[:1], samples[0]) is None
    assert relative_spread(space, samples, samples[0], torch.tensor(1)) is None


def test_a_rank_counts_what_lies_above() -> None:
    assert rank(2.0, torch.tensor([1.0, 2.0, 3.0, 4.0])) == (0.5, 4)
    assert rank(2.0, torch.tensor([1.0, math.nan, 3.0, math.inf])) == (0.5, 2)
    assert rank(2.0, torch.empty(0)) == (None, 0)


def test_the_truth_is_a_candidate_of_states_and_of_tokens() -> None:
    state = torch.tensor([1.0, -2.0])
    assert torch.equal(candidate_of(LatentSpace(2, 4), torch.zeros(2), state), state)
    space, start = TokenSpace(50, 4), torch.randn(50, generator=torch.Generator().manual_seed(0))
    found = candidate_of(space, start, torch.tensor(7))
    assert 0.99 <= found.softmax(-1)[7] < 0.995
    certain = space.certain(torch.tensor([[7]]))[0, 0]
    share = ((found - start) @ (certain - start)) / (certain - start).square().sum()
    assert torch.allclose(found, start + share * (certain - start), atol=1e-4)  # on the way
    already = candidate_of(space, certain, torch.tensor(7))
    assert torch.equal(already, certain)


def test_the_likeliest_tokens_and_their_names(tmp_path) -> None:
    chances, tokens = likeliest(torch.tensor([[0.0, math.log(2), math.log(5)]]), 2)
    assert tokens.tolist() == [[2, 1]]
    assert chances[0].tolist() == pytest.approx([0.625, 0.25])
    assert likeliest(torch.zeros(1, 3), 8)[1].shape == (1, 3)
    tokenizer = make_text_set(tmp_path / "set").encoder
    fox = tokenizer.encode("🦊").tolist()  # type: ignore[attr-defined]
    labels = token_labels(tokenizer, [*fox, tokenizer.end_of_text])  # type: ignore[arg-type, attr-defined]
    assert labels[-1] == "<|endoftext|>"
    assert all("�" not in label for label in labels)


@pytest.mark.parametrize("samples", [1, 4])
def test_held_out_energies_are_those_of_the_validation_windows(tmp_path, samples: int) -> None:
    prepared = make_set(tmp_path / "set")
    loaded = load_world(make_run(tmp_path / "run", prepared, recipe=small_recipe()))
    split, think, context = prepared.split("val"), ThinkSection(steps=2, samples=samples), prepared.spec.context
    found = held_out_energies(loaded, split, think, seed=0)
    stride = context // 2
    starts = split.windows(context, stride)
    assert found.shape == (len(starts) * stride,)
    if samples == 1:  # the longest pasts of each window, as one window alone has them
        states = torch.tensor(split.states[starts[1] : starts[1] + context])[None]
        alone = loaded.world.predict(loaded.world.observe(states), think, torch.Generator()).energy[0, -stride:]
        assert torch.allclose(found[stride : 2 * stride], alone, atol=1e-5)


def test_a_thought_of_text_names_tokens_and_draws_them(tmp_path) -> None:
    prepared = make_text_set(tmp_path / "set")
    file = make_run(tmp_path / "run", prepared, recipe=small_text_recipe())
    *_, found = think(file, samples=3, horizon=2, out=tmp_path / "out", device="cpu")
    assert isinstance(found, ThinkReport)
    saved = load_file(tmp_path / "out" / "trajectory.safetensors")
    p = saved["path"][0, -1].double().softmax(-1)
    assert [each.probability for each in found.likeliest] == pytest.approx(p.sort(descending=True).values[:8].tolist())
    truth = int(saved["truth"][0])
    assert sum(each.true for each in found.likeliest) == (p[truth] >= found.likeliest[-1].probability)
    ends = saved["sample_states"].argmax(-1)
    assert found.sample_agreement == pytest.approx((ends == p.argmax()).double().mean().item())
    assert (tmp_path / "out" / "candidates.png").stat().st_size > 5000
    assert ThinkReport.model_validate_json((tmp_path / "out" / "report.json").read_bytes()) == found


def test_no_more_than_so_many_energies_are_looked_at(tmp_path) -> None:
    prepared = make_text_set(tmp_path / "set", sentences=4000)
    loaded = load_world(make_run(tmp_path / "run", prepared, recipe=small_text_recipe()))
    split = prepared.split("val")
    assert len(held_out_energies(loaded, split, ThinkSection(steps=1), 0)) == RANKED
    assert len(held_out_energies(loaded, split, ThinkSection(steps=1, samples=4), 0)) == RANKED // 4
