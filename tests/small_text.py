"""A small prepared set of text: sentences of a tiny grammar, so that a model has something to learn in a moment."""

from __future__ import annotations

import random
from pathlib import Path

from ebwm_cli.commands.prepare_text import prepare_text
from ebwm_cli.data.store import PreparedSet, open_set
from ebwm_cli.recipe.model import DescentSection, EbtSection
from ebwm_cli.recipe.schema import DataSection, Recipe, ThinkSection

CONTEXT = 16
WHO, DOES, WHAT = ("the cat", "a dög", "my 🦊"), ("sees", "eats", "hears"), ("the moon", "a bone", "two rivers")


def story(seed: int, sentences: int) -> str:
    """Sentences of who does what."""
    dice = random.Random(seed)
    return "".join(f"{dice.choice(WHO)} {dice.choice(DOES)} {dice.choice(WHAT)}.\n" for _ in range(sentences))


def make_text_set(path: Path, *, sentences: int = 400, **options: object) -> PreparedSet:
    """A set in `path` of one document, 300 tokens and windows of CONTEXT + 1."""
    source = path.with_name(f"{path.name}.txt")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(story(0, sentences), encoding="utf-8")
    for _ in prepare_text(str(source), path, **{"vocab_size": 300, "context": CONTEXT, "workers": 1, **options}):
        pass
    return open_set(path)


def small_text_recipe(**model: object) -> Recipe:
    """A world of a few thousand weights."""
    descent = DescentSection(steps=1, free_steps=(0, 1), anchor=0.5, step_control="fixed")
    section = EbtSection(layers=1, width=16, heads=2, start="zeros", compatibility=True, descent=descent)
    return Recipe(
        name="small",
        data=DataSection(modality="text"),
        model=section.model_copy(update=model),
        think=ThinkSection(steps=3),
    )
