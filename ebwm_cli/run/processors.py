"""How many processor cores this process may use. Imports nothing heavy, so that `prepare` starts at once."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may really use: those of its affinity mask, at most its container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text(encoding="ascii").split()
        cores = min(cores, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or its quota is "max"
        pass
    return max(cores, 1)
