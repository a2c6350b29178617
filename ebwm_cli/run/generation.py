"""Text, a token at a time: think about the next one, choose, remember it, go on. One new position per token.

p = softmax(z / temperature), cut to the smallest set of tokens whose probability reaches top_p (arXiv 1904.09751).
Works through `WorldModel` alone.
"""

# V vocabulary

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebwm_cli.data.encoders import Tokenizer
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.world.protocol import WorldModel

REPLACEMENT = "\ufffd"
"""What stands for bytes that are no character, or none yet."""


@dataclass(frozen=True)
class Choice:
    """How the next token is taken from its distribution."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    top_p: float = 1.0

    def take(self, logits: Tensor, rng: torch.Generator) -> int:
        """A token of logits (V,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        p, tokens = (logits.double() / self.temperature).softmax(-1).cpu().sort(descending=True, stable=True)
        before = p.cumsum(-1) - p
        p = torch.where(before < self.top_p, p, 0.0)  # the first that reaches top_p is the last kept
        return int(tokens[torch.multinomial(p, 1, generator=rng)])


@dataclass(frozen=True)
class NewToken:
    """One generated token."""

    token: int
    text: str
    """What it adds to the text; empty while a character is incomplete, which the last token leaves as U+FFFD."""
    energy: float | None
    """Score where its descent ended; None where the model has none."""
    steps_used: int
    probability: float
    """Of this token, at temperature 1."""
    looks: int
    """Energies that were computed and differentiated for it, over all samples."""
    tries: int
    """Energies that were only computed."""


@torch.no_grad()
def generate(
    loaded: LoadedWorld,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    think: ThinkSection,
    choice: Choice,
    max_new: int,
    seed: int,
) -> Iterator[NewToken]:
    """At most `max_new` tokens after `prompt`, at least one token long, of which the context's newest are seen; ends
    after an end of text."""
    world: WorldModel = loaded.world
    rng = torch.Generator().manual_seed(seed)
    text = TextStream(tokenizer)
    seen = torch.tensor([list(prompt)[-loaded.spec.context :]], device=loaded.device)  # (1, T)
    memory = world.observe(seen)
    for made in range(max_new):
        prediction = world.predict(memory, think, rng, positions=1)
        logits = prediction.state[0, 0]
        token = choice.take(logits, rng)
        last = token == tokenizer.end_of_text or made + 1 == max_new
        yield NewToken(
            token=token,
            text=text.add(token) + (text.rest() if last else ""),
            energy=prediction.energy.item() if world.score else None,
            steps_used=int(prediction.steps_used.item()),
            probability=logits.double().softmax(-1)[token].item(),
            looks=int(prediction.looks.item()),
            tries=int(prediction.tries.item()),
        )
        if last:
            return
        memory = world.observe(torch.tensor([[token]], device=loaded.device), memory)


class TextStream:
    """Tokens in, whole characters out: a character may take several tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []
        self._said = 0
        """Characters given out."""

    def add(self, token: int) -> str:
        """The characters that `token` completes."""
        if self._tokenizer.byte_level:
            return self._decoder.decode(self._tokenizer.token_bytes(token))
        self._tokens.append(token)  # others join words in ways only the whole text shows
        return self._beyond(self._tokenizer.decode(self._tokens).rstrip(REPLACEMENT))

    def rest(self) -> str:
        """What no token completes any more."""
        if self._tokenizer.byte_level:
            return self._decoder.decode(b"", final=True)
        return self._beyond(self._tokenizer.decode(self._tokens))

    def _beyond(self, text: str) -> str:
        """The characters of `text` that were not given out yet. Bytes of an incomplete character make those of whole
        ones before it unreadable for a while, so it may be shorter than what was."""
        new = text[self._said :]
        self._said += len(new)
        return new
