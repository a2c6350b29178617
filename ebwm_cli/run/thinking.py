"""How much to think: the recipe's habits with what was asked for put in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ebwm_cli.errors import UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.world.protocol import WorldModel


def thinking_as(loaded: LoadedWorld, asked: Mapping[str, Any]) -> LoadedWorld:
    """`loaded`, whose recipe thinks as `asked` (keys of ThinkSection). Raises UsageError."""
    if not asked:
        return loaded
    think = budget_of(loaded.recipe.think, asked)
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"think": think}))


def budget_of(habits: ThinkSection, asked: Mapping[str, Any], further: Mapping[str, Any] | None = None) -> ThinkSection:
    """`habits` with everything put in that was asked for and `further`, and is not None. Raises UsageError where a key
    is unknown or asked for twice."""
    changes = {key: value for key, value in asked.items() if value is not None}
    for key, value in (further or {}).items():
        if key in changes:
            raise UsageError(f"--{key} and --thinking {key}= say the same", f"--{key} {changes[key]}")
        changes[key] = value
    try:
        return ThinkSection.model_validate({**habits.model_dump(), **changes})
    except ValidationError as error:
        problems = [f"--{each['loc'][0]}: {each['msg'][0].lower()}{each['msg'][1:]}" for each in error.errors()]
        raise UsageError("; ".join(problems), "--steps 16 --samples 4 --stop energy") from None


def drop_of(world: WorldModel, think: ThinkSection) -> str:
    """What `think.tolerance` is a fraction of in `world`: the `typical` drop where that is asked for and known, else a
    position's `own`."""
    return "own" if world.settling_drop(think) is None else "typical"
