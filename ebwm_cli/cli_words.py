"""What people type, and what to say when they mistype: list options, recipe words, checks, errors as two lines."""

from __future__ import annotations

import difflib
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ebwm_cli.errors import EbwmError, UsageError

DEFAULT_RECIPE = "{modality}_ebt_4xs"
DEFAULT_STUDY = "{modality}_data"
VALUES = {
    "--by": "difficulty",
    "--device": "cpu",
    "--horizon": "4",
    "--prompt": '"Once upon a time"',
    "--samples": "4",
    "--seed": "0",
    "--split": "val",
    "--steps": "16",
    "--stop": "energy",
    "--thinking": "stop=energy",
    "--world": "sums",
}
"""What may follow an option, as hints say it."""


class VerbGroup(TyperGroup):
    """Lists the verbs in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "prepare")


class ListCommand(TyperCommand):
    """A command whose list options take words as they are typed: `--steps 1 2 4`, beside `--steps 1 --steps 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread: list[str] = []
        current = ""
        for word in args:
            if word.startswith("-"):
                option = word.partition("=")[0]
                current = option if option in lists else ""
                spread.append(word)
            elif current and spread[-1] != current:
                spread += [current, word]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)


def counts(option: str, words: list[str], least: int = 1) -> list[int]:
    """Whole numbers from `least` up, given as words, commas or both; sorted, each once."""
    parts = [part for word in words for part in word.split(",") if part]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit() and int(part[:9]) >= least)]
    if wrong or not parts:
        raise UsageError(
            f"{option} takes whole numbers from {least} up, not {wrong[0] if wrong else 'nothing'}", f"{option} 1 2 4"
        )
    return sorted({int(part) for part in parts})


def key_values(option: str, words: list[str]) -> dict[str, Any]:
    """KEY=VALUE words as a tree of values."""
    from ebwm_cli.recipe.strict_yaml import StrictYamlError, parse

    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            values[key] = parse(value)
        except StrictYamlError:
            equals = ""
        if not (key and equals):
            raise UsageError(f"{option} takes KEY=VALUE, not {word}", f"{option} stop=energy")
    return values


def stop_or_none(stop: str | None) -> str | None:
    """The way to stop, checked before anything heavy is loaded."""
    if stop not in (None, "fixed", "energy", "still"):
        raise UsageError(f"--stop is fixed, energy or still, not {stop}", "ebwm think --stop energy")
    return stop


def given_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: value for name, value in options.items() if value is not None}


def apart(prompt: str | None, writing: dict[str, Any], window: dict[str, Any]) -> None:
    """Refuse options of writing without a prompt, options of a window beside one, and both a clip and a number."""
    for name in given_of(writing if prompt is None else window):
        option = f"--{name.replace('_', '-')}"
        what = f"{option} goes with --prompt" if prompt is None else f"{option} and --prompt exclude each other"
        raise UsageError(what, 'ebwm think --prompt "Once upon a time"')
    if window["input"] is not None and window["index"] is not None:
        raise UsageError("--index and --input exclude each other", f"ebwm think --input {window['input']}")


def only_beside(ctx: typer.Context, option: str, allowed: set[str]) -> None:
    """Refuse every option that was typed beside `option` and would mean nothing there; `allowed` are parameters."""
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--{name.replace('_', '-')} and {option} exclude each other", f"{ctx.command_path} {_valued(option)}"
            )


def recipe_words(words: list[str], verb: str = "train") -> tuple[str, list[str]]:
    """The recipe's name (empty where none is given) and its key=value changes, as typed after `ebwm` and `verb`."""
    names = [word for word in words if "=" not in word or Path(word).is_file()]
    if len(names) > 1:
        raise UsageError(
            f"one recipe at a time, not {' and '.join(names)}", f"ebwm {verb} {names[0]}; changes are key=value"
        )
    return (names or [""])[0], [word for word in words if word not in names]


def default_recipe(data: Path | None) -> str:
    """The recipe for the set that training would take; the one for video where there is none."""
    from ebwm_cli.data.store import modality_of

    return DEFAULT_RECIPE.format(modality=modality_of(data) or "video")


def default_study(data: Path | None) -> str:
    """The study for that set."""
    from ebwm_cli.data.store import modality_of

    return DEFAULT_STUDY.format(modality=modality_of(data) or "video")


def told(error: Exception, words: list[str]) -> tuple[str, str, int]:
    """What to say about a failure: message, hint, exit code."""
    if isinstance(error, EbwmError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, typer.BadParameter.__mro__[1]):  # Typer's UsageError, wherever its version keeps it
        return _told_usage(error, words)
    if isinstance(error, MemoryError):
        return "out of memory", "a smaller train.batch_size, or a larger train.accumulate", 7
    what = " ".join(str(error).split()) or "no more is known"
    return f"{type(error).__name__}: {what}", "the same command with -vv shows where", 1


def _told_usage(error: Any, words: list[str]) -> tuple[str, str, int]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else " ".join(["ebwm", *takewhile(lambda word: word[:1] != "-", words)])
    message = error.format_message().splitlines()[0].rstrip(".") if error.format_message() else "incomplete command"
    hint = f"{path} --help"
    commands = getattr(context.command, "commands", None) if context else None
    if commands:
        message = message.partition(". Did you mean")[0]
        wrong = next((word for word in words[len(path.split()) - 1 :] if not word.startswith("-")), "")
        near = difflib.get_close_matches(wrong, commands, n=1, cutoff=0.5)
        hint = f"{path} {near[0]}" if near else hint
    elif unknown := getattr(error, "option_name", None):
        message = error.message.partition(" Did you mean")[0].rstrip(".")
        if not hasattr(error, "possibilities"):  # it is known, its value is missing
            return message, f"{path} {_valued(unknown)}" if unknown in VALUES else hint, 2
        hint = f"{path} {sorted(error.possibilities)[0]}" if error.possibilities else hint
        hint = _by_thinking(unknown.lstrip("-"), path, context) or hint
    return message, hint, 2


def _valued(option: str) -> str:
    """An option with what may follow it, if anything must."""
    return f"{option} {VALUES[option]}" if option in VALUES else option


def _by_thinking(key: str, path: str, context: Any) -> str | None:
    """The words for what is no option, but a key of the recipe's `think`."""
    from ebwm_cli.recipe.schema import ThinkSection

    if context is None or key not in ThinkSection.model_fields:
        return None
    if any("--thinking" in option.opts for option in context.command.params):
        return f"{path} --thinking {key}=..."
    return f"{path} think.{key}=..." if context.command.name == "train" else None
