"""Files and folders that are whole or absent, whatever moment the process or the machine dies at.

Everything is written aside under a `.tmp-` name of this process's own, fsynced, renamed, and the parent folder fsynced.
Knows bytes and paths only; errors are OSError. `write`, `fsync` and `rename` are the only calls that reach the disk, so
that tests can fail each of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".tmp-"
"""Prefix of what is not committed yet, or not deleted yet, before a process's id and a name; `sweep` removes it."""

_OURS = re.compile(re.escape(ASIDE) + r"(\d+)-(was-)?(.+)")

CHUNK = 1 << 24
"""Bytes per write."""

write = os.write
fsync = os.fsync
rename = os.replace


def write_file(path: Path, data: bytes) -> str:
    """Write and fsync a new file (mode 0644); returns its sha256. Not atomic: for use inside a folder set aside."""
    view = memoryview(data)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        done = 0
        while done < len(view):
            done += write(descriptor, view[done : done + CHUNK])
        fsync(descriptor)
    finally:
        os.close(descriptor)
    return hashlib.sha256(view).hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`: readers see the old file or the new one, never a part."""
    with file_aside(path) as aside:
        write_file(aside, data)


@contextmanager
def file_aside(path: Path) -> Iterator[Path]:
    """A free name beside `path`, for a file to be written and fsynced; `path` names it where the context ends well."""
    aside = aside_of(path)
    aside.unlink(missing_ok=True)
    try:
        yield aside
        rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def aside_of(path: Path, role: str = "") -> Path:
    """The name beside `path` that no other process takes."""
    return path.with_name(f"{ASIDE}{os.getpid()}-{role}{path.name}")


def new_folder_aside(final: Path) -> Path:
    """An empty folder beside `final`, to be filled and given to `commit_folder`."""
    aside = aside_of(final)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def commit_folder(aside: Path, final: Path) -> None:
    """Give a filled folder its name. An empty folder of that name is replaced in one instant; anything else is moved
    out of the way first, which `sweep` takes back after a death in between, then deleted."""
    fsync_folder(aside)
    old = aside_of(final, "was-")
    if final.exists() and (os.name == "nt" or any(final.iterdir())):
        shutil.rmtree(old, ignore_errors=True)
        rename(final, old)
    try:
        rename(aside, final)
    except BaseException:
        if old.exists():
            rename(old, final)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(path: Path) -> None:
    """Delete a file or a folder. A folder loses its name at once, so that no half of it is ever found under it."""
    if path.is_dir() and not path.is_symlink():
        aside = aside_of(path, "old-")
        shutil.rmtree(aside, ignore_errors=True)
        rename(path, aside)
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)


def point(link: Path, target: Path, aside: Path) -> None:
    """Move the symbolic link `link` to `target` in one instant; `aside` is a free name on the same file system.

    Where there are no symbolic links, a small text file with the target's path stands in (see `follow`).
    """
    relative = os.path.relpath(target, link.parent)
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(relative)
    except OSError:  # as on Windows without the privilege
        aside.write_text(relative, encoding="utf-8")
    try:
        rename(aside, link)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_folder(link.parent)


def follow(link: Path) -> Path:
    """Where the link that `point` made leads: itself where it is a symbolic link, or isn't there."""
    if link.is_symlink() or not link.is_file():
        return link
    return link.parent / link.read_text(encoding="utf-8", errors="replace")


def fsync_folder(path: Path) -> None:
    """Make names in a folder survive a power loss (where the system lets folders be opened)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folders: Iterable[Path], *, shared: bool = False) -> None:
    """Remove what an earlier process left aside in these folders; what another that lives has there stays. An earlier
    one may have had our id: what has it stays only where folders are `shared`, so that other threads write there."""
    for folder in folders:
        for leftover in folder.glob(ASIDE + "*"):
            ours = _OURS.fullmatch(leftover.name)
            if ours and (shared if int(ours[1]) == os.getpid() else _lives(int(ours[1]))):
                continue
            if ours and ours[2] and not (folder / ours[3]).exists():
                rename(leftover, folder / ours[3])  # it died before the new one had the name
            elif leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _lives(process: int) -> bool:
    """Whether a process of that id runs on this machine (where that can be asked without harm)."""
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
