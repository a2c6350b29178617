"""Encoders turn frames or text into states: named in a config that travels as JSON, with tensors beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ebwm_cli.data.encoders.tokenizer import Tokenizer
from ebwm_cli.errors import DataError

__all__ = ["Encoder", "FrameEncoder", "Tokenizer", "load_encoder"]


@runtime_checkable
class Encoder(Protocol):
    """What sets and checkpoints keep of any encoder. D state size."""

    name: str

    @property
    def latent_dim(self) -> int:
        """D, numbers per candidate state."""
        ...

    def config(self) -> dict[str, Any]:
        """What `load_encoder` needs beside the tensors, as JSON."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays, to be stored with the set and with every checkpoint."""
        ...


@runtime_checkable
class FrameEncoder(Encoder, Protocol):
    """frames -> states, and back for viewing. N frames, S side in pixels, D state size."""

    size: int
    """Side of the square frames it takes and gives, in pixels."""

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """States (N, D) float32 of frames (N, S, S, 3) uint8 RGB."""
        ...

    def decode(self, states: np.ndarray) -> np.ndarray:
        """Frames (N, S, S, 3) uint8 RGB that look like states (N, D)."""
        ...


def load_encoder(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Encoder:
    """The encoder that gave `config()` and `tensors()`. Raises DataError where they don't fit together."""
    from ebwm_cli.data.encoders.pca import PcaEncoder

    known: dict[str, Any] = {"pca": PcaEncoder, "bpe": Tokenizer, "bytes": Tokenizer, "file": Tokenizer}
    name = config.get("name")
    if name not in known:
        raise DataError(f"unknown encoder {name!r}", f"this version knows {', '.join(known)}")
    return known[name].load(config, tensors)
