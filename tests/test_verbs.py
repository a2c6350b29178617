"""Every verb serves every kind of world, on video and text: plan, train, stop, resume to the same bits, eval, think."""

from __future__ import annotations

import pytest
from kinds import ONE_PASS, WORLDS, section_of
from small_set import make_set
from small_text import make_text_set
from training import finish, outcome, short_recipe, stop_half_way

from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.commands.generate import continue_text
from ebwm_cli.commands.think import think
from ebwm_cli.commands.train import plan
from ebwm_cli.recipe.schema import DataSection, ThinkSection


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs")
    return {"video": make_set(folder / "set").path, "text": make_text_set(folder / "text").path}


def recipe_of(world: str, modality: str):
    changes = {
        "data": DataSection(modality=modality),
        "model": section_of(world, modality),
        "think": ThinkSection(steps=2),
    }
    return short_recipe(steps=9, save_every=4, validate_every=3).model_copy(update=changes)


@pytest.mark.parametrize("modality", ["video", "text"])
@pytest.mark.parametrize("world", WORLDS)
def test_every_verb_serves(world, modality, prepared, tmp_path, monkeypatch):
    recipe, data = recipe_of(world, modality), prepared[modality]
    foreseen = plan(recipe, data)
    done, _ = finish(recipe, data, tmp_path / "whole")
    assert (foreseen.kind, foreseen.params) == (recipe.model.kind, done.params)
    assert foreseen.flops_per_step == done.flops_per_step
    stop_half_way(recipe, data, tmp_path / "again", monkeypatch)
    finish(recipe, data, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(tmp_path / "whole")

    *_, judged = evaluate(tmp_path / "whole", data=data, steps=[1, 2], samples=[1, 2], rollout=2, device="cpu")
    assert (judged.score is None) == (world in ONE_PASS) == (not judged.by_steps)
    assert len(judged.rollout) == 2

    *_, thought = think(tmp_path / "whole", data=data, steps=3, horizon=2, out=tmp_path / "thought")
    assert len(thought.steps_used) == 2
    assert set(thought.steps_used) == ({0} if world in ONE_PASS else {3})
    assert (tmp_path / "thought" / "landscape.png").is_file() == (world not in ONE_PASS)
    if modality == "text":
        *_, written = continue_text(tmp_path / "whole", "the cat", max_new=3, device="cpu")
        assert len(written.tokens) <= 3
        assert (written.energies == []) == (world in ONE_PASS)
