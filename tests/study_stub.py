"""Imitates `ebwm train` and `ebwm eval` for tests of schedulers, in a moment: `... study_stub train FOLDER WORDS`.

WORDS say what happens, in order: `steps=N` steps of `pause=SECONDS`, from which a second start goes on; `slow=SECONDS`
to save; `kill=N` kills itself N times (by `signal=N`); `code=N` fails, and `says=TEXT`; `deaf` ignores SIGTERM;
`silent` forgets its report. Every start, step and end is a line in FOLDER/events.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path


def tell(folder: Path, event: str) -> None:
    with (folder / "events").open("a") as file:
        file.write(f"{event} {os.getpid()} {os.getppid()} {time.monotonic()}\n")


def events(folder: Path, name: str) -> list[list[str]]:
    """Pid, parent and time of each event of that name."""
    lines = (folder / "events").read_text().splitlines() if (folder / "events").exists() else []
    return [line.split()[1:] for line in lines if line.split()[0] == name]


def fail(code: int, says: str) -> None:
    print(f"\x1b[1;31merror: \x1b[0m{says}\nhint: ebwm --help", file=sys.stderr)
    sys.exit(code)


def train(folder: Path, words: dict[str, str]) -> None:
    steps, pause, stopped = int(words.get("steps", 1)), float(words.get("pause", 0)), []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in words else lambda number, frame: stopped.append(number))
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        fail(7, f"{folder} is being trained by another process")
    tell(folder, "start")
    saved = folder / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    while step < steps and not stopped:
        time.sleep(pause)
        step += 1
        (folder / ".step").write_text(str(step))
        (folder / ".step").rename(saved)
        tell(folder, "step")
        print(json.dumps({"step": step, "loss": 1.0}), flush=True)
    if stopped:
        time.sleep(float(words.get("slow") or 0))
        tell(folder, "saved")
        fail(75, "stopped by SIGTERM")
    if len(events(folder, "start")) <= int(words.get("kill", 0)):
        os.kill(os.getpid(), int(words.get("signal", signal.SIGKILL)))
    if "code" in words:
        fail(int(words["code"]), words.get("says", "it went wrong"))
    if "silent" not in words:
        print(json.dumps({"val_loss": 1 / steps, "step": steps, "params": 7, "flops_per_step": 3.0}))
    tell(folder, "end")


def measure(folder: Path, words: dict[str, str]) -> None:
    tell(folder, "measure")
    time.sleep(float(words.get("pause", 0)))
    if "code" in words:
        fail(int(words["code"]), words.get("says", "it went wrong"))
    loss = float((folder / "step").read_text()) / 100
    seen = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "EBWM_CORES")}
    seen["cores"] = sorted(os.sched_getaffinity(0))
    print(json.dumps({"loss": None if "nan" in words else loss, **seen}))


if __name__ == "__main__":
    verb, folder, *rest = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    words = dict((word if "=" in word else f"{word}=").split("=", 1) for word in rest)
    {"train": train, "eval": measure}[verb](Path(folder), words)
