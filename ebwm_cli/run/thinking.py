"""How much to think: the recipe's habits with what was asked for put in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ebwm_cli.errors import UsageError
from ebwm_cli.recipe.schema import ThinkSection


def budget_of(habits: ThinkSection, asked: Mapping[str, Any]) -> ThinkSection:
    """`habits` with everything `asked` that is not None. Raises UsageError."""
    changes = {key: value for key, value in asked.items() if value is not None}
    try:
        return ThinkSection.model_validate({**habits.model_dump(), **changes})
    except ValidationError as error:
        problems = [f"--{each['loc'][0]}: {each['msg'][0].lower()}{each['msg'][1:]}" for each in error.errors()]
        raise UsageError("; ".join(problems), "--steps 16 --samples 4 --stop energy") from None
