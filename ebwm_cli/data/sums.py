"""The built-in text: lines that add, 0487+0086=00573, and that sort, sort 528714=124578; how hard each digit of an
answer is to tell, is known.

Numbers stand in columns, zeros before them, so that what to add is always as far away. Answers begin with the most
significant digit, so a digit needs the carry from its right: a column that sums to 9 passes it on, and how many columns
must be read for it is the label. A sorted digit's label is the length of its list: more are to be counted.
It must not know sets or tokenizers, but that a byte is a token.
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
MOST_DIGITS = 4
"""Of what is added, without the zeros before it."""
LISTS = (3, 6, 12, 24)
"""Lengths of what is sorted."""
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
        "sort": [(SORTED + length, f"sort of {length}") for length in LISTS],
    },
)
"""Labels of tokens, as `label_tokens` has them."""

_ADDITION = rf"(\d{{{MOST_DIGITS}}})\+(\d{{{MOST_DIGITS}}})=(\d{{{MOST_DIGITS + 1}}})"
_LINE = re.compile(rf"^(?:{_ADDITION}|sort (\d+)=(\d+))$".encode(), re.MULTILINE)


def write_sums(folder: Path, seed: int, lines: int = LINES) -> int:
    """Put the documents of a seed into `folder` as one jsonl, where they aren't there; those of other seeds, of
    earlier worlds, and what a killed run left half written, go. Returns how many were written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sums-{seed}-{lines}.jsonl"
    for other in [*folder.glob("sums*.jsonl"), *folder.glob(".sums*")]:
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
    """For each digit of one + other, the first one first: how many columns besides its own must be read to know what is
    carried into it, up to MOST_CARRY. One that sums to 9 settles nothing: the next one must be read, too. There are
    none to read for the units, nor where neither a number nor a carry can reach.

    Where its own column sums to 9 it is one: that to the left, as its digit, known by now, has told what is carried.
    """
    reach = max(len(str(one)), len(str(other)))
    nines = [one // 10**column % 10 + other // 10**column % 10 == 9 for column in range(reach)]  # units first
    chains = [0]  # into each column
    for nine in nines:
        chains.append(chains[-1] + 1 if nine else 1)
    into = [min(chain, 1) if nine else chain for chain, nine in zip(chains, [*nines, False], strict=True)]
    into += [0] * (MOST_DIGITS - reach)
    return [min(chain, MOST_CARRY) for chain in reversed(into)]


def _additions(rng: np.random.Generator, count: int) -> list[str]:
    """Numbers of 1 to MOST_DIGITS digits, every length as often; each line has its own share of columns that are made
    to sum to 9, large more often than small, so that long chains are no rarities."""
    place = np.arange(MOST_DIGITS)  # units first
    lengths = rng.integers(1, MOST_DIGITS + 1, (2, count, 1))
    lengths[1] = np.where(rng.random((count, 1)) < EQUALLY_LONG, lengths[0], lengths[1])
    leading = (place == lengths - 1) & (lengths > 1)  # (2, L, MOST_DIGITS)
    digits = np.where(leading, rng.integers(1, 10, leading.shape), rng.integers(0, 10, leading.shape))
    nines = rng.random((count, MOST_DIGITS)) < rng.random((count, 1)) ** 0.5
    nines &= (place < lengths).all(0) & ~(leading[1] & (digits[0] == 9))  # no number begins with 0
    digits[1] = np.where(nines, 9 - digits[0], digits[1])
    ones, others = (np.where(place < lengths, digits, 0) * 10**place).sum(-1).tolist()
    return [_addition(one, other) for one, other in zip(ones, others, strict=True)]


def _addition(one: int, other: int) -> str:
    """All in columns."""
    return f"{one:0{MOST_DIGITS}}+{other:0{MOST_DIGITS}}={one + other:0{MOST_DIGITS + 1}}\n"


def _sortings(rng: np.random.Generator, count: int) -> list[str]:
    """Lists of every length, rarer the longer, so that as many digits are of each."""
    rarity = 1 / np.array(LISTS)
    lengths = rng.choice(LISTS, count, p=rarity / rarity.sum()).tolist()
    digits = rng.integers(0, 10, (count, max(LISTS))).tolist()
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
