"""The commands a person will want to type after a set is prepared, or a model trained, as they work from here.

A set or a run is named unless it is the one that the command would take by itself: the only set below ./data, the
newest run below ./runs.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ebwm_cli.data.store import sets_below
from ebwm_cli.run.folder import LATEST, RUNS
from ebwm_cli.run.safe_write import follow


def after_preparing(out: str) -> list[str]:
    """Of the set in folder `out`."""
    found = [each.resolve() for each in sets_below(Path("data"))]
    alone = found == [Path(out).resolve()]
    return ["ebwm train" if alone else f"ebwm train --data {shlex.quote(out)}"]


def after_training(out: str, *, one_pass: bool) -> list[str]:
    """Of the run in folder `out`, whose model may have no steps."""
    newest = follow(Path(RUNS) / LATEST)
    where = "" if newest.resolve() == Path(out).resolve() else f" --checkpoint {shlex.quote(out)}"
    return [f"ebwm eval{where}", f"ebwm think{where}" + ("" if one_pass else " --steps 16")]
