"""Tasks on a Ray cluster: each is a Ray task that asks for as many GPUs (without any: cores) as it has devices, and is
started again elsewhere when its worker or node dies.

The run folder, the prepared set and the log must lie on a file system that all nodes share, under the same path, and
every node needs this version of ebwm. Knows Ray, and tasks, not what a task does.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ebwm_cli.errors import EbwmError, ResourceError
from ebwm_cli.run.guarded import COMMAND
from ebwm_cli.run.study_task import Ended, Event, Outcome, Patience, Started, Task, never, run_task

LOOK = 0.2
"""Seconds between two looks at what has ended."""
LISTEN = 1.0
"""Seconds between two questions of a worker whether it should stop."""
REACH = 10.0
"""Seconds in which the cluster's address must answer."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",
}
"""Ray reads it when it is imported: it tells its makers nothing, and prints nothing on stdout, where `--json` goes."""
THREADS = {"OMP_NUM_THREADS": "1"}
"""A process per device."""
HINT = "start one with `ray start --head`, or leave --cluster out"
REFUSED = "is it of the same Ray version? RAY_AUTH_MODE=token, where it asks for a token"


class RayExecutor:
    """Runs tasks on the cluster at `address`: `auto` (the one on this machine) or HOST:PORT.

    `device` is what a task's devices are: cpu, cuda, or auto (GPUs where the cluster has any). `command` is what stands
    before `train` and `eval`. An Executor.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        device: str = "auto",
        command: Sequence[str] = COMMAND,
        patience: Patience = Patience(),
    ) -> None:
        self._address, self._device = address, device
        self._command, self._patience = tuple(command), patience

    def run(self, tasks: Iterable[Task], stopped: Callable[[], bool] = never) -> Iterator[Event]:
        """Run `tasks`; yield what happens, in that order, in the caller's thread: see Executor. Ray decides in which
        order tasks begin, about in the one given.

        Raises ResourceError where Ray isn't installed, no cluster answers, or no node has as many devices as a task
        asks for.
        """
        with _environment():
            ray = _imported()
            self._connect(ray)
            try:
                yield from self._events(ray, list(tasks), stopped)
            finally:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        address = self._address
        _reach(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        with _undisturbed():
            try:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            except Exception as error:
                what = " ".join(str(error).split()) or type(error).__name__
                hint = HINT if address == "auto" else REFUSED
                raise ResourceError(f"no Ray cluster at {address}: {what}", hint) from error

    def _events(self, ray: Any, tasks: list[Task], stopped: Callable[[], bool]) -> Iterator[Event]:
        resource = self._resource(ray, tasks)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        desk = ray.remote(num_cpus=0, scheduling_strategy=here)(_Desk).remote()
        work, left = ray.remote(_work), {}
        for task in tasks:
            asked = {"num_cpus": task.devices, "num_gpus": task.devices if resource == "GPU" else 0}
            remote = work.options(**asked, max_retries=task.retries, name=task.key)
            left[remote.remote(desk, task, self._command, self._patience)] = task
        begun: set[str] = set()
        until = None
        try:
            while left and (until is None or time.monotonic() < until):
                if until is None and stopped():
                    until = self._stop(ray, desk, left, begun)
                ready, _ = ray.wait(list(left), num_returns=1, timeout=LOOK)
                for key, slots in ray.get(desk.news.remote()):
                    if key not in begun:
                        begun.add(key)
                        yield Started(key, slots)
                for task, outcome in [(left.pop(ref), ref) for ref in ready]:
                    ended = _outcome(ray, outcome, task, stopping=until is not None)
                    if ended is not None:
                        yield Ended(ended)
        except GeneratorExit:
            until = self._stop(ray, desk, left, begun)
            ray.wait(list(left), num_returns=len(left), timeout=until - time.monotonic()) if left else None
            raise

    def _resource(self, ray: Any, tasks: list[Task]) -> str:
        """What tasks ask the cluster for: GPU or CPU."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU") for node in nodes)
        resource = "GPU" if self._device == "cuda" or (self._device == "auto" and has_gpus) else "CPU"
        most = int(max((node.get(resource, 0) for node in nodes), default=0))
        for task in tasks:
            if task.devices > most:
                raise ResourceError(
                    f"{task.key} needs {task.devices} {resource}s on one node, the cluster's largest has {most}",
                    f"gpus_per_run={most}" if most else "ray status shows what there is; or --device cpu",
                )
        return resource

    def _stop(self, ray: Any, desk: Any, left: dict[Any, Task], begun: set[str]) -> float:
        """Tell workers to save, and take back what hasn't begun; until when to wait for them."""
        ray.get(desk.stop.remote())
        for ref, task in left.items():
            if task.key not in begun:
                ray.cancel(ref)
        return time.monotonic() + self._patience.stop + 2 * LISTEN


