"""On how many devices a study's runs are spread, and of which kind. Knows no run.

`auto` takes the CUDA devices; without any, and where no number was asked for, the cores of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ebwm_cli.errors import ResourceError
from ebwm_cli.run.device import resolve_device
from ebwm_cli.run.processors import usable_cores


@dataclass(frozen=True)
class Workers:
    """So many devices of one kind, one run (or part of one) at a time on each."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    count: int

    @property
    def threads(self) -> int:
        """Threads a worker may use where it computes on the CPU."""
        return max(1, usable_cores() // self.count)


def workers_of(device: str, asked: int | None, *, planned: bool = False) -> Workers:
    """The workers for `--device` and `--gpus` (None: all there are). A plan may be made for GPUs that aren't here.

    Raises ResourceError where fewer are visible than asked, UsageError where there is no such device.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wants_cuda = device == "cuda" or (device == "auto" and (visible > 0 or asked is not None))
    if wants_cuda and planned:
        return Workers("cuda", asked or max(visible, 1))
    if wants_cuda and (asked or 1) > visible:
        told = "no GPU is visible" if not visible else f"{visible} GPU{'s' * (visible > 1)} visible"
        raise ResourceError(
            f"{told}, {asked or 1} asked for",
            "--device cpu runs as many workers on the CPU; --plan shows what it would take",
        )
    if wants_cuda:
        return Workers("cuda", asked or visible)
    kind = resolve_device(device).type
    return Workers(kind, asked or (usable_cores() if kind == "cpu" else 1))
