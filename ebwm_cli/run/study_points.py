"""From a study to its runs: a recipe and a PointReport each.

    x(data) = states learned from    x(params) = parameters    x(flops) = FLOPs per step * steps    x(depth, width,
    batch, steps) = the value itself    x(device_hours) = measured, so unknown before the run

Sizes are fixed first, then the length of the training, so that a budget counts what is really trained. Knows no process
and no journal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import PreparedSet
from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.load_study import base_recipe, rival_loader
from ebwm_cli.recipe.model import MatchSection, ModelSection, TrunkSection
from ebwm_cli.recipe.schema import Recipe, StateSpec
from ebwm_cli.recipe.study import Study
from ebwm_cli.run.report_scale import PointReport
from ebwm_cli.world.build import cost
from ebwm_cli.world.match import Load, matched, trained_for, trained_on

RUNS, RECIPES = "runs", "recipes"
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class StudyRun:
    """One training of a study, ready to be started."""

    point: PointReport
    recipe: Recipe
    """With its size and length written out."""

    @property
    def by_clock(self) -> float | None:
        """Seconds of updating after which it ends; None: its steps end it."""
        return self.recipe.model.match.seconds if self.recipe.model.match else None


def runs_of(study: Study, prepared: PreparedSet | None, out: Path) -> list[StudyRun]:
    """All runs of `study` on `prepared` (None: what the recipes say of states), below the folder `out`.

    Raises RecipeError where a recipe can't be read or fitted, DataError where a share of the set holds no window.
    """
    runs: list[StudyRun] = []
    bases: dict[tuple[str, str | None], Recipe] = {}
    variants: list[str | None] = [*study.variants] or [None]
    for kind, variant in product(study.kinds, variants):
        bases[kind, variant] = base_recipe(study, kind, variant)
    for axis, values in study.axes.items():
        for value in sorted(values):
            series = [
                _run(study, kind, variant, base, axis, value, prepared) for (kind, variant), base in bases.items()
            ]
            runs += [_seeded(run, seed, out) for seed in range(study.seeds) for run in series]
    return runs


def _run(
    study: Study, kind: str, variant: str | None, base: Recipe, axis: str, value: float, prepared: PreparedSet | None
) -> StudyRun:
    """The run, of no seed yet: sizing and counting are the same for all."""
    recipe = _recipe(study, base, axis, value, prepared)
    name = "-".join([kind, *([variant] if variant else []), axis, _short(value)])
    return StudyRun(_point(study, name, kind, variant, axis, value, recipe, prepared), recipe)


def _seeded(run: StudyRun, seed: int, out: Path) -> StudyRun:
    key = f"{run.point.key}-seed{seed}"
    point = run.point.model_copy(update={"key": key, "seed": seed, "out": str(out / RUNS / key)})
    return StudyRun(point, run.recipe.model_copy(update={"name": key[:80], "seed": seed}))


def _short(value: float) -> str:
    return f"{value:g}" if value == float(f"{value:g}") else repr(value)


def _recipe(study: Study, base: Recipe, axis: str, value: float, prepared: PreparedSet | None) -> Recipe:
    """The run's recipe, of any seed."""
    held = prepared.spec if prepared else None
    recipe = _sized(base, axis, value, held, rival_loader(study))
    spec = recipe.state_spec(held)
    budget = study.budget
    steps = int(value) if axis == "steps" else budget.steps
    flops = value if axis == "flops" else budget.flops
    seconds = value * SECONDS_PER_HOUR / study.gpus_per_run if axis == "device_hours" else budget.seconds
    if budget.epochs is not None:
        if prepared is None:
            raise RecipeError("budget.epochs: how many updates an epoch has is not known without a set", "--data DIR")
        steps = max(round(budget.epochs * _loader(prepared, recipe, spec).windows / recipe.train.batch_size), 1)
    if flops is not None:
        recipe = trained_on(recipe, spec, flops)
    elif steps is not None:
        recipe = trained_for(recipe, steps)
    match = MatchSection(seconds=seconds) if seconds is not None else None
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"match": match})})


def _sized(base: Recipe, axis: str, value: float, held: StateSpec | None, load: Load) -> Recipe:
    """The base with the value of an axis that isn't about how long it trains, its size written out."""
    if base.model.match is not None and base.model.match.seconds is not None:
        raise RecipeError(
            f"recipe {base.name} trains by the clock; in a study its budget does that", "budget.seconds=SECONDS"
        )
    model, train, data = base.model, base.train, base.data
    if axis == "params":
        model = model.model_copy(update={"match": MatchSection(params=value)})
    elif axis == "depth":
        model = model.model_copy(update={"layers": int(value), "match": None})
    elif axis == "width":
        model = _widened(model, int(value))
    elif axis == "batch":
        train = train.model_copy(
            update={"batch_size": int(value), "accumulate": math.gcd(int(value), train.accumulate)}
        )
    elif axis == "data":
        data = data.model_copy(update={"fraction": value})
    changed = base.model_copy(update={"model": model, "train": train, "data": data})
    recipe = matched(Recipe.model_validate(changed.model_dump()), held, load)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"match": None})})


def _widened(model: ModelSection, width: int) -> ModelSection:
    """As many heads as keep their size nearest to what it was."""
    changes: dict[str, object] = {"width": width, "match": None}
    if isinstance(model, TrunkSection):
        wanted = width * model.heads / model.width
        fitting = [heads for heads in range(1, width // 2 + 1) if width % heads == 0 and (width // heads) % 2 == 0]
        if not fitting:
            raise RecipeError(f"axes.width: {width} holds no heads of an even size", "even widths")
        changes["heads"] = min(fitting, key=lambda heads: abs(math.log(heads / wanted)))
    return model.model_copy(update=changes)


def _loader(prepared: PreparedSet, recipe: Recipe, spec: StateSpec) -> Loader:
    return Loader(
        prepared.split("train"), recipe.train.batch_size, recipe.seed, spec.context, share=recipe.data.fraction
    )


def _point(
    study: Study, key: str, kind: str, variant: str | None, axis: str, value: float, recipe: Recipe,
    prepared: PreparedSet | None,
) -> PointReport:  # fmt: skip
    spec = recipe.state_spec(prepared.spec if prepared else None)
    spent = cost(recipe, spec)
    states = _loader(prepared, recipe, spec).states_seen if prepared else 0
    flops = spent.flops_per_step * recipe.train.steps
    foreseen = {"data": states or None, "params": spent.params, "flops": flops, "device_hours": None}
    return PointReport(
        key=key, kind=kind, variant=variant, axis=axis, value=value, x=foreseen.get(axis, value),
        size=f"{recipe.model.layers} x {recipe.model.width}", data=states, steps=recipe.train.steps,
        params=spent.params, flops=flops, seed=recipe.seed, devices=study.gpus_per_run, status="queued", reason=None,
        loss=None, val_loss=None, device_hours=None, seconds=None, out="",
    )  # fmt: skip
