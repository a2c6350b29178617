"""One process per folder, whoever dies: an flock on a file in it, which the system drops with its holder. Knows nothing
of what the folder is for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ebwm_cli.errors import ResourceError

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes on one folder go unnoticed
    fcntl = None

LOCK = ".lock"
BUSY = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
"""How the system says that another has the lock; anything else means that there are no locks here."""


@contextmanager
def held(folder: Path, use: str = "worked on") -> Iterator[None]:
    """Keep other processes from `folder`, which exists. `use` says what is done there.

    Raises ResourceError where another process holds it already, or where the file system has no locks.
    """
    if fcntl is None:
        yield
        return
    lock = folder / LOCK
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in BUSY:
                raise ResourceError(
                    f"{folder} can't be locked: {error.strerror}", "--out a folder on a file system that has locks"
                ) from error
            raise ResourceError(
                f"{folder} is being {use} by another process", "wait for it, or --out another folder"
            ) from None
        if _is(lock, descriptor):
            break
        os.close(descriptor)  # its last holder removed it between our open and our lock
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _is(lock: Path, descriptor: int) -> bool:
    """Whether the file that is open is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False
