"""How sure a thought is: do its samples agree, is its energy low beside others, what else might it have said.

agreement = share of samples that commit to the answer's state, or mean pairwise distance over the distance moved;
rank = share of other energies above the answer's. Works through `WorldModel` and `StateSpace`; knows no kind of either.
"""

# M samples, D state size, V vocabulary, N energies or rows

from __future__ import annotations

import torch
from torch import Tensor

from ebwm_cli.data.encoders import Tokenizer
from ebwm_cli.data.store import Split
from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.measure import HeldOut, held_out_batches

RANKED = 512
"""Held-out predictions that an energy is ranked among, at most; fewer where each takes several samples."""
RANKED_PER_WINDOW = 16
"""Of one window at most, those with the longest past: what has seen little is another matter."""
SURE = 0.99
"""Probability of a state that is only ever approached, where it counts as reached."""
WAY = 401
"""Candidates tried on the way there."""


def committed_share(space: StateSpace, samples: Tensor, answer: Tensor) -> float | None:
    """Share of samples (M, D) that commit to the state that `answer` (D,) does; None where there is one sample, or
    where states are not picked from a list, so that none is ever hit exactly."""
    if len(samples) < 2 or space.copying() is not None:
        return None
    return (space.commit(samples) == space.commit(answer)).double().mean().item()


def relative_spread(space: StateSpace, samples: Tensor, answer: Tensor, last: Tensor) -> float | None:
    """Mean distance between two of the samples (M, D), over the distance from the newest state `last` (D,) to `answer`
    (D,); None where there is one sample, where no state can be copied, or where nothing moved."""
    copying = space.copying()
    if len(samples) < 2 or copying is None:
        return None
    ends = space.commit(samples)
    pairs = [
        space.distance(samples[None, i + 1 :], ends[None, i : i + 1].expand_as(ends[None, i + 1 :]))[0]
        for i in range(len(samples) - 1)
    ]
    moved = copying.loss(last[None, None], space.commit(answer)[None, None]).item()
    return torch.cat(pairs).double().mean().item() / moved if moved > 0 else None


def rank(energy: float, others: Tensor) -> tuple[float | None, int]:
    """Share of the energies `others` (N,) that lie above `energy`, and how many of them are numbers; None of none."""
    known = others[others.isfinite()]
    return ((known > energy).double().mean().item() if len(known) else None), len(known)


@torch.no_grad()
def held_out_energies(loaded: LoadedWorld, split: Split, think: ThinkSection, seed: int) -> Tensor:
    """Final energies (N,) of predictions on at most RANKED positions of `split`, from windows spread evenly over it;
    empty where it holds no window of the context."""
    if not len(split.windows(loaded.spec.context)):
        return torch.empty(0)
    stride = max(1, min(loaded.spec.context // 2, RANKED_PER_WINDOW))
    most = max(1, RANKED // think.samples // stride)
    rng = torch.Generator().manual_seed(seed)
    found = []
    for states in held_out_batches(loaded, HeldOut(split, stride, most), think.samples):
        memory = loaded.world.observe(states[:, :-1])
        found.append(loaded.world.predict(memory, think, rng, positions=stride).energy.flatten().cpu())
    return torch.cat(found)


def candidate_of(space: StateSpace, start: Tensor, truth: Tensor) -> Tensor:
    """The candidate (D,) that stands for a true state `truth` (...), seen from `start` (D,): the state itself; of a
    token, whose logits could grow for ever, the first on a straight way that gives it a probability of SURE."""
    certain = space.certain(truth[None, None])[0, 0].to(start)  # (D,)
    if not space.in_nats:
        return certain
    way = start + torch.linspace(0, 1, WAY)[:, None] * (certain - start)  # (WAY, D)
    probability = (-space.distance(way[None], truth.expand(1, WAY))[0]).exp()
    sure = (probability >= SURE).nonzero()
    return way[int(sure[0])] if len(sure) else certain


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row of logits (N, V): probabilities and tokens, (N, count) each."""
    chances, tokens = logits.double().softmax(-1).topk(min(count, logits.shape[-1]), dim=-1)
    return chances, tokens


def token_labels(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    """Each token alone as text; bytes that are no character alone are spelled out, as several look the same else."""
    spelled = [tokenizer.token_bytes(token).decode("utf-8", "backslashreplace") for token in tokens]
    return [text or name for text, name in zip(spelled, tokenizer.token_names(tokens), strict=True)]
