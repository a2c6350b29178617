"""Small untrained runs of every kind, for what is measured of checkpoints."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import torch
from small_set import make_run, make_set, small_recipe
from small_text import make_text_set, small_text_recipe

from ebwm_cli.recipe.model import DiffusionSection, ModelSection, RnnSection, TransformerSection
from ebwm_cli.recipe.schema import DataSection, Recipe, ThinkSection
from ebwm_cli.run.checkpoint import load_world, save_model

RIVALS: dict[str, ModelSection] = {
    "transformer": TransformerSection(layers=1, width=16, heads=2),
    "rnn": RnnSection(layers=1, width=16),
    "diffusion": DiffusionSection(layers=1, width=16, heads=2),
}
KINDS = ["ebt", *RIVALS]


def recipe_of(kind: str, modality: str) -> Recipe:
    """A small world of one kind."""
    if kind == "ebt":
        return small_recipe() if modality == "video" else small_text_recipe()
    return Recipe(name="small", data=DataSection(modality=modality), model=RIVALS[kind], think=ThinkSection(steps=3))  # type: ignore[arg-type]


def speaking(path: Path) -> Path:
    """The model at `path` with random weights where it has zeros: an untrained forecast says that nothing changes."""
    loaded = load_world(path)
    torch.manual_seed(1)
    weights = {
        name: 0.2 * torch.randn_like(weight) if weight.ndim > 1 and not weight.any() else weight
        for name, weight in loaded.world.state_dict().items()
    }
    facts: dict[str, Any] = {name: getattr(loaded, name) for name in ("recipe", "spec", "encoder", "data", "step")}
    save_model(path, weights, **facts)
    return path


def make_home(home: Path) -> Path:
    """data/video and data/text, and a run of every kind on each."""
    sets = {"video": make_set(home / "data" / "video"), "text": make_text_set(home / "data" / "text", sentences=250)}
    for (modality, prepared), kind in product(sets.items(), KINDS):
        speaking(make_run(home / "runs" / f"{modality}_{kind}", prepared, recipe=recipe_of(kind, modality)))
    return home


def model_of(home: Path, name: str, kind: str) -> Path:
    """The model of one kind on one set."""
    return home / "runs" / f"{name}_{kind}" / "model.safetensors"
