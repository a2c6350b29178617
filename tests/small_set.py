"""A small prepared set and a small run, made in a moment without decoding a clip.

Frames show two squares that move at constant speed; states are their exact principal components.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from ebwm_cli.data.encoders.pca import PcaEncoder, fit_pca
from ebwm_cli.data.files import sha256_of
from ebwm_cli.data.store import ENCODER, FORMAT, MANIFEST, PreparedSet, open_set, sealed
from ebwm_cli.recipe.model import DescentSection, EbtSection
from ebwm_cli.recipe.schema import Recipe, StateSpec, ThinkSection
from ebwm_cli.run.checkpoint import save_model
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.world.build import build_world

SIZE, CONTEXT, STATE_DIM = 16, 6, 8


def frames_of(seed: int, count: int) -> np.ndarray:
    """(count, SIZE, SIZE, 3) uint8."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, SIZE, (2, 2)), rng.uniform(-1, 1, (2, 2))
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    frames = np.full((count, SIZE, SIZE, 3), 230.0)
    for time in range(count):
        for square, colour in enumerate(((200, 40, 40), (40, 60, 200))):
            cx, cy = (place[square] + time * speed[square]) % SIZE
            away = np.maximum(np.abs(x - cx), np.abs(y - cy))
            shade = np.clip(3.5 - away, 0, 1)[..., None]
            frames[time] = frames[time] * (1 - shade) + np.array(colour) * shade
    return frames.round().astype(np.uint8)


def make_set(path: Path, *, seed: int = 0, clips: int = 6, encoder: PcaEncoder | None = None) -> PreparedSet:
    """A set in `path`: all but the last two clips in train, one each in val and test; 30 states a clip."""
    from datasets import Dataset, Features, Sequence, Value

    movies = [frames_of(seed * 100 + clip, 30) for clip in range(clips)]
    encoder = encoder or fit_pca(movies[:-2], 30 * (clips - 2), SIZE, STATE_DIM)
    kinds = {"clip": Value("int32"), "frame": Value("int32"), "time": Value("float64"), "segment": Value("int32")}
    features = Features({**kinds, "state": Sequence(Value("float32"), length=STATE_DIM)})
    parts = {"train": range(clips - 2), "val": [clips - 2], "test": [clips - 1]}
    for name, members in parts.items():
        rows = {
            "clip": np.repeat(list(members), 30),
            "frame": np.tile(np.arange(30), len(members)),
            "time": np.tile(np.arange(30) * 0.25, len(members)),
            "segment": np.repeat(np.arange(len(members)), 30),
            "state": np.concatenate([encoder.encode(movies[clip]) for clip in members]),
        }
        Dataset.from_dict(rows, features=features).save_to_disk(str(path / name))
    save_file(encoder.tensors(), path / ENCODER)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    manifest = {
        "format": FORMAT,
        "tool": "tests",
        "spec": StateSpec(state_dim=STATE_DIM, context=CONTEXT).model_dump(),
        "sampling": {"interval": 0.25, "every": None, "size": SIZE},
        "interval": 0.25,
        "encoder": encoder.config(),
        "clips": [{"file": f"clip_{clip}.mp4"} for clip in range(clips)],
        "files": {
            file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for file in files
        },
    }
    (path / MANIFEST).write_text(json.dumps(sealed(manifest)))
    return open_set(path)


def small_recipe(**model: object) -> Recipe:
    """A world of a few thousand weights."""
    descent = DescentSection(step_size=0.5, anchor=0.3)
    section = EbtSection(layers=1, width=16, heads=2, descent=descent).model_copy(update=model)
    return Recipe(name="small", model=section, think=ThinkSection(steps=3))


def make_run(path: Path, prepared: PreparedSet, *, seed: int = 0, recipe: Recipe | None = None) -> Path:
    """A run folder with an untrained model of `prepared`; returns the model file."""
    recipe = recipe or small_recipe()
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.begin(recipe, prepared.origin())
    torch.manual_seed(seed)
    world = build_world(recipe.model, prepared.spec)
    save_model(
        folder.model_file,
        world.state_dict(),
        recipe=recipe,
        spec=prepared.spec,
        encoder=prepared.encoder,
        data=prepared.origin(),
        step=0,
    )
    return folder.model_file
