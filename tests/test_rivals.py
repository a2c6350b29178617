"""The rivals are strong ones: as good as the same size in plain blocks, and no worse than copying the last.

A baseline that was built carelessly would make any other model look well. So the transformer is held against one
written here with torch's own layers, trained with the same optimizer on the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from kinds import rng, section_of
from small_set import CONTEXT, make_set
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.data.loader import Loader
from ebwm_cli.recipe.model import TransformerSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection, TrainSection
from ebwm_cli.run.held_out_loss import HeldOutWindows
from ebwm_cli.world.build import build_world, count_parameters
from ebwm_cli.world.optim import build_optimizer, set_learning_rate

# ------------------------------------------------------------------------------------------------- text

VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS, FFN = 8, 24, 32, 2, 2, 64
TRAIN = TrainSection(steps=400, batch_size=16, learning_rate=8e-3, warmup=40)


TABLE = np.random.default_rng(5).dirichlet(np.full(VOCABULARY, 0.12), (VOCABULARY, 2))
"""Probabilities of the next token after one token, and one of either half three before."""


def chain(seed: int, tokens: int) -> np.ndarray:
    """Tokens that depend on the one before and on the one three before."""
    dice, text = np.random.default_rng(seed).random(tokens), np.zeros(tokens, np.int64)
    edges = TABLE.cumsum(-1)
    for i in range(3, tokens):
        text[i] = min(np.searchsorted(edges[text[i - 1], text[i - 3] // 4], dice[i]), VOCABULARY - 1)
    return text


def batches(text: np.ndarray, steps: int, batch: int, seed: int) -> list[Tensor]:
    dice = np.random.default_rng(seed)
    starts = dice.integers(0, len(text) - LENGTH - 1, (steps, batch))
    return [torch.from_numpy(np.stack([text[at : at + LENGTH + 1] for at in row])) for row in starts]


class PlainBlock(nn.Module):
    """x + attention(norm(x)), x + swiglu(norm(x)), of torch's own parts."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.ffn_norm = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(WIDTH, FFN, bias=False), nn.Linear(WIDTH, FFN, bias=False)
        self.down = nn.Linear(FFN, WIDTH, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        h = self.attn_norm(x)
        split = [layer(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        query, key = (rotated(part, turn) for part in split[:2])
        attended = F.scaled_dot_product_attention(query, key, split[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions as complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2)


class PlainTransformer(nn.Module):
    """A language model as it is usually written: embedding and output tied, every matrix of std 1 / sqrt(W)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=WIDTH**-0.5)

    def losses(self, tokens: Tensor) -> Tensor:
        size = WIDTH // HEADS
        angle = torch.arange(LENGTH)[:, None] * 10_000.0 ** (-torch.arange(0, size, 2) / size)
        turn, x = torch.polar(torch.ones_like(angle), angle), self.embedding(tokens[:, :-1])
        for block in self.blocks:
            x = block(x, turn)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def copied(network: nn.Module, table: Tensor) -> PlainTransformer:
    """The plain form of a trunk and a table of embeddings."""
    model, halves = PlainTransformer(), torch.arange(WIDTH // HEADS).view(2, -1)
    # Rotary pairs are (i, i + H/2) there, (2i, 2i + 1) here.
    rows = (torch.arange(HEADS)[:, None] * (WIDTH // HEADS) + halves.T.flatten()).flatten()
    for here, there in zip(model.blocks, network.trunk.blocks, strict=True):
        query, key, value = there.qkv.weight.chunk(3)
        gate, up = there.gate_up.weight.chunk(2)
        named = {
            "query.weight": query[rows], "key.weight": key[rows], "value.weight": value,
            "out.weight": there.attn_out.weight, "gate.weight": gate, "up.weight": up, "down.weight": there.down.weight,
            "attn_norm.weight": there.attn_norm.weight, "ffn_norm.weight": there.ffn_norm.weight,
        }  # fmt: skip
        here.load_state_dict(named)
    model.norm.load_state_dict(network.trunk.norm.state_dict())
    model.embedding.load_state_dict({"weight": table})
    return model


def ours(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = TransformerSection(width=WIDTH, layers=LAYERS, heads=HEADS, ffn_multiplier=FFN / WIDTH)
    return build_world(model, StateSpec(modality="text", state_dim=VOCABULARY, context=LENGTH))


def train(model: nn.Module, loss: Callable[[Tensor], Tensor], data: Iterable[Tensor], rules: TrainSection) -> None:
    optimizer = build_optimizer(model, rules)
    for step, states in enumerate(data):
        optimizer.zero_grad()
        loss(states).backward()
        nn.utils.clip_grad_norm_(model.parameters(), rules.clip_norm)
        set_learning_rate(optimizer, step, rules)
        optimizer.step()


def test_with_the_same_weights_it_says_the_same_as_plain_blocks():
    world = ours(0)
    with torch.no_grad():
        for parameter in world.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
        torch.nn.init.eye_(world.space.turn)  # a tied output layer as it is usually written has none
    model = copied(world.network, world.space.observed_table)
    tokens = torch.randint(0, VOCABULARY, (5, LENGTH + 1), generator=rng())
    world.space.scale = 1.0  # a plain embedding enters as it is
    logits = world.predict(world.observe(tokens[:, :-1]), ThinkSection(), rng()).state
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    assert torch.allclose(losses, model.losses(tokens), atol=1e-5)
    assert torch.allclose(world.loss(tokens, rng())[0], model.losses(tokens).mean(), atol=1e-6)


def test_on_text_it_learns_as_well_as_plain_blocks_do():
    text, other = chain(0, 60_000), chain(1, 8_000)
    unseen = torch.from_numpy(other[: len(other) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1))
    nats: dict[str, list[float]] = {"ours": [], "plain": []}
    for seed in (0, 1):
        data = batches(text, TRAIN.steps, TRAIN.batch_size, seed)
        world = ours(seed)
        train(world, lambda tokens: world.loss(tokens, rng())[0], data, TRAIN)  # noqa: B023
        torch.manual_seed(seed)
        model = PlainTransformer()
        train(model, lambda tokens: model.losses(tokens).mean(), data, TRAIN)  # noqa: B023
        own, usual = count_parameters(world.parameters()), count_parameters(model.parameters())
        assert own == usual + WIDTH**2  # the matrix before the output layer
        with torch.no_grad():
            nats["ours"].append(world.loss(unseen, rng())[0].item())
            nats["plain"].append(model.losses(unseen).mean().item())
    truth = -np.log(TABLE[other[2:-1], other[:-3] // 4, other[3:]]).mean()
    mine, theirs = (math.exp(float(np.mean(nats[name]))) for name in ("ours", "plain"))
    assert math.exp(truth) < theirs < 1.15 * math.exp(truth)  # a rival that has learned
    assert mine < 1.03 * theirs


# ------------------------------------------------------------------------------------------------ video


@pytest.mark.parametrize(("kind", "steps"), [("transformer", 200), ("gru", 200), ("diffusion", 400)])
def test_on_video_a_short_training_beats_copying_the_last_state(kind, steps, tmp_path):
    """On held-out windows of squares that move at constant speed."""
    prepared, rules = (
        make_set(tmp_path / "set", clips=42),
        TrainSection(steps=steps, batch_size=16, learning_rate=3e-3, warmup=15),
    )
    torch.manual_seed(0)
    world = build_world(section_of(kind, "video", width=32, motion=1.0), prepared.spec)
    loader = Loader(prepared.split("train"), rules.batch_size, 0, CONTEXT)
    draws = rng()
    train(
        world, lambda states: world.loss(states, draws)[0], (loader.batch(i).states for i in range(rules.steps)), rules
    )
    held_out = HeldOutWindows(prepared.split("val"), CONTEXT, 64, torch.device("cpu"))
    score = held_out.score(world, ThinkSection(steps=1), 0, lambda: False)
    assert score is not None
    assert score.loss <= held_out.loss_of(world.space.copying())
