"""Where `eval` and `think` leave what they found, and how they name files that links may soon lead away from.

Results belong beside the run that made the checkpoint, if it still lies there.
"""

from __future__ import annotations

from pathlib import Path

from ebwm_cli.run.folder import RunFolder


def folder_beside(checkpoint: Path, name: str) -> Path | None:
    """The folder `name` in the run that `checkpoint` lies in, or None where it was moved out of any run."""
    home = checkpoint.parent.resolve()
    run = next((each for each in (home, *home.parents[:2]) if RunFolder(each).is_run()), None)
    return None if run is None else shown(run) / name


def next_number(folder: Path) -> Path:
    """An unused numbered folder below `folder`: 001, 002, ..."""
    taken = [int(each.name) for each in folder.glob("[0-9]*") if each.name.isdigit()]
    return folder / f"{max(taken, default=0) + 1:03d}"


def shown(path: Path) -> Path:
    """The path as a report keeps it: through no link (`runs/latest` moves on), from here where it is below."""
    real, here = path.resolve(), Path.cwd().resolve()
    return real.relative_to(here) if real.is_relative_to(here) else real
