"""Tasks on the devices of one machine: what becomes of each, and who waits for whom."""

import os
import random
import signal
import threading

import pytest
from study_tasks import PATIENCE, STUB, TESTS, events, is_alive, stub_task, wait_for

from ebwm_cli.errors import Interrupted, ResourceError
from ebwm_cli.run import study_pool
from ebwm_cli.run.lock import held
from ebwm_cli.run.study_pool import LocalExecutor, Slot, environment_of, slots_of
from ebwm_cli.run.study_task import Ended, Patience, Started, run_task


@pytest.fixture(autouse=True)
def stub_is_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)


def executor(count=4, **options):
    slots = [Slot(f"cpu:{index}", 1) for index in range(count)]
    return LocalExecutor(slots, **{"command": STUB, "patience": PATIENCE, **options})


def outcomes(tasks, count=4, **options):
    """How each task ended, by key, each once."""
    ended = [event.outcome for event in executor(count, **options).run(tasks) if isinstance(event, Ended)]
    assert len({each.key for each in ended}) == len(ended)
    return {each.key: each for each in ended}


# ------------------------------------------------------------------------------------------- one task's end

NO_REPORT = "ebwm train ended well, but not with a report of val_loss, step, params, flops_per_step"
LATE = "took longer than 0.000694 hours"
ENDINGS = {
    "well": ((), (), "done", None),
    "diverged": (("code=5", "says=the loss was NaN 10 times"), (), "diverged", "the loss was NaN 10 times"),
    "memory": (("code=7", "says=the device is out of memory"), (), "out_of_memory", "the device is out of memory"),
    "memory-1": (("code=1", "says=E: CUDA Out of memory."), (), "out_of_memory", "E: CUDA Out of memory."),
    "device": (("code=7", "says=this machine has no cuda device"), (), "failed", "this machine has no cuda device"),
    "recipe": (("code=3", "says=model.width:\n  too much"), (), "failed", "model.width: too much"),
    "bare": (("code=9", "says="), (), "failed", "ended with exit code 9"),
    "silent": (("silent",), (), "failed", NO_REPORT),
    "unmeasured": ((), ("code=6", "says=the model is damaged"), "failed", "the model is damaged"),
    "no-number": ((), ("nan",), "diverged", "the loss on the test split is no number"),
    "crashed": (("kill=1", "signal=11"), (), "failed", "ended by signal 11 (SIGSEGV)"),
    "killed": (("kill=9",), (), "failed", "killed (signal 9) 2 times; out of memory?"),
    "rank-killed": (("code=137", "says=rank 1"), (), "failed", "killed (signal 9) 2 times; out of memory?"),
    "stopped": (("code=75",), (), "failed", "stopped from outside 2 times"),
    "late": (("steps=4000", "pause=0.02"), (), "timed_out", LATE),
    "late-deaf": (("steps=4000", "pause=0.02", "deaf"), (), "timed_out", LATE),
    "late-measuring": ((), ("pause=60",), "timed_out", LATE),
}  # fmt: skip


def test_every_way_to_end_has_its_status_and_reason(tmp_path):
    timeouts = {"late", "late-deaf", "late-measuring"}
    tasks = [
        stub_task(tmp_path, key, *words, measure=measure, retries=1, timeout=2.5 if key in timeouts else None)
        for key, (words, measure, _, _) in sorted(ENDINGS.items(), key=lambda item: item[0] not in timeouts)
    ]
    ended = outcomes(tasks, 8)
    assert {key: (each.status, each.reason) for key, each in ended.items()} == {
        key: (status, reason) for key, (_, _, status, reason) in ENDINGS.items()
    }
    trained = {"val_loss": 1.0, "step": 1, "params": 7, "flops_per_step": 3.0}
    assert ended["well"].train == ended["no-number"].train == ended["unmeasured"].train == trained
    assert ended["well"].measure is not None
    assert ended["well"].measure["loss"] == 0.01
    assert {key for key, each in ended.items() if each.measure is not None} == {"well", "no-number"}
    assert all(each.seconds > 0 for each in ended.values())
    assert len(events(tmp_path / "late", "saved")) == 1  # it was asked before it was killed
    assert not any(is_alive(int(pid)) for key in timeouts for pid, _, _ in events(tmp_path / key, "start"))
    log = (tmp_path / "logs" / "recipe.log").read_text()
    assert log.startswith("--- 20")
    assert "hint: ebwm --help" in log


