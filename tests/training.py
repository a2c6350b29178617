"""A training of a few seconds, and what must be equal between two of them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_set import small_recipe

from ebwm_cli.commands.train import train
from ebwm_cli.errors import StoppedAndSaved
from ebwm_cli.recipe.schema import Recipe, TrainSection
from ebwm_cli.run.report import Report, TrainReport
from ebwm_cli.world.update import update_weights

TIMES = ("seconds", "eta_seconds", "states_per_second")
NUMBERS_OF_TIME = ("seconds", "updating_seconds")


def short_recipe(**changes: Any) -> Recipe:
    """23 updates that log, validate and save at different steps."""
    settings = {
        "steps": 23,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "warmup": 4,
        "log_every": 4,
        "validate_every": 6,
        "save_every": 5,
    }
    return small_recipe().model_copy(update={"train": TrainSection.model_validate({**settings, **changes})})


def levelled(recipe: Recipe) -> Recipe:
    """The same recipe, whose energies have a level."""
    energies = recipe.model.energies.model_copy(update={"level": True})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"energies": energies})})


def finish(recipe: Recipe, data: Path, out: Path, **options: Any) -> tuple[TrainReport, list[Report]]:
    """Train to the end; the final report, and all of them."""
    reports = list(train(recipe, data, out, device="cpu", **options))
    assert isinstance(reports[-1], TrainReport)
    return reports[-1], reports


def stop_half_way(recipe: Recipe, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, device: str = "cpu") -> None:
    """Train until SIGTERM comes in the fifth update, which then saves and stops."""
    calls = iter(range(1, 100))

    def signalled(*args: Any, **options: Any) -> Any:
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return update_weights(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr("ebwm_cli.run.trainer.update_weights", signalled)
        with pytest.raises(StoppedAndSaved):
            list(train(recipe, data, out, device=device))


def outcome(out: Path) -> dict[str, Any]:
    """All bits of a run that must not depend on how often it was interrupted."""
    newest = max((out / "checkpoints").glob("step_*"))
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    numbers = json.loads((newest / "state.json").read_text())
    tensors = {
        f"{file.name}/{name}": tensor.numpy().tobytes()
        for file in [*newest.glob("*.safetensors"), out / "model.safetensors"]
        for name, tensor in load_file(file).items()
    }
    return {
        "tensors": tensors,
        "newest": newest.name,
        "numbers": {key: value for key, value in numbers.items() if key not in NUMBERS_OF_TIME},
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in metrics],
    }


def leftovers(out: Path) -> list[str]:
    """Names in a run folder that are nobody's."""
    return [path.name for path in out.rglob("*") if path.name.startswith(".")]
