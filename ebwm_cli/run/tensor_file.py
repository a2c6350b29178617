"""safetensors files that prove they are whole.

The format has no checksum, so metadata carries sha256(other metadata, then every tensor's name, dtype, shape and bytes
in sorted order), and the header must be byte for byte what its content is written as. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ebwm_cli.errors import CheckpointError

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own bound."""


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of tensors (on any device) and metadata, with its digest."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(held, {**metadata, "digest": digest(held, metadata)})


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (CPU) and metadata of a file made by `pack`. Raises CheckpointError unless every bit is as written."""
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        if "digest" not in metadata:
            raise CheckpointError(f"{path} is not a checkpoint of ebwm: it has no digest")
        tensors = safetensors.torch.load_file(path)
        written = metadata.pop("digest")
        if written != digest(tensors, metadata):
            raise CheckpointError(f"{path} is damaged: its digest does not match its content")
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from None
    return tensors, metadata


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over metadata and tensors (contiguous, CPU), in hexadecimal digits."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _check_header(path: Path) -> None:
    """Raise ValueError unless the header is compact JSON padded with spaces: white space elsewhere says nothing, so no
    digest of the content would notice it change."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header claims {length} bytes")
        header = file.read(length)
    content = json.dumps(json.loads(header), separators=(",", ":"), ensure_ascii=False).encode()
    if header != content.ljust(-(-len(content) // 8) * 8):
        raise ValueError("its header is not as it was written")
