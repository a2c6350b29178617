"""The recurrent network: h_t = norm(P x_t + GRU(norm(x))_t), GRU (arXiv 1406.1078) or LSTM (Neural Comput. 9, 1735).

P, which starts at 0, is the way past the gates: what follows a state whatever came before need not be squeezed through
them. It remembers a vector per layer where attention remembers every state, so one more state costs the same however
many came before. Knows no candidate and no loss.
"""

# B batch, T observed positions, W width, L layers

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import mkldnn

from ebwm_cli.model.trunk import RMSNorm


def _has_bf16_kernels(device: torch.device) -> bool:
    """Whether a cell can run in bf16 on `device`: on CPUs without AVX-512 oneDNN refuses an LSTM in bf16, and torch's
    own kernels take many times as long as in fp32."""
    return device.type != "cpu" or (mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class RecurrentMemory:
    """The cell's state after the newest observed state, (L, B, W) each (one tensor for a GRU, two for an LSTM), and the
    hidden states (B, T, W) of those still remembered one by one."""

    cell: tuple[Tensor, ...]
    hidden: Tensor

    @property
    def length(self) -> int:
        """Hidden states kept, T."""
        return self.hidden.shape[1]

    def last(self, count: int) -> RecurrentMemory:
        """This memory with all but the newest `count` hidden states forgotten; the cell's state still knows of them."""
        return self if count >= self.length else RecurrentMemory(self.cell, self.hidden[:, -count:])

    def rows(self, items: Tensor) -> RecurrentMemory:
        """The memory of these batch items (n,), which may repeat."""
        return RecurrentMemory(tuple(each[:, items] for each in self.cell), self.hidden[items])


class RecurrentNetwork(nn.Module):
    """`cell` is `gru` or `lstm`; states enter already embedded to `width`, which is the cell's width too."""

    def __init__(self, width: int, layers: int, cell: str = "gru") -> None:
        super().__init__()
        self.norm_in = RMSNorm(width)
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](width, width, layers, batch_first=True)
        self.past = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.past.weight)
        self.norm = RMSNorm(width)
        for name, parameter in self.cell.named_parameters():  # as torch has them: uniform, 1 / sqrt(width)
            if name.startswith("weight_hh"):
                for gate in parameter.detach().chunk(3 if cell == "gru" else 4):
                    nn.init.orthogonal_(gate)

    def observe(self, observed: Tensor, memory: RecurrentMemory | None = None) -> RecurrentMemory:
        """Read observed states (B, T, W), embedded, after those in `memory`."""
        before: Any = None if memory is None else memory.cell
        if memory is not None and not isinstance(self.cell, nn.LSTM):
            (before,) = memory.cell
        normed = self.norm_in(observed)
        if _has_bf16_kernels(normed.device):
            out, after = self.cell(normed, before)
        else:
            with torch.autocast(normed.device.type, enabled=False):
                out, after = self.cell(normed.to(self.past.weight.dtype), before)
        hidden = self.norm(self.past(observed) + out)
        if memory:
            hidden = torch.cat([memory.hidden, hidden], dim=1)
        return RecurrentMemory(after if isinstance(after, tuple) else (after,), hidden)
