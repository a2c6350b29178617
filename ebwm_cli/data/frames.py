"""Decoded frames kept beside a set, per clip: no clip is decoded twice, whatever happens in between.

An entry is named by the clip's sha256 and the way it was sampled: `<key>.rgb` holds the pictures, `<key>.json` its
facts and the sha256 of the pictures, and is written last. Clips that can't be used have an entry with the reason alone.
It must not know decoders, encoders or splits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebwm_cli.data.files import sha256_of, sync_folder, write_durably
from ebwm_cli.data.sampling import Sampling

VERSION = 1
"""Part of every key: raise it when the same clip gives other frames."""
CHUNK = 1024


@dataclass(frozen=True)
class Entry:
    """One clip's frames: facts and pictures, or the reason why there are none."""

    facts: dict[str, Any] | None
    reason: str | None
    pictures: Path
    size: int

    @property
    def states(self) -> int:
        """Pictures kept."""
        return len(self.facts["indices"]) if self.facts else 0

    def chunks(self, keep: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Pictures in order, (n, S, S, 3) uint8 at a time; `keep` (N,) bool leaves the others out."""
        if not self.states:
            return
        frames = np.memmap(self.pictures, np.uint8, mode="r").reshape(-1, self.size, self.size, 3)
        for first in range(0, len(frames), CHUNK):
            chunk = frames[first : first + CHUNK]
            yield np.asarray(chunk) if keep is None else chunk[keep[first : first + CHUNK]]


class FrameStore:
    """Entries in one folder, for one way of sampling."""

    def __init__(self, folder: Path, sampling: Sampling) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.sampling = sampling

    def key(self, sha256: str) -> str:
        """Name of the entry of a clip."""
        text = json.dumps([VERSION, sha256, self.sampling.as_json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def get(self, sha256: str) -> Entry | None:
        """The entry of a clip, if it is there and none of its bytes has changed."""
        key = self.key(sha256)
        pictures = self.folder / f"{key}.rgb"
        try:
            record = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            facts, reason = record["facts"], record["reason"]
            if facts is not None and sha256_of(pictures) != facts["frames_sha256"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Entry(facts, reason, pictures, self.sampling.size)

    def aside(self, sha256: str) -> Path:
        """Where a worker may write the pictures of a clip before `put`."""
        return self.folder / f".{self.key(sha256)}.part"

    def put(self, sha256: str, facts: dict[str, Any] | None, reason: str | None) -> Entry:
        """Keep what came of a clip; the pictures are those written to `aside`, already on disk."""
        key = self.key(sha256)
        pictures = self.folder / f"{key}.rgb"
        if facts is not None:
            os.replace(self.aside(sha256), pictures)
            sync_folder(self.folder)
        else:
            self.aside(sha256).unlink(missing_ok=True)
        record = json.dumps({"facts": facts, "reason": reason}, sort_keys=True)
        write_durably(self.folder / f"{key}.json", record.encode())
        return Entry(facts, reason, pictures, self.sampling.size)

    def sweep(self) -> None:
        """Remove what a killed run left half written."""
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)
