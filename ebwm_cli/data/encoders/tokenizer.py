"""Text <-> tokens: byte-level BPE trained on the spot, any tokenizer.json, or bare bytes.

A tokenizer travels as the JSON of the `tokenizers` library, inside the set and inside every checkpoint. It must not
know where texts come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ebwm_cli.data.encoders.token_library import (
    byte_characters,
    byte_level,
    fallback_byte,
    is_byte_level,
    library_threads,
    parsed,
)
from ebwm_cli.errors import DataError

END_OF_TEXT = "<|endoftext|>"
USUAL_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "[EOS]", "[SEP]")
"""What other tokenizers call the end of a text, the likeliest first."""
ALPHABET = 257
"""The smallest vocabulary: 256 bytes and the end of text."""
HINT = "--tokenizer tokenizer.json as `tokenizers` saves it, --tokenizer bytes, or --vocab-size 4096 to fit one"


class Tokenizer:
    """V tokens, one of which ends a text. What looks like a special token within a text is ordinary text."""

    def __init__(self, inner: Any, name: str, end_of_text: int) -> None:
        """`inner` is a `tokenizers.Tokenizer`; `name` is bpe, bytes or file."""
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True  # "<|endoftext|>" in a text is thirteen characters
        self._inner = inner
        self.name = name
        self.end_of_text = end_of_text

    @cached_property
    def vocab_size(self) -> int:
        """V: the highest token and one; some vocabularies have holes."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def latent_dim(self) -> int:
        """V: a candidate has one number per token."""
        return self.vocab_size

    def encode(self, text: str) -> np.ndarray:
        """Tokens (N,) int32 of a text, without an end."""
        return np.array(self._inner.encode(text, add_special_tokens=False).ids, np.int32)

    @property
    def byte_level(self) -> bool:
        """Whether every token stands for bytes of its own, whatever stands beside it."""
        return self._own_bytes is not None

    def decode(self, tokens: Sequence[int] | np.ndarray, *, inner: bool = False) -> str:
        """The text of tokens; what is no UTF-8 becomes U+FFFD. `inner`: as they read when others stand before them."""
        listed = np.asarray(tokens, np.int64).tolist()
        if self._own_bytes is not None:
            return b"".join(map(self._own_bytes.__getitem__, listed)).decode("utf-8", "replace")
        if not inner:
            return self._joined(listed)
        tokens_before, text_before = self._before
        return self._joined([*tokens_before, *listed]).removeprefix(text_before)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; none for special tokens, nor for numbers that no token has.

        Of tokenizers that aren't byte-level, what it adds behind another token: its space too, which it loses at the
        beginning of a text.
        """
        return self._bytes[token]

    def token_lengths(self) -> np.ndarray:
        """Bytes per token, (V,) int64; summed over a text that `decode` gives back, its bytes.

        Exactly so for byte-level tokenizers. Of others the first token of a text may count a space that is not there.
        """
        return np.array([len(each) for each in self._bytes], np.int64)

    def token_names(self, tokens: Sequence[int] | np.ndarray) -> list[str]:
        """Each token alone as text, for people."""
        listed = np.asarray(tokens, np.int64).tolist()
        return [self._bytes[t].decode("utf-8", "replace") or self._inner.id_to_token(t) or "" for t in listed]

    def config(self) -> dict[str, Any]:
        """JSON for the manifest and the checkpoint."""
        return {"name": self.name, "vocab_size": self.vocab_size, "end_of_text": self.end_of_text}

    def tensors(self) -> dict[str, np.ndarray]:
        """`tokenizer`: the UTF-8 bytes of its JSON, uint8."""
        return {"tokenizer": np.frombuffer(self.to_json(), np.uint8).copy()}

    def to_json(self) -> bytes:
        """What `tokenizers` reads."""
        return self._inner.to_str().encode()

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Tokenizer:
        """From `config()` and `tensors()`; raises DataError where they don't fit together."""
        try:
            made = cls(parsed(tensors["tokenizer"].tobytes()), str(config["name"]), int(config["end_of_text"]))
            vocab_size = int(config["vocab_size"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"the tokenizer is damaged: {error}", "prepare the set again") from None
        if made.vocab_size != vocab_size or not 0 <= made.end_of_text < vocab_size:
            raise DataError("the tokenizer is not the one its settings describe", "prepare the set again")
        return made

    @cached_property
    def _bytes(self) -> list[bytes]:
        """(V,) as `token_bytes` has it."""
        if self._own_bytes is not None:
            return self._own_bytes
        pairs = [[*self._before[0], token] for token in range(self.vocab_size)]
        texts = self._inner.decode_batch(pairs, skip_special_tokens=True)
        rests = [text.removeprefix(self._before[1]).encode() for text in texts]
        return [fallback_byte(self._inner.id_to_token(token)) or rest for token, rest in enumerate(rests)]

    @cached_property
    def _own_bytes(self) -> list[bytes] | None:
        """(V,) bytes of a byte-level tokenizer; None for others."""
        if not is_byte_level(self._inner):
            return None
        values = {char: byte for byte, char in byte_characters().items()}
        own: list[bytes] = [b""] * self.vocab_size
        for name, token in self._inner.get_vocab(with_added_tokens=True).items():
            own[token] = bytes(values[c] for c in name) if all(c in values for c in name) else name.encode()
        for token, added in self._inner.get_added_tokens_decoder().items():
            own[token] = b"" if added.special else added.content.encode()
        return own

    @cached_property
    def _before(self) -> tuple[list[int], str]:
        """Tokens to stand before others, and their text: of a letter, else the first of the vocabulary that has one."""
        tries = [self.encode("a").tolist(), *([token] for token in range(self.vocab_size))]
        return next(((each, text) for each in tries if (text := self._joined(each)) and "\ufffd" not in text), ([], ""))

    def _joined(self, tokens: list[int]) -> str:
        return self._inner.decode(tokens, skip_special_tokens=True)


def train_bpe(texts: Iterator[str], vocab_size: int, threads: int) -> Tokenizer:
    """Byte-level BPE (arXiv 1508.07909, on bytes as in GPT-2) of at most `vocab_size` tokens, fitted to `texts`.

    It is the same for any number of threads.
    """
    from tokenizers import trainers

    inner = byte_level({})
    alphabet = sorted(byte_characters().values())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    with library_threads(threads):
        inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner, "bpe", inner.token_to_id(END_OF_TEXT))


