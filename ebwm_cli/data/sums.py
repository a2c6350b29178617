"""The built-in text: lines that add, 487+86=573, and that sort, sort 52871=12578; how hard each digit is, is known.

Answers are written most significant digit first, so a digit needs the carry from its right: a carry passes every column
whose digits sum to 9, and the number of those that it has to be followed through is the label. A sorted digit's label
is the length of its list. It must not know sets or tokenizers, but that a byte is a token.
"""

# N tokens, L lines

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ebwm_cli.data.files import write_durably
from ebwm_cli.data.labels import UNKNOWN, ranked
from ebwm_cli.data.split import TEST, TRAIN, VAL
from ebwm_cli.data.text_split import HELD_OUT, place_of

LINES = 200_000
"""Problems; about 3 MB."""
LINES_PER_DOCUMENT = 60
"""At least."""
MOST_DIGITS = 5
"""Of what is added."""
LISTS = (2, 8)
"""Digits to sort, from and to."""
EQUALLY_LONG = 0.5
"""Share of additions whose numbers are made equally long, as long chains of carries need both."""
MOST_CARRY = 3
"""Longer chains are labelled as this long."""
SORTED = 10
"""A sorted digit's label is this plus the length of its list."""

DIFFICULTY = ranked(
    "digits",
    {
        "sum": [(carry, f"sum, carry {carry}{'+' if carry == MOST_CARRY else ''}") for carry in range(MOST_CARRY + 1)],
        "sort": [(SORTED + length, f"sort of {length}") for length in range(LISTS[0], LISTS[1] + 1)],
    },
)
"""Labels of tokens, as `label_tokens` has them."""

_LINE = re.compile(rb"^(?:(\d+)\+(\d+)=(\d+)|sort (\d+)=(\d+))$", re.MULTILINE)


def write_sums(folder: Path, seed: int, lines: int = LINES) -> int:
    """Put the documents of a seed into `folder` as one jsonl, where they aren't there; those of others go. Returns how
    many were written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sums_{seed}_{lines}.jsonl"
    for other in folder.glob("sums_*.jsonl"):
        if other != path:
            other.unlink()
    if path.exists():
        return 0
    rows = [json.dumps({"text": text}) + "\n" for text in documents(seed, lines)]
    write_durably(path, "".join(rows).encode())
    return len(rows)


def documents(seed: int, lines: int = LINES) -> Iterator[str]:
    """Documents of `lines` problems in all, but for a few last ones, LINES_PER_DOCUMENT or more in each.

    A problem's own hash says whether it trains, validates or tests, and a document holds problems of one part: it is
    closed at the first line with which the hash that `divide_text` goes by puts it there too. So no problem of one part
    is in another, in no order of its two numbers, however few of its kind there are.
    """
    open_ends: dict[int, list[str]] = {TRAIN: [], VAL: [], TEST: []}
    for line in draw_lines(np.random.default_rng(seed), lines):
        part = _part_of(_problem(line))
        waiting = open_ends[part]
        waiting.append(line)
        if len(waiting) >= LINES_PER_DOCUMENT:
            text = "".join(waiting)
            if _part_of(text) == part:
                yield text
                waiting.clear()


def draw_lines(rng: np.random.Generator, count: int) -> list[str]:
    """`count` lines with their ends; a fair coin says for each whether it adds or sorts."""
    adds = rng.random(count) < 0.5
    additions, sortings = iter(_additions(rng, int(adds.sum()))), iter(_sortings(rng, int((~adds).sum())))
    return [next(additions if add else sortings) for add in adds.tolist()]


def label_tokens(tokens: np.ndarray) -> np.ndarray:
    """Labels (N,) int8 of whole documents, given as bytes (N,) with anything from 256 up between them.

    Only digits of answers have one, all else is UNKNOWN.
    """
    text = np.where(tokens < 256, tokens, ord("\n")).astype(np.uint8).tobytes()
    labels = np.full(len(tokens), UNKNOWN, np.int8)
    for line in _LINE.finditer(text):
        one, other, total, unsorted, _ = line.groups()
        if total is not None:
            labels[line.start(3) : line.end(3)] = carry_chains(int(one), int(other))
        else:
            labels[line.start(5) : line.end(5)] = SORTED + len(unsorted)
    return labels


def carry_chains(one: int, other: int) -> list[int]:
    """For each digit of one + other, the first one first: how many columns that sum to 9 the carry into it has to be
    followed through until a column settles it, up to MOST_CARRY. The units settle it always: nothing is carried into
    them.

    A digit in a column that itself sums to 9 needs no chain, as the digit before it has told what is carried: it is 0
    where nothing is. If it is the first one nothing has told, and its own column counts: a carry would have made a 1 of
    it, and that 1 has the same chain.
    """
    count = len(str(one + other))
    nines = [one // 10**column % 10 + other // 10**column % 10 == 9 for column in range(count)]  # units first
    chains = [0, 0]  # into each column
    for column in range(1, count):
        chains.append(chains[column] + 1 if nines[column] else 0)
    first = count - 1
    into = [0 if nines[column] else chains[column] for column in range(count)]
    into[first] = chains[first + nines[first]]
    return [min(chain, MOST_CARRY) for chain in reversed(into)]


def _additions(rng: np.random.Generator, count: int) -> list[str]:
    """Numbers of 1 to MOST_DIGITS digits, every length as often; each line has its own share of columns that are made
    to sum to 9, so that long chains are no rarities."""
    place = np.arange(MOST_DIGITS)  # units first
    lengths = rng.integers(1, MOST_DIGITS + 1, (2, count, 1))
    lengths[1] = np.where(rng.random((count, 1)) < EQUALLY_LONG, lengths[0], lengths[1])
    leading = (place == lengths - 1) & (lengths > 1)  # (2, L, MOST_DIGITS)
    digits = np.where(leading, rng.integers(1, 10, leading.shape), rng.integers(0, 10, leading.shape))
    nines = rng.random((count, MOST_DIGITS)) < rng.random((count, 1))
    nines &= (place < lengths).all(0) & ~(leading[1] & (digits[0] == 9))  # no number begins with 0
    digits[1] = np.where(nines, 9 - digits[0], digits[1])
    ones, others = (np.where(place < lengths, digits, 0) * 10**place).sum(-1).tolist()
    return [f"{one}+{other}={one + other}\n" for one, other in zip(ones, others, strict=True)]


def _sortings(rng: np.random.Generator, count: int) -> list[str]:
    """Lists of every length as often."""
    lengths = rng.integers(LISTS[0], LISTS[1] + 1, count).tolist()
    digits = rng.integers(0, 10, (count, LISTS[1])).tolist()
    texts = ("".join(map(str, row[:length])) for row, length in zip(digits, lengths, strict=True))
    return [f"sort {text}={''.join(sorted(text))}\n" for text in texts]


def _problem(line: str) -> str:
    """What a line asks; the same for both orders of an addition."""
    question = line.partition("=")[0]
    return "+".join(sorted(question.split("+")))


def _part_of(text: str) -> int:
    """Where the hash of a text puts it."""
    place = place_of(text)
    return TEST if place >= 1 - HELD_OUT else VAL if place >= 1 - 2 * HELD_OUT else TRAIN
