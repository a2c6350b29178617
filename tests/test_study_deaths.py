"""What a death leaves behind: of the scheduler, of a process it guards, of a real training."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from small_set import make_set
from study_tasks import PATIENCE, TESTS, events, is_alive, wait_for
from training import short_recipe

from ebwm_cli.recipe.load import dump_yaml
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.run.guarded import COMMAND
from ebwm_cli.run.journal import read_journal
from ebwm_cli.run.study_pool import LocalExecutor, Slot
from ebwm_cli.run.study_task import Ended, Started, Task
from ebwm_cli.world.build import cost


@pytest.fixture(autouse=True)
def stub_is_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)


SCHEDULER = """
import sys
from pathlib import Path
from study_tasks import PATIENCE, STUB, stub_task
from ebwm_cli.run.journal import Journal
from ebwm_cli.run.lock import held
from ebwm_cli.run.study_pool import LocalExecutor, Slot
from ebwm_cli.run.study_task import Started
folder = Path(sys.argv[1])
plays = [("steps=6", "pause=0.02"), ("code=5",), ("steps=3", "kill=1"), ("code=7", "says=out of memory"), ("kill=99",)]
words = [plays[index % 5 if index % 3 else 0] for index in range(int(sys.argv[2]))]
tasks = [stub_task(folder, f"t{index}", *each, retries=1) for index, each in enumerate(words)]
with held(folder), Journal(folder / "points.jsonl") as journal:
    left = [task for task in tasks if task.key not in journal.ended()]
    executor = LocalExecutor([Slot(f"cpu:{index}", 1) for index in range(8)], command=STUB, patience=PATIENCE)
    print("ready", flush=True)
    for event in executor.run(left):
        if isinstance(event, Started):
            journal.started(event.key)
        else:
            journal.ended_with(event.outcome)
"""


def scheduler(folder, tasks):
    folder.mkdir(exist_ok=True)
    words = [sys.executable, "-c", SCHEDULER, str(folder), str(tasks)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def results(folder):
    return {key: (each.status, each.reason, each.train, (each.measure or {}).get("loss"))
            for key, each in read_journal(folder / "points.jsonl").items()}  # fmt: skip


def test_twenty_deaths_of_the_scheduler_lose_nothing_and_count_nothing_twice(tmp_path):
    tasks, rng, deaths = 90, random.Random(1), 0
    with scheduler(tmp_path / "whole", tasks) as process:
        pass
    whole = results(tmp_path / "whole")
    assert process.returncode == 0
    assert len(whole) == tasks
    killed = tmp_path / "killed"
    while deaths < 20:
        with scheduler(killed, tasks) as process:
            time.sleep(rng.uniform(0, 0.35))
            process.kill()
        deaths += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert deaths == 20, "it came to its end before"
    with scheduler(killed, tasks) as process:
        pass
    assert process.returncode == 0
    lines = [json.loads(line) for line in (killed / "points.jsonl").read_text().splitlines()]
    ended = [line["key"] for line in lines if line["event"] == "ended"]
    assert sorted(ended) == sorted(whole)  # each once
    assert len(lines) - len(ended) > tasks  # and some were started more than once
    assert results(killed) == whole
    for key, (status, *_) in whole.items():
        if status == "done":  # no step was made twice
            assert len(events(killed / key, "step")) == len(events(tmp_path / "whole" / key, "step"))


def test_processes_end_when_their_scheduler_is_killed(tmp_path):
    words = [sys.executable, "-c", SCHEDULER.replace('"pause=0.02"', '"pause=0.5"'), str(tmp_path), "1"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        [pid, parent, _] = wait_for(lambda: events(tmp_path / "t0", "start"))[0]
        assert (int(parent), is_alive(int(pid))) == (process.pid, True)
        process.kill()
    wait_for(lambda: not is_alive(int(pid)))
    assert len(events(tmp_path / "t0", "saved")) == 1
    assert not events(tmp_path / "t0", "end")


def test_a_guarded_process_that_does_not_stop_is_ended():
    code = (
        "import signal, time; from ebwm_cli.run.guarded import watch\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); watch(0, 0.2)\n"
        "print(open(0).read(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"\n"  # what it reads on its stdin is empty, not the guard's pipe
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 75


def test_a_real_training_that_is_killed_half_way_goes_on_and_is_measured(tmp_path):
    prepared = make_set(tmp_path / "set")
    out, log = tmp_path / "run", tmp_path / "run.log"
    recipe = short_recipe(steps=80, validate_every=20, save_every=10)
    (tmp_path / "small.yaml").write_text(dump_yaml(recipe))
    common = ("--data", str(prepared.path), "--device", "cpu", "--json")
    measure = ("--checkpoint", f"{out}/model.safetensors", "--steps", "2", "--samples", "1", "--rollout", "0", *common)
    task = Task("run", (str(tmp_path / "small.yaml"), "--out", str(out), *common), measure, str(log))
    run = LocalExecutor([Slot("cpu:0", 1)], command=COMMAND, patience=PATIENCE).run([task])
    assert next(run) == Started("run", ("cpu:0",))
    wait_for(lambda: list(out.glob("checkpoints/step_*")))
    os.kill(child_of(out), signal.SIGKILL)
    [ended] = run
    assert isinstance(ended, Ended)
    outcome = ended.outcome
    assert (outcome.status, outcome.reason) == ("done", None)
    assert log.read_text().count(" ebwm_cli train ") == 2
    assert outcome.train is not None
    report = RunFolder(out).report()
    assert report is not None
    assert outcome.train == report.model_dump()
    assert (report.step, report.params) == (80, cost(recipe, prepared.spec).params)
    assert outcome.measure is not None
    assert 0 < outcome.measure["loss"] < outcome.measure["mean_loss"]


def child_of(out):
    """The process that trains in `out`."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and entry != str(os.getpid()):
            with suppress(OSError):  # it may have ended meanwhile
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if b"train" in words and str(out).encode() in words:
                    return int(entry)
    raise AssertionError("nobody trains there")
