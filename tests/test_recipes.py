"""Every shipped recipe parses and plans; all but the paper's, which have tests of their own, train two steps."""

import pytest
from small_set import make_set
from small_text import make_text_set

from ebwm_cli.commands.train import plan, train
from ebwm_cli.recipe.load import load_recipe, shipped_recipes
from ebwm_cli.recipe.model import MatchSection
from ebwm_cli.recipe.schema import StateSpec
from ebwm_cli.run.report import TrainLine, TrainReport
from ebwm_cli.world.build import cost

HEAVY = 3e6
"""Parameters from which a test keeps the recipe's form and shrinks its size."""

# Published non-embedding parameters, in millions.
PUBLISHED = {"xxs": 6.18, "xs": 12.4, "small": 48.8, "medium": 176, "large": 396, "xl": 708}


SPECS = {
    "video": StateSpec(state_dim=8, context=6),
    "text": StateSpec(modality="text", state_dim=300, context=16),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where no prepared set of somebody's lies about."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    return {"video": make_set(folder / "set").path, "text": make_text_set(folder / "text").path}


def test_there_is_a_ladder_of_sizes():
    plain = [name for name in shipped_recipes() if not name.endswith("_s2")]
    text = [name.removeprefix("text_ebt_") for name in plain if name.startswith("text_ebt_")]
    assert sorted(text) == ["3xs", "4xs", "xxs"]
    sizes = [name.removeprefix("video_ebt_") for name in plain if name.startswith("video_ebt_")]
    assert sorted(sizes) == sorted(["4xs", "3xs", *PUBLISHED])


@pytest.mark.parametrize("modality", ["video", "text"])
@pytest.mark.parametrize("kind", ["transformer", "rnn", "diffusion"])
def test_every_rival_has_three_sizes_of_as_many_parameters(kind, modality):
    for size in ("4xs", "3xs", "xxs"):
        rival = load_recipe(f"{modality}_{kind}_{size}")
        assert (rival.model.kind, rival.data.modality) == (kind, modality)
        assert rival.model.match == MatchSection(params=1, of=f"{modality}_ebt_{size}")


@pytest.mark.parametrize("name", shipped_recipes())
def test_it_plans_with_published_parameter_counts(name):
    recipe = load_recipe(name)
    if recipe.data.state_dim is None:
        recipe = load_recipe(name, ["data.state_dim=128", "data.context=16"])
    foreseen = plan(recipe)
    assert foreseen.recipe == recipe.name
    assert foreseen.flops_total == pytest.approx(foreseen.flops_per_step * recipe.train.steps)
    published = PUBLISHED.get(name.rpartition("_")[2])
    if published:
        assert foreseen.params_non_embedding == pytest.approx(published * 1e6, rel=0.02)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("paper/")])
def test_it_trains_two_steps(name, prepared, tmp_path):
    full = load_recipe(name)
    batch = max(2, full.train.accumulate)
    changes = ["train.steps=2", f"train.batch_size={batch}", "train.log_every=1"]
    changes += ["data.state_dim=null", "data.context=null"]
    if cost(full, SPECS[full.data.modality]).params > HEAVY:
        changes += ["model.match=null", "model.layers=2", f"model.width={4 * getattr(full.model, 'heads', 4)}"]
    reports = list(
        train(load_recipe(name, changes), data=prepared[full.data.modality], out=tmp_path / "run", device="cpu")
    )
    lines = [report for report in reports if isinstance(report, TrainLine)]
    assert [line.step for line in lines] == [1, 2]
    assert isinstance(reports[-1], TrainReport)
    assert reports[-1].skipped == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
