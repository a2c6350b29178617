"""Files of clips and sets: which ones are clips, their hashes, writes that survive a power cut, and disks that refuse.

It must not know what is inside a clip beyond its first bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ebwm_cli.errors import ResourceError

EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv"})
PIECE = 1 << 20
REFUSALS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""How a disk says that it takes no more."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_clips(source: Path, *, outside: Path | None = None) -> Iterator[Path]:
    """Clips below `source` by extension, as `find_files` has them."""
    return find_files(source, lambda path: path.suffix.lower() in EXTENSIONS, outside=outside)


def find_files(source: Path, wanted: Callable[[Path], bool], *, outside: Path | None = None) -> Iterator[Path]:
    """Files below `source` that are `wanted`, in the order of their names; `source` may be one file, of any name.

    Hidden files and folders, and everything below `outside`, are passed over. Links are yielded, to be judged by
    `refusal`, and so are folders that can't be entered or that are links, which are not followed.
    """
    if not source.is_dir():
        yield source
        return
    closed: list[Path] = []
    for folder, folders, names in os.walk(source, onerror=lambda error: closed.append(Path(error.filename))):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (outside is None or (here / name).resolve() != outside.resolve())
        )
        for name in sorted(names):
            if not name.startswith(".") and wanted(here / name):
                yield here / name
        yield from (here / name for name in folders if (here / name).is_symlink())
    yield from closed


def display_name(path: Path, root: Path) -> str:
    """The clip's path below `root` for reports: control characters and bytes that are no text are escaped."""
    relative = path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)
    text = os.fsencode(relative.as_posix()).decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def refusal(path: Path, root: Path) -> str | None:
    """Why `path` must not be decoded, or None: it leads outside `root`, is no ordinary file, or holds no clip."""
    base = (root if root.is_dir() else root.parent).resolve()
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return "link that leads nowhere"
    if path != root and not real.is_relative_to(base):
        return "link that leads outside the source folder"
    if not real.is_file():
        return "folder that is a link or can't be entered" if real.is_dir() else "not an ordinary file"
    try:
        with real.open("rb") as file:
            head = file.read(64 * 1024)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "empty file"
    return None if container_of(head) else "no video container (unknown first bytes)"


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the kind of container that a file's first bytes announce, or None."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] in (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"):
        return "mpeg"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "mpegts"
    return None


def write_durably(path: Path, data: bytes) -> None:
    """Write a file aside, fsync it, rename it into place: whole or absent after any crash."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """fsync a file that is already written."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """fsync a folder, so that renames in it survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def space_or_error(place: Path, then: str = "free some space, then the same command") -> Iterator[None]:
    """Inside, a disk that is full or takes no writes is told as a ResourceError with the hint `then`; `place` is named
    where the error names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise ResourceError(f"{error.filename or place} can't be written: {error.strerror}", then) from error
