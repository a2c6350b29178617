"""From a YAML file, its `extends:` chain and key=value overrides to one frozen Recipe.

    recipe = schema(base <- file <- overrides), later wins per key

All problems are told at once, each with its key's path and the nearest name. Knows YAML and the schema, no tensor.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe import strict_yaml
from ebwm_cli.recipe.model import DEFAULT_KIND, KINDS, kind_of
from ebwm_cli.recipe.schema import Recipe

STUDIES = "scale/"
STUDY_FOLDERS = (STUDIES, "ablation/")
_SCHEMA_HINT = "ebwm train --schema lists every key with its bounds and units"


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at a path, or the shipped recipe of that name, with `key=value` overrides (dotted keys, YAML values).

    Raises RecipeError naming every problem.
    """
    file = find_recipe(path_or_name, shipped_recipes())
    tree, problems = read_chain(file), []
    tree.setdefault("name", name_of(file, 80))
    for override in sorted(overrides, key=lambda each: not each.startswith("model.kind=")):  # it decides what keys mean
        apply_change(tree, override, problems)
    try:
        # JSON's strict mode: a list may be a pair, a whole number may be a float, and nothing else is converted.
        recipe = Recipe.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        problems += _explain(error, kind_of(tree.get("model", {})))
    else:
        if not problems:
            return recipe
    raise RecipeError(f"recipe {path_or_name}: {all_of(problems)}", _SCHEMA_HINT)


def shipped_recipes() -> list[str]:
    """Names of the recipes that travel with the package, such as `video_ebt_4xs`."""
    return [name for name in _shipped() if not name.startswith(STUDY_FOLDERS)]


def shipped_studies() -> list[str]:
    """Names of the studies that travel with the package, such as `scale/video_data`."""
    return [name for name in _shipped() if name.startswith(STUDY_FOLDERS)]


def recipe_json_schema() -> dict[str, Any]:
    """JSON schema of a recipe file (`extends` included), for editors and for `ebwm train --schema`."""
    schema = Recipe.model_json_schema()
    extends = {"type": "string", "description": "A recipe to start from: a shipped name, or a path beside this file."}
    schema["properties"] = {"extends": extends} | schema["properties"]
    return schema


