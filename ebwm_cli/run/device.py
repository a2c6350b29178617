"""Where tensors live and how many threads work on them.

`auto` takes CUDA, then MPS, then the CPU; a device that is asked for by name and missing is an error, never a silent
fallback.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ebwm_cli.errors import ResourceError, UsageError
from ebwm_cli.run.processors import usable_cores

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `mps`; of several GPUs the one of `local_rank`, where processes
    that train together take one each.

    Raises ResourceError where that device isn't there, UsageError where there is no such name.
    """
    if name not in DEVICES:
        raise UsageError(f"there is no device {name}", "--device " + "|".join(DEVICES))
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise ResourceError(f"this machine has no {name} device that torch {torch.__version__} can use", "--device cpu")
    if name == "cuda" and local_rank is not None:
        visible = torch.cuda.device_count()
        if local_rank >= visible:
            raise ResourceError(
                f"process {local_rank + 1} on this machine finds only {visible} GPUs visible to torch",
                f"--gpus {visible}, or --device cpu",
            )
        return torch.device("cuda", local_rank)
    return torch.device(name)


def set_threads(threads: int | None = None) -> int:
    """Let torch use `threads` threads, by default OMP_NUM_THREADS or all usable cores; returns how many."""
    count = threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or usable_cores()
    torch.set_num_threads(count)
    return count


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on `device`; None where nobody says.

    Of a Linux machine's memory what programs can have: kept files give way to them; a container's limit counts.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    said = [each for each in (_available(), _left_to_the_container()) if each is not None]
    return min(said, default=None)


def _available(source: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in source.read_text().splitlines())
        return int(lines["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, ValueError, KeyError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _left_to_the_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Of cgroup v2; files that are only cached count as free."""
    try:
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(kept["inactive_file"])
        return max(int((group / "memory.max").read_text()) - used, 0)  # a ValueError of "max": no limit
    except (OSError, ValueError, KeyError):
        return None
