"""x W^T, where a single row is cut across the cores.

BLAS runs the product of one row with a matrix on one core, whose memory bandwidth then decides how long a thought
takes; as a batch of parts it runs on all. The number of parts is fixed, so that numbers don't depend on the machine.
Knows no layer.
"""

# I inputs, O outputs, P parts

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

PARTS = 4
WORTH_CUTTING = 1 << 16
"""Numbers in a matrix below which one core is as fast."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., I) times the transpose of weight (O, I) -> (..., O); differentiable any number of times."""
    outputs, inputs = weight.shape
    one_row = x.numel() == inputs and x.device.type == "cpu" and weight.numel() >= WORTH_CUTTING
    if not one_row:
        return F.linear(x, weight)
    if weight.is_contiguous() and outputs % PARTS == 0:  # rows are cut: (P, 1, I) (P, I, O/P)
        parts = x.reshape(1, 1, inputs).expand(PARTS, 1, inputs) @ weight.view(PARTS, outputs // PARTS, inputs).mT
        return parts.reshape(*x.shape[:-1], outputs)
    if weight.t().is_contiguous() and inputs % PARTS == 0:  # a transposed view; sums are cut: (P, 1, I/P) (P, I/P, O)
        table = weight.t().view(PARTS, inputs // PARTS, outputs)
        return (x.reshape(PARTS, 1, inputs // PARTS) @ table).sum(0).reshape(*x.shape[:-1], outputs)
    return F.linear(x, weight)
