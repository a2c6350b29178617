"""From a folder of files to entries of frames: find, refuse, hash, and decode what is not decoded yet.

Each file becomes one Taken, in the order in which they are ready; equal files are decoded once. It must not know
splits, encoders or sets.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ebwm_cli.data.files import display_name, find_clips, refusal, sha256_of
from ebwm_cli.data.frames import Entry, FrameStore
from ebwm_cli.data.video import Job, Limits, Outcome, Workers


@dataclass(frozen=True)
class Taken:
    """What became of one file."""

    path: Path
    name: str
    """For people and the manifest: the path below the source, printable."""
    sha256: str = ""
    size: int = 0
    """Bytes."""
    entry: Entry | None = None
    reason: str | None = None
    """Why it can't be used, else None."""
    reused: bool = False
    done: int = 0
    """Files dealt with so far, this one included."""
    total: int = 0
    decoded_frames: int = 0
    """In this run so far, of all clips."""
    decode_seconds: float = 0.0
    """Of this run so far, all workers together on the wall clock."""
    eta_seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Frames decoded, 0 where it can't be used."""
        return self.entry.facts["frames"] if self.entry and self.entry.facts else 0


def take_in(
    source: Path, store: FrameStore, workers: int, limits: Limits | None = None, outside: Path | None = None
) -> Iterator[Taken]:
    """Every clip in `source`, but for those below `outside`."""
    store.sweep()
    known: list[Taken] = []
    missing: dict[str, list[Taken]] = defaultdict(list)
    for path in find_clips(source, outside=outside):
        taken = _look(path, source, store)
        if taken.entry is None and taken.reason is None:
            missing[taken.sha256].append(taken)
        else:
            known.append(taken)
    total = len(known) + sum(len(same) for same in missing.values())
    for done, taken in enumerate(known, start=1):
        yield replace(taken, done=done, total=total)
    if not missing:
        return
    began, done, frames = time.monotonic(), len(known), 0
    left = sum(same[0].size for same in missing.values())
    all_bytes = left
    largest_first = sorted(missing.items(), key=lambda item: -item[1][0].size)
    jobs = {store.aside(sha256): Job(same[0].path, store.aside(sha256), same[0].size) for sha256, same in largest_first}
    owners = {store.aside(sha256): same for sha256, same in largest_first}
    with Workers(workers, limits) as pool:
        for outcome in pool.decode(jobs.values(), store.sampling):
            same = owners[outcome.job.frames_to]
            entry = _keep(outcome, same[0].sha256, store)
            frames += outcome.facts["frames"] if outcome.facts else 0
            left -= same[0].size
            seconds = time.monotonic() - began
            for number, taken in enumerate(same):
                done += 1
                yield replace(
                    taken,
                    entry=entry,
                    reason=outcome.reason,
                    reused=number > 0,
                    done=done,
                    total=total,
                    decoded_frames=frames,
                    decode_seconds=seconds,
                    eta_seconds=seconds * left / max(1, all_bytes - left),
                )


def _look(path: Path, source: Path, store: FrameStore) -> Taken:
    name = display_name(path, source)
    reason = refusal(path, source)
    if reason is not None:
        return Taken(path, name, reason=reason)
    try:
        sha256, size = sha256_of(path), path.stat().st_size
    except OSError as error:
        return Taken(path, name, reason=f"cannot be read: {error.strerror}")
    entry = store.get(sha256)
    return Taken(path, name, sha256, size, entry, entry.reason if entry else None, reused=entry is not None)


def _keep(outcome: Outcome, sha256: str, store: FrameStore) -> Entry | None:
    """The clip's entry. A failure that another run may not meet (time, memory, a crash) is not kept."""
    if outcome.facts is None and not outcome.lasting:
        store.aside(sha256).unlink(missing_ok=True)
        return None
    return store.put(sha256, outcome.facts, outcome.reason)
