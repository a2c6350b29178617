"""Paper recipes: published sizes, rates and lengths, plans without a set, FLOPs counted by hand, and one training each.

Published values are those of EBT (arXiv 2507.02092) and of its job scripts.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
from small_set import make_set
from small_text import make_text_set

from ebwm_cli import cli
from ebwm_cli.commands.train import plan, train
from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.load import find_recipe, load_recipe, shipped_recipes
from ebwm_cli.recipe.model import EbtSection, TrunkSection
from ebwm_cli.recipe.schema import Recipe
from ebwm_cli.run.report import PlanReport, TrainReport


class Published(NamedTuple):
    """A size as it was published."""

    layers: int
    width: int
    heads: int
    rate: float
    """Peak learning rate of the transformer."""
    params: float
    """Without embeddings."""


SIZES = {
    "xxs": Published(6, 384, 6, 1.2e-3, 6.18e6),
    "xs": Published(12, 384, 6, 9e-4, 12.4e6),
    "small": Published(12, 768, 12, 6e-4, 48.8e6),
    "medium": Published(24, 1024, 16, 3e-4, 176e6),
    "large": Published(24, 1536, 16, 2.5e-4, 396e6),
    "xl": Published(24, 2048, 32, 2e-4, 708e6),
}
FAMILIES = ("video_ssv2", "text_redpajama")
SETTINGS = {"video": (16, 100_000), "text": (256, 1_000_000)}
"""Context, and updates of System 1 and of its rival."""
VOCABULARY = 50_277
EARLIER = {"video_ebt_s1_xxs": "video_ssv2_ebt_s1_xxs", "text_redpajama_xxs": "text_redpajama_ebt_s1_xxs"}

PAPER = [name for name in shipped_recipes() if name.startswith("paper/")]
LADDER = [f"paper/{each}_{kind}_{size}" for each in FAMILIES for kind in ("ebt_s1", "transformer") for size in SIZES]
SYSTEM_2 = [f"paper/{family}_ebt_s2_xxs" for family in FAMILIES]
KINETICS = [f"paper/video_k400_{kind}_{size}" for kind in ("ebt_s1", "transformer") for size in ("xxs", "medium")]

every_paper_recipe = pytest.mark.parametrize("name", PAPER)


def planned(name: str) -> tuple[Recipe, PlanReport, Published]:
    recipe = load_recipe(name)
    return recipe, plan(recipe), SIZES[name.rpartition("_")[2]]


def states(recipe: Recipe) -> int:
    """States in a batch."""
    assert recipe.data.context is not None
    return recipe.train.batch_size * recipe.data.context


@pytest.fixture(autouse=True)
def without_a_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------------------------------- names


def test_the_names_are_those_of_what_was_published():
    assert sorted(PAPER) == sorted([*LADDER, *SYSTEM_2, *KINETICS, *(f"paper/{name}" for name in EARLIER)])


@every_paper_recipe
def test_its_first_line_says_what_it_is(name):
    first, *_ = find_recipe(name, shipped_recipes()).read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert name.rpartition("_")[2] in first


@pytest.mark.parametrize("name", [*EARLIER, *(name.removeprefix("paper/") for name in KINETICS)])
def test_recipes_that_differ_in_name_only(name):
    other = EARLIER.get(name, name.replace("k400", "ssv2"))
    ours, theirs = (load_recipe(f"paper/{each}").model_dump(exclude={"name"}) for each in (name, other))
    assert ours == theirs


# ------------------------------------------------------------------------------------------------ values


@every_paper_recipe
def test_it_plans_without_a_set_at_its_published_size(name):
    recipe, foreseen, size = planned(name)
    assert isinstance(recipe.model, TrunkSection)
    assert (recipe.model.layers, recipe.model.width, recipe.model.heads) == size[:3]
    assert recipe.model.ffn_multiplier == 1
    assert foreseen.params_non_embedding == pytest.approx(size.params, rel=0.02)
    assert foreseen.flops_total == foreseen.flops_per_step * recipe.train.steps


@every_paper_recipe
def test_it_trains_as_published(name):
    recipe, train = load_recipe(name), load_recipe(name).train
    modality, published = recipe.data.modality, SIZES[name.rpartition("_")[2]]
    context, steps = SETTINGS[modality]
    if name == "paper/video_ssv2_ebt_s2_xxs":
        steps = 60_000
    assert (recipe.data.context, train.steps, train.batch_size, train.warmup) == (context, steps, 256, 10_000)
    assert (train.final_lr_fraction, train.weight_decay, train.clip_norm, train.ema) == (0.1, 0.01, 1, 0)
    slower = 3 if modality == "video" and recipe.model.kind == "ebt" else 1
    assert train.learning_rate == pytest.approx(published.rate / slower, rel=1e-3)
    assert recipe.model.match is None
    assert not recipe.data.mix
    assert (recipe.model.appearance, recipe.model.motion, recipe.model.context_noise) == (1, 0, 0)


@every_paper_recipe
def test_states_fit_the_width(name):
    recipe = load_recipe(name)
    if recipe.data.modality == "text":
        assert recipe.data.state_dim == VOCABULARY
        assert recipe.model.tokens.table == "own"
    else:
        assert recipe.data.state_dim == recipe.model.width
        with pytest.raises(RecipeError, match=r"model\.width"):  # the published 3,136 numbers never fit
            load_recipe(name, ["data.state_dim=3136"]).state_spec()


@pytest.mark.parametrize("name", [name for name in PAPER if "_transformer_" not in name])
def test_candidates_move_as_published(name):
    recipe = load_recipe(name)
    model, text = recipe.model, recipe.data.modality == "text"
    assert isinstance(model, EbtSection)
    rules = model.descent
    assert (model.start, model.compatibility, rules.anchor, rules.gradient_clamp) == ("noise", False, 0, 0)
    assert not text or model.tokens.rule == "replace"
    moves = tuple(free + trained for free, trained in zip(rules.free_steps, rules.steps_range, strict=True))
    conditioning = (model.step_conditioning, model.landscapes)
    if "_s2_" in name:  # two or three moves, the last carries loss
        assert (rules.steps, moves, recipe.think.steps) == (1, (2, 3), 3)
        assert (rules.step_control, rules.step_size_jitter, rules.step_size) == ("fixed", 2, 5 if text else 0.1)
        assert (*conditioning, model.start_noise) == ("none", 1, 3 if text else 1)
    else:
        assert (rules.steps, moves, recipe.think.steps) == (2, (2, 2), 2)
        assert (rules.step_control, rules.step_size_jitter, rules.step_size) == ("learned", 1, 500 if text else 1)
        assert (*conditioning, model.start_noise, rules.step_size_lr_scale) == ("embedding", 2, 0, 3)


def test_the_command_plans_without_a_set(capsys, tmp_path):
    for name in ("paper/video_ssv2_ebt_s1_xl", "paper/text_redpajama_transformer_xl"):
        assert cli.run(["train", name, "--plan", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["params_non_embedding"] == pytest.approx(708e6, rel=0.02)
        assert (document["seconds_estimate"], document["windows"]) == (None, None)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- FLOPs


def trunk_pass(size: Published, context: int) -> float:
    """Forward FLOPs of the blocks for one state, two per multiply-add: query, key, value and output; gate, up and down
    as wide as the model; scores and weighted values over a window."""
    block = 4 * size.width**2 + 3 * size.width**2 + 2 * context * size.width
    return 2.0 * size.layers * block


def space_flops(recipe: Recipe) -> float:
    """Training FLOPs of getting in and out of the trunk, for one state, by the products made."""
    assert recipe.data.state_dim is not None
    product = 2.0 * recipe.data.state_dim * recipe.model.width
    text = recipe.data.modality == "text"
    read = 0 if text else 2  # observed latents go forward, and to the weight; tokens are looked up
    if recipe.model.kind == "transformer":
        return (read + 3) * product  # the head: forward, to the hidden states, to the weight
    # A move. Tokens: softmax times table and its weight's gradient; the slope times table, and back to both.
    # Latents: forward, the slope, the weight's gradient by the first; by the second, back to both.
    assert isinstance(recipe.model, EbtSection)
    rules = recipe.model.descent
    free, trained = sum(rules.free_steps) / 2, sum(rules.steps_range) / 2
    return (read + 5 * trained + 2 * free) * product


@pytest.mark.parametrize("name", LADDER)
def test_flops_are_those_counted_by_hand(name):
    recipe, foreseen, size = planned(name)
    context = SETTINGS[recipe.data.modality][0]
    # Transformer: forward, to the inputs, to the weights. System 1: that for the context, read once, and six for each
    # of two moves: forward, the slope, and each of them back to its inputs and to the weights.
    passes = 3 if recipe.model.kind == "transformer" else 3 + 2 * 6
    by_hand = passes * trunk_pass(size, context) + space_flops(recipe)
    assert foreseen.flops_per_step == pytest.approx(states(recipe) * by_hand, rel=0.02)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_transformer_costs_six_flops_a_parameter_and_state(family, size):
    recipe, foreseen, published = planned(f"paper/{family}_transformer_{size}")
    context = SETTINGS[recipe.data.modality][0]
    attention = 3 * 4.0 * published.layers * context * published.width
    by_rule = 6 * published.params + attention + space_flops(recipe)
    assert foreseen.flops_per_step == pytest.approx(states(recipe) * by_rule, rel=0.02)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_of_system_1_costs_five_transformers(family, size):
    """Where the published code, which reads the context again for each move, costs 6.66."""

    def trunk(kind: str) -> float:
        recipe, foreseen, _ = planned(f"paper/{family}_{kind}_{size}")
        return foreseen.flops_per_step / states(recipe) - space_flops(recipe)

    assert trunk("ebt_s1") / trunk("transformer") == pytest.approx(5, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_of_system_2_costs_four_transformers(family):
    """Three for the context, six for the move that carries loss, two for each of one or two before it."""
    recipe, foreseen, size = planned(f"paper/{family}_ebt_s2_xxs")
    by_hand = 12 * trunk_pass(size, SETTINGS[recipe.data.modality][0]) + space_flops(recipe)
    assert foreseen.flops_per_step == pytest.approx(states(recipe) * by_hand, rel=0.02)


# ---------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return {"video": make_set(folder / "set").path, "text": make_text_set(folder / "text").path}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["ebt_s1", "ebt_s2", "transformer"])
def test_its_form_trains(kind, family, prepared, tmp_path):
    small = ["model.layers=1", "model.width=24", "model.heads=2", "data.state_dim=null", "data.context=null"]
    short = ["train.steps=2", "train.batch_size=4", "train.log_every=1", "train.warmup=1", "train.validate_windows=4"]
    recipe = load_recipe(f"paper/{family}_{kind}_xxs", [*small, *short])
    *_, report = train(recipe, data=prepared[recipe.data.modality], out=tmp_path / "run", device="cpu")
    assert isinstance(report, TrainReport)
    assert report.skipped == 0
