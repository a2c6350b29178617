"""What a scaling study is: kinds of world model, what is varied, and how long each training may take.

    runs = kinds x variants x (values of every axis) x seeds

Each axis is varied on its own, everything else as the base recipe has it. Data only: `run/study_points.py` makes the
recipes of the runs from it, `load.py` reads it from YAML.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ebwm_cli.recipe.model import KINDS
from ebwm_cli.recipe.section import Count, Positive, Section

Axis = Literal["data", "params", "depth", "width", "batch", "steps", "flops", "device_hours"]
KindName = Literal["ebt", "transformer", "rnn", "diffusion"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)]
WHOLE: tuple[Axis, ...] = ("params", "depth", "width", "batch", "steps")
ENDING: tuple[Axis, ...] = ("steps", "flops", "device_hours")
"""Axes that say how long a run trains: what `budget` says elsewhere."""


class BudgetSection(Section):
    """How long every run trains, where its axis doesn't say: one of these, or the base recipe's steps."""

    steps: Count | None = None
    """Updates."""
    epochs: Positive | None = None
    """Passes over the training windows."""
    flops: Positive | None = None
    """FLOPs of the whole training, inner steps counted."""
    seconds: Positive | None = None
    """Seconds of updating."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        named = [key for key, value in self if value is not None]
        if len(named) > 1:
            raise ValueError(f"{named[1]}: {named[0]} ends the training already; name one")
        return self


class Study(Section):
    """A grid of trainings."""

    name: Name = "study"
    base: str = "video_{kind}_4xs"
    """The recipe of every run, {kind} replaced."""
    kinds: Annotated[tuple[KindName, ...], Field(min_length=1)] = ("ebt", "transformer")
    variants: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Named changes (dotted key: value), each a model of its own beside the others; empty: the kinds as they are."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Changes (dotted key: value) to every run."""
    axes: Annotated[dict[Axis, Annotated[tuple[Positive, ...], Field(min_length=1)]], Field(min_length=1)]
    """What is varied, each on its own. `data`: share of the training part, up to 1. `params`: parameters, to which
    layers and width are fitted. `depth`: layers. `width`: channels. `batch`: windows per update. `steps`: updates.
    `flops`: of the whole training. `device_hours`: of updating, all devices of a run together."""
    seeds: Count = 3
    """Runs per point, seeds 0, 1, ..."""
    budget: BudgetSection = BudgetSection()
    gpus_per_run: Count = 1
    """Devices that train one run together."""
    timeout_hours: Positive | None = None
    """A run that takes longer is ended; null: none is."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for axis, values in self.axes.items():
            if len(set(values)) < len(values):
                raise ValueError(f"axes.{axis}: a value stands twice")
            if axis in WHOLE and any(value != int(value) for value in values):
                raise ValueError(f"axes.{axis}: whole numbers only")
            if axis == "data" and max(values) > 1:
                raise ValueError(f"axes.data: shares of the training part, up to 1, not {max(values):g}")
            named = [key for key, value in self.budget if value is not None]
            if axis in ENDING and named:
                raise ValueError(f"budget.{named[0]}: axes.{axis} says how long each run trains")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds: one stands twice")
        if len(self.kinds) > 1 and "{kind}" not in self.base:
            raise ValueError("base: name several kinds' recipes by {kind}, such as video_{kind}_4xs")
        assert set(self.kinds) <= set(KINDS)
        return self
