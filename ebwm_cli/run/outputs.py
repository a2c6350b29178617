"""Where `eval` and `think` leave what they found, and how they name files that links may soon lead away from.

Results belong beside the run that made the checkpoint, if it still lies there. What was measured is told even where the
disk refuses to keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ebwm_cli.data.files import space_or_error
from ebwm_cli.errors import ResourceError
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.run.report import Report
from ebwm_cli.run.safe_write import commit_folder, new_folder_aside, remove, sweep


def folder_beside(checkpoint: Path, name: str) -> Path | None:
    """The folder `name` in the run that `checkpoint` lies in, or None where it was moved out of any run."""
    home = checkpoint.parent.resolve()
    run = next((each for each in (home, *home.parents[:2]) if RunFolder(each).is_run()), None)
    return None if run is None else shown(run) / name


def kept(report: Report, place: Path, write: Callable[[], Report]) -> Iterator[Report]:
    """Yield what `write` returns, the report with the files that it has put below `place`. Where the disk refuses,
    yield `report` without files, then raise ResourceError."""
    try:
        with space_or_error(place):
            report = write()
    except (OSError, ResourceError):
        yield report.model_copy(update={"files": []})
        raise
    yield report


@contextmanager
def next_number(home: Path) -> Iterator[tuple[Path, Path]]:
    """A folder to fill, and the name that it gets where the context ends well: the next free one of 001, 002, ... below
    `home`, which is nobody else's from now on."""
    home.mkdir(parents=True, exist_ok=True)
    sweep([home], shared=True)
    final = _claimed(home)
    try:
        aside = new_folder_aside(final)
        try:
            yield aside, final
            commit_folder(aside, final)
        except BaseException:
            if aside.exists():
                remove(aside)
            raise
    except BaseException:
        with suppress(OSError):
            final.rmdir()  # empty, else it is somebody's
        raise


def _claimed(home: Path) -> Path:
    """An empty folder of a number that was free."""
    number = max((int(each.name) for each in home.glob("[0-9]*") if each.name.isdigit()), default=0)
    while True:
        number += 1
        with suppress(FileExistsError):
            (home / f"{number:03d}").mkdir()
            return home / f"{number:03d}"


def shown(path: Path) -> Path:
    """The path as a report keeps it: through no link (`runs/latest` moves on), from here where it is below."""
    real, here = path.resolve(), Path.cwd().resolve()
    return real.relative_to(here) if real.is_relative_to(here) else real
