"""Writes a prepared set: built aside, fsynced, renamed into place, the manifest last.

A set is there exactly when its manifest is, so a run that dies leaves a whole set or none, and the next run builds it
from the kept frames. One process at a time may write: a lock file says so. It must not know how clips are decoded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebwm_cli.data.encoders import Encoder, FrameEncoder
from ebwm_cli.data.encoders.pca import one_thread
from ebwm_cli.data.files import sha256_of, sync_file, sync_folder
from ebwm_cli.data.frames import Entry
from ebwm_cli.data.labels import without_firsts
from ebwm_cli.data.split import GAP
from ebwm_cli.data.store import ENCODER, MANIFEST, QUARANTINE, SPLITS, sealed
from ebwm_cli.errors import DataError

FRAMES = ".frames"
TOKENS = ".tokens"
BUILDING = ".building"
LOCK = ".lock"


@dataclass(frozen=True)
class Clip:
    """One clip of the set: its record for the manifest, its frames; and of each state the stretch, the split and, where
    there are labels, the label."""

    record: dict[str, Any]
    entry: Entry
    segments: np.ndarray
    parts: np.ndarray
    labels: np.ndarray | None = None


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold folder `out` for one writer. Raises DataError where another has it, or where it is something else."""
    from filelock import FileLock, Timeout

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not _ours(out))):
        raise DataError(f"{out} is there and is no prepared set", "--out with another folder")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(f"another ebwm prepare is writing {out}", "wait for it, or --out with another folder") from None
    try:
        yield
    finally:
        lock.release()


def _ours(out: Path) -> bool:
    """Whether `out` is an earlier prepare's: by what it keeps, by a sealed manifest, or as it holds nothing but a lock.

    Other programs call their files manifest.json and .lock, too.
    """
    if any((out / name).is_dir() for name in (FRAMES, TOKENS)):
        return True
    if not (out / MANIFEST).exists():
        return (out / LOCK).exists() and all(path.name.startswith(".") for path in out.iterdir())
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and {"seal", "format"} <= manifest.keys()


def write_splits(folder: Path, clips: Sequence[Clip], encoder: FrameEncoder) -> None:
    """Encode every state and write train/, val/ and test/ below `folder` as HF `datasets`.

    There is a column `label` where the clips, all or none of them, have labels; the first of a segment has none.
    """
    import pyarrow as pa
    from datasets import Dataset, Features, List, Value, disable_progress_bars

    disable_progress_bars()
    labelled = any(clip.labels is not None for clip in clips)
    features = Features(
        {
            "clip": Value("int32"),
            "frame": Value("int64"),
            "time": Value("float64"),
            "segment": Value("int32"),
            "state": List(Value("float32"), length=encoder.latent_dim),
            **({"label": Value("int8")} if labelled else {}),
        }
    )
    tables: dict[int, list[Any]] = {part: [] for part in range(len(SPLITS))}
    following = dict.fromkeys(tables, 0)
    for number, clip in enumerate(clips):
        facts = clip.entry.facts
        assert facts is not None
        with one_thread():
            states = np.concatenate([encoder.encode(chunk) for chunk in clip.entry.chunks()])  # (N, D)
        for part, rows in tables.items():
            chosen = np.flatnonzero(clip.parts == part)
            if not len(chosen):
                continue
            # A new segment wherever states of this split stop following one another.
            breaks = (np.diff(chosen) > 1) | (np.diff(clip.segments[chosen]) != 0)
            segments = following[part] + np.concatenate([[0], np.cumsum(breaks)])
            following[part] = int(segments[-1]) + 1
            columns: list[Any] = [
                pa.array(np.full(len(chosen), number, np.int32)),
                pa.array(np.array(facts["indices"], np.int64)[chosen]),
                pa.array(np.array(facts["times"], np.float64)[chosen]),
                pa.array(segments.astype(np.int32)),
                pa.FixedSizeListArray.from_arrays(pa.array(states[chosen].reshape(-1)), encoder.latent_dim),
            ]
            if labelled:
                assert clip.labels is not None
                columns.append(pa.array(without_firsts(clip.labels[chosen], segments)))
            rows.append(pa.Table.from_arrays(columns, schema=features.arrow_schema))
    for part, name in enumerate(SPLITS):
        table = pa.concat_tables(tables[part]) if tables[part] else features.arrow_schema.empty_table()
        Dataset(table, fingerprint=name).save_to_disk(str(folder / name))


def write_encoder(folder: Path, encoder: Encoder) -> None:
    """Its tensors, as safetensors."""
    from safetensors.numpy import save

    (folder / ENCODER).write_bytes(save(encoder.tensors()))


def write_quarantine(folder: Path, refused: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line: file, reason."""
    (folder / QUARANTINE).write_text("".join(json.dumps(each) + "\n" for each in refused), encoding="utf-8")


def new_building(out: Path) -> Path:
    """An empty folder inside `out` to build in."""
    folder = out / BUILDING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def commit(out: Path, building: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Hash and fsync all that was built, put it in place, write the manifest; returns it with the hashes in it.

    A set that is there already with this very manifest and these very bytes is left alone.
    """
    built = sorted(path for path in building.rglob("*") if path.is_file())
    manifest["files"] = {
        path.relative_to(building).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in built
    }
    text = json.dumps(sealed(manifest), indent=1, sort_keys=True)
    if _unchanged(out, manifest, text):
        shutil.rmtree(building)
        return manifest
    (building / MANIFEST).write_text(text, encoding="utf-8")
    for path in [*built, building / MANIFEST]:
        path.chmod(0o644)
        sync_file(path)
    for folder in [*(path for path in building.rglob("*") if path.is_dir()), building]:
        sync_folder(folder)
    (out / MANIFEST).unlink(missing_ok=True)  # from here to its return there is no set
    sync_folder(out)
    for name in sorted(path.name for path in building.iterdir() if path.name != MANIFEST):
        place = out / name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(building / name, place)
    sync_folder(out)
    os.replace(building / MANIFEST, out / MANIFEST)
    sync_folder(out)
    shutil.rmtree(building)
    return manifest


def _unchanged(out: Path, manifest: dict[str, Any], text: str) -> bool:
    try:
        same = (out / MANIFEST).read_text(encoding="utf-8") == text
        return same and all(sha256_of(out / name) == facts["sha256"] for name, facts in manifest["files"].items())
    except (OSError, ValueError):
        return False


def split_summary(clips: Sequence[Clip]) -> dict[str, Any]:
    """States and clips per split, and the states left out as gaps."""
    parts = [clip.parts for clip in clips]
    summary: dict[str, Any] = {
        name: {
            "states": int(sum((each == part).sum() for each in parts)),
            "clips": int(sum((each == part).any() for each in parts)),
        }
        for part, name in enumerate(SPLITS)
    }
    summary["gap"] = {"states": int(sum((each == GAP).sum() for each in parts))}
    return summary
