"""Tasks on a Ray cluster, one that is really there: what becomes of each, of its worker, and of its scheduler."""

import os
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from uuid import uuid4

import pytest
from study_tasks import PATIENCE, STUB, TESTS, events, is_alive, stub_task, wait_for

from ebwm_cli.errors import ResourceError
from ebwm_cli.run.study_ray import RayExecutor
from ebwm_cli.run.study_task import Ended, Started

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` isn't installed")

CLUSTER = """
import ray, sys
context = ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
SCHEDULER = """
import sys
from pathlib import Path
from study_tasks import PATIENCE, STUB, stub_task
from ebwm_cli.run.study_ray import RayExecutor
task = stub_task(Path(sys.argv[2]), "a", "steps=40", "pause=0.05")
for event in RayExecutor(sys.argv[1], command=STUB, patience=PATIENCE).run([task]):
    print(event, flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def environment():
    """What this process, its clusters and their workers see. The clusters have a token of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", TESTS)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid4().hex)
        yield


@pytest.fixture(scope="module")
def cluster(environment):
    """The address of a cluster of two cores and, so it says, two GPUs, started by another process and ended with it."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def executor(address, device="cpu", **options):
    return RayExecutor(address, device=device, command=STUB, patience=PATIENCE, **options)


def test_tasks_end_as_they_do_here_and_one_whose_worker_is_killed_goes_on(cluster, tmp_path, capfd):
    before = signal.getsignal(signal.SIGTERM), sys.excepthook, dict(os.environ)
    tasks = [
        stub_task(tmp_path, "well"),
        stub_task(tmp_path, "diverged", "code=5", "says=NaN"),
        stub_task(tmp_path, "killed", "steps=40", "pause=0.05"),
        stub_task(tmp_path, "both", devices=2),
        stub_task(tmp_path, "doomed", "steps=4000", "pause=0.05", retries=0),
    ]
    told = []
    for event in executor(cluster).run(tasks):
        told.append(event)
        if isinstance(event, Started) and event.key in ("killed", "doomed"):
            [pid, worker, _] = wait_for(lambda key=event.key: events(tmp_path / key, "step") and first(tmp_path / key))
            os.kill(int(worker), signal.SIGKILL)
            wait_for(lambda pid=int(pid): not is_alive(pid))
    ended = {event.outcome.key: event.outcome for event in told if isinstance(event, Ended)}
    started = [event.key for event in told if isinstance(event, Started)]
    assert sorted(started) == sorted(ended) == sorted(task.key for task in tasks)  # each once
    for key in ended:
        assert told.index(next(each for each in told if isinstance(each, Started) and each.key == key)) < told.index(
            Ended(ended[key])
        )
    reasons = {key: (each.status, each.reason) for key, each in ended.items()}
    assert reasons == {
        "well": ("done", None),
        "diverged": ("diverged", "NaN"),
        "killed": ("done", None),
        "both": ("done", None),
        "doomed": ("failed", "its worker or node died 1 times; out of memory?"),
    }
    assert ended["well"].measure is not None
    assert (ended["well"].measure["loss"], ended["well"].measure["OMP_NUM_THREADS"]) == (0.01, "1")
    assert len(events(tmp_path / "killed", "start")) == 2
    assert len(events(tmp_path / "killed", "saved")) == 1  # its orphan saved
    assert len(events(tmp_path / "killed", "step")) == 40  # so that no step was made twice
    [both] = [event for event in told if isinstance(event, Started) and event.key == "both"]
    assert len(both.slots) == 2
    assert (signal.getsignal(signal.SIGTERM), sys.excepthook) == before[:2]
    assert dict(os.environ).items() ^ before[2].items() == set()
    assert capfd.readouterr() == ("", "")


def first(folder):
    return events(folder, "start")[0]


def test_a_stop_saves_all_and_the_next_call_goes_on(cluster, tmp_path, capfd):
    tasks = [stub_task(tmp_path, key, "steps=60", "pause=0.5") for key in "abc"]
    quick = [stub_task(tmp_path, key, "steps=60") for key in "abc"]
    stop = threading.Event()
    run = executor(cluster).run(tasks, stop.is_set)
    begun = {next(run).key, next(run).key}  # Ray chooses
    wait_for(lambda: all(events(tmp_path / key, "step") for key in begun))
    stop.set()
    assert list(run) == []
    assert {key for key in "abc" if len(events(tmp_path / key, "saved")) == 1} == begun
    assert {key for key in "abc" if events(tmp_path / key, "start")} == begun
    run = executor(cluster).run(tasks)
    begun = {next(run).key, next(run).key}
    wait_for(lambda: sum(len(events(tmp_path / key, "start")) for key in "abc") == 4)
    run.close()
    assert sum(len(events(tmp_path / key, "saved")) for key in "abc") == 4
    assert not any(events(tmp_path / key, "end") for key in "abc")
    assert {event.outcome.status for event in executor(cluster).run(quick) if isinstance(event, Ended)} == {"done"}
    assert [len(events(tmp_path / key, "step")) for key in "abc"] == [60] * 3
    assert capfd.readouterr() == ("", "")


def test_tasks_end_when_their_scheduler_is_killed_and_the_next_goes_on(cluster, tmp_path):
    words = [sys.executable, "-c", SCHEDULER, cluster, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: events(tmp_path / "a", "step"))
        [pid, _, _] = first(tmp_path / "a")
        process.kill()
    wait_for(lambda: not is_alive(int(pid)))  # Ray kills it, or the guard lets it save: either leaves whole checkpoints
    assert 0 < len(events(tmp_path / "a", "step")) < 40
    [_, ended] = executor(cluster).run([stub_task(tmp_path, "a", "steps=40", "pause=0.02")])
    assert ended.outcome.status == "done"
    assert len(events(tmp_path / "a", "start")) == 2
    assert len(events(tmp_path / "a", "step")) in (39, 40)  # a step that was saved may not have been told


def test_a_task_gets_as_many_gpus_as_it_has_devices(cluster, tmp_path):
    tasks = [stub_task(tmp_path, "one"), stub_task(tmp_path, "two", devices=2)]
    told = list(executor(cluster, "auto").run(tasks))
    seen = {event.outcome.key: event.outcome.measure for event in told if isinstance(event, Ended)}
    assert seen["one"]["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert sorted(seen["two"]["CUDA_VISIBLE_DEVICES"].split(",")) == ["0", "1"]
    assert {event.key: len(event.slots) for event in told if isinstance(event, Started)} == {"one": 1, "two": 2}
    assert all("cuda:" in slot for event in told if isinstance(event, Started) for slot in event.slots)


def test_what_the_cluster_cannot_do_is_told(cluster, tmp_path):
    with pytest.raises(ResourceError, match="a needs 3 CPUs on one node, the cluster's largest has 2") as told:
        list(executor(cluster).run([stub_task(tmp_path, "a", devices=3)]))
    assert told.value.hint == "gpus_per_run=2"
    with pytest.raises(ResourceError, match="a needs 3 GPUs"):
        list(executor(cluster, "cuda").run([stub_task(tmp_path, "a", devices=3)]))
    (tmp_path / "logs").write_text("no folder")
    with pytest.raises(ResourceError, match="logs: "):
        list(executor(cluster).run([stub_task(tmp_path, "a")]))


def test_no_cluster_is_told_at_once(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for given in (address, "no-such-host.invalid:6379"):
        with pytest.raises(ResourceError, match="no Ray cluster at") as told:
            list(executor(given).run([stub_task(tmp_path, "a")]))
        assert "ray start --head" in told.value.hint
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=f"no Ray cluster at {address}"):
        list(executor("auto").run([stub_task(tmp_path, "a")]))


def test_without_ray_the_hint_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResourceError, match="Ray isn't installed") as told:
        list(executor("auto").run([stub_task(tmp_path, "a")]))
    assert told.value.hint == "pip install 'ebwm[cluster]'"
