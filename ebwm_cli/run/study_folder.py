"""A study's place on disk, and whose it is.

    runs/NAME/  study.yaml · study.json (the set it learns) · recipes/KEY.yaml · runs/KEY/ (ordinary run folders)
                points.jsonl (the journal) · logs/KEY.log · scale.json · fits.json · report.html · *.png

Knows no process and no tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ebwm_cli import __version__
from ebwm_cli.errors import CheckpointError, DataError, EbwmError, RecipeError, UsageError
from ebwm_cli.recipe.load import diff_recipes, dump_yaml, load_recipe
from ebwm_cli.recipe.load_study import dump_study, load_study
from ebwm_cli.recipe.study import Study
from ebwm_cli.run.report_scale import ScaleReport
from ebwm_cli.run.safe_write import remove, replace_file
from ebwm_cli.run.study_points import RECIPES, RUNS, StudyRun

HINT = "undo the change, or --out a new folder, or --fresh to start over"


@dataclass(frozen=True)
class StudyFolder:
    """One study's folder."""

    path: Path

    @property
    def journal_file(self) -> Path:
        return self.path / "points.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def _identity_file(self) -> Path:
        return self.path / "study.json"

    @property
    def _study_file(self) -> Path:
        return self.path / "study.yaml"

    def recipe_file(self, key: str) -> Path:
        """The recipe of a run."""
        return self.path / RECIPES / f"{key}.yaml"

    def is_study(self) -> bool:
        """Whether a study has this folder."""
        return self._identity_file.is_file()

    def study(self) -> Study:
        """The study it was last called with."""
        return load_study(self._study_file.absolute())

    def fingerprint(self) -> str:
        """Of the set it learns. Raises CheckpointError where the folder is damaged."""
        try:
            return json.loads(self._identity_file.read_bytes())["data"]["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self._identity_file} is damaged", "--fresh starts over") from error

    def begin(self, study: Study, runs: Sequence[StudyRun], data: Mapping[str, Any]) -> None:
        """Write down whose folder this is, first of all, and every run's recipe. Raises RecipeError where a run that is
        there already has another recipe now, DataError where the set is another."""
        if self.is_study() and any((self.path / RECIPES).glob("*.yaml")):
            self._refuse_changes(runs, data)
        identity = {"tool": __version__, "data": dict(data)}
        replace_file(self._identity_file, json.dumps(identity, indent=2).encode())
        replace_file(self._study_file, dump_study(study).encode())
        for folder in (self.path / RECIPES, self.path / RUNS, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for run in runs:
            file, content = self.recipe_file(run.point.key), dump_yaml(run.recipe).encode()
            if not file.is_file() or file.read_bytes() != content:
                replace_file(file, content)

    def clear(self) -> None:
        """Remove what an earlier study left but its identity, so that a folder being cleared is a study's still; other
        files stay."""
        own = ("points.jsonl", "scale.json", "fits.json", "report.html", RUNS, RECIPES, "logs", "study.yaml")
        pictures = [path.name for path in self.path.glob("*.png")]
        for path in (self.path / name for name in (*own, *pictures)):
            if path.exists():
                remove(path)

    def finish(self, report: ScaleReport) -> None:
        """Write what came out."""
        replace_file(self.path / "scale.json", report.model_dump_json(indent=2).encode())

    def _refuse_changes(self, runs: Sequence[StudyRun], data: Mapping[str, Any]) -> None:
        if self.fingerprint() != data["fingerprint"]:
            raise DataError(f"{self.path} was begun on another prepared set than {data['path']}", HINT)
        for run in runs:
            file = self.recipe_file(run.point.key)
            changes = diff_recipes(load_recipe(file.absolute()), run.recipe) if file.is_file() else []
            if changes:
                raise RecipeError(
                    f"{self.path} has a run {run.point.key} of another recipe\n  " + "\n  ".join(changes), HINT
                )


def choose_study_folder(
    study: Study, data: Mapping[str, Any], out: Path | None, *, fresh: bool, runs: Path = Path("runs")
) -> StudyFolder:
    """The folder to work in: `out`, else the newest one of the very same study and set, else a new one named by study
    and date. Raises UsageError where `out` holds something that is no study."""
    if out is not None:
        folder = StudyFolder(out)
        if out.exists() and not folder.is_study() and not (out.is_dir() and not any(_visible(out))):
            raise UsageError(f"{out} exists and is no study of ebwm", "--out a new folder")
        return folder
    if not fresh:
        begun = sorted(runs.glob("*/study.json"), key=lambda path: (path.stat().st_mtime, path), reverse=True)
        for path in begun:
            folder = StudyFolder(path.parent)
            try:
                if folder.study() == study and folder.fingerprint() == data["fingerprint"]:
                    return folder
            except EbwmError:  # a folder that can't be read is nobody's to go on with
                continue
    return StudyFolder(_new_path(runs, f"{study.name}-{datetime.now():%Y%m%d-%H%M%S}"))


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _new_path(runs: Path, stem: str) -> Path:
    number = 1
    while (path := runs / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return path
