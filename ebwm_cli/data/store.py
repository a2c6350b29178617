"""A prepared set on disk, opened: states, windows, encoder, and proof that no byte has changed.

`data/<name>/` holds train/, val/, test/ (HF `datasets`, Arrow; a row per state, or per stretch of text),
encoder.safetensors, quarantine.jsonl and manifest.json, which names the sha256 of all others and is written last: a set
is there exactly when its manifest is. It must not know how clips are decoded, nor torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ebwm_cli.data.encoders import Encoder, load_encoder
from ebwm_cli.data.files import sha256_of
from ebwm_cli.data.labels import Labels
from ebwm_cli.errors import DataError
from ebwm_cli.recipe.schema import StateSpec

MANIFEST = "manifest.json"
ENCODER = "encoder.safetensors"
QUARANTINE = "quarantine.jsonl"
SPLITS = ("train", "val", "test")
FORMAT = 1


class Split:
    """One part of a set: states in the order of clips and time, or of text, cut into unbroken segments."""

    def __init__(self, path: Path, name: str, context: int, train_stride: int = 1) -> None:
        self.path = path
        self.name = name
        self.context = context
        self.train_stride = train_stride

    @cached_property
    def table(self) -> Any:
        """The Arrow table, memory-mapped: clip, frame, time (seconds), segment, state; of text file, document,
        segment, state. Of a built-in world, label too."""
        from datasets import load_from_disk

        dataset: Any = load_from_disk(str(self.path))
        return dataset.data.table

    @cached_property
    def states(self) -> np.ndarray:
        """(N, D) float32, or (N,) int32 tokens; a view of the mapped file where it holds one record batch."""
        column = self.table.column("state")
        shape = (-1, column.type.list_size) if self._fixed else (-1,)
        chunks = [np.asarray(chunk.flatten()).reshape(shape) for chunk in column.chunks]
        if not chunks:
            return np.empty((0, *shape[1:]), np.float32 if self._fixed else np.int32)
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    @cached_property
    def labels(self) -> np.ndarray | None:
        """How hard each of `states` is to foresee, (N,) int8: the label of a class of the set's `labels`, -1 where
        nothing is known. None of a set without labels."""
        if "label" not in self.table.column_names:
            return None
        column = self.table.column("label")
        chunks = [np.asarray(chunk if self._fixed else chunk.flatten()) for chunk in column.chunks]
        return np.concatenate([np.empty(0, np.int8), *chunks])

    @cached_property
    def edges(self) -> np.ndarray:
        """First state of every row and, last, the number of states, (rows + 1,) int64."""
        rows = self.table.num_rows
        if self._fixed:
            return np.arange(rows + 1)
        lengths = [np.asarray(chunk.value_lengths()) for chunk in self.table.column("state").chunks]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))])

    @property
    def _fixed(self) -> bool:
        """Whether every row is one state."""
        return hasattr(self.table.column("state").type, "list_size")

    def column(self, name: str) -> np.ndarray:
        """One of the columns `clip` (index into manifest["clips"]), `frame`, `time`, `segment`, by row; of text `file`
        (index into manifest["documents"]), `document` (its place in the file), `segment`."""
        return self.table.column(name).to_numpy()

    @cached_property
    def segments(self) -> list[tuple[int, int]]:
        """[first, last) states of every unbroken stretch."""
        ids = self.column("segment")
        rows = np.array([0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)])
        return [(a, b) for a, b in pairwise(self.edges[rows].tolist()) if b > a]

    def row_of(self, state: int) -> int:
        """The row that holds a state."""
        return int(np.searchsorted(self.edges, state, side="right")) - 1

    def sources(self, states: np.ndarray) -> np.ndarray:
        """Which clip, or which document of which file, each of the states `states` (N,) is from, as (N,) numbers that
        are equal where it is the same."""
        names = [name for name in ("clip", "file", "document") if name in self.table.column_names]
        rows = np.searchsorted(self.edges, states, side="right") - 1
        labels = np.stack([self.column(name)[rows] for name in names])  # (names, N)
        return np.unique(labels, axis=1, return_inverse=True)[1].ravel()

    def windows(self, context: int | None = None, stride: int | None = None, share: float = 1.0) -> np.ndarray:
        """First state of each window of context + 1 states, (W,) int64; None takes the set's context.

        Windows never leave their segment. They start `stride` states apart: by default, in train as densely as the set
        has it, in val and test every `context` states, so that no state is predicted twice. See `stretches` for
        `share`.
        """
        context = self.context if context is None else context
        stride = stride or (self.train_stride if self.name == "train" else context)
        stretches = self.stretches(context, share)
        starts = [np.arange(a, b - context, stride, dtype=np.int64) for a, b in stretches]
        return np.concatenate(starts) if starts else np.empty(0, np.int64)

    def stretches(self, context: int, share: float = 1.0) -> list[tuple[int, int]]:
        """[first, last) states of what is left where only a `share` of all states, up to 1, is kept: the beginning of
        every segment, and nothing of one whose beginning would hold no window; the next has what it lacks."""
        if share == 1:
            return self.segments
        kept, seen, taken = [], 0, 0
        for first, last in self.segments:
            seen += last - first
            length = min(round(share * seen) - taken, last - first)
            if length > context:
                kept.append((first, first + length))
                taken += length
        return kept

    def __len__(self) -> int:
        return int(self.edges[-1])


class PreparedSet:
    """An opened set; make one with `open_set`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.name = path.resolve().name
        self.manifest = manifest
        self.spec = StateSpec(**manifest["spec"])
        self.sampling: dict[str, Any] = manifest["sampling"]
        """How frames were taken from clips: `interval` (seconds) or `every` (frames), `size` (pixels)."""
        self.interval: float | None = manifest["interval"]
        """Seconds between states; None where they have no time."""
        self.labels = Labels.from_json(manifest["labels"]) if "labels" in manifest else None
        """What the labels of its splits say; None where they have none."""
        self.fingerprint = fingerprint(manifest)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, or tokenizer, the states were made with."""
        from safetensors.numpy import load_file

        return load_encoder(self.manifest["encoder"], load_file(self.path / ENCODER))

    def split(self, name: str) -> Split:
        """`train`, `val` or `test`."""
        if name not in SPLITS:
            raise DataError(f"no split {name!r}", f"one of {', '.join(SPLITS)}")
        return Split(self.path / name, name, self.spec.context, self.manifest.get("train_stride", 1))

    def place(self, split: Split, state: int) -> str:
        """Where a state is from, in words."""
        row = split.row_of(state)
        if "time" in split.table.column_names:
            clip = self.manifest["clips"][int(split.column("clip")[row])]
            return f"{clip['file']} from {float(split.column('time')[row]):.2f} s"
        file, document = self.manifest["documents"][int(split.column("file")[row])], int(split.column("document")[row])
        which = f", document {document + 1:,}" if file["documents"] > 1 else ""
        return f"{file['file']}{which}, token {state - int(split.edges[row]):,} of its part"

    def origin(self) -> dict[str, Any]:
        """What a checkpoint keeps of its set, as JSON: where it was, which one it was, how clips were sampled."""
        return {
            "path": str(self.path),
            "name": self.name,
            "fingerprint": self.fingerprint,
            "interval": self.interval,
            "sampling": self.sampling,
        }


def fingerprint(manifest: dict[str, Any]) -> str:
    """Identity of a set: sha256 over its spec, sampling, encoder and the hashes of its files."""
    essentials = {key: manifest[key] for key in ("format", "spec", "sampling", "encoder", "files")}
    return hashlib.sha256(json.dumps(essentials, sort_keys=True).encode()).hexdigest()


def open_set(path: Path | str, verify: bool = True) -> PreparedSet:
    """Open the set in folder `path`, checking every file against the manifest's sha256 unless `verify` is off.

    Raises DataError where there is no set, or where a byte of it has changed.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    if verify:
        for name, facts in manifest["files"].items():
            file = path / name
            if not file.is_file():
                raise _damaged(path, f"{name} is missing")
            if file.stat().st_size != facts["bytes"] or sha256_of(file) != facts["sha256"]:
                raise _damaged(path, f"{name} is not the file that was prepared")
    return PreparedSet(path, manifest)