def test_what_was_killed_is_started_again_and_goes_on(tmp_path):
    ended = outcomes([stub_task(tmp_path, "a", "steps=5", "kill=2", retries=2)])
    assert (ended["a"].status, ended["a"].reason) == ("done", None)
    assert len(events(tmp_path / "a", "start")) == 3
    assert len(events(tmp_path / "a", "step")) == 5


def test_a_task_that_somebody_else_stops_is_started_again(tmp_path):
    run = executor(1).run([stub_task(tmp_path, "a", "steps=30", "pause=0.03")])
    next(run)
    [pid, _, _] = wait_for(lambda: events(tmp_path / "a", "step") and events(tmp_path / "a", "start"))[0]
    os.kill(int(pid), signal.SIGTERM)
    [ended] = run
    assert isinstance(ended, Ended)
    assert ended.outcome.status == "done"
    assert len(events(tmp_path / "a", "saved")) == 1
    assert len(events(tmp_path / "a", "step")) == 30


def test_a_folder_that_is_still_held_is_waited_for(tmp_path):
    task, results = stub_task(tmp_path, "a", retries=0), []
    (tmp_path / "a").mkdir()
    waiting = threading.Thread(target=lambda: results.append(run_task(task, {}, command=STUB, patience=PATIENCE)))
    with held(tmp_path / "a"):
        waiting.start()
        wait_for(lambda: (tmp_path / "logs/a.log").exists() and "process" in (tmp_path / "logs/a.log").read_text())
        assert not results
    waiting.join()
    assert results[0].status == "done"
    with held(tmp_path / "a"):
        failed = run_task(task, {}, command=STUB, patience=Patience(busy=0.3, again=0.05))
    assert failed is not None
    assert (failed.status, failed.reason) == ("failed", f"{tmp_path / 'a'} is being trained by another process")