def byte_tokenizer() -> Tokenizer:
    """256 bytes and the end of text."""
    inner = byte_level({char: byte for byte, char in byte_characters().items()})
    inner.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner, "bytes", inner.token_to_id(END_OF_TEXT))


def read_tokenizer(path: str) -> Tokenizer:
    """A tokenizer.json; an end of text is added where it has none, or one that text can contain. Raises DataError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DataError(f"the tokenizer {path} can't be read: {what}", HINT) from None
    try:
        inner = parsed(text)
    except ValueError as error:
        raise DataError(f"{path} is no tokenizer.json: {error}", HINT) from None
    known = inner.get_added_tokens_decoder()
    ends = ((name, inner.token_to_id(name)) for name in USUAL_ENDS)
    for name, token in ends:
        if token in known and known[token].special and not _written(inner, name, token):
            return Tokenizer(inner, "file", token)
    return Tokenizer(inner, "file", _add_end(inner, path))


def reread_bpe(data: bytes) -> Tokenizer | None:
    """A fitted tokenizer from its JSON; None where this version of `tokenizers` can't read it."""
    try:
        inner = parsed(data)
    except ValueError:
        return None
    return Tokenizer(inner, "bpe", inner.token_to_id(END_OF_TEXT))


def _written(inner: Any, name: str, token: int) -> bool:
    """Whether the name of a special token, as part of a text, becomes that token."""
    inner.encode_special_tokens = True
    return token in inner.encode(name, add_special_tokens=False).ids


def _add_end(inner: Any, path: str) -> int:
    """A special token more, of a name and a number that were free."""
    taken = set(inner.get_vocab(with_added_tokens=True).values())
    names = (END_OF_TEXT, *(f"<|endoftext{number}|>" for number in range(2, 2 + len(taken))))
    name = next(each for each in names if inner.token_to_id(each) is None)
    inner.add_special_tokens([name])
    token = inner.token_to_id(name)
    if token in taken:  # the library counts tokens and takes the sum for the next number
        raise DataError(
            f"the vocabulary of {path} has holes and no end of text, for which there is no free number",
            f"a tokenizer.json with a special token {END_OF_TEXT}, or --tokenizer bytes",
        )
    return token