def dump_yaml(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads it back equal."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def diff_recipes(a: Recipe, b: Recipe) -> list[str]:
    """What changed from `a` to `b`, one `key: old -> new` per line."""
    old, new = dict(_leaves(a.model_dump(mode="json"))), dict(_leaves(b.model_dump(mode="json")))
    keys = list(old) + [key for key in new if key not in old]
    return [
        f"{key}: {_show(old.get(key, 'absent'))} -> {_show(new.get(key, 'absent'))}"
        for key in keys
        if old.get(key, "absent") != new.get(key, "absent")
    ]


# ------------------------------------------------------------------------------------------------ files


def _recipe_root() -> Path:
    """`_recipes` inside an installed package, `recipes` beside it in a working copy."""
    package = Path(__file__).resolve().parents[1]
    working_copy = package.parent / "recipes"
    return working_copy if working_copy.is_dir() else package / "_recipes"


def _shipped() -> list[str]:
    root = _recipe_root()
    return sorted(str(file.relative_to(root).with_suffix("").as_posix()) for file in root.rglob("*.yaml"))


def find_recipe(path_or_name: str | Path, shipped: Sequence[str], beside: Path | None = None) -> Path:
    """The recipe's file: a path ends in .yaml or .yml (a relative one is looked for beside the file that extends it),
    anything else is a name, of a recipe beside that file or of one of the `shipped`. Raises RecipeError."""
    asked = Path(path_or_name)
    path = beside / asked if beside else asked
    is_path = asked.suffix in (".yaml", ".yml")
    if not is_path and beside:
        path = Path(f"{path}.yaml")
    if (is_path or beside) and path.is_file():
        return path
    if str(path_or_name) in shipped:
        return _recipe_root() / f"{path_or_name}.yaml"
    verb = "scale" if all(name.startswith(STUDY_FOLDERS) for name in shipped) else "train"
    near = difflib.get_close_matches(asked.stem if is_path else asked.name, shipped, n=1)
    hint = f"ebwm {verb} {near[0].removeprefix(STUDIES)}" if near else "shipped recipes: " + ", ".join(shipped)
    if is_path:
        raise RecipeError(f"there is no recipe file {path}", hint)
    raise RecipeError(f"there is no recipe {path_or_name}" + (f", the nearest is {near[0]}" if near else ""), hint)


def name_of(file: Path, longest: int) -> str:
    """The file's name, as far as it can be a recipe's."""
    return re.sub(r"[^A-Za-z0-9._-]+|^[._-]+", "-", file.stem).strip("-")[:longest] or "recipe"


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > strict_yaml.MAX_BYTES:
            raise RecipeError(f"{file} is too large for a recipe", _SCHEMA_HINT)
        tree = strict_yaml.parse(file.read_bytes())
    except OSError as error:
        raise RecipeError(f"{file} can't be read: {error.strerror}") from None
    except strict_yaml.StrictYamlError as error:
        raise RecipeError(f"{file}: {error}", _SCHEMA_HINT) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RecipeError(f"{file}: a recipe is keys with values, this is {_show(tree)}", _SCHEMA_HINT)
    return tree


def read_chain(file: Path) -> dict[str, Any]:
    """The file over the recipes it extends; a name stays with its own file."""
    chain, seen, shipped = [], [], _shipped()
    while True:
        if file.resolve() in seen:
            raise RecipeError(f"{file}: extends goes round in a circle", "take out one of the extends: lines")
        seen.append(file.resolve())
        tree = _read(file)
        base = tree.pop("extends", None)
        if chain:
            tree.pop("name", None)
        chain.append(tree)
        if base is None:
            break
        if not isinstance(base, str) or not base:
            raise RecipeError(f"{file}: extends must be a recipe's name or path, not {_show(base)}", _SCHEMA_HINT)
        file = find_recipe(base, shipped, file.parent)
    merged: dict[str, Any] = {}
    for tree in reversed(chain):
        model = tree.get("model")
        if isinstance(model, dict) and "kind" in model:
            _become(merged, model["kind"])
        merged = _merge(merged, tree)
    return merged


def _become(tree: dict[str, Any], kind: Any) -> None:
    """Make the model in `tree` one of `kind`: of another kind's keys, those it has too are kept."""
    model = tree.get("model")
    if isinstance(model, dict) and isinstance(kind, str) and kind in KINDS and kind != kind_of(model):
        tree["model"] = {**_fitting(model, KINDS[kind]), "kind": kind}


def _fitting(tree: dict[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """The keys of `tree` that `section` has."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        field = section.model_fields.get(key)
        if field is None:
            continue
        below = _section_of(field.annotation)
        kept[key] = _fitting(value, below) if isinstance(value, dict) and below else value
    return kept


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, where it holds one."""
    parts = [annotation, *get_args(annotation)]
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def apply_change(tree: dict[str, Any], override: str, problems: list[str]) -> None:
    """Set `a.b=value` in the tree; what can't be set is added to the problems."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        problems.append(f"{override}: an override is written key=value, such as train.steps=1000")
        return
    try:
        value = strict_yaml.parse(text)
    except strict_yaml.StrictYamlError as error:
        problems.append(f"{path}: {_show(text)} is not a YAML value ({error})")
        return
    if keys == ["model", "kind"]:
        _become(tree, value)
    elif keys == ["model"] and isinstance(value, dict) and "kind" in value:
        _become(tree, value["kind"])
    for done, key in enumerate(keys[:-1], start=1):
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            problems.append(f"{path}: {'.'.join(keys[:done])} is a value, it has no keys of its own")
            return
    both = isinstance(value, dict) and isinstance(tree.get(keys[-1]), dict)
    tree[keys[-1]] = _merge(tree[keys[-1]], value) if both else value


# --------------------------------------------------------------------------------------------- problems


def all_of(problems: Sequence[str]) -> str:
    """One problem as it is; several, each on a line of its own."""
    return problems[0] if len(problems) == 1 else f"{len(problems)} problems\n  " + "\n  ".join(problems)


def _explain(error: ValidationError, kind: Any) -> list[str]:
    """One line per key: its path, what was expected, what was found, and the nearest name for unknown keys of a recipe
    whose model is of `kind`."""
    told: dict[str, tuple[list[str], Any]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        path, unknown = _key_path(detail["loc"])
        no_section = detail["type"].startswith("union_tag")
        if no_section and not isinstance(detail["input"], dict):
            message = f"should be an object, got {_show(detail['input'])}"
        elif no_section:
            asked = kind_of(detail["input"])
            path, message = f"{path}.kind", f"should be {', '.join(KINDS)}, got {_show(asked)}"
            near = difflib.get_close_matches(str(asked), KINDS, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        elif unknown:
            message = "unknown key" + _nearest(path, kind)
        else:
            message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
            key, colon, rest = message.partition(": ")
            if detail["type"] == "value_error" and colon and " " not in key:  # a section's own check names the key
                path, message = f"{path}.{key}" if path else key, rest
        explained = unknown or detail["type"] == "value_error" or no_section
        messages, _ = told.setdefault(path, ([], None if explained else detail))
        if message not in messages:
            messages.append(message)
    lines = []
    for path, (messages, detail) in told.items():
        if any(other.startswith(f"{path}[") for other in told):
            continue  # a list was meant, and what is wrong inside it is told
        found = f", got {_show(detail['input'])}{_choice_of(path, detail['input'], kind)}" if detail else ""
        lines.append(f"{path or 'recipe'}: {', or '.join(messages)}{found}")
    return lines


def _key_path(location: tuple[int | str, ...]) -> tuple[str, bool]:
    """Pydantic's location as the key a person typed, and whether that key is unknown."""
    section: type[BaseModel] | None = Recipe
    path, of_kinds = "", False
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif of_kinds:  # pydantic names the kind; nobody typed it
            section, of_kinds = KINDS[part], False
        elif section is not None:
            path += f".{part}" if path else part
            if part not in section.model_fields:
                return path, True
            of_kinds = section is Recipe and part == "model"
            section = _section_of(section.model_fields[part].annotation)
    return path, False


def _nearest(path: str, kind: Any) -> str:
    """What an unknown path may have meant: a key of another kind of model, a sibling spelled alike, the same word in
    another section, or whatever looks like it."""
    owners = [name for name in KINDS if path in _keys_of(name)]
    if owners:
        return f", it is of kind={_or(owners)}"
    known = _keys_of(kind if isinstance(kind, str) and kind in KINDS else DEFAULT_KIND)
    parent, _, leaf = path.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    near = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1)]
    near = near or [key for key in known if key.rpartition(".")[2] == leaf]
    near = near or difflib.get_close_matches(path, known, n=1)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _choice_of(path: str, value: Any, kind: Any) -> str:
    """The key beside `path`, in its section, of which a value that is none of `path` is a choice."""
    section: type[BaseModel] | None = Recipe
    parent = path.rpartition(".")[0]
    for part in parent.split("."):
        field = section.model_fields.get(part) if section else None
        by_kind = KINDS.get(kind) if section is Recipe and part == "model" and isinstance(kind, str) else None
        section = by_kind or (_section_of(field.annotation) if field else None)
    known = section.model_fields if section else {}
    near = [key for key, field in known.items() if get_origin(field.annotation) is Literal]
    near = [f"{parent}.{key}={value}" for key in near if value in get_args(known[key].annotation)]
    return f"; did you mean {_or(near)}?" if near else ""


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1])] * (len(words) > 1) + [words[-1]])


def _keys_of(kind: str) -> list[str]:
    """The keys of a recipe whose model is of `kind`, dotted."""

    def keys(section: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            yield prefix + name
            below = KINDS[kind] if prefix + name == "model" else _section_of(field.annotation)
            if below:
                yield from keys(below, f"{prefix}{name}.")

    return list(keys(Recipe, ""))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    text = "null" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
