"""Text at vocabulary 8,192, width 384, 6 layers, context 256: what descent costs beside the same trunk without it.

`python tests/benchmarks/bench_text.py` prints ratios taken in one run: a training step against a plain autoregressive
transformer's (same trunk, same output layer), its peak memory, cached generation against the straightforward form
(tests/naive.py: both streams run again at every descent step, for all positions) and against observing everything once
more per token, and the peak memory of one step at a vocabulary of 50,257.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import naive
from bench_model import best_of

from ebwm_cli.recipe.model import DescentSection, EbtSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.world.build import build_world

SIZE = {"layers": 6, "width": 384, "heads": 6}
CONTEXT, VOCABULARY = 256, 8192
THINK = ThinkSection(steps=2)


def world_of(descends: bool, vocabulary: int = VOCABULARY):
    torch.manual_seed(0)
    rules = DescentSection(steps=2 if descends else 0, free_steps=(0, 0), anchor=0.9, step_control="fixed")
    section = EbtSection(**SIZE, start="zeros" if descends else "forecast", compatibility=descends, descent=rules)
    return build_world(section, StateSpec(modality="text", state_dim=vocabulary, context=CONTEXT))


def step_of(descends: bool, batch: int, vocabulary: int = VOCABULARY):
    world = world_of(descends, vocabulary)
    states = torch.randint(0, vocabulary, (batch, CONTEXT + 1))

    def step():
        world.zero_grad()
        world.loss(states, torch.Generator().manual_seed(0))[0].backward()

    return step


def training(batch: int, repeats: int) -> dict[str, float]:
    ours, plain = best_of(repeats, step_of(True, batch), step_of(False, batch))
    return {"seconds": round(ours, 3), "transformer_seconds": round(plain, 3), "times": round(ours / plain, 2)}


def generation(repeats: int, at: int = 200) -> dict[str, float]:
    """One more token after `at`: remembered, or everything run again."""
    world = world_of(True)
    tokens = torch.randint(0, VOCABULARY, (1, at))
    rng = torch.Generator().manual_seed(0)
    memory = world.observe(tokens[:, :-1])

    def cached():
        with torch.no_grad():
            world.predict(world.observe(tokens[:, -1:], memory), THINK, rng, positions=1)

    def recomputed():
        with torch.no_grad():
            world.predict(world.observe(tokens), THINK, rng)

    def straightforward():
        space, logits = world.space, torch.zeros(1, at, VOCABULARY)
        observed = space.embed_observed(tokens, tokens).detach()
        for _ in range(THINK.steps):
            point = space.point(logits).detach().requires_grad_()
            energy = naive.two_stream_energy(world.network, observed, space.embed_candidate(point))
            (gradient,) = torch.autograd.grad(energy.sum(), point)
            with torch.no_grad():
                logits = space.move(logits, gradient, 1.0) - 0.9 * logits
        with torch.no_grad():
            naive.two_stream_energy(world.network, observed, space.embed_candidate(space.point(logits)))

    plain, slow, fast = best_of(repeats, straightforward, recomputed, cached)
    return {
        "tokens_per_second": round(1 / fast, 1),
        "times_faster": round(plain / fast, 1),
        "times_faster_than_observing_again": round(slow / fast, 1),
    }


def peak_memory(batch: int) -> dict[str, float]:
    ours, plain = (_peak(["--peak", kind, "--batch", str(batch)]) for kind in ("descent", "plain"))
    return {"mb": ours, "transformer_mb": plain, "times": round(ours / plain, 2)}


def _peak(words: list[str]) -> float:
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", choices=["descent", "plain"], help="take one step, print the peak memory in MB")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    asked = parser.parse_args()
    if asked.peak:
        step_of(asked.peak == "descent", asked.batch, asked.vocabulary)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    found = {  # memory first: a child begins with its parent's peak
        "peak_memory": peak_memory(asked.batch),
        "peak_at_50257_mb": _peak(["--peak", "descent", "--vocabulary", "50257", "--batch", "8"]),
        "train_8x256": training(asked.batch, asked.repeats),
        "generate_at_200": generation(asked.repeats * 4),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
