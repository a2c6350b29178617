"""Which text trains, validates and tests: by document from 20 documents up, else by blocks inside each document.

By document, the document's own hash decides, so new ones don't move old ones. By blocks, a document becomes
train | gap | val | gap | test, cut at line ends. It must not know tokens or files.
"""

# N documents

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ebwm_cli.data.split import TEST, TRAIN, VAL
from ebwm_cli.errors import DataError

BY_DOCUMENT_FROM = 20
HELD_OUT = 0.1
"""Share of the documents, or of a document's text, for val and as much for test."""
CHARACTERS_PER_TOKEN = 4
"""How much text a window takes, roughly: for gaps and least sizes."""
LOOK_BACK = 4000
"""Characters before a cut among which a line end is looked for."""


@dataclass(frozen=True)
class Stretch:
    """Characters [first, last) of a document, and the part they belong to."""

    label: int
    first: int
    last: int


@dataclass(frozen=True)
class TextDivision:
    """`by` document, with `labels` (N,), or block, with labels None: then `stretches` cuts each document."""

    by: str
    labels: np.ndarray | None
    context: int

    def stretches(self, number: int, text: str) -> list[Stretch]:
        """How document `number` is divided."""
        if self.labels is not None:
            return [Stretch(int(self.labels[number]), 0, len(text))]
        return _blocks(text, self.context)


def place_of(text: str) -> float:
    """A document's place in [0, 1) by its hash."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def divide_text(places: Sequence[float], lengths: Sequence[int], context: int) -> TextDivision:
    """Divide documents at `places` (N,) of `lengths` (N,) characters so that each part holds a window or more.

    Documents that are the same stay together. Raises DataError where there is too little text.
    """
    division = _division(places, lengths, context)
    if division is None:
        smaller = (context >> by for by in range(1, context.bit_length()))
        able = next((each for each in smaller if _division(places, lengths, each)), None)
        raise _too_short(places, lengths, context, able)
    return division


def _division(places: Sequence[float], lengths: Sequence[int], context: int) -> TextDivision | None:
    """By document where there are many, else by block, else by document all the same; None where none can be."""
    labels = _by_document(places, lengths, context)
    able = any(_held_characters(length, context) for length in lengths)
    if able and (labels is None or len(lengths) < BY_DOCUMENT_FROM):
        return TextDivision("block", None, context)
    return None if labels is None else TextDivision("document", labels, context)


def _by_document(places: Sequence[float], lengths: Sequence[int], context: int) -> np.ndarray | None:
    """Labels (N,) by the documents' places; a part that has too little takes the next ones that others can spare.

    None where a part still has too little.
    """
    each, group = np.unique(np.asarray(places, np.float64), return_inverse=True)  # (G,) places, (N,) each document's
    sizes = np.bincount(group, weights=lengths, minlength=len(each))  # (G,) characters
    labels = np.where(each >= 1 - HELD_OUT, TEST, np.where(each >= 1 - 2 * HELD_OUT, VAL, TRAIN))
    held, least = {part: float(sizes[labels == part].sum()) for part in (TEST, VAL, TRAIN)}, _held(context)
    for part in held:
        for number in np.argsort(each if part == TRAIN else -each, kind="stable").tolist():
            if held[part] >= least:
                break
            giver, size = int(labels[number]), float(sizes[number])
            if giver != part and held[giver] - size >= least:
                labels[number], held[part], held[giver] = part, held[part] + size, held[giver] - size
    enough = min(held.values()) >= least and sizes.sum() >= _needed(context)
    return labels[group] if enough else None


def _held(context: int) -> int:
    """Characters that hold a window with room to spare."""
    return 2 * CHARACTERS_PER_TOKEN * (context + 1)


def _held_characters(length: int, context: int) -> int:
    """Characters for val, and as many for test, of a document; 0 where it is too short to divide."""
    held = max(int(length * HELD_OUT), _held(context))
    left = length - 2 * held - 2 * CHARACTERS_PER_TOKEN * (context + 1)
    return held if left >= 2 * held else 0


def _blocks(text: str, context: int) -> list[Stretch]:
    held, end = _held_characters(len(text), context), len(text)
    if not held:
        return [Stretch(TRAIN, 0, end)]
    gap = CHARACTERS_PER_TOKEN * (context + 1)
    test = _line_end(text, end - held)
    val_end = _line_end(text, test - gap)
    val = _line_end(text, val_end - held)
    train_end = _line_end(text, val - gap)
    return [Stretch(TRAIN, 0, train_end), Stretch(VAL, val, val_end), Stretch(TEST, test, end)]


def _line_end(text: str, at: int) -> int:
    """The last place at or before `at` where a line ends, else a word, else `at`."""
    first = max(0, at - min(LOOK_BACK, len(text) // 50))
    for mark in ("\n", " "):
        found = text.rfind(mark, first, at)
        if found >= 0:
            return found + 1
    return at


def _needed(context: int) -> int:
    """Characters that three parts take; in one document, what `_held_characters` divides."""
    return 4 * _held(context) + 2 * CHARACTERS_PER_TOKEN * (context + 1)


def _too_short(places: Sequence[float], lengths: Sequence[int], context: int, able: int | None) -> DataError:
    different = dict(zip(places, lengths, strict=True))  # what is there twice can't be on both sides
    there = f"{sum(different.values()):,} characters in {len(different):,} different documents"
    return DataError(
        f"there is too little text to train, validate and test on: {there}, and windows of {context} + 1 tokens in "
        f"three parts take about {_needed(context):,} in one document, or in three and more that share them",
        f"--context {able}, or more text" if able else "more text",
    )
