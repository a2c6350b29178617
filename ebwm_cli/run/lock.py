"""One process per folder, whoever dies: an flock on a file in it, which the system drops with its holder. Knows nothing
of what the folder is for.
"""

from __future__ import annotations

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


@contextmanager
def held(folder: Path, use: str = "worked on") -> Iterator[None]:
    """Keep other processes from `folder`, which exists. `use` says what is done there.

    Raises ResourceError where another process holds it already.
    """
    if fcntl is None:
        yield
        return
    lock = folder / LOCK
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise ResourceError(
                f"{folder} is being {use} by another process", "wait for it, or --out another folder"
            ) from None
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            break
        os.close(descriptor)  # its last holder removed it between our open and our lock
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
