"""model.safetensors: one self-contained world, which can be moved anywhere and still think.

Tensors: the weights under `world.`, the encoder's basis and statistics under `encoder.`. Metadata: the resolved recipe,
what a state is, the encoder's settings, the set it was trained on, the tool's version and the step, all as JSON.
Nothing here is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ebwm_cli import __version__
from ebwm_cli.data.encoders import Encoder, load_encoder
from ebwm_cli.errors import CheckpointError, DataError
from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.recipe.schema import Recipe, StateSpec
from ebwm_cli.run.device import resolve_device
from ebwm_cli.run.folder import LATEST, MODEL_FILE, RUNS
from ebwm_cli.run.safe_write import follow, replace_file
from ebwm_cli.run.tensor_file import pack, unpack
from ebwm_cli.world.build import build_world
from ebwm_cli.world.observing import ObservingWorld

FORMAT = "ebwm-model-1"
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class LoadedWorld:
    """A world read back from its file, in fp32 and evaluation mode on the device that was asked for."""

    world: ObservingWorld
    recipe: Recipe
    space: StateSpace
    spec: StateSpec
    encoder: Encoder
    data: dict[str, Any]
    """The set it was trained on: name, path, fingerprint, and how its states were sampled."""
    path: Path
    step: int

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.world.parameters()).device


def resolve_checkpoint(path: Path | None = None) -> Path:
    """The model file meant by a file, a run folder, `runs/latest`, or (None) the newest run below ./runs.

    Raises CheckpointError where there is none, or where it is a pickle.
    """
    asked = Path(RUNS) / LATEST if path is None else Path(path)
    if asked.name == LATEST:
        asked = follow(asked)
    if asked.suffix.lower() in PICKLED:
        raise CheckpointError(
            f"{asked} is a pickle, which can run code when opened; only .safetensors files are read",
            "ebwm train writes runs/NAME/model.safetensors",
        )
    file = asked / MODEL_FILE if asked.is_dir() else asked
    if not file.is_file():
        what = "no run below ./runs has a model yet" if path is None else f"there is no checkpoint {file}"
        raise CheckpointError(what, "ebwm train writes one at its first validation")
    return file


def save_model(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    recipe: Recipe,
    spec: StateSpec,
    encoder: Encoder,
    data: Mapping[str, Any],
    step: int,
) -> None:
    """Write a world's `weights` (its state dict) and all it needs to `path`, in one instant."""
    tensors = {f"world.{name}": tensor for name, tensor in weights.items()}
    for name, array in encoder.tensors().items():
        tensors[f"encoder.{name}"] = torch.tensor(array)
    metadata = {
        "format": FORMAT,
        "tool": __version__,
        "recipe": recipe.model_dump_json(),
        "spec": spec.model_dump_json(),
        "encoder": json.dumps(encoder.config()),
        "data": json.dumps(dict(data)),
        "step": str(step),
    }
    replace_file(path, pack(tensors, metadata))


def load_world(path: Path | str | None, device: str | torch.device = "cpu") -> LoadedWorld:
    """Read, verify and build the world in `path` (see `resolve_checkpoint`).

    Raises CheckpointError naming the file where a single bit differs from what was saved, and the first differences
    where the weights don't fit the recipe.
    """
    file = resolve_checkpoint(None if path is None else Path(path))
    tensors, metadata = unpack(file)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} is in format {metadata.get('format')} of ebwm {metadata.get('tool')}, this is ebwm {__version__}"
        )
    try:
        recipe = Recipe.model_validate_json(metadata["recipe"])
        spec = StateSpec.model_validate_json(metadata["spec"])
        config, data, step = json.loads(metadata["encoder"]), json.loads(metadata["data"]), int(metadata["step"])
        weights = _below("world.", tensors)
        _check_shapes(file, recipe, spec, weights)
        with torch.random.fork_rng(devices=[]):  # the initial weights are replaced at once
            world = build_world(recipe.model, spec)
        world.load_state_dict(weights)
        encoder = load_encoder(config, {n: t.numpy().copy() for n, t in _below("encoder.", tensors).items()})
    except (DataError, ValidationError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{file} holds no world that this version can build: {error}") from error
    world = world.to(resolve_device(device) if isinstance(device, str) else device).eval()
    return LoadedWorld(world, recipe, world.space, spec, encoder, data, file, step)


def read_step(path: Path) -> int | None:
    """The step a whole model file was saved at; None where there is none, or a damaged one."""
    try:
        return int(unpack(path)[1]["step"])
    except (CheckpointError, KeyError, ValueError):
        return None


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_shapes(file: Path, recipe: Recipe, spec: StateSpec, weights: Mapping[str, Tensor]) -> None:
    """Compare the weights with those of the recipe's network, before that network takes any memory."""
    with torch.device("meta"):
        expected = {name: list(tensor.shape) for name, tensor in build_world(recipe.model, spec).state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in weights.items()}
    differences = [
        f"{name}: {found.get(name, 'absent')} in the file, {expected.get(name, 'absent')} by its recipe"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differences:
        shown = "\n  ".join(differences[:SHOWN_DIFFERENCES])
        raise CheckpointError(f"{file}: {len(differences)} weights don't fit its own recipe\n  {shown}")
