"""What counting alone knows of text: unigram and bigram models, the references every language model is held against.

Unigram: p(w) = (n(w) + 1) / (N + V). Bigram (Witten and Bell 1991): p(w | v) = (n(v, w) + t(v) p(w)) / (n(v) + t(v)),
t(v) the number of different tokens seen after v. Knows no network.
"""

# B batch, T positions, N training tokens, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor


class Unigram:
    """Frequencies of the training tokens (N,) int64, with one more of each."""

    def __init__(self, tokens: Tensor, vocab_size: int) -> None:
        counts = torch.bincount(tokens, minlength=vocab_size).double()
        self.probability = (counts + 1) / (counts.sum() + vocab_size)  # (V,)

    def loss(self, context: Tensor, target: Tensor) -> Tensor:
        """-ln p(target), (B, T) float32; of the context (B, T) it knows nothing."""
        return -self.probability.to(target.device)[target].log().float()


class Bigram:
    """Which token follows which, backed off to the unigram."""

    def __init__(self, tokens: Tensor, vocab_size: int) -> None:
        self._unigram = Unigram(tokens, vocab_size).probability
        self._size = vocab_size
        before, after = tokens[:-1], tokens[1:]
        pairs, counts = torch.unique(before * vocab_size + after, return_counts=True)  # at most N, sorted
        self._pairs, self._counts = pairs, counts.double()
        self._seen = torch.bincount(before, minlength=vocab_size).double()  # n(v)
        self._kinds = torch.bincount(pairs // vocab_size, minlength=vocab_size).double()  # t(v)

    def loss(self, context: Tensor, target: Tensor) -> Tensor:
        """-ln p(target | the token before), (B, T) float32; context and target are (B, T) int64."""
        before, after = context.cpu(), target.cpu()
        wanted = before * self._size + after
        place = torch.searchsorted(self._pairs, wanted).clamp_max(max(len(self._pairs) - 1, 0))
        if len(self._pairs):
            count = torch.where(self._pairs[place] == wanted, self._counts[place], 0.0)
        else:
            count = torch.zeros(wanted.shape, dtype=torch.float64)
        kinds, seen = self._kinds[before], self._seen[before]
        backed_off = self._unigram[after]
        known = kinds > 0
        probability = torch.where(known, (count + kinds * backed_off) / (seen + kinds).clamp_min(1), backed_off)
        return -probability.log().float().to(target.device)
