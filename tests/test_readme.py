"""What the README tells people to type is valid, and exists."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from small_set import make_run, make_set

from ebwm_cli import cli
from ebwm_cli.recipe.load import load_recipe, shipped_recipes
from ebwm_cli.recipe.load_study import load_study
from ebwm_cli.run.folder import LATEST
from ebwm_cli.run.safe_write import point

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    part.strip()
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    for part in line.partition("  #")[0].split("&&")
    if part.strip().startswith("ebwm ")
]


def test_the_two_commands_a_newcomer_needs_are_there():
    lines = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
    assert "pip install -e . && ebwm train quickstart" in lines
    assert "pip install -e '.[dev]' && pytest" in lines


def test_the_verbs_are_shown():
    assert {shlex.split(command)[1] for command in COMMANDS} == {"prepare", "train", "eval", "think", "scale"}


def parsed(command):
    """What the real parser, down to the subcommand, makes of a command line; nothing is run."""
    words = shlex.split(command)[1:]
    group = typer.main.get_command(cli.app)
    context = group.make_context("ebwm", list(words))
    name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    while hasattr(found, "commands"):
        context = found.make_context(name, rest, parent=context)
        name, found, rest = found.resolve_command(context, [*context._protected_args, *context.args])
    return found.make_context(name, rest, parent=context).params


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command):
    assert parsed(command)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] == "train"])
def test_every_recipe_named_loads(command, tmp_path, monkeypatch):
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    name, changes = cli.recipe_words(parsed(command)["words"] or [])
    assert load_recipe(name or cli.default_recipe(None), changes)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] == "scale"])
def test_every_study_named_loads(command, tmp_path, monkeypatch):
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    name, changes = cli.recipe_words(parsed(command)["words"] or [])
    assert load_study(name or cli.default_study(None), changes)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--schema" in c or "--plan" in c])
def test_cheap_commands_run(command, tmp_path, monkeypatch, capsys):
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    if "--plan" in words:
        states = ["data.state_dim=128", "data.context=16"]
        words += ["changes={data.state_dim: 128, data.context: 16}"] if words[0] == "scale" else states
    assert cli.run(words) == 0
    assert capsys.readouterr().out


def test_the_python_code_runs(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "runs" / "one", make_set(tmp_path / "data")).parent
    point(tmp_path / "runs" / LATEST, folder, tmp_path / "aside")
    monkeypatch.chdir(tmp_path)
    (block,) = [block for kind, block in BLOCKS if kind == "python"]
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["found"].energies.shape[-1] == 17
    assert names["frames"].dtype == "uint8"


def test_recipes_and_files_named_in_the_text_exist():
    shipped = set(shipped_recipes())
    for name in re.findall(r"`(video_ebt_\w+|quickstart)`", README):
        assert name in shipped
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)|`(\.ci/run|recipes/[\w/]*)`", README):
        assert any(part and (part.startswith("http") or (ROOT / part).exists()) for part in path), path


def write_recipes(folder):
    """The README's recipe blocks, each under the name its first line says."""
    for kind, block in BLOCKS:
        if kind == "yaml":
            (folder / block.splitlines()[0].removeprefix("# ")).write_text(block)
            assert yaml.safe_load(block)
