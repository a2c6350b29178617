"""Data sets of the hub, or local folders in its layouts, streamed into one jsonl file that is kept: `hf:name[:split]`.

A kept file is used again only where its own checksum is right and, for a local folder, no file of it has changed. It
must not know documents or tokens.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from ebwm_cli.data.files import sha256_of, sync_folder, write_durably
from ebwm_cli.errors import DataError

HUB = "hf:"


def name_and_split(source: str) -> tuple[str, str]:
    """The two parts of `hf:name[:split]`; the split is train where none is named."""
    name, _, split = source.removeprefix(HUB).partition(":")
    return name, split or "train"


def is_local(source: str) -> bool:
    """Whether it is a folder here, as `datasets` decides it."""
    return os.path.isdir(name_and_split(source)[0])


def identity(source: str, outside: Path) -> list[str]:
    """What a streamed copy depends on: of a local folder, names and hashes of its files, except below `outside`."""
    root = Path(name_and_split(source)[0])
    parts = list(name_and_split(source))
    if is_local(source):
        files = sorted(path for path in root.rglob("*") if path.is_file() and not _passed_over(path, root, outside))
        parts += [part for file in files for part in (file.relative_to(root).as_posix(), sha256_of(file))]
    return parts


def is_whole(copy: Path) -> bool:
    """Whether a streamed copy is there with the bytes it was written with."""
    try:
        return _seal(copy).read_text(encoding="ascii") == sha256_of(copy)
    except (OSError, ValueError):
        return False


def stream(source: str, field: str, to: Path) -> None:
    """Stream the data set into the jsonl file `to`, whole or absent; a row without text becomes a null.

    Raises DataError where there is no such data set or no such field.
    """
    aside = to.with_name(f".{to.name}.part")
    with aside.open("w", encoding="utf-8") as file:
        for row in _rows(source, field):
            file.write(json.dumps({field: row if isinstance(row, str) else None}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, to)
    sync_folder(to.parent)
    write_durably(_seal(to), sha256_of(to).encode())
    for left in to.parent.glob(f"*{to.suffix}*"):  # copies of what the folder was, or of another split
        if left.name not in (to.name, _seal(to).name):
            left.unlink()


def _rows(source: str, field: str) -> Any:
    """The column `field`; all that can go wrong on the way is one DataError."""
    name, split = name_and_split(source)
    try:
        from datasets import disable_progress_bars, load_dataset

        disable_progress_bars()
        for row in load_dataset(name, split=split, streaming=True):
            if field not in row:
                there = f"{source} has no {field!r} (it has {', '.join(row)})"
                raise DataError(there, "--field with one of those")
            yield row[field]
    except DataError:
        raise
    except Exception as error:  # the hub's errors have no common base
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        what = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "--src hf:name:split, a name on the hub or a local folder"
        raise DataError(f"{source} can't be loaded: {what}", hint) from error


def _passed_over(path: Path, root: Path, outside: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return hidden or path.resolve().is_relative_to(outside.resolve())


def _seal(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.sha256")
