"""The launcher on its own: what it starts, whom it believes, and that it leaves nobody behind. Its ranks are a line of
Python each."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from ebwm_cli.errors import Interrupted
from ebwm_cli.run import launch
from ebwm_cli.run.launch import FAILURE, RankFailed


@pytest.fixture
def ranks_that(monkeypatch):
    """Make the launcher start `python -c CODE` instead of ebwm."""
    monkeypatch.setattr(launch, "GRACE", 2.0)
    return lambda code: monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", f"import os, sys, time\n{code}"))


def fail_as(rank: int, code: int, *, at: float = 0.0, lost: bool = False) -> str:
    """Code for a rank that says why, and when, it fails."""
    said = {"message": f"said by {rank}", "hint": "do", "code": code, "trace": None, "lost": lost, "time": at}
    return (
        f"if os.environ['RANK'] == '{rank}':\n    open(os.environ['{FAILURE}'], 'w').write("
        f"{json.dumps({'ebwm': said})!r})\n    sys.exit({code})\n"
    )


@pytest.mark.parametrize(
    ("code", "told", "exit_code"),
    [
        (fail_as(0, 7) + "time.sleep(60)", "said by 0", 7),  # the others hang
        (fail_as(0, 1, at=1, lost=True) + fail_as(1, 6, at=2), "said by 1", 6),  # a consequence is heard first
        (fail_as(1, 5, at=1) + fail_as(0, 5, at=2), "said by 0", 5),  # both say it: the first knows the run folder
        (fail_as(1, 5, at=1) + fail_as(0, 7, at=2), "said by 1", 5),
        ("print('last words')\nsys.exit(9 * int(os.environ['RANK']))", "rank 1 ended with exit code 9\nlast words", 9),
        ("os.kill(os.getpid(), 11 if os.environ['RANK'] == '1' else 0)", "rank 1 was killed by SIGSEGV", 139),
    ],
)
def test_the_first_failure_is_told_and_ends_all(code, told, exit_code, ranks_that):
    ranks_that(code)
    with pytest.raises(RankFailed) as failed:
        launch.launch(["train"], 2)
    assert (failed.value.message, failed.value.exit_code) == (told, exit_code)


def test_ranks_get_their_place_a_share_of_the_cores_and_the_words(ranks_that, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch, "usable_cores", lambda: 7)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
    file = f"{str(tmp_path)!r} + '/' + os.environ['RANK']"
    ranks_that(f"open({file}, 'w').write(' '.join([*map(os.environ.get, {names!r}), *sys.argv[1:]]))")
    launch.launch(["train", "a b"], 3)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [f"{r} {r} 3 2 train a b" for r in range(3)]


def test_a_second_interrupt_ends_ranks_that_do_not_answer(ranks_that, tmp_path):
    """They have the signals blocked from birth, as ranks that are still loading do."""
    ranks_that(f"open({str(tmp_path)!r} + '/' + os.environ['RANK'], 'w').write(str(os.getpid()))\ntime.sleep(60)")

    def interrupt() -> None:
        while len(pids := [file.read_text() for file in tmp_path.iterdir()]) < 2 or not all(pids):
            time.sleep(0.01)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted, match="twice"):
        launch.launch(["train"], 2)
    for file in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
