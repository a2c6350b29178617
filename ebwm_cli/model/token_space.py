"""Text: a candidate is a vector of logits z over the vocabulary, and the energy sees the expected embedding p E.

p = softmax(z), E the table of embeddings; dE/dp = (dE/de) E^T at e = p E, so a gradient never has more than W numbers
on its way through the network. Knows no network and no tokenizer.
"""

# B batch, T observed positions, T' candidate positions, V vocabulary, W width

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.model.distribution import cross_entropy, expected_embedding, relative_entropy
from ebwm_cli.model.ngram import Bigram, Unigram
from ebwm_cli.model.product import product
from ebwm_cli.model.references import References
from ebwm_cli.model.state_space import NEAR_MISS, gaussian, uniform

SURE = 80.0
"""A logit beside which others at 0 vanish: exp(-80) V is nothing, and yet no subnormal float, which processors are slow
with."""
LEAST = 1e-9
"""Smallest probability that a logit is taken of."""


class TokenSpace(nn.Module):
    """Tokens (B, T) int64; candidates (B, T', V) logits; points (B, T', W) expected embeddings.

    `rule` is how logits move, with anchor lambda towards z0 where descent has one:

    | rule | move | at rest where |
    |---|---|---|
    | `mirror` | z <- z - alpha dE/dp, mirror descent (Beck & Teboulle 2003) | dE/dp = kappa (z0 - z) |
    | `logits` | z <- z - alpha dE/dz, dE/dz = p (dE/dp - <p, dE/dp>) | dE/dz = kappa (z0 - z) |
    | `replace` | z <- p - alpha dE/dp, the published form (EBT, arXiv 2507.02092) | z = p - alpha dE/dp |

    `start` is `zeros` (uniform), `noise`, or `forecast` (the output layer of an autoregressive transformer, trained
    with its own loss). Embeddings enter at unit size per channel: the table has std 1 / sqrt(W), scaled by sqrt(W).
    `head`: whether hidden states are read out; by a `shared` table through a matrix that starts orthogonal, as what
    remembers a token lies along its embedding, and the table alone would begin by expecting every token again.
    """

    in_nats = True
    clue_count = average_count = 0
    tried_count = 1
    numbers = 1
    alike = 1.0  # nat
    doubt_name = "entropy of the prediction"

    def __init__(
        self,
        vocab_size: int,
        width: int,
        start: str = "zeros",
        rule: str = "mirror",
        table: str = "shared",
        *,
        candidates: bool = True,
        head: bool = False,
    ) -> None:
        """`candidates`: whether some enter the network."""
        super().__init__()
        self.start_kind = start
        self.forecasts = start == "forecast"
        self.scale = math.sqrt(width)
        self.unit = 1 / self.scale
        # One of V tokens is told from the others through noise sqrt(W / (2 ln V)) times its size.
        self.noise_shift = math.sqrt(width / (2 * math.log(max(vocab_size, 2))))
        self.vocab_size = vocab_size
        self._rule: Callable[[Tensor, Tensor, float | Tensor], Tensor] = {
            "mirror": self._downhill,
            "logits": self._along_logits,
            "replace": self._replace,
        }[rule]
        self.observed_table = nn.Parameter(torch.empty(vocab_size, width))
        nn.init.normal_(self.observed_table, std=self.unit)
        self.own_table = nn.Parameter(torch.empty(vocab_size, width)) if table == "own" else None
        if self.own_table is not None:
            nn.init.normal_(self.own_table, std=self.unit)
        turned = (head or self.forecasts) and self.own_table is None
        self.turn = nn.Parameter(torch.empty(width, width)) if turned else None
        if self.turn is not None:
            nn.init.orthogonal_(self.turn)
        # What a uniform candidate reads as: its expected embedding is nearly nothing, which a norm would blow up.
        self.undecided = nn.Parameter(torch.empty(width)) if candidates else None
        if self.undecided is not None:
            nn.init.normal_(self.undecided, std=1.0)

    @property
    def table(self) -> nn.Parameter:
        """Embeddings of candidates, and the output layer of forecasts, (V, W)."""
        return self.observed_table if self.own_table is None else self.own_table

    def embed_observed(self, states: Tensor, before: Tensor) -> Tensor:
        """Tokens (B, T) -> (B, T, W); the tokens before them are seen by attention anyway."""
        return F.embedding(states, self.observed_table) * self.scale

    def embed_candidate(self, point: Tensor) -> Tensor:
        """Expected embeddings (B, T', W) -> (B, T', W)."""
        assert self.undecided is not None
        return torch.add(self.undecided, point, alpha=self.scale)

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """The candidates' table, the vector of the undecided, and the matrix before the output layer."""
        return [each for each in (self.table, self.undecided, self.turn) if each is not None]

    def start(self, states: Tensor, hidden: Tensor, rng: torch.Generator) -> Tensor:
        """Logits (B, T', V) before step 0, after tokens (B, T') whose hidden states are (B, T', W)."""
        if self.forecasts:
            return self.forecast(states, hidden)
        if self.start_kind == "noise":
            return gaussian((*states.shape, self.vocab_size), rng, self.observed_table)
        return self.blank(states)

    def forecast(self, states: Tensor, hidden: Tensor) -> Tensor:
        """Logits h A E^T, (B, T', V): an output layer; A is the identity where the table is its own."""
        if self.turn is not None:
            hidden = hidden @ self.turn.to(hidden.dtype)
        return product(hidden, self.table.to(hidden.dtype)).to(self.table.dtype)

    def blank(self, states: Tensor) -> Tensor:
        """Zeros: all tokens alike."""
        table = self.observed_table
        return torch.zeros((*states.shape, self.vocab_size), device=table.device, dtype=table.dtype)

    def point_of(self, states: Tensor) -> Tensor:
        """The tokens' own embeddings."""
        return F.embedding(states, self.table)

    def point(self, candidate: Tensor) -> Tensor:
        """p E, (B, T', W)."""
        return expected_embedding(candidate, self.table)

    def move(self, candidate: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """The logits after a move against `gradient` (B, T', W) = dE/d(p E)."""
        return self._rule(candidate, gradient, length)

    def divergence(self, candidate: Tensor, start: Tensor) -> Tensor:
        """KL(softmax(candidate), softmax(start)) in nats, (B, T')."""
        return relative_entropy(candidate, start)

    def distance(self, candidate: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy -ln softmax(candidate)[target] in nats, (B, T')."""
        return cross_entropy(candidate, target)

    def commit(self, candidate: Tensor) -> Tensor:
        """The likeliest token, (B, T')."""
        return candidate.argmax(-1)

    def certain(self, states: Tensor) -> Tensor:
        """Logits so high for the token that all others have no probability."""
        return self.blank(states).scatter_(-1, states[..., None], SURE)

    def near_miss(self, states: Tensor, rng: torch.Generator, share: float = NEAR_MISS) -> Tensor:
        """Logits of probability `share` for one other token, and all the rest of it for the true one."""
        further = torch.randint(1, self.vocab_size, states.shape, generator=rng, device=rng.device)
        other = (states + further.to(states.device)) % self.vocab_size
        logits = self.blank(states)
        logits.scatter_(-1, states[..., None], SURE + math.log(1 - share))
        return logits.scatter_(-1, other[..., None], SURE + math.log(share))

    def near_miss_words(self, share: float = NEAR_MISS) -> str:
        """Another token, and its probability."""
        return f"distributions with {share:.0%} on a random other token"

    def average(self, candidates: Tensor) -> Tensor:
        """Logits of the mean distribution of the samples, (B, T', M, V) -> (B, T', V)."""
        return candidates.log_softmax(-1).logsumexp(-2) - math.log(candidates.shape[-2])

    def doubt(self, candidate: Tensor, states: Tensor) -> Tensor:
        """Entropy of the prediction in nats, (B, T')."""
        log_p = candidate.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def between(self, start: Tensor, target: Tensor, noise: float, rng: torch.Generator) -> Tensor:
        """ln((1 - u) softmax(z0 + noise * eps) + u onehot(w)), u uniform in [0, 1), for w the true token or, in one
        case of two, another."""
        shape, like = target.shape, start
        share = uniform((*shape, 1), rng, like)
        other = torch.randint(self.vocab_size, shape, generator=rng, device=rng.device).to(target.device)
        word = torch.where(uniform(shape, rng, like) < 0.5, target, other)
        p = (start + noise * gaussian(start.shape, rng, like)).softmax(-1).mul_(1 - share)
        return p.scatter_add_(-1, word[..., None], share).clamp_min_(LEAST).log_()

    def ideal_energy(self, candidate: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy in nats, (B, T')."""
        return cross_entropy(candidate, target)

    def clues(self, states: Tensor, starts: Callable[[], Tensor]) -> Tensor:
        """None: (B, T, 0)."""
        return self.observed_table.new_zeros(*states.shape, 0)

    def clues_tried(self, tried: Tensor) -> Tensor:
        """Logarithms (B, P, 1) of their entropies: what is undecided is hard to foresee."""
        return (self.doubt(tried, tried) + self.alike).log().unsqueeze(-1)

    def copying(self) -> None:
        """A token says nothing of being the next one too."""

    def references(self, training: Tensor) -> References:
        """Bigram and unigram counts of the training tokens (N,)."""
        unigram, bigram = Unigram(training, self.vocab_size), Bigram(training, self.vocab_size)
        return References({"bigram": bigram, "unigram": unigram}, mean="unigram")

    # ------------------------------------------------------------------------------------------ rules

    def _along_logits(self, logits: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        p, by_p = logits.softmax(-1), product(gradient, self.table)
        return logits - length * p * (by_p - (p * by_p).sum(-1, keepdim=True))

    def _replace(self, logits: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        return self._downhill(logits.softmax(-1), gradient, length)

    def _downhill(self, begin: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """begin - length dE/dp, in the one tensor that the product makes."""
        return product(-length * gradient, self.table).add_(begin)