# ---------------------------------------------------------------------------------------------- on the nodes


class _Desk:
    """An actor: workers say here what they begin, and hear whether to stop."""

    def __init__(self) -> None:
        self._news: list[tuple[str, tuple[str, ...]]] = []
        self._begun: dict[str, int] = {}
        self._stopping = False

    def begin(self, key: str, slots: tuple[str, ...]) -> int:
        """A worker wants to begin with a task: how often that has been so; 0: it is to leave it."""
        if self._stopping:
            return 0
        self._news.append((key, slots))
        self._begun[key] = self._begun.get(key, 0) + 1
        return self._begun[key]

    def news(self) -> list[tuple[str, tuple[str, ...]]]:
        """What was begun since the last question."""
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        """From now on, everybody is to stop."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether to stop."""
        return self._stopping


def _work(desk: Any, task: Task, command: Sequence[str], patience: Patience) -> Outcome | None:
    """Run `task` in a worker; None where it was told to stop, or where the desk is gone with its scheduler."""
    import ray

    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU", [])
    node = ray.util.get_node_ip_address()
    slots = tuple(f"{node} cuda:{gpu}" for gpu in gpus) or (f"{node} cpu",) * task.devices
    stop, over, answer = threading.Event(), threading.Event(), queue.SimpleQueue[int]()

    def ask() -> None:  # not in the main thread: while that waits for an answer, Ray lends the task's cores to another
        try:
            times: Any = ray.get(desk.begin.remote(task.key, slots))
            answer.put(times)
            while times and not over.wait(LISTEN) and not ray.get(desk.stopping.remote()):
                pass
        finally:
            stop.set()
            answer.put(0)

    threading.Thread(target=ask, name="ask", daemon=True).start()
    try:
        times = answer.get()
        if times > task.retries + 1:  # Ray may start again more often what it ended for want of memory
            return Outcome(task.key, "failed", _died(times - 1), None, None, 0.0)
        return run_task(task, THREADS, stop, command=command, patience=patience) if times else None
    finally:
        over.set()


def _died(times: int) -> str:
    return f"its worker or node died {times} times; out of memory?"


def _outcome(ray: Any, ref: Any, task: Task, *, stopping: bool) -> Outcome | None:
    """What came of a task; None where it was stopped before. Raises what its worker raised."""
    errors = ray.exceptions
    try:
        return ray.get(ref)
    except errors.TaskCancelledError:
        return None
    except errors.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, EbwmError):
            raise type(cause)(cause.message, cause.hint) from error
        raise ResourceError(
            f"{task.key} can't be run by a Ray worker: {type(cause).__name__}: {' '.join(str(cause).split())}",
            "install the same ebwm on every node",
        ) from error
    except errors.RayError as error:
        if stopping:
            return None
        short = isinstance(error, errors.OutOfMemoryError)
        reason = "its node ran out of memory" if short else _died(task.retries + 1)
        return Outcome(task.key, "out_of_memory" if short else "failed", reason, None, None, 0.0)


# ---------------------------------------------------------------------------------------------- Ray itself


def _imported() -> Any:
    with _undisturbed():
        try:
            import ray
            import ray.util.scheduling_strategies
        except ImportError as error:
            raise ResourceError("Ray isn't installed", "pip install 'ebwm[cluster]'") from error
    return ray


def _reach(address: str) -> None:
    """Raise ResourceError unless HOST:PORT answers soon: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or "://" in address:
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        raise ResourceError(f"no Ray cluster at {address}: {error}", HINT) from error


@contextmanager
def _environment() -> Iterator[None]:
    """The environment in which Ray is quiet; afterwards, what Ray changed of it is as it was."""

    def rays() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "PYTHONBREAKPOINT"))}

    before = rays()
    os.environ.update(QUIET)
    try:
        yield
    finally:
        for name in rays():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Undo what Ray changes of this process: its answer to SIGTERM, and its excepthook."""
    in_main = threading.current_thread() is threading.main_thread()
    handler, hook = signal.getsignal(signal.SIGTERM), sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = hook
        if in_main and handler is not None:  # None: it wasn't set from Python
            signal.signal(signal.SIGTERM, handler)
