"""Trains in a process of its own, to be killed or limited: `python child.py RECIPE DATA OUT FILE_SIZE_LIMIT`.

It is started afresh, never forked: a fork of a process with threads can wait for ever on a lock that died with one.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

from ebwm_cli.recipe.schema import Recipe

READY = "ready\n"
SECONDS = 120
"""After which a child ends itself, whatever it is waiting for."""


def start(recipe: Recipe, data: Path, out: Path, *, file_size_limit: int = 0) -> subprocess.Popen[str]:
    """A child that has imported everything and begins to train now; it tells the error that stops it on stderr."""
    process = subprocess.Popen(
        [sys.executable, __file__, recipe.model_dump_json(), str(data), str(out), str(file_size_limit)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != READY:
        raise AssertionError(process.communicate()[1])
    return process


def main() -> int:
    import resource

    import torch

    from ebwm_cli.commands.train import train
    from ebwm_cli.errors import EbwmError

    recipe, data, out, limit = sys.argv[1:]
    torch.set_num_threads(1)
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    sys.stdout.write(READY)
    sys.stdout.flush()
    try:
        list(train(Recipe.model_validate_json(recipe), Path(data), Path(out), device="cpu"))
    except EbwmError as error:
        print(error.message, error.hint, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    sys.exit(main())
