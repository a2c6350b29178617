"""A source of text -> the files in it with usable documents, read once to know them and once more to have their text.

Documents are numbered through all files. It must not know tokenizers, tokens or sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from ebwm_cli.data.files import display_name, sha256_of
from ebwm_cli.data.text import Flaw, documents, find_texts, why_not
from ebwm_cli.data.text_split import TextDivision, place_of
from ebwm_cli.errors import DataError

KINDS = "--src with txt, md, jsonl or parquet files, .gz too; --field names the text in jsonl and parquet"


@dataclass(frozen=True)
class TextFile:
    """A file of usable documents, by their places in [0, 1) and their lengths in characters."""

    path: Path
    name: str
    sha256: str
    size: int
    places: list[float]
    lengths: list[int]


@dataclass(frozen=True)
class StretchText:
    """A stretch of a document to be tokenized; `begins` and `ends` say whether it holds the document's two ends."""

    document: int
    """Its place in the file."""
    label: int
    begins: bool
    ends: bool
    text: str


@dataclass(frozen=True)
class Corpus:
    """All that is usable in a source, and what is not: `refused` rows of file and reason."""

    files: list[TextFile]
    refused: list[dict[str, str]]
    field: str

    @property
    def places(self) -> list[float]:
        """Of all documents, (N,)."""
        return [place for file in self.files for place in file.places]

    @property
    def lengths(self) -> list[int]:
        """Characters of all documents, (N,)."""
        return [length for file in self.files for length in file.lengths]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)

    @cached_property
    def firsts(self) -> list[int]:
        """Number of each file's first document and, last, the number of documents."""
        return [0, *accumulate(len(file.lengths) for file in self.files)]

    def division_of(self, number: int, division: TextDivision) -> bytes:
        """All of `division` that the stretches of file `number` depend on, for a key."""
        first, last = self.firsts[number], self.firsts[number + 1]
        labels = b"" if division.labels is None else np.asarray(division.labels[first:last], np.int8).tobytes()
        return f"{division.by} {division.context if division.labels is None else 0} ".encode() + labels

    def stretches(self, number: int, division: TextDivision) -> Iterator[StretchText]:
        """The documents of file `number` as they are divided. Raises DataError where the file has changed."""
        file, first = self.files[number], self.firsts[number]
        texts = [] if _changed(file) else (each for each in documents(file.path, self.field) if isinstance(each, str))
        place = -1
        for place, text in enumerate(texts):
            if place >= len(file.lengths) or len(text) != file.lengths[place]:
                raise _moved(file)
            for part in division.stretches(first + place, text):
                if part.last > part.first:
                    whole = part.first == 0, part.last == len(text)
                    yield StretchText(place, part.label, *whole, text[part.first : part.last])
        if place + 1 != len(file.lengths):
            raise _moved(file)


def read_files(root: Path, title: str | None, out: Path, field: str) -> Corpus:
    """Look at every document below `root`, except below `out`; `title` names a single file instead of its own name.

    Raises DataError where no document is left.
    """
    files: list[TextFile] = []
    refused: list[dict[str, str]] = []
    for path in find_texts(root, outside=out):
        name = title or display_name(path, root)
        reason = why_not(path, root)
        if reason:
            refused.append({"file": name, "reason": reason})
            continue
        found = _read_file(path, name, field, refused)
        if found:
            files.append(found)
    if not files:
        told = "; ".join(f"{each['file']}: {each['reason']}" for each in refused[:3])
        where = title or str(root)
        what = f"none of the text in {where} can be used ({told})" if told else f"there is no text in {where}"
        raise DataError(what, KINDS)
    return Corpus(files, refused, field)


def _read_file(path: Path, name: str, field: str, refused: list[dict[str, str]]) -> TextFile | None:
    """The file, or None where no document of it can be used; what is wrong with it goes to `refused`."""
    try:
        sha256, size = sha256_of(path), path.stat().st_size
    except OSError as error:
        refused.append({"file": name, "reason": f"cannot be read: {error.strerror}"})
        return None
    places: list[float] = []
    lengths: list[int] = []
    for found in documents(path, field):
        if isinstance(found, Flaw):
            refused.append({"file": name + found.place, "reason": found.reason})
        else:
            places.append(place_of(found))
            lengths.append(len(found))
    return TextFile(path, name, sha256, size, places, lengths) if lengths else None


def _changed(file: TextFile) -> bool:
    try:
        return sha256_of(file.path) != file.sha256
    except OSError:
        return True


def _moved(file: TextFile) -> DataError:
    return DataError(f"{file.name} was changed while it was read", "the same command again")
