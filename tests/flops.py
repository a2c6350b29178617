"""FLOPs as `torch.utils.flop_counter` counts them, with everything that it can't look into taken apart.

It counts matrix products. Attention's fused CPU kernels and the fused LSTM hide theirs, so both run as plain products
while counting; torch's CPU GRU is made of plain products anyway.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class NoModules:
    """Stands in for the counter's module tracker, whose hooks refuse `autograd.grad`."""

    parents = frozenset({"Global"})

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def counted_flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products that `run` makes."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that settings for other devices are put back as they were
        with counter, sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            run()
    return counter.get_total_flops()
