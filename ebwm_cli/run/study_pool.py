"""Tasks on the devices of this machine, as many at once as fit; a thread waits for each.

    a task goes to the first free slots; one that needs more than are free is overtaken at most once per slot

Knows slots and tasks, not what a task does.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ebwm_cli.errors import Interrupted, ResourceError
from ebwm_cli.run.guarded import COMMAND, CORES
from ebwm_cli.run.processors import usable_cores
from ebwm_cli.run.study_task import Ended, Event, Outcome, Patience, Started, Task, never, run_task

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOOK = 0.1
"""Seconds between two looks at whether to stop."""


@dataclass(frozen=True)
class Slot:
    """One device, or one share of the cores."""

    name: str
    threads: int
    """For each process that computes here."""
    visible: str | None = None
    """The CUDA device, as CUDA_VISIBLE_DEVICES names it."""
    cores: tuple[int, ...] = ()
    """The cores it has for itself; none: it shares them all."""


def slots_of(device: str, count: int) -> list[Slot]:
    """`count` slots of `device` (cpu, cuda, mps).

    On the CPU every slot has as many cores of its own, where there are enough of them and nobody else shares them out
    (a container's quota). Raises ResourceError where CUDA_VISIBLE_DEVICES names fewer devices.
    """
    usable = usable_cores()
    threads = max(1, usable // count)
    if device == "cuda":
        visible = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
        visible = visible or [str(index) for index in range(count)]
        if len(visible) < count:
            raise ResourceError(f"{VISIBLE} names {len(visible)} of {count} GPUs", f"--gpus {len(visible)}")
        return [Slot(f"cuda:{name}", threads, visible=name) for name in visible[:count]]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if device != "cpu" or len(cores) != usable or usable < count:
        return [Slot(f"{device}:{index}", threads) for index in range(count)]
    shares = [tuple(cores[index * threads : (index + 1) * threads]) for index in range(count)]
    return [Slot(f"cpu:{index}", threads, cores=share) for index, share in enumerate(shares)]


def environment_of(slots: Sequence[Slot]) -> dict[str, str]:
    """What a task's processes see of the machine. Threads are those of one process: there is one per device."""
    environment = {"OMP_NUM_THREADS": str(slots[0].threads)}
    if slots[0].visible is not None:
        environment[VISIBLE] = ",".join(slot.visible for slot in slots if slot.visible is not None)
    if slots[0].cores:
        environment[CORES] = ",".join(str(core) for slot in slots for core in slot.cores)
    return environment


class _Waiting:
    """Tasks that haven't started, in order."""

    def __init__(self, tasks: Iterable[Task], slots: int) -> None:
        self._tasks, self._most = list(tasks), slots
        self._overtaken = [0] * len(self._tasks)

    def take(self, free: int) -> Task | None:
        """The first task that `free` slots are enough for; none past one that was overtaken often enough."""
        for place, task in enumerate(self._tasks):
            if task.devices <= free:
                self._overtaken[:place] = [times + 1 for times in self._overtaken[:place]]
                del self._overtaken[place]
                return self._tasks.pop(place)
            if self._overtaken[place] >= self._most:
                return None
        return None


class LocalExecutor:
    """Runs tasks on `slots`; `command` is what stands before `train` and `eval`. An Executor."""

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        command: Sequence[str] = COMMAND,
        patience: Patience = Patience(),
    ) -> None:
        self._slots, self._command, self._patience = list(slots), command, patience

    def run(self, tasks: Iterable[Task], stopped: Callable[[], bool] = never) -> Iterator[Event]:
        """Run `tasks`; yield what happens, in that order, in the caller's thread: see Executor.

        A second interrupt leaves at once: the processes save, and end, by themselves.
        """
        tasks = list(tasks)
        for task in tasks:
            if task.devices > len(self._slots):
                raise ResourceError(
                    f"{task.key} needs {task.devices} devices, there are {len(self._slots)}",
                    f"gpus_per_run={len(self._slots)}",
                )
        crew = _Crew(self._command, self._patience)
        try:
            yield from self._events(tasks, crew, stopped)
        except Interrupted:
            crew.hurried = True
            raise
        finally:
            crew.leave()

    def _events(self, tasks: list[Task], crew: _Crew, stopped: Callable[[], bool]) -> Iterator[Event]:
        waiting, free = _Waiting(tasks, len(self._slots)), list(self._slots)
        running: dict[str, list[Slot]] = {}
        happened: list[Event] = []
        while True:
            if stopped():
                crew.stop.set()
            while not crew.stop.is_set() and (task := waiting.take(len(free))):
                slots, free = free[: task.devices], free[task.devices :]
                running[task.key] = slots
                crew.begin(task, slots)
                happened.append(Started(task.key, tuple(slot.name for slot in slots)))
            yield from happened
            if not running:
                return
            happened, ended = [], crew.next_end()
            if ended is not None:
                key, outcome = ended
                free = sorted([*free, *running.pop(key)], key=self._slots.index)
                if outcome is not None:
                    happened = [Ended(outcome)]


class _Crew:
    """The threads that wait for the tasks. They don't keep the process alive."""

    def __init__(self, command: Sequence[str], patience: Patience) -> None:
        self.stop, self.hurried = threading.Event(), False
        self._command, self._patience = command, patience
        self._threads: list[threading.Thread] = []
        self._ends: queue.SimpleQueue[tuple[str, Outcome | BaseException | None]] = queue.SimpleQueue()

    def begin(self, task: Task, slots: Sequence[Slot]) -> None:
        """Start the task's processes."""
        thread = threading.Thread(target=self._work, args=(task, slots), name=task.key, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def next_end(self) -> tuple[str, Outcome | None] | None:
        """The next task to end and its outcome, None where it was stopped before; or None while none ends. Raises what
        went wrong with a task's thread."""
        try:
            key, outcome = self._ends.get(timeout=LOOK)
        except queue.Empty:
            return None
        if isinstance(outcome, BaseException):
            raise outcome
        return key, outcome

    def leave(self) -> None:
        """Stop what still runs and wait until it has saved."""
        self.stop.set()
        for thread in self._threads:
            if not self.hurried:
                thread.join()

    def _work(self, task: Task, slots: Sequence[Slot]) -> None:
        try:
            outcome = run_task(task, environment_of(slots), self.stop, command=self._command, patience=self._patience)
        except BaseException as error:  # told in the caller's thread
            outcome = error
        self._ends.put((task.key, outcome))
