"""Four kinds of world model at equal parameters, equal FLOPs and equal seconds, over several seeds.

`python tests/benchmarks/study_kinds.py --data data/clips --updates 300` trains the energy model for so many updates,
and every rival of as many parameters three times: for as many updates, as many FLOPs, as many seconds of updating. It
prints a table (markdown) of test losses and writes study.json; called again it goes on where it was.
"""

# S seeds

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pinned import Job, train_all
from scipy.stats import t as student

from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.data.store import open_set
from ebwm_cli.run.report import EvalReport

RIVALS = ("transformer", "rnn", "diffusion")
BUDGETS = ("updates", "flops", "seconds")
COLUMNS = ["kind, budget", "loss of each seed", "mean", "minus ebt, 95 % over seeds", "parameters", "training FLOPs"]
COLUMNS += ["seconds", "per state"]


def write_recipes(folder: Path, modality: str, size: str, updates: int) -> None:
    """The recipes of the study, one file per kind and budget but seconds, which are known later."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = f"train:\n  steps: {updates}\n  warmup: {max(1, updates // 10)}\n"
    settings += f"  validate_every: {max(1, updates // 4)}\n"
    (folder / "ebt.yaml").write_text(f"extends: {modality}_ebt_{size}\n{settings}")
    own = (folder / "ebt.yaml").resolve()
    for kind in RIVALS:
        for budget in ("updates", "flops"):
            match = f"model:\n  match:\n    params: 1\n    of: {own}\n"
            match += "    flops: 1\n" if budget == "flops" else ""
            (folder / f"{kind}-{budget}.yaml").write_text(f"extends: {modality}_{kind}_{size}\n{match}{settings}")


def energy_jobs(folder: Path, seeds: int) -> list[Job]:
    return [Job([str(folder / "ebt.yaml"), f"seed={seed}"], folder / f"ebt-{seed}") for seed in range(seeds)]


def rival_jobs(folder: Path, energies: list[dict[str, Any]]) -> Iterator[Job]:
    """Of every budget, seed and kind, what a clock ends last; `energies` (S,) are the reports of the energy model's
    trainings."""
    for budget, (seed, known), kind in product(BUDGETS, enumerate(energies), RIVALS):
        recipe, words = folder / f"{kind}-{budget}.yaml", [f"seed={seed}"]
        if budget == "seconds":  # numbers, as they are known now
            recipe = folder / f"{kind}-updates.yaml"
            words += ["model.match.of=null", f"model.match.params={known['params']}"]
            words += [f"model.match.seconds={known['updating_seconds']:.2f}"]
        yield Job([str(recipe), *words], folder / f"{kind}-{budget}-{seed}")


def compare(folder: Path, data: Path, seeds: int) -> list[EvalReport]:
    """The test split, touched once: every run of a seed against the energy model of that seed."""
    names = [f"{kind}-{budget}" for kind in RIVALS for budget in BUDGETS]
    reports = []
    for seed in range(seeds):
        against = [folder / f"{name}-{seed}" for name in names]
        *_, report = evaluate(folder / f"ebt-{seed}", data=data, against=against, steps=(), samples=(), device="cpu")
        assert isinstance(report, EvalReport)
        reports.append(report)
    return reports


def summary(reports: list[EvalReport]) -> list[dict[str, Any]]:
    """A row per run over all seeds: means, and the 95 % t interval of this minus the energy model over seeds."""
    rows = []
    for place, name in enumerate(["ebt", *(f"{kind}-{budget}" for kind in RIVALS for budget in BUDGETS)]):
        found = [report.comparison[place] for report in reports]
        losses = np.array([each.loss for each in found])
        row: dict[str, Any] = {
            "name": name,
            "losses": losses.tolist(),
            "loss": float(losses.mean()),
            "params": found[0].params,
            "train_flops": float(np.mean([each.train_flops for each in found])),
            "train_seconds": float(np.mean([each.train_seconds for each in found])),
            "seconds_per_state": float(np.median([each.seconds_per_state for each in found])),
        }
        if place:
            apart = losses - np.array([report.comparison[0].loss for report in reports])
            half = float(student.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart)))
            mean = float(apart.mean())
            row["minus_ebt"], row["ci95"] = mean, [mean - half, mean + half]
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], reports: list[EvalReport]) -> str:
    known = ", ".join(f"{row.name} {row.loss:.4f}" for row in reports[0].references)
    lines = [
        f"{reports[0].windows} test windows; {known}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        apart = f"{row['minus_ebt']:+.4f} ({row['ci95'][0]:+.4f} … {row['ci95'][1]:+.4f})" if "ci95" in row else ""
        losses = " ".join(f"{loss:.4f}" for loss in row["losses"])
        cells = [row["name"].replace("-", ", "), losses, f"{row['loss']:.4f}", apart, f"{row['params'] / 1e6:.2f} M"]
        cells += [
            f"{row['train_flops']:.2e}",
            f"{row['train_seconds']:.0f}",
            f"{row['seconds_per_state'] * 1e3:.2f} ms",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", default="3xs")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    folder = asked.out or Path("runs") / f"study-{asked.data.name}"
    write_recipes(folder, open_set(asked.data).spec.modality, asked.size, asked.updates)
    energies = train_all(energy_jobs(folder, asked.seeds), asked.data)
    train_all(list(rival_jobs(folder, energies)), asked.data)
    reports = compare(folder, asked.data, asked.seeds)
    rows = summary(reports)
    (folder / "study.json").write_text(json.dumps(rows, indent=2))
    print(markdown(rows, reports))


if __name__ == "__main__":
    main()
