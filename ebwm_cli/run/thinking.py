"""How much to think: the recipe's habits with what was asked for put in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from ebwm_cli.errors import UsageError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.outputs import shown
from ebwm_cli.run.report import Notice
from ebwm_cli.world.protocol import WorldModel


def thinking_as(loaded: LoadedWorld, asked: Mapping[str, Any]) -> LoadedWorld:
    """`loaded`, whose recipe thinks as `asked` (keys of ThinkSection). Raises UsageError."""
    if not asked:
        return loaded
    think = budget_of(loaded.recipe.think, {}, asked)
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"think": think}))


def budget_of(habits: ThinkSection, asked: Mapping[str, Any], further: Mapping[str, Any] | None = None) -> ThinkSection:
    """`habits` with everything put in that was asked for by options, where it is not None, and `further` by --thinking.
    Raises UsageError where a key is unknown, asked for twice, or has no such value."""
    changes = {key: value for key, value in asked.items() if value is not None}
    for key, value in (further or {}).items():
        if key in changes:
            raise UsageError(f"--{key} and --thinking {key}= say the same", f"--{key} {changes[key]}")
        changes[key] = value
    try:
        return ThinkSection.model_validate({**habits.model_dump(), **changes})
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        problems = [_problem(each, further or {}) for each in found]
        hint = "--thinking stop=energy tolerance=1e-3 backtrack=true"
        together = not found[0]["loc"]  # each of the values is one that there is
        raise UsageError("; ".join(problems), "--samples 4 --thinking beam=4" if together else hint) from None


def _problem(detail: Any, further: Mapping[str, Any]) -> str:
    """What pydantic found, by the words that were typed."""
    if not detail["loc"]:
        return detail["msg"].removeprefix("Value error, ")
    key = str(detail["loc"][0])
    typed = f"--thinking {key}" if key in further else f"--{key}"
    if key not in ThinkSection.model_fields:
        near = difflib.get_close_matches(key, ThinkSection.model_fields, n=1)
        return f"{typed}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    return f"{typed}: {detail['msg'].replace('Input should be', 'should be')}, got {detail['input']}"


def in_vain(loaded: LoadedWorld, asked: Mapping[str, Any], further: Mapping[str, Any] | None) -> Iterator[Notice]:
    """A notice where something was asked for, as of `budget_of`, of a model that predicts in one pass."""
    if loaded.world.score is None and (further or any(each is not None for each in asked.values())):
        what = "steps, samples, stopping and --thinking change nothing"
        yield Notice(notice=f"{shown(loaded.path)} predicts in one pass: {what}")


def drop_of(world: WorldModel, think: ThinkSection) -> str:
    """What `think.tolerance` is a fraction of in `world`: the `typical` drop where that is asked for and known, else a
    position's `own`."""
    return "own" if world.settling_drop(think) is None else "typical"