def find_set(data: Path | str | None = None) -> Path:
    """The set in folder `data`, or (None) the only one below ./data; DataError where that names none or several."""
    if data is not None:
        _read_manifest(Path(data))
        return Path(data)
    found = list(sets_below(Path("data")))
    if not found:
        raise DataError(
            "there is no prepared set under ./data", "ebwm prepare demo, or ebwm prepare video (or text) --src DIR"
        )
    if len(found) > 1:
        raise DataError(
            f"there are several prepared sets: {', '.join(str(each) for each in found)}", f"--data {found[0]}"
        )
    return found[0]


def modality_of(data: Path | str | None = None) -> str | None:
    """What the states of the set in folder `data`, or of the only one below ./data, are; None where there is none."""
    try:
        return _read_manifest(find_set(data))["spec"]["modality"]
    except DataError:
        return None


def sets_below(root: Path) -> Iterator[Path]:
    """Folders directly below `root` that hold a prepared set, by name."""
    if root.is_dir():
        yield from sorted(each for each in root.iterdir() if (each / MANIFEST).is_file())


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        what = "holds no finished prepared set" if path.is_dir() else "does not exist"
        raise DataError(
            f"{path} {what}", f"ebwm prepare video (or text) --src DIR --out {path}, or ebwm prepare demo"
        ) from None
    except OSError as error:
        raise DataError(f"{path / MANIFEST} cannot be read: {error.strerror}", "--data DIR, a prepared set") from None
    except UnicodeDecodeError:
        raise _damaged(path, f"{MANIFEST} is not text") from None
    try:
        manifest = json.loads(text)
        seal = manifest.pop("seal")
        if seal != sealed(manifest)["seal"]:
            raise _damaged(path, f"{MANIFEST} has changed")
        if manifest["format"] != FORMAT:
            raise DataError(f"{path} was prepared by {manifest['tool']}, in another format", _again(path))
        StateSpec(**manifest["spec"])
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise _damaged(path, f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    return manifest


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a sha256 over itself, so that a changed byte in it is found too."""
    text = json.dumps(manifest, sort_keys=True)
    return {**manifest, "seal": hashlib.sha256(text.encode()).hexdigest()}


def _again(path: Path) -> str:
    return f"prepare it again: ebwm prepare video (or text) --src DIR --out {path}"


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"the prepared set {path} is damaged: {what}", _again(path))
