"""What is made once and kept below a folder, under keys over all that it depends on; each file carries its own sha256.

A file that is torn or changed counts as absent, so it is made again. It must not know what is kept.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ebwm_cli.data.files import write_durably

LAYOUT = "2"
"""Part of every key: goes up when the same sources would give other tokens, or another file."""


class Kept:
    """Files below `folder`; opening it removes what a killed run left half written. One process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.part"):
            left.unlink()

    def key(self, *parts: bytes | str) -> str:
        """Hex sha256 over `parts`."""
        digest = hashlib.sha256()
        for part in (LAYOUT, *parts):
            data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def read(self, name: str) -> bytes | None:
        """What was kept as `name`, or None."""
        try:
            held = self.path(name).read_bytes()
        except OSError:
            return None
        seal, data = held[:32], held[32:]
        return data if hashlib.sha256(data).digest() == seal else None

    def keep(self, name: str, data: bytes) -> None:
        """Write `data`, whole or not at all."""
        write_durably(self.path(name), hashlib.sha256(data).digest() + data)

    def path(self, name: str) -> Path:
        """Where `name` is."""
        return self.folder / name
