"""Speed of the two-pass model against the straightforward two-stream form, measured in one run.

`python tests/benchmarks/bench_model.py` prints ratios. The straightforward form (tests/naive.py) recomputes both
streams at every descent step under a dense mask and keeps one graph for all steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import naive

from ebwm_cli.recipe.model import DescentSection, EbtSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.world.build import build_world
from ebwm_cli.world.costs import trunk_flops

SIZE = {"layers": 6, "width": 384, "heads": 6}


def world_of(context: int, steps: int = 2):
    torch.manual_seed(0)
    rules = DescentSection(steps=steps, free_steps=(0, 0), anchor=0.0)
    return build_world(EbtSection(**SIZE, descent=rules), StateSpec(state_dim=384, context=context))


def best_of(repeats: int, *runs) -> list[float]:
    """Least seconds of each run, taken in turns so that all meet the same machine."""
    least = [float("inf")] * len(runs)
    for run in runs:
        run()
    for _ in range(repeats):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run()
            least[i] = min(least[i], time.perf_counter() - began)
    return least


def ours(world, states):
    def step():
        world.zero_grad()
        world.loss(states, torch.Generator().manual_seed(0))[0].backward()

    return step


def straightforward(world, states, steps: int = 2):
    def step():
        world.zero_grad()
        context, target = states[:, :-1], states[:, 1:]
        candidate, loss = context, 0.0
        for _ in range(steps):
            candidate = candidate.detach().requires_grad_()
            observed = world.space.embed_observed(context, context)
            energy = naive.two_stream_energy(world.network, observed, world.space.embed_candidate(candidate))
            (gradient,) = torch.autograd.grad(energy.sum(), candidate, create_graph=True)
            candidate = candidate - world.step_size * gradient
            loss = loss + world.space.distance(candidate, target).mean() / steps
        loss.backward()

    return step


def training(batch: int, context: int, repeats: int) -> dict[str, float]:
    world, states = world_of(context), torch.randn(batch, context + 1, 384)
    half = world_of(context)
    half.set_precision("bf16")
    fast, slow, bf16 = best_of(repeats, ours(world, states), straightforward(world, states), ours(half, states))
    return {"seconds": fast, "times_faster": slow / fast, "bf16_times_faster": fast / bf16}


def thinking(repeats: int, steps: int = 8) -> dict[str, float]:
    world, states = world_of(16), torch.randn(32, 16, 384)
    think = ThinkSection(steps=steps)

    @torch.no_grad()
    def fast():
        world.predict(world.observe(states), think, torch.Generator())

    def slow():
        candidate = states
        for _ in range(steps):
            candidate = candidate.detach().requires_grad_()
            with torch.no_grad():
                observed = world.space.embed_observed(states, states)
            energy = naive.two_stream_energy(world.network, observed, world.space.embed_candidate(candidate))
            (gradient,) = torch.autograd.grad(energy.sum(), candidate)
            candidate = candidate.detach() - world.step_size.detach() * gradient
        with torch.no_grad():
            naive.two_stream_energy(world.network, states, candidate)

    quick, plain = best_of(repeats, fast, slow)
    return {"seconds": quick, "times_faster": plain / quick}


def rollout(repeats: int, context: int = 256, steps: int = 2) -> dict[str, float]:
    """One more state, 256 being known: appended to a Memory, or everything computed again."""
    world, states = world_of(context), torch.randn(1, context, 384)
    think, rng = ThinkSection(steps=steps), torch.Generator()
    with torch.no_grad():
        memory = world.observe(states[:, :-1])

        @torch.no_grad()
        def fast():
            world.predict(world.observe(states[:, -1:], memory), think, rng, positions=1)

        def slow():
            candidate = states
            for _ in range(steps):
                candidate = candidate.detach().requires_grad_()
                with torch.enable_grad():
                    energy = naive.two_stream_energy(world.network, states, world.space.embed_candidate(candidate))
                    (gradient,) = torch.autograd.grad(energy.sum(), candidate)
                candidate = candidate.detach() - gradient
            naive.two_stream_energy(world.network, states, candidate)

        quick, plain = best_of(repeats, fast, slow)
    return {"seconds": quick, "times_faster": plain / quick}


def matmul_share(batch: int, context: int, repeats: int) -> dict[str, float]:
    """FLOPs per second of a training step over those of bare matrix products of the trunk's shapes."""
    world, states = world_of(context), torch.randn(batch, context + 1, 384)
    rows = batch * context
    factors = [
        (torch.randn(rows, 384), torch.randn(384, 1152)),
        (torch.randn(rows, 384), torch.randn(384, 384)),
        (torch.randn(rows, 384), torch.randn(384, 768)),
        (torch.randn(rows, 384), torch.randn(384, 384)),
    ]

    def bare():
        for _ in range(20):
            for a, b in factors:
                a @ b

    step, plain = best_of(repeats, ours(world, states), bare)
    flops = (3 + 2 * 6) * batch * trunk_flops(world.model, context, context)
    bare_flops = 20 * sum(2.0 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in factors)
    return {
        "gflops": flops / step / 1e9,
        "bare_gflops": bare_flops / plain / 1e9,
        "share": flops / step / (bare_flops / plain),
    }


def peak_megabytes(steps: int) -> float:
    """Peak memory that a few training steps add, in a process of their own."""
    command = [sys.executable, __file__, "--peak", str(steps)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(steps: int) -> None:
    world, states = world_of(256, steps), torch.randn(8, 257, 384)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        ours(world, states)()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return measure_peak(args.peak)
    one, eight = peak_megabytes(1), peak_megabytes(8)
    report = {
        "train_32x16": training(32, 16, args.repeats),
        "train_1x1024": training(1, 1024, max(args.repeats // 2, 2)),
        "think_8_steps": thinking(args.repeats),
        "rollout_context_256": rollout(args.repeats),
        "matmul_share_32x16": matmul_share(32, 16, args.repeats),
        "matmul_share_1x1024": matmul_share(1, 1024, max(args.repeats // 2, 2)),
        "peak_memory": {"steps_1_mb": one, "steps_8_mb": eight, "ratio": eight / one},
    }
    print(json.dumps({k: {n: round(x, 3) for n, x in v.items()} for k, v in report.items()}, indent=2))
    return None


if __name__ == "__main__":
    main()
