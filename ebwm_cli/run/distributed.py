"""The processes of one training: each makes its share of every update, and all go on with the same bits.

gradient = sum over ranks r of d(mean loss of r's windows)/dw / R. Gradients travel from device to device (NCCL; gloo on
the CPU), decisions as plain values (gloo): the clock and the files of the first rank decide, the others are told. Knows
tensors and plain values, no world.
"""

# B windows of the whole batch, R ranks

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ebwm_cli.errors import EbwmError, ResourceError, UsageError
from ebwm_cli.run.launch import Place, place_of, store_of
from ebwm_cli.run.training_state import TrainingState

BUCKET = 1 << 24
"""Numbers that travel together, about."""
PATIENCE = timedelta(days=1)
"""How long ranks wait for what the first does alone: validating, saving."""
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class LostRank(EbwmError):
    """Another rank is gone, so this one can't go on. Never the first failure of a training."""

    lost = True


class Ranks:
    """All ranks of a training, as one of them sees them. Every method must be called by all of them, in one order;
    where there is only one, each returns at once. Raises LostRank where another rank is gone."""

    def __init__(self, place: Place | None = None, control: Any = None) -> None:
        self._place = place or Place()
        self._control = control

    @property
    def size(self) -> int:
        """How many ranks there are, R."""
        return self._place.size

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        return self._place.rank

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, validates and speaks."""
        return self.rank == 0

    def part(self, states: Tensor) -> Tensor:
        """This rank's contiguous share (B/R, ...) of the batch `states` (B, ...), which R divides."""
        share = len(states) // self.size
        return states[self.rank * share :][:share]

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, the same bits on all of them. Shapes must agree."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _lost():
                dist.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def most(self, value: int) -> int:
        """The largest `value` of all ranks, however long they take."""
        if self.size == 1:
            return value
        largest = torch.tensor([value])
        with _lost():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._control)
        return int(largest)

    def told(self, value: Any) -> Any:
        """What the first rank gives as `value`, a JSON value, however long it takes."""
        if self.size == 1:
            return value
        said = json.dumps(value).encode() if self.first else b""
        length = torch.tensor([len(said)])
        self._broadcast(length)
        text = torch.frombuffer(bytearray(said), dtype=torch.uint8) if self.first else _empty(int(length), "uint8")
        self._broadcast(text)
        return json.loads(text.numpy().tobytes())

    def told_state(self, state: TrainingState | None) -> TrainingState:
        """The first rank's `state`, its tensors on the CPU; the others give none."""
        held = state.tensors if state else {}
        outline = {group: [(name, *_form(held[group][name])) for name in held[group]] for group in held}
        outline, numbers = self.told([outline, state and dict(state.numbers)])
        told: dict[str, dict[str, Tensor]] = {group: {} for group in outline}
        for group in outline:
            for name, shape, dtype in outline[group]:
                tensor = held[group][name].detach().cpu().contiguous() if state else _empty(shape, dtype)
                self._broadcast(tensor)
                told[group][name] = tensor
        return TrainingState(told, numbers)

    def leave(self) -> None:
        """Wait until all ranks are here, then part; a process that only ends leaves the others no time to."""
        if self.size > 1:
            self.most(0)
            dist.destroy_process_group()

    def _broadcast(self, tensor: Tensor) -> None:
        if self.size > 1:
            with _lost():
                dist.broadcast(tensor, 0, group=self._control)


ALONE = Ranks()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Inside, this process is one of the ranks its environment tells of (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT, as torchrun sets them), with its tensors on `device`; ALONE where it tells of none.

    Who raises inside doesn't wait for the others, as they may be gone. Raises ResourceError for a device whose
    processes can't talk, UsageError where the environment is incomplete, LostRank where a rank doesn't come.
    """
    place = place_of(os.environ)
    if place.size == 1:
        yield ALONE
        return
    backend = BACKENDS.get(device.type)
    if backend is None:
        raise ResourceError(f"{device.type} is one device, and {place.size} processes are to train", "--device cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _lost():
        try:
            dist.init_process_group(
                backend,
                init_method=store_of(os.environ),
                rank=place.rank,
                world_size=place.size,
                device_id=device if device.type == "cuda" else None,
            )
        except ValueError as error:
            raise UsageError(
                f"RANK and WORLD_SIZE are set, but {error}", "torchrun -m ebwm_cli train, or unset RANK WORLD_SIZE"
            ) from error
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    ranks = Ranks(place, control)
    yield ranks
    ranks.leave()


@contextmanager
def _lost() -> Iterator[None]:
    """What goes wrong between ranks goes wrong because one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        what = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise LostRank(
            f"another process of this training is gone: {what}", "the same command resumes from the last checkpoint"
        ) from error


def _form(tensor: Tensor) -> tuple[list[int], str]:
    """Shape and dtype, in JSON."""
    return list(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def _empty(shape: int | Sequence[int], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """`tensors` in their order, about BUCKET numbers at a time."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
