"""The run folder: what is where, whose it is, and which one a command means.

    runs/NAME/  run.json (the set it learns) · recipe.yaml · metrics.jsonl · model.safetensors · checkpoints/
                train.json (the report of a finished run) · eval/ · think/ · report.html
    runs/latest -> the newest run that has a model

Knows no tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ebwm_cli import __version__
from ebwm_cli.errors import CheckpointError, DataError, EbwmError, RecipeError, UsageError
from ebwm_cli.recipe.load import diff_recipes, dump_yaml, load_recipe
from ebwm_cli.recipe.schema import Recipe
from ebwm_cli.run.lock import LOCK, held
from ebwm_cli.run.report import TrainReport
from ebwm_cli.run.safe_write import ASIDE, point, remove, replace_file, sweep

RUNS = "runs"
LATEST = "latest"
MODEL_FILE = "model.safetensors"
FIXED_KEYS = ("seed:", "data.", "model.")
"""Recipe keys that can't change between the parts of one run."""


@dataclass(frozen=True)
class RunFolder:
    """One run's place on disk. Methods that read raise CheckpointError where the folder was damaged."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model_file(self) -> Path:
        return self.path / MODEL_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def _identity_file(self) -> Path:
        return self.path / "run.json"

    @property
    def _report_file(self) -> Path:
        return self.path / "train.json"

    def is_run(self) -> bool:
        """Whether a training has this folder."""
        return self._identity_file.is_file()

    def is_begun(self) -> bool:
        """Whether there is anything to go on from."""
        return self._report_file.is_file() or any(self.checkpoints.glob("step_*"))

    def recipe(self) -> Recipe:
        """The recipe this run was last trained with."""
        return load_recipe(self.recipe_file.absolute())

    def data(self) -> dict[str, Any]:
        """The set this run learns: name, path, fingerprint, sampling."""
        try:
            return json.loads(self._identity_file.read_bytes())["data"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self._identity_file} is damaged", "add --fresh to start over") from error

    def report(self) -> TrainReport | None:
        """The report of a finished run, else None."""
        try:
            return TrainReport.model_validate_json(self._report_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise CheckpointError(f"{self._report_file} is damaged", f"delete {self._report_file}") from error

    def begin(self, recipe: Recipe, data: Mapping[str, Any]) -> None:
        """Write down whose folder this is; what was aside or finished is no more."""
        sweep([self.path, self.checkpoints])
        replace_file(self._identity_file, json.dumps({"tool": __version__, "data": dict(data)}, indent=2).encode())
        replace_file(self.recipe_file, dump_yaml(recipe).encode())
        self.checkpoints.mkdir(exist_ok=True)
        remove(self._report_file)

    def finish(self, report: TrainReport) -> None:
        """Write the final report: from now on this run is finished."""
        replace_file(self._report_file, report.model_dump_json(indent=2).encode())

    def clear(self) -> None:
        """Remove everything an earlier training left here, its checkpoints last; other files stay."""
        names = ("train.json", MODEL_FILE, "eval", "think", "report.html", "metrics.jsonl", "checkpoints")
        for path in (self.path / name for name in names):
            if path.exists() or path.is_symlink():
                remove(path)

    def refuse_changes(self, recipe: Recipe, data: Mapping[str, Any]) -> list[str]:
        """What changed in the recipe since this run began, one `key: old -> new` per line.

        Raises RecipeError where the model, its data or the seed changed, DataError where the set did.
        """
        changes = diff_recipes(self.recipe(), recipe)
        refused = [change for change in changes if change.startswith(FIXED_KEYS)]
        if refused:
            raise RecipeError(
                f"{self.path} was begun with another model, data or seed\n  " + "\n  ".join(refused),
                "undo the change, or --out a new folder, or --fresh to start over",
            )
        was = self.data()
        if was.get("fingerprint") != data["fingerprint"]:
            raise DataError(
                f"{self.path} was begun on the set {was.get('path')}, fingerprint {was.get('fingerprint')}; now it is "
                f"{data['path']}, fingerprint {data['fingerprint']}",
                "give the same set with --data, or --out a new folder, or --fresh to start over",
            )
        return changes

    def point_latest(self) -> None:
        """Make `runs/latest` name this run; a run that is kept elsewhere is nobody's latest."""
        if self.path.parent.name == RUNS:
            point(self.path.parent / LATEST, self.path, self.path / f"{ASIDE}{LATEST}")

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from training here. Raises ResourceError where one does already."""
        return held(self.path, "trained")


def choose_folder(
    recipe: Recipe, data: Mapping[str, Any], out: Path | None, *, fresh: bool, runs: Path = Path(RUNS)
) -> RunFolder:
    """The folder to train in: `out`, else the newest run of the very same recipe and set, else a new one named by
    recipe and date. It exists afterwards. Raises UsageError where `out` holds something that is no run."""
    if out is None:
        again = None if fresh else _newest_same(recipe, data, runs)
        return again or _new_folder(recipe, runs)
    folder = RunFolder(out.resolve() if out.is_symlink() else out)
    if out.exists() and not folder.is_run() and not _is_empty(out):
        raise UsageError(f"{out} exists and is no run of ebwm", "--out a new folder")
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def _is_empty(path: Path) -> bool:
    """Whether this is a folder with nothing in it but what a killed beginning may have left."""
    return path.is_dir() and all(each.name.startswith((LOCK, ASIDE)) for each in path.iterdir())


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder a model file lies in; None where it was moved out of one."""
    folder = RunFolder(checkpoint.parent)
    return folder.path if checkpoint.name == MODEL_FILE and folder.is_run() else None


def _newest_same(recipe: Recipe, data: Mapping[str, Any], runs: Path) -> RunFolder | None:
    begun = [path for path in runs.glob("*/run.json") if not path.parent.is_symlink()]
    for path in sorted(begun, key=lambda path: (path.stat().st_mtime, path), reverse=True):
        folder = RunFolder(path.parent)
        try:
            if folder.recipe() == recipe and folder.data().get("fingerprint") == data["fingerprint"]:
                return folder
        except EbwmError:  # a folder that can't be read is nobody's to go on with
            continue
    return None


def _new_folder(recipe: Recipe, runs: Path) -> RunFolder:
    stem = f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        path = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError:
            number += 1
