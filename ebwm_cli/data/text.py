"""Files of text -> documents: txt and md whole, jsonl by the line, parquet by the row, each of them once, in order.

What can't be read becomes a Flaw with its place and its reason, and never stops the rest. It must not know tokens,
splits or sets.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ebwm_cli.data.files import find_files

MOST_FLAWS = 20
"""Bad lines or rows named per file; the others are counted."""
ROWS_AT_ONCE = 256
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Flaw:
    """A file, or a line or row of one, that can't be used."""

    place: str
    """Empty for the whole file, else `:17` for line or row 17."""
    reason: str


Found = str | Flaw


class _Unreadable(Exception):
    """A file that is broken from here on; what came before is good."""


def find_texts(source: Path, *, outside: Path | None = None) -> list[Path]:
    """Files of text below `source`, by extension, in the order of their names; `source` may be one file.

    Hidden files and folders, and everything below `outside`, are passed over. Links are there too, to be judged by
    `why_not`, and so are folders that can't be entered or that are links, which are not followed.
    """
    found = find_files(source, lambda path: kind_of(path) is not None, outside=outside)
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(source)) if path != source else b"")


def kind_of(path: Path) -> str | None:
    """The extension that says how `path` is read, without .gz; None for files of other kinds."""
    name = path.name.lower().removesuffix(".gz")
    suffix = os.path.splitext(name)[1]
    return suffix if suffix in READERS and not (suffix == ".parquet" and path.suffix.lower() == ".gz") else None


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold `text`: not where JSON, or a word of the command line, left half a surrogate in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def why_not(path: Path, root: Path) -> str | None:
    """Why `path` must not be read, or None: it leads outside `root`, is no ordinary file, or of no known kind."""
    base = (root if root.is_dir() else root.parent).resolve()
    try:
        real = path.resolve(strict=True)
        if path != root and not real.is_relative_to(base):
            return "link that leads outside the source folder"
        if not real.is_file():
            return "folder that is a link or can't be entered" if real.is_dir() else "not an ordinary file"
    except (OSError, RuntimeError) as error:
        return "link that leads nowhere" if os.path.islink(path) else f"cannot be read: {_said(error)}"
    return None if kind_of(path) else f"no kind of text: one of {', '.join(READERS)}, or .gz of them"


def documents(path: Path, field: str) -> Iterator[Found]:
    """Every document that is not empty, and what is wrong; `field` names the text in jsonl and parquet."""
    kind = kind_of(path)
    assert kind is not None
    kept = 0
    try:
        for found in _few_flaws(READERS[kind](path, field)):
            if isinstance(found, Flaw) or found.strip():
                yield found
                kept += isinstance(found, str)
    except (OSError, EOFError, zlib.error, _Unreadable) as error:
        what = f"cannot be read to its end ({_said(error)})"
        yield Flaw("", f"the rest: {what}; the {kept:,} documents before it are kept" if kept else what)


def _few_flaws(all_found: Iterator[Found]) -> Iterator[Found]:
    """All documents, and the first MOST_FLAWS of the flaws; then how many more there were."""
    flaws = 0
    for found in all_found:
        flaws += isinstance(found, Flaw)
        if isinstance(found, str) or flaws <= MOST_FLAWS:
            yield found
    if flaws > MOST_FLAWS:
        yield Flaw("", f"{flaws - MOST_FLAWS:,} more like these")


def _whole(path: Path, field: str) -> Iterator[Found]:
    with _open(path) as file:
        yield _text(file.read(), "")


def _lines(path: Path, field: str) -> Iterator[Found]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                found = _text(line.removesuffix(b"\n"), f":{number}")
                yield _field(found, field, f":{number}") if isinstance(found, str) else found


def _rows(path: Path, field: str) -> Iterator[Found]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            if field not in schema.names or not _holds_text(schema.field(field).type):
                yield Flaw("", f"has no column {field!r} of text (columns: {', '.join(schema.names)})")
                return
            batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[field])
            # As bytes: Arrow doesn't look whether its strings are UTF-8.
            rows = (row for batch in batches for row in batch.column(0).cast(pa.large_binary()).to_pylist())
            for number, row in enumerate(rows, start=1):
                place = f":{number}"
                yield Flaw(place, f"has no text under {field!r}") if row is None else _text(row, place, bom=b"")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _Unreadable(f"broken parquet: {_said(error)}") from error


def _holds_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


READERS: dict[str, Callable[[Path, str], Iterator[Found]]] = {
    ".txt": _whole,
    ".md": _whole,
    ".jsonl": _lines,
    ".parquet": _rows,
}


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(data: bytes, place: str, bom: bytes = BOM) -> Found:
    try:
        return data.removeprefix(bom).decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + (len(bom) if data.startswith(bom) else 0)
        return Flaw(place, f"no UTF-8 at byte {offset:,}")


def _field(line: str, field: str, place: str) -> Found:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Flaw(place, "no JSON")
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        return Flaw(place, f"has no text under {field!r}")
    return text if is_text(text) else Flaw(place, "has half a surrogate pair, which is no text")


def _said(error: Exception) -> str:
    """An error in its own words, one line."""
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return told.splitlines()[0].rstrip(". ")
