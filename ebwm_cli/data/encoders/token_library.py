"""What is asked of the library `tokenizers`: reading its JSON, how many threads it takes, which bytes its tokens are.

It must not know what tokens are for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MOST_TOKENS = 1 << 22
"""A larger vocabulary is a mistake, and would fill the memory."""


def parsed(data: bytes | str) -> Any:
    """The `tokenizers.Tokenizer` whose JSON this is. Raises ValueError, one line."""
    from tokenizers import Tokenizer as Inner

    try:
        text = data if isinstance(data, str) else data.decode()
        json.loads(text)
        inner = Inner.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from None
    highest = max(inner.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= MOST_TOKENS:
        raise ValueError(f"its tokens go up to {highest:,}, more than {MOST_TOKENS:,}")
    return inner


def byte_level(vocabulary: dict[str, int]) -> Any:
    """A byte-level `tokenizers.Tokenizer` without merges, which adds no space at the beginning."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    inner = Inner(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def is_byte_level(inner: Any) -> bool:
    """Whether its tokens are bytes and nothing else happens when they are joined."""
    decoder = json.loads(inner.to_str()).get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    return [each.get("type") for each in steps] == ["ByteLevel"]


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary, as GPT-2 chose them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def fallback_byte(name: str | None) -> bytes:
    """The byte of a token like <0xE2>, of which several make one character; none of other tokens."""
    hexadecimal = name[3:5] if name and len(name) == 6 and name.startswith("<0x") and name.endswith(">") else ""
    try:
        return bytes.fromhex(hexadecimal)
    except ValueError:
        return b""


@contextmanager
def library_threads(number: int) -> Iterator[None]:
    """Inside, `tokenizers` works with `number` threads at most; more are as many as its first call had."""
    wanted = {"TOKENIZERS_PARALLELISM": "false" if number == 1 else "true", "RAYON_NUM_THREADS": str(number)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
