"""The same budget as another recipe: a model's size chosen by parameters, its training by FLOPs.

    |params - target| <= 0.02 * target        steps = target / FLOPs per step, rounded

What was chosen is written into the recipe, which keeps `match` as a record: matching twice changes nothing. Knows no
clock; seconds are measured where training is.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator

from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.recipe.model import MatchSection, ModelSection, TrunkSection
from ebwm_cli.recipe.schema import Recipe, StateSpec
from ebwm_cli.world.build import cost

TOLERANCE = 0.02
"""Parameters are matched within this fraction."""
FFN_RANGE = 0.5, 2.0
"""How far ffn_multiplier may move, as multiples of the recipe's."""
WIDEST = 2**20

Load = Callable[[str], Recipe]


def matched(recipe: Recipe, spec: StateSpec | None, load: Load = load_recipe) -> Recipe:
    """`recipe` with layers, width and FFN chosen by match.params, then train.steps and warmup by match.flops.

    `spec` is what the prepared set holds, None without one. Raises RecipeError where `of` can't be loaded or compared,
    or where no size comes within 2 %.
    """
    return _matched(recipe, spec, load, ())


def rival_of(recipe: Recipe, spec: StateSpec | None, load: Load = load_recipe) -> Recipe | None:
    """The recipe whose budget `recipe` is given, itself matched; None where it is given none, or a number."""
    return _rival(recipe, spec, load, ())


def match_in_words(recipe: Recipe, spec: StateSpec | None, load: Load = load_recipe) -> str | None:
    """What a matched recipe has of what it was to have; None where it is matched to nothing."""
    match, rival = recipe.model.match, rival_of(recipe, spec, load)
    if match is None:
        return None
    spent, words = cost(recipe, recipe.state_spec(spec)), []
    params, flops = _params_target(recipe, rival, spec), _flops_target(recipe, rival, spec)
    if params is not None:
        words.append(f"{_budget('params', match.params, match)}: {spent.params:,} of {params:,.0f}")
    if flops is not None:
        total = spent.flops_per_step * recipe.train.steps
        words.append(f"{_budget('FLOPs', match.flops, match)}: {total:.4g} of {flops:.4g}")
    if match.seconds is not None:
        words.append(_budget("seconds", match.seconds, match) + (f": {match.seconds:g}" if match.of is None else ""))
    return "; ".join(words)


def _budget(name: str, times: float | None, match: MatchSection) -> str:
    """`params of video_ebt_3xs`, or `0.5 times the params of video_ebt_3xs`, or `params`."""
    if match.of is None:
        return name
    return f"{name} of {match.of}" if times == 1 else f"{times:g} times the {name} of {match.of}"


def _matched(recipe: Recipe, spec: StateSpec | None, load: Load, chain: tuple[str, ...]) -> Recipe:
    if recipe.model.match is None:
        return recipe
    rival, own = _rival(recipe, spec, load, chain), recipe.state_spec(spec)
    params, flops = _params_target(recipe, rival, spec), _flops_target(recipe, rival, spec)
    if params is not None:
        recipe = recipe.model_copy(update={"model": _sized(recipe, own, params)})
    return recipe if flops is None else trained_on(recipe, own, flops)


def _rival(recipe: Recipe, spec: StateSpec | None, load: Load, chain: tuple[str, ...]) -> Recipe | None:
    """`chain` names the recipes on the way here."""
    match = recipe.model.match
    if match is None or match.of is None:
        return None
    if match.of in chain:
        circle = " -> ".join([*chain[chain.index(match.of) :], match.of])
        raise RecipeError(f"model.match.of goes round in a circle: {circle}", "give one of them a number without of")
    rival = load(match.of)
    if rival.data.modality != recipe.data.modality:
        raise RecipeError(
            f"model.match.of: {match.of} is for {rival.data.modality}, the recipe is for {recipe.data.modality}",
            f"model.match.of={recipe.data.modality}_ebt_4xs",
        )
    return _matched(rival, spec or recipe.state_spec(None), load, (*chain, match.of))


# ----------------------------------------------------------------------------------------------- targets


def _params_target(recipe: Recipe, rival: Recipe | None, spec: StateSpec | None) -> float | None:
    """Parameters to have; None where they are free."""
    match = recipe.model.match
    if match is None or match.params is None:
        return None
    return match.params * (cost(rival, _spec_of(rival, recipe, spec)).params if rival else 1)


def _flops_target(recipe: Recipe, rival: Recipe | None, spec: StateSpec | None) -> float | None:
    """FLOPs to train for; None where they are free."""
    match = recipe.model.match
    if match is None or match.flops is None:
        return None
    if rival is None:
        return match.flops
    if rival.model.match and rival.model.match.seconds is not None:
        raise RecipeError(
            f"model.match.flops: {match.of} trains for a time, its FLOPs are not known before it has run",
            f"model.match.seconds={match.flops:g} model.match.flops=null",
        )
    return match.flops * cost(rival, _spec_of(rival, recipe, spec)).flops_per_step * rival.train.steps


