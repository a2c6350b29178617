"""From a YAML file and key=value overrides to one frozen Study, and from a study to the recipes of its runs.

    recipe of a run = base(kind) <- changes <- variant's changes <- value of the axis <- seed

Everything `load_recipe` checks is checked, with its words. Knows YAML and the schemas, no tensor.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.load import (
    STUDIES,
    all_of,
    apply_change,
    find_recipe,
    load_recipe,
    name_of,
    read_chain,
    shipped_studies,
)
from ebwm_cli.recipe.model import KINDS
from ebwm_cli.recipe.schema import Recipe
from ebwm_cli.recipe.study import BudgetSection, Study

_SCHEMA_HINT = "ebwm scale --schema lists every key with its bounds and units"
_LONGEST_NAME = 40


def load_study(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The study at a path, or the shipped one of that name (`video_data` is `scale/video_data`), with `key=value`
    overrides. Raises RecipeError naming every problem."""
    asked = str(path_or_name)
    name = f"{STUDIES}{asked}" if f"{STUDIES}{asked}" in shipped_studies() else asked
    file = find_recipe(name, shipped_studies())
    tree, problems = read_chain(file), []
    tree.setdefault("name", name_of(file, _LONGEST_NAME))
    for override in overrides:
        tree.pop(override.partition("=")[0], None)  # what is said of all axes, or all changes, is all there is to them
        apply_change(tree, override, problems)
    try:
        study = Study.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        problems += [_told(detail) for detail in error.errors(include_url=False, include_context=False)]
    else:
        if not problems:
            return study
    raise RecipeError(f"study {path_or_name}: {all_of(problems)}", _SCHEMA_HINT)


def base_recipe(study: Study, kind: str, variant: str | None) -> Recipe:
    """What all runs of a kind and variant share. Raises RecipeError."""
    words = changes_in_words(study.changes)
    words += changes_in_words(study.variants[variant]) if variant else []
    return load_recipe(study.base.format(kind=kind), words)


def rival_loader(study: Study) -> Callable[[str], Recipe]:
    """Loads what a run's base is matched to: a recipe of the study with the study's changes, any other as it is."""
    own = {study.base.format(kind=kind) for kind in KINDS}
    return lambda name: load_recipe(name, changes_in_words(study.changes) if name in own else ())


def changes_in_words(changes: Mapping[str, Any]) -> list[str]:
    """`key=value` words, as they are typed behind a recipe's name."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def study_json_schema() -> dict[str, Any]:
    """JSON schema of a study file, for editors and for `ebwm scale --schema`."""
    return Study.model_json_schema()


def dump_study(study: Study) -> str:
    """The study as YAML with every default written out; `load_study` reads it back equal."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _told(detail: Any) -> str:
    """One problem: the key's path, what was expected, what was found, the nearest name of an unknown key."""
    where = [part for part in detail["loc"] if part != "[key]"]
    path = ".".join(str(part) for part in where)
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if detail["type"] == "extra_forbidden":
        section: type[BaseModel] = BudgetSection if where[0] == "budget" and len(where) > 1 else Study
        near = difflib.get_close_matches(str(where[-1]), section.model_fields, n=1)
        return f"{path}: unknown key" + (
            f"; did you mean {'.'.join([*map(str, where[:-1]), near[0]])}?" if near else ""
        )
    if detail["type"] == "value_error":
        return f"{path}.{message}" if path else message
    return f"{path}: {message}, got {json.dumps(detail['input'], default=str)[:60]}"
