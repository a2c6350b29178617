"""Documents -> tokens, a file at a time.

Texts are cut into pieces where byte-level tokenizers cut too, so the tokens are those of the whole text, are the same
for any number of threads, and memory stays that of a few pieces. It must not know how files are divided or written.
"""

# N stretches of one file

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import numpy as np

from ebwm_cli.data.encoders.token_library import library_threads
from ebwm_cli.data.encoders.tokenizer import Tokenizer
from ebwm_cli.data.text_intake import StretchText

PIECE = 1 << 16
"""Characters tokenized at once."""
GROUP = 16
"""Pieces between two reports of progress."""
SHOWN = 24
"""Characters of an example."""


@dataclass(frozen=True)
class FileTokens:
    """Tokens of a file's stretches, one after the other."""

    tokens: np.ndarray  # int32
    lengths: np.ndarray  # (N,) int64 tokens per stretch
    labels: np.ndarray  # (N,) int8
    begins: np.ndarray  # (N,) bool
    ends: np.ndarray  # (N,) bool
    documents: np.ndarray  # (N,) int64 place of its document in the file
    sizes: np.ndarray  # (N,) int64 bytes of its text
    changed: int
    """Documents that the tokenizer can't give back as they were."""
    example: str
    """The first such place, in words; empty where there is none."""

    def to_bytes(self) -> bytes:
        """All of it, for `from_bytes`."""
        facts = {"changed": self.changed, "example": self.example}
        out = BytesIO()
        np.savez(
            out,
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            **{name: held for name, held in vars(self).items() if name not in facts},
        )
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> FileTokens:
        """From the whole bytes of `to_bytes`."""
        with np.load(BytesIO(data), allow_pickle=False) as held:
            facts = json.loads(held["facts"].tobytes())
            return cls(**{name: held[name] for name in held.files if name != "facts"}, **facts)


@dataclass(frozen=True)
class Advance:
    """Bytes and tokens that one group of pieces added."""

    size: int
    tokens: int


@dataclass(frozen=True)
class _Piece:
    """Part of a stretch; the last one of each is empty and says that the stretch is complete."""

    stretch: int
    text: str
    inner: bool
    """Whether text of the same stretch stands before it."""
    last: bool = False


def pieces(text: str) -> Iterator[str]:
    """`text` cut into parts of at most PIECE characters, before a lone space between two words, else a lone line end.

    Byte-level tokenizers put a space with the word behind it, so no token of the whole text reaches over such a cut.
    """
    first = 0
    while len(text) - first > PIECE:
        cut = _cut(text, first, first + PIECE)
        yield text[first:cut]
        first = cut
    if first < len(text):
        yield text[first:]


def _cut(text: str, first: int, last: int) -> int:
    """The last good cut in (first, last]; `last` where there is none."""
    for mark in (" ", "\n"):
        at = text.rfind(mark, first + 1, last)
        while at > first and (text[at - 1].isspace() or text[at + 1].isspace()):
            at = text.rfind(mark, first + 1, at)
        if at > first:
            return at
    return last


def tokenize(stretches: Iterator[StretchText], tokenizer: Tokenizer, threads: int) -> Iterator[Advance | FileTokens]:
    """Advances, then the tokens of all `stretches`; end-of-text is appended where a document ends."""
    rows: list[StretchText] = []  # without their text
    sizes: list[int] = []
    lengths: list[int] = []
    parts: list[np.ndarray] = []
    changed: set[int] = set()
    example = ""

    def cut() -> Iterator[_Piece]:
        for number, stretch in enumerate(stretches):
            rows.append(StretchText(stretch.document, stretch.label, stretch.begins, stretch.ends, ""))
            sizes.append(len(stretch.text.encode()))
            lengths.append(0)
            yield from (_Piece(number, part, bool(i)) for i, part in enumerate(pieces(stretch.text)))
            yield _Piece(number, "", inner=True, last=True)

    def one(piece: _Piece) -> tuple[np.ndarray, str]:
        tokens = tokenizer.encode(piece.text)
        return tokens, _difference(piece.text, tokenizer.decode(tokens, inner=piece.inner))

    waiting = cut()
    # Threads of our own: the library's are not to be trusted with how many were asked for.
    with library_threads(1), ThreadPoolExecutor(threads) as pool:
        while group := list(islice(waiting, GROUP)):
            added = 0
            for piece, (tokens, wrong) in zip(group, pool.map(one, group), strict=True):
                if piece.last and rows[piece.stretch].ends:
                    tokens = np.array([tokenizer.end_of_text], np.int32)
                parts.append(tokens)
                lengths[piece.stretch] += len(tokens)
                added += len(tokens)
                if wrong:
                    changed.add(rows[piece.stretch].document)
                    example = example or wrong
            yield Advance(sum(len(piece.text.encode()) for piece in group), added)
    yield FileTokens(
        tokens=np.concatenate([np.empty(0, np.int32), *parts]),
        lengths=np.array(lengths, np.int64),
        labels=np.array([row.label for row in rows], np.int8),
        begins=np.array([row.begins for row in rows], bool),
        ends=np.array([row.ends for row in rows], bool),
        documents=np.array([row.document for row in rows], np.int64),
        sizes=np.array(sizes, np.int64),
        changed=len(changed),
        example=example,
    )


def _difference(text: str, back: str) -> str:
    """Where `back` is not `text`, in words; empty where they are equal."""
    if text == back:
        return ""
    at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    first = max(0, at - SHOWN // 3)
    return f"{text[first : first + SHOWN]!r} as {back[first : first + SHOWN]!r}"