def test_a_log_that_cannot_be_written_ends_the_study(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    long = stub_task(tmp_path / "other", "long", "steps=4000", "pause=0.02")
    with pytest.raises(ResourceError, match="logs"):
        list(executor().run([long, stub_task(tmp_path, "a")]))
    assert not any(is_alive(int(pid)) for pid, _, _ in events(tmp_path / "other/long", "start"))


# ------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("how", ["asked", "closed", "interrupted"])
def test_a_stop_saves_all_and_the_next_call_goes_on(tmp_path, how):
    tasks = [stub_task(tmp_path, key, "steps=40", "pause=0.02") for key in "abc"]
    stop = threading.Event()
    run = executor(2).run(tasks, stop.is_set)
    assert [next(run), next(run)] == [Started("a", ("cpu:0",)), Started("b", ("cpu:1",))]
    wait_for(lambda: all(events(tmp_path / key, "step") for key in "ab"))
    if how == "asked":
        stop.set()
        assert list(run) == []
    elif how == "closed":
        run.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            run.throw(KeyboardInterrupt())
    for key in "ab":
        assert len(events(tmp_path / key, "saved")) == 1
        assert not any(is_alive(int(pid)) for pid, _, _ in events(tmp_path / key, "start"))
    assert not events(tmp_path / "c", "start")
    assert {each.status for each in outcomes(tasks).values()} == {"done"}
    assert [len(events(tmp_path / key, "step")) for key in "abc"] == [40] * 3


def test_a_second_interrupt_leaves_at_once_and_the_process_saves_by_itself(tmp_path):
    task = stub_task(tmp_path, "a", "steps=4000", "pause=0.02", "slow=0.5")
    run = executor(1).run([task])
    next(run)
    [pid, _, _] = wait_for(lambda: events(tmp_path / "a", "start"))[0]
    with pytest.raises(Interrupted):
        run.throw(Interrupted("interrupted twice"))
    assert is_alive(int(pid))  # nobody waited
    wait_for(lambda: events(tmp_path / "a", "saved") and not is_alive(int(pid)))


def test_what_has_ended_when_the_stop_comes_is_told(tmp_path):
    stop = threading.Event()
    told = []
    tasks = [stub_task(tmp_path, "a"), stub_task(tmp_path, "b", "steps=2000", "pause=0.02")]
    for event in executor(1).run(tasks, stop.is_set):
        told.append(event)
        if isinstance(event, Ended):
            stop.set()
    assert [type(event) for event in told][:2] == [Started, Ended]
    assert told[1].outcome.status == "done"
    assert not [event for event in told[2:] if isinstance(event, Ended)]


# ------------------------------------------------------------------------------------------- slots


def test_no_slot_is_given_twice_and_tasks_start_in_order(tmp_path):
    rng = random.Random(0)
    tasks = [stub_task(tmp_path, f"t{index}", devices=rng.choice([1, 1, 2, 3])) for index in range(12)]
    needs, taken = {task.key: task.devices for task in tasks}, {}
    started = []
    for event in executor(3).run(tasks):
        if isinstance(event, Started):
            assert len(event.slots) == needs[event.key]
            assert not set(event.slots) & {slot for slots in taken.values() for slot in slots}
            taken[event.key] = event.slots
            started.append(event.key)
        else:
            del taken[event.outcome.key]
    assert len(started) == 12
    small = [key for key in started if needs[key] == 1]
    assert small == [task.key for task in tasks if task.devices == 1]


def test_a_big_task_is_overtaken_only_so_often(tmp_path):
    first = stub_task(tmp_path, "first", "pause=1.5")
    small = [stub_task(tmp_path, f"small{index}") for index in range(6)]
    big = stub_task(tmp_path, "big", devices=2)
    run = executor(2).run([first, big, *small])
    order = [event.key for event in run if isinstance(event, Started)]
    assert order[:4] == ["first", "small0", "small1", "big"]


def test_more_devices_than_there_are_is_an_error_before_anything_starts(tmp_path):
    tasks = [stub_task(tmp_path, "a"), stub_task(tmp_path, "b", devices=3)]
    with pytest.raises(ResourceError, match="b needs 3 devices, there are 2") as told:
        list(executor(2).run(tasks))
    assert told.value.hint == "gpus_per_run=2"
    assert not (tmp_path / "a").exists()


def test_a_task_sees_its_devices_only(tmp_path):
    slots = [Slot(f"cuda:{name}", 3, visible=name) for name in ("4", "6")]
    tasks = [stub_task(tmp_path, key, devices=devices) for key, devices in (("one", 1), ("two", 2))]
    seen = {each.key: each.measure for each in outcomes_on(slots, tasks)}
    assert (seen["one"]["CUDA_VISIBLE_DEVICES"], seen["two"]["CUDA_VISIBLE_DEVICES"]) == ("4", "4,6")
    assert seen["two"]["OMP_NUM_THREADS"] == "3"
    slots = slots_of("cpu", 2)
    seen = [each.measure for each in outcomes_on(slots, [stub_task(tmp_path, f"c{index}") for index in range(2)])]
    assert sorted(each["cores"] for each in seen) == sorted(
        list(slot.cores) or sorted(os.sched_getaffinity(0)) for slot in slots
    )
    assert all(each["EBWM_CORES"] is None for each in seen)  # it means this process, not its children


def outcomes_on(slots, tasks):
    run = LocalExecutor(slots, command=STUB, patience=PATIENCE).run(tasks)
    return [event.outcome for event in run if isinstance(event, Ended)]


def test_cores_are_shared_out_where_there_are_enough(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11}, raising=False)
    monkeypatch.setattr(study_pool, "usable_cores", lambda: 5)
    assert [(slot.cores, slot.threads) for slot in slots_of("cpu", 2)] == [((2, 3), 2), ((5, 7), 2)]
    assert [(slot.cores, slot.threads) for slot in slots_of("cpu", 6)] == [((), 1)] * 6
    assert environment_of(slots_of("cpu", 2)) == {"OMP_NUM_THREADS": "2", "EBWM_CORES": "2,3,5,7"}
    assert environment_of(slots_of("mps", 1)) == {"OMP_NUM_THREADS": "5"}
    monkeypatch.setattr(study_pool, "usable_cores", lambda: 2)  # a quota below the cores: others are on them too
    assert [(slot.cores, slot.threads) for slot in slots_of("cpu", 2)] == [((), 1)] * 2


def test_gpus_are_those_that_this_process_may_see(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot.visible for slot in slots_of("cuda", 3)] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8a, 5,MIG-x")
    assert environment_of(slots_of("cuda", 2))["CUDA_VISIBLE_DEVICES"] == "GPU-8a,5"
    with pytest.raises(ResourceError, match="names 3 of 4 GPUs"):
        slots_of("cuda", 4)
