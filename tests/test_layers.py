"""The house rules that a program can check: who imports whom, what is never called, how long a file gets."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import ebwm_cli
from ebwm_cli.recipe.schema import Recipe
from ebwm_cli.recipe.section import Section

PACKAGE = Path(ebwm_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {
    "errors": 0, "recipe": 1, "data": 2, "model": 2, "sampler": 2, "world": 3, "run": 4, "commands": 5, "console": 6,
    "cli": 7,
}  # fmt: skip
MAX_LINES = 350


def room_of(module):
    """The room a dotted module name below ebwm_cli belongs to; None for the package itself."""
    parts = module.split(".")
    if parts[0] != "ebwm_cli":
        return None
    if len(parts) == 1 or parts[1] == "__version__":
        return ""
    first = parts[1].split("_")[0] if parts[1].startswith(("console", "cli")) else parts[1]
    return "cli" if first == "" else first


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def name_of(file):
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


def identify(file):
    return str(file.relative_to(PACKAGE))


@pytest.mark.parametrize("file", FILES, ids=identify)
def test_imports_go_one_way(file):
    own = room_of(name_of(file))
    if file.name in ("__init__.py", "__main__.py") and file.parent == PACKAGE:
        return
    assert own in ROOMS, f"{file} stands in no room"
    for node, imported in imports(file):
        other = room_of(imported)
        if not other or other == own:
            continue
        assert ROOMS[other] < ROOMS[own], f"{file}:{node.lineno}: {own} imports {other}"


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "commands"], ids=identify)
def test_commands_do_not_import_each_other(file):
    if file.stem == "scale":
        return
    for node, imported in imports(file):
        other = imported.split(".")
        if other[:2] == ["ebwm_cli", "commands"]:
            assert other[2] == file.stem, f"{file}:{node.lineno}"


def called(node):
    """The dotted name of a call, as far as it is one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}"
    return ""


@pytest.mark.parametrize("file", FILES, ids=identify)
def test_nothing_dangerous_is_called(file):
    for node, imported in imports(file):
        assert imported.split(".")[0] not in {"pickle", "dill", "cloudpickle", "shelve", "marshal", "torchcodec"}, (
            f"{file}:{node.lineno}"
        )
        assert imported not in {"torch.load", "torch.save", "yaml.load"}, f"{file}:{node.lineno}"
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = called(node.func)
            assert name not in {"eval", "exec", "__import__", "os.system", "os.popen"}, f"{file}:{node.lineno}"
            assert name not in {"torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}, f"{file}:{node.lineno}"
            for keyword in node.keywords:
                shell = keyword.arg == "shell" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                )
                assert not shell, f"{file}:{node.lineno}"
                unsafe = keyword.arg == "allow_pickle" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                )
                assert not unsafe, f"{file}:{node.lineno}"


@pytest.mark.parametrize("file", FILES, ids=identify)
def test_nothing_is_unfinished_or_swallowed(file):
    text = file.read_text()
    for word in ("TODO", "FIXME", "XXX"):
        assert word not in text, f"{file} says {word}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            assert called(raised) != "NotImplementedError", f"{file}:{node.lineno} is a stub"
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or called(node.type) in {"Exception", "BaseException"}
            silent = all(isinstance(line, ast.Pass) for line in node.body)
            assert not (broad and silent), f"{file}:{node.lineno} swallows every error"


@pytest.mark.parametrize("file", FILES, ids=identify)
def test_files_stay_short_and_open_with_what_they_are(file):
    text = file.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{file} doesn't say what it is"


@pytest.mark.parametrize("file", [f for f in FILES if f.name == "cli.py"], ids=identify)
def test_command_bodies_are_thin(file):
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert body[-1].end_lineno - body[0].lineno < 20, f"{node.name} is not thin"


def test_kinds_are_told_apart_in_one_place():
    for file in FILES:
        if identify(file) in ("world/build.py", "model/state_space.py") or file.parent.name == "recipe":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                words = {side.value for side in sides if isinstance(side, ast.Constant)}
                assert not words & {"ebt", "transformer", "rnn", "diffusion", "video", "text"}, (
                    f"{file}:{node.lineno} compares a kind"
                )


def sections_in(annotation):
    """The sections a field may hold: of one kind, of several, or none."""
    parts = [annotation, *get_args(annotation)]
    parts += [part for each in parts for part in get_args(each)]
    return [part for part in parts if isinstance(part, type) and issubclass(part, Section)]


def sections(model=Recipe):
    yield model
    for field in model.model_fields.values():
        for part in sections_in(field.annotation):
            yield from sections(part)


def test_every_knob_is_read():
    """Each field's name occurs as an attribute that is read, outside its own declaration and its section's checks."""
    read = set()
    for file in FILES:
        tree = ast.parse(file.read_text())
        if identify(file) == "recipe/model.py":
            continue
        if identify(file) == "recipe/schema.py":
            tree = next(node for node in ast.walk(tree) if getattr(node, "name", "") == "state_spec")
        read |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        }
    # `steps` may be a pair and is read by its range; `kind` picks the class.
    read |= {"steps"} if "steps_range" in read else set()
    for section in sections():
        for name in section.model_fields:
            assert name in read, f"{section.__name__}.{name} is never read"


def test_every_field_says_what_it_is():
    for section in sections():
        for name, field in section.model_fields.items():
            plain = name in {"kind", "heads", "layers", "name", "seed", "modality"} or sections_in(field.annotation)
            assert plain or field.description, f"{section.__name__}.{name} has no words"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["train", "--schema"], ["evl"]])
def test_the_command_line_answers_without_torch(words):
    code = (
        "import sys\n"
        "from ebwm_cli.cli import run\n"
        f"run({words!r})\n"
        "heavy = {'torch', 'datasets', 'matplotlib', 'scipy', 'decord', 'av', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_recipes_need_no_torch():
    code = (
        "import sys\nfrom ebwm_cli.recipe.load import load_recipe\nload_recipe('video_ebt_4xs')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0
