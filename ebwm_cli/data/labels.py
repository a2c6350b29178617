"""Labels: of a state of a built-in world, how hard it is to foresee, as a small number that names a class.

Classes of one group are ranked by difficulty in the order of their list; those of different groups are not compared. A
label is a fact of the world, never of a model. It must not know worlds, files or tokens.
"""

# N states

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

UNKNOWN = -1
"""The label of a state of which nothing is known."""


@dataclass(frozen=True)
class LabelClass:
    """States that are equally hard to foresee."""

    label: int
    """From 0 up."""
    name: str
    group: str
    """Classes of the same group are ranked against one another."""


@dataclass(frozen=True)
class Labels:
    """What a set's labels say: `name` is what they count, `classes` all values they take but UNKNOWN."""

    name: str
    classes: tuple[LabelClass, ...]

    @property
    def groups(self) -> dict[str, list[LabelClass]]:
        """Classes by their group, the easiest first."""
        found: dict[str, list[LabelClass]] = {}
        for each in self.classes:
            found.setdefault(each.group, []).append(each)
        return found

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": self.name, "classes": [asdict(each) for each in self.classes]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Labels:
        """From `as_json()`."""
        return cls(record["name"], tuple(LabelClass(**each) for each in record["classes"]))


@dataclass(frozen=True)
class Labelling:
    """What labels say, and `of` what they are: of a clip's name and its states' frames (N,), or of tokens (N,), each as
    (N,) int8."""

    labels: Labels
    of: Callable[..., np.ndarray]


def ranked(name: str, groups: Mapping[str, Iterable[tuple[int, str]]]) -> Labels:
    """Labels of `groups`, each of (label, name) from the easiest class on.

    Raises ValueError where a label is used twice, or doesn't fit in the int8 that labels are stored as.
    """
    classes = tuple(LabelClass(label, what, group) for group, each in groups.items() for label, what in each)
    numbers = [each.label for each in classes]
    if len(set(numbers)) < len(numbers) or not all(0 <= number <= np.iinfo(np.int8).max for number in numbers):
        raise ValueError(f"labels {numbers} of {name}: each once, from 0 to {np.iinfo(np.int8).max}")
    return Labels(name, classes)


def without_firsts(labels: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """`labels` (N,) as int8, UNKNOWN where one of `segments` (N,) begins: nothing led to its first state."""
    kept = labels.astype(np.int8)
    kept[np.flatnonzero(np.diff(segments, prepend=-1))] = UNKNOWN
    return kept
