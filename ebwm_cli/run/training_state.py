"""Checkpoints of a training: whole or absent, and proven whole before they are trusted.

    checkpoints/step_00001000/  weights, optimizer (and average) .safetensors · state.json · manifest.json
    checkpoints/latest -> the newest

A folder is filled aside, every file fsynced and named with its sha256 in the manifest, then renamed; only after that
does `latest` move and its predecessor go. Knows named tensors and plain numbers, not what they mean.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ebwm_cli.errors import CheckpointError
from ebwm_cli.run.safe_write import ASIDE, commit_folder, new_folder_aside, point, remove, write_file
from ebwm_cli.run.tensor_file import pack, unpack

LATEST = "latest"
MANIFEST = "manifest.json"
STATE = "state.json"
SUFFIX = ".safetensors"
_NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class TrainingState:
    """All that a training needs to go on: groups of named tensors, and numbers (JSON)."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the state after `step` updates is kept; names sort like steps."""
    return checkpoints / f"step_{step:08d}"


def write_state(
    checkpoints: Path, step: int, state: TrainingState, make_room: Callable[[], None] = lambda: None
) -> Path:
    """Commit the state after `step` updates, then let `latest` name it. `make_room` is called when all of it is on disk
    and only its name is missing. Raises OSError; the last good checkpoint stays."""
    final = step_folder(checkpoints, step)
    aside = new_folder_aside(final)
    try:
        hashes = {
            name + SUFFIX: write_file(aside / (name + SUFFIX), pack(state.tensors[name], {})) for name in state.tensors
        }
        hashes[STATE] = write_file(aside / STATE, json.dumps(dict(state.numbers), indent=1).encode())
        write_file(aside / MANIFEST, _sealed(hashes))
        make_room()
        commit_folder(aside, final)
    except BaseException:
        if aside.exists():
            remove(aside)
        raise
    point(checkpoints / LATEST, final, checkpoints / f"{ASIDE}{LATEST}")
    return final


def read_state(folder: Path) -> TrainingState:
    """The state in a checkpoint folder. Raises CheckpointError naming the file where a bit differs."""
    manifest = folder / MANIFEST
    try:
        content = manifest.read_bytes()
        hashes = json.loads(content)["files"]
        if content != _sealed(hashes):
            raise CheckpointError(f"{manifest} is damaged: its digest does not match its content")
        for name, expected in hashes.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise CheckpointError(f"{folder / name} is damaged: its sha256 is not the manifest's")
        numbers = json.loads((folder / STATE).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{manifest} is damaged: {error}") from None
    groups = [name.removesuffix(SUFFIX) for name in hashes if name.endswith(SUFFIX)]
    return TrainingState({name: unpack(folder / (name + SUFFIX))[0] for name in groups}, numbers)


def saved_steps(checkpoints: Path) -> list[int]:
    """Steps that have a checkpoint, whole or not, oldest first."""
    names = (_NAME.fullmatch(path.name) for path in checkpoints.glob("step_*") if path.is_dir())
    return sorted(int(name[1]) for name in names if name)


def newest_whole(checkpoints: Path) -> tuple[TrainingState | None, dict[int, str]]:
    """The newest state that verifies (None where there are no checkpoints), and by step what is wrong with newer ones.

    Raises CheckpointError where there are checkpoints and none verifies: starting over is the user's decision.
    """
    damaged: dict[int, str] = {}
    for step in reversed(saved_steps(checkpoints)):
        try:
            return read_state(step_folder(checkpoints, step)), damaged
        except CheckpointError as error:
            damaged[step] = error.message
    if damaged:
        raise CheckpointError("no checkpoint is whole\n  " + "\n  ".join(damaged.values()), "add --fresh to start over")
    return None, damaged


def prune(checkpoints: Path, *, keep: int, best_step: int | None, damaged: Collection[int] = ()) -> None:
    """Remove the damaged, and all but the `keep` newest of the others and the best."""
    steps = saved_steps(checkpoints)
    kept = {*[step for step in steps if step not in damaged][-keep:], best_step}
    for step in steps:
        if step not in kept:
            remove(step_folder(checkpoints, step))


def _sealed(hashes: Mapping[str, str]) -> bytes:
    """The manifest's bytes: the hashes, and a sha256 over them."""
    files = json.dumps(dict(hashes), sort_keys=True)
    digest = hashlib.sha256(files.encode()).hexdigest()
    return json.dumps({"digest": digest, "files": dict(hashes)}, indent=1, sort_keys=True).encode()
