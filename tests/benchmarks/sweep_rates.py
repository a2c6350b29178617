"""Which learning rate suits a kind: short trainings of a recipe at several rates, judged on the val split.

`python tests/benchmarks/sweep_rates.py --data data/clips --recipes video_rnn_3xs --rates 1e-3 2e-3 --updates 300`
prints a row per recipe. The seed is the first; the test split is not touched.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pinned import Job, train_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", required=True)
    parser.add_argument("--rates", nargs="+", type=float, required=True)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"))
    asked = parser.parse_args()
    jobs = [
        Job(
            [
                recipe,
                f"train.learning_rate={rate}",
                f"train.steps={asked.updates}",
                f"train.warmup={asked.updates // 10}",
                f"train.validate_every={max(1, asked.updates // 3)}",
            ],
            asked.out / f"{recipe}-{rate:g}-{asked.updates}",
        )
        for recipe in asked.recipes
        for rate in asked.rates
    ]
    reports = iter(train_all(jobs, asked.data))
    for recipe in asked.recipes:
        losses = {rate: next(reports)["val_loss"] for rate in asked.rates}
        best = min(losses, key=lambda rate: losses[rate])
        print(f"{recipe}: " + ", ".join(f"{rate:g} {loss:.4f}" for rate, loss in losses.items()) + f"; best {best:g}")


if __name__ == "__main__":
    main()
