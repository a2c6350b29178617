"""One option at a time, on and off: what it does to the loss, to thinking longer, and to what energies mean.

`python tests/benchmarks/ablate.py recipes/ablation/video.yaml --data data/clips` trains every variant over the seeds
of the study, a core each, and prints a row (markdown) per variant, means over seeds: of the val split, as choices are
made by it, or with `--split test`. Called again it goes on where it was; `--only` names variants.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pinned import Job, train_all

from ebwm_cli.commands.calibration import calibration
from ebwm_cli.commands.evaluate import evaluate
from ebwm_cli.recipe.load_study import changes_in_words, load_study
from ebwm_cli.recipe.study import Study
from ebwm_cli.run.processors import usable_cores
from ebwm_cli.run.report import EvalReport
from ebwm_cli.run.report_calibration import CalibrationReport

STEPS = (1, 2, 4, 8, 16)
SAMPLES = 16
HEADS = ["variant", *(f"loss, {k}" for k in STEPS), "16 / 2", "rises", f"energy of {SAMPLES}", "gap", "mean", "random"]
HEADS += ["rank corr.", "partial", "of the trivial"]


def jobs_of(study: Study, folder: Path, only: list[str]) -> dict[str, list[Job]]:
    """By variant, a job per seed."""
    (updates,) = study.axes["steps"]
    shared = changes_in_words(study.changes)
    shared += [f"train.steps={int(updates)}", f"train.warmup={max(1, int(updates) // 10)}"]
    return {
        name: [
            Job(
                [study.base.format(kind=study.kinds[0]), *shared, *changes_in_words(changes), f"seed={seed}"],
                folder / f"{name}-{seed}",
            )
            for seed in range(study.seeds)
        ]
        for name, changes in study.variants.items()
        if not only or name in only
    }


def judged(run: Path, *, data: Path, split: str, windows: int | None) -> dict[str, Any]:
    """The numbers of one run, by the heads of the table; AUROCs by what is told from the truth."""
    shared: dict[str, Any] = {"data": data, "split": split, "most_windows": windows, "device": "cpu"}
    *_, found = evaluate(run, steps=STEPS, samples=(SAMPLES,), rollout=0, **shared)
    *_, meaning = calibration(run, **shared)
    assert isinstance(found, EvalReport)
    assert isinstance(meaning, CalibrationReport)
    losses, (row,) = {each.steps: each.loss for each in found.by_steps}, meaning.rows
    numbers: dict[str, Any] = {f"loss, {k}": losses[k] for k in STEPS}
    numbers["16 / 2"] = losses[16] / losses[2]
    numbers["rises"] = found.by_steps[-1].rises
    picked = {each.select: each.loss for each in found.by_samples}
    numbers |= {f"energy of {SAMPLES}": picked["energy"], **{k: picked[k] for k in ("gap", "mean", "random")}}
    numbers |= {"rank corr.": row.score_spearman.value, "partial": row.partial_spearman.value}
    numbers["of the trivial"] = row.doubt_spearman.value
    told = next(each for each in row.telling if each.key == "score")
    return numbers | {f"AUROC, {key}": each.value for key, each in told.auroc.items()}


def markdown(rows: dict[str, list[dict[str, Any]]]) -> str:
    """A line per variant, means over its runs."""
    every = [each for runs in rows.values() for each in runs]
    heads = [*HEADS, *(head for head in every[0] if head.startswith("AUROC"))]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, runs in rows.items():
        cells = [_mean([run[head] for run in runs]) for head in heads[1:]]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.4f}" if known else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("changes", nargs="*", help="key=value, of the study: seeds=1")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--split", default="val")
    parser.add_argument("--windows", type=int)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core each
    study = load_study(asked.study, asked.changes)
    folder = asked.out or Path("runs") / study.name
    jobs = jobs_of(study, folder, asked.only)
    train_all([job for each in jobs.values() for job in each], asked.data)
    judge = partial(judged, data=asked.data, split=asked.split, windows=asked.windows)
    with ProcessPoolExecutor(usable_cores(), multiprocessing.get_context("spawn")) as pool:
        found = pool.map(judge, [job.out for each in jobs.values() for job in each])
        rows = {name: [next(found) for _ in each] for name, each in jobs.items()}
    (folder / f"ablation-{asked.split}.json").write_text(json.dumps(rows, indent=2))
    print(markdown(rows))


if __name__ == "__main__":
    main()
