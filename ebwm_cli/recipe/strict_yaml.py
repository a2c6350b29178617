"""YAML without surprises: what is written is what is read.

A safe loader that knows null, true/false, decimal numbers (`1e-4` is one) and text, and refuses what a recipe never
needs: repeated keys, tags, aliases, deep nesting, large files. It knows nothing of recipes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32


class StrictYamlError(ValueError):
    """The text isn't YAML, or isn't the plain part of YAML that recipes are written in."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, one level of trust lower."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own name; add_implicit_resolver copies it

    def __init__(self, stream: bytes | str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise StrictYamlError(f"{_place(event)}: aliases (*name) are not part of a recipe; write the value out")
        if getattr(event, "tag", None) is not None:
            raise StrictYamlError(f"{_place(event)}: tags (here {event.tag}) are not part of a recipe")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise StrictYamlError(f"{_place(event)}: nested deeper than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise StrictYamlError(f"{_place(key_node)}: a key must be a word")
            if key_node.value in mapping:
                raise StrictYamlError(f"{_place(key_node)}: the key {key_node.value!r} is there twice")
            mapping[key_node.value] = self.construct_object(value_node, deep=deep)
        return mapping


def _place(at: Any) -> str:
    return f"line {at.start_mark.line + 1}"


for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _construct_int(loader: yaml.SafeLoader, node: Any) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


def _construct_float(loader: yaml.SafeLoader, node: Any) -> float:
    return float(loader.construct_scalar(node).replace("_", ""))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse(text: bytes | str) -> Any:
    """The one document in `text` as dicts, lists, text, numbers, booleans and None.

    Raises StrictYamlError, with the line, for anything else.
    """
    if len(text) > MAX_BYTES:
        raise StrictYamlError(f"larger than {MAX_BYTES // 1024} KiB")
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise StrictYamlError(f"{where}{error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        if isinstance(error, StrictYamlError):
            raise
        raise StrictYamlError(" ".join(str(error).split())) from None