def _spec_of(rival: Recipe, recipe: Recipe, spec: StateSpec | None) -> StateSpec:
    """The states both are costed on, in windows as long as the rival's."""
    return rival.state_spec(spec or recipe.state_spec(None))


# ----------------------------------------------------------------------------------------------- choices


def trained_on(recipe: Recipe, spec: StateSpec, flops: float) -> Recipe:
    """`recipe` with as many updates as cost `flops`."""
    return trained_for(recipe, max(round(flops / cost(recipe, spec).flops_per_step), 1))


def trained_for(recipe: Recipe, steps: int) -> Recipe:
    """`recipe` with `steps` updates; warm-up keeps its share."""
    train = recipe.train
    if steps == train.steps:
        return recipe
    chosen = {
        "steps": steps,
        "warmup": round(train.warmup * steps / train.steps),
        "validate_every": min(train.validate_every, steps),
        "save_every": min(train.save_every, steps),
    }
    return recipe.model_copy(update={"train": train.model_copy(update=chosen)})


def _sized(recipe: Recipe, spec: StateSpec, target: float) -> ModelSection:
    """The model section within 2 % of `target` parameters that is nearest to the recipe's: as it is, else of as many
    layers, else of nearly as many; among those, of nearly its ffn_multiplier."""
    model = recipe.model
    count = _counter(recipe, spec)
    first = math.ceil(spec.least_width / model.width_step) * model.width_step

    def miss(candidate: ModelSection) -> float:
        return abs(count(candidate) - target)

    def reshaped(candidate: ModelSection) -> float:
        if not (isinstance(candidate, TrunkSection) and isinstance(model, TrunkSection)):
            return 0.0
        return abs(math.log(candidate.ffn_multiplier / model.ffn_multiplier))

    best = model
    for distance in range(model.layers + 3):
        layers = {max(model.layers - distance, 1), model.layers + distance}
        near = [model] if not distance else []
        if not (near and miss(model) <= TOLERANCE * target):
            near += [each for number in sorted(layers) for each in _candidates(model, number, first, count, target)]
        fitting = [each for each in near if miss(each) <= TOLERANCE * target]
        if fitting:
            return min(fitting, key=lambda each: (reshaped(each), miss(each)))
        best = min([best, *near], key=miss)
    raise RecipeError(
        f"model.match.params: no size comes within {TOLERANCE:.0%} of {target:,.0f} parameters; the nearest is "
        f"{count(best):,}, with layers={best.layers} width={best.width}",
        f"model.match.params={count(best)} model.match.of=null, or other layers",
    )


def _candidates(
    model: ModelSection, layers: int, first: int, count: Callable[[ModelSection], int], target: float
) -> Iterator[ModelSection]:
    """Sizes of `layers` around `target` parameters: the widths below and above it, and both with the FFN that fits."""

    def of_width(width: int) -> ModelSection:
        return model.model_copy(update={"layers": layers, "width": width})

    end = first + model.width_step
    while end < WIDEST and count(of_width(end)) <= target:
        end *= 2
    for width in _around(range(first, end + 1, model.width_step), target, lambda width: count(of_width(width))):
        plain = of_width(width)
        yield plain
        if isinstance(plain, TrunkSection):
            yield _with_ffn(plain, count, target)


def _with_ffn(model: TrunkSection, count: Callable[[ModelSection], int], target: float) -> TrunkSection:
    """The model with the FFN that brings it nearest to `target` parameters."""

    def of_hidden(hidden: int) -> TrunkSection:
        return model.model_copy(update={"ffn_multiplier": round(hidden / model.width, 5)})

    low, high = (model.width * model.ffn_multiplier * share for share in FFN_RANGE)
    hidden = range(max(math.ceil(low), 1), math.floor(high) + 1)
    around = _around(hidden, target, lambda size: count(of_hidden(size)))
    return min(map(of_hidden, around), key=lambda each: abs(count(each) - target), default=model)


def _around(numbers: range, target: float, count: Callable[[int], int]) -> range:
    """The last of these numbers, whose counts grow, that counts at most `target`, and the one after it."""
    above = bisect_right(numbers, target, key=count)
    return numbers[max(above - 1, 0) : above + 1]


def _counter(recipe: Recipe, spec: StateSpec) -> Callable[[ModelSection], int]:
    """Counts the parameters of model sections. All layers weigh the same, so two shallow networks tell of any depth."""
    counted: dict[str, tuple[int, int]] = {}

    def of_layers(model: ModelSection, layers: int) -> int:
        shallow = model.model_copy(update={"layers": layers})
        return cost(recipe.model_copy(update={"model": shallow}), spec).params

    def count(model: ModelSection) -> int:
        key = model.model_dump_json(exclude={"layers"})
        if key not in counted:
            counted[key] = of_layers(model, 1), of_layers(model, 2)
        one, two = counted[key]
        return one + (model.layers - 1) * (two - one)

    return count
