"""The command line as typed: words, lists, hints, exit codes, JSON."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from small_set import make_run, make_set

from ebwm_cli import errors
from ebwm_cli.cli import run
from ebwm_cli.commands import evaluate, prepare, think, train
from ebwm_cli.recipe.load import load_recipe
from ebwm_cli.run import report as reports

TINY = ["model.layers=1", "model.width=16", "train.steps=3", "train.batch_size=4", "train.log_every=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with one prepared set and one run, as after `prepare` and `train`."""
    home = tmp_path_factory.mktemp("home")
    prepared = make_set(home / "data" / "one")
    model = make_run(home / "runs" / "first", prepared)
    (home / "runs" / "latest").symlink_to("first")
    return home, model


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home[0])
    return home[0]


@pytest.fixture
def seen(monkeypatch):
    """What each command was called with, instead of running it."""
    calls = []

    def record(name, last=None):
        def command(*positional, **options):
            calls.append((name, positional, options))
            yield last or reports.Notice(notice=name)

        return command

    monkeypatch.setattr(prepare, "prepare_video", record("video"))
    monkeypatch.setattr(prepare, "prepare_demo", record("demo"))
    monkeypatch.setattr(evaluate, "evaluate", record("eval"))
    monkeypatch.setattr(think, "think", record("think"))
    trained = reports.TrainReport(
        out="runs/x", checkpoint="runs/x/model.safetensors", step=1, val_loss=0.1, perplexity=None,
        reference="copying the last", reference_loss=0.2, params=1,
        flops_per_step=1.0, seconds=1.0, states_per_second=1.0, skipped=0,
    )  # fmt: skip
    monkeypatch.setattr(train, "train", record("train", trained))
    return calls


def told(capsys):
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    return captured.out, lines


@pytest.mark.parametrize(
    "words",
    [
        ["--steps", "1", "2", "4", "--samples", "1", "4", "--against", "a", "b", "--seed", "3"],
        [
            "--steps",
            "4",
            "--steps",
            "2",
            "--steps",
            "1",
            "--samples",
            "4,1",
            "--seed=3",
            "--against",
            "a",
            "--against=b",
        ],
        ["--seed", "3", "--samples", "1", "4", "--against", "a", "b", "--steps", "1,2", "4", "4"],
        ["--steps=1", "2", "4", "--samples=1,4", "--against", "a", "b", "--seed", "3"],
    ],
)
def test_lists_are_read_as_typed(words, seen):
    assert run(["eval", *words]) == 0
    [(_, positional, options)] = seen
    assert positional == (None,)
    assert (options["steps"], options["samples"], options["seed"]) == ([1, 2, 4], [1, 4], 3)
    assert [str(path) for path in options["against"]] == ["a", "b"]


def test_options_arrive_as_typed(seen):
    assert run(["prepare", "video", "--src", "clips", "--every", "2", "--workers", "3"]) == 0
    assert run(["prepare", "video", "--src", "clips", "--size", "4"]) == 0
    assert run(["think", "--checkpoint", "x", "--steps", "16", "--stop", "energy", "--input", "a.mp4"]) == 0
    video, plain, thought = (options for _, _, options in seen)
    assert (video["every"], video["interval"], video["workers"]) == (2, None, 3)
    assert (plain["every"], plain["interval"], plain["latent_dim"], plain["context"]) == (None, None, 128, 16)
    assert (plain["size"], video["size"]) == (4, 32)
    assert (thought["steps"], thought["stop"], str(thought["input"])) == (16, "energy", "a.mp4")


def test_train_takes_a_recipe_changes_and_a_seed_in_any_order(seen):
    assert run(["train", "--seed", "5", "train.steps=7", "video_ebt_3xs", "--fresh"]) == 0
    assert run(["train"]) == 0
    (_, (given,), options), (_, (default,), _) = seen
    assert (given.name, given.seed, given.train.steps, options["fresh"]) == ("video_ebt_3xs", 5, 7, True)
    assert default == load_recipe("video_ebt_4xs")


def test_the_tour_prepares_once_trains_evaluates_and_thinks(seen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "quickstart"]) == 0
    assert [name for name, _, _ in seen] == ["demo", "train", "eval", "think"]
    assert str(seen[2][1][0]) == "runs/x/model.safetensors"
    seen.clear()
    (tmp_path / "data" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "manifest.json").write_text("{}")
    assert run(["train", "quickstart", "--json"]) == 0
    assert [name for name, _, _ in seen] == ["train", "eval", "think"]


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["trian"], "No such command 'trian'", "ebwm train"),
        (["prepare", "vidoe"], "No such command 'vidoe'", "ebwm prepare video"),
        (["prepare"], "Missing command", "ebwm prepare --help"),
        (["prepare", "video"], "Missing option '--src'", "ebwm prepare video --help"),
        (["eval", "--sed", "1"], "No such option: --sed", "ebwm eval --seed"),
        (["eval", "--stop", "energy"], "No such option: --stop", "ebwm eval --thinking stop="),
        (["think", "--tolerance=1e-3"], "No such option: --tolerance", "ebwm think --thinking tolerance="),
        (["train", "--stop", "energy"], "No such option: --stop", "ebwm train think.stop="),
        (["eval", "--steps", "a"], "--steps takes whole numbers from 0 up, not a", "--steps 1 2 4"),
        (["eval", "--steps", "-1"], "--steps takes whole numbers from 0 up, not -1", "--steps 1 2 4"),
        (["eval", "--samples", "0"], "--samples takes whole numbers from 1 up, not 0", "--samples 1 2 4"),
        (["train", "a", "b"], "one recipe at a time", "ebwm train a"),
        (["think", "--stop", "never"], "--stop is fixed, energy or still", "ebwm think --stop energy"),
        (["prepare", "video", "--src", "x", "--every", "0"], "--every", "--help"),
        (
            ["prepare", "video", "--src", "x", "--every", "1", "--interval", "1"],
            "--interval and --every",
            "--interval 0.25",
        ),
        (["prepare", "video", "--src", "x", "--interval", "-1"], "--interval must be", "--interval 0.25"),
        (["eval", "--split", "all"], "--split knows test and val, not all", "ebwm eval --split val"),
        (["prepare", "video", "--src", "x", "--size", "300"], "between 4 and 256 pixels, not 300", "--size 32"),
        (["prepare", "demo", "--size", "3"], "between 4 and 256 pixels, not 3", "--size 32"),
        (["eval", "--seed", str(2**31)], "--seed", "ebwm eval --help"),  # as a recipe's
        (["think", "--seed", "99999999999999999999"], "--seed", "ebwm think --help"),
        (["eval", "extra"], "unexpected extra argument", "ebwm eval --help"),
        (["eval", "--samples", "1", "2", "--by", "difficulty"], "exclude each other", "ebwm eval --by difficulty"),
        (["eval", "--by"], "'--by' requires an argument", "ebwm eval --by difficulty"),
        (["eval", "--steps"], "'--steps' requires an argument", "ebwm eval --steps 16"),
        (["eval", "--data"], "'--data' requires an argument", "ebwm eval --help"),
        (["think", "--stop"], "'--stop' requires an argument", "ebwm think --stop energy"),
    ],
)
def test_slips_of_the_keyboard_get_two_lines_and_exit_2(words, error, hint, capsys):
    assert run(words) == 2
    out, (first, second) = told(capsys)
    assert out == ""
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EbwmError)],
)
def test_every_failure_has_its_exit_code(kind, monkeypatch, capsys):
    def failing(*_, **__):
        yield reports.Notice(notice="begun")
        raise kind("what happened", "what to type")

    monkeypatch.setattr(train, "train", failing)
    assert run(["train", "--json"]) == kind.exit_code
    out, lines = told(capsys)
    assert lines[-2:] == ["error: what happened", "hint: what to type"]
    assert json.loads(out) == {"notice": "begun"}


def test_exit_codes_are_the_documented_ones():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EbwmError)]
    assert sorted(kind.exit_code for kind in kinds) == [1, 2, 3, 4, 5, 6, 7, 75, 130]


def test_the_unexpected_is_one_line_and_a_traceback_on_request(monkeypatch, capsys):
    def failing(*_, **__):
        yield reports.Notice(notice="begun")
        raise ValueError("a\nb")

    monkeypatch.setattr(train, "train", failing)
    assert run(["train", "-v"]) == 1
    _, lines = told(capsys)
    assert lines == ["error: ValueError: a b", "hint: the same command with -vv shows where"]
    for words in (["-vv"], ["-v", "-v"], ["--verbose", "-v"]):
        assert run(["train", *words]) == 1
        assert "Traceback" in capsys.readouterr().err


def test_failures_of_real_commands_have_their_codes(here, capsys, monkeypatch):
    assert run(["train", "train.stesp=1"]) == 3
    assert run(["train", "--data", "nowhere"]) == 4
    assert run(["prepare", "video", "--src", "nowhere"]) == 4
    assert run(["eval", "--checkpoint", "nowhere.safetensors"]) == 6
    assert run(["think", "--device", "mps"]) in (2, 7)
    assert run(["train", "--device", "abacus"]) in (2, 7)
    monkeypatch.chdir(here.parent)
    assert run(["train"]) == 4
    errors_and_hints = told(capsys)[1]
    assert sum(line.startswith("error: ") for line in errors_and_hints) == 7
    assert sum(line.startswith("hint: ") for line in errors_and_hints) == 7


def test_train_speaks_json_lines(here, capsys):
    assert run(["train", *TINY, "--out", "runs/tiny", "--json"]) == 0
    out, _ = told(capsys)
    lines = [json.loads(line) for line in out.splitlines()]
    wanted = {"step", "loss", "energy_start", "energy_final", "step_size", "grad_norm", "states_per_second", "seconds"}
    assert sum(wanted | {"eta_seconds"} <= set(line) for line in lines) == 3
    assert {"checkpoint", "val_loss", "params", "flops_per_step"} <= set(lines[-1])


def test_plan_writes_nothing(here, capsys):
    before = sorted(here.rglob("*"))
    assert run(["train", *TINY, "--plan", "--json"]) == 0
    document = json.loads(told(capsys)[0])
    assert {"params", "flops_total", "memory_bytes", "disk_bytes", "seconds_estimate"} <= set(document)
    assert document["windows"] > 0
    assert sorted(here.rglob("*")) == before


def test_schema_is_json(capsys):
    assert run(["train", "--schema"]) == 0
    assert "train" in json.loads(told(capsys)[0])["properties"]


def test_eval_speaks_json(home, here, capsys):
    words = ["--checkpoint", str(home[1]), "--steps", "1", "2", "--samples", "1", "--rollout", "2", "--json"]
    assert run(["eval", *words]) == 0
    document = json.loads(told(capsys)[0])
    assert [row["steps"] for row in document["by_steps"]] == [1, 2]
    assert {"loss", "copy_last_loss", "mean_loss", "energy_error_spearman", "rollout", "params"} <= set(document)
    assert run(["eval", *words, "--split", "val"]) == 0
    other = json.loads(told(capsys)[0])
    assert (document["split"], other["split"]) == ("test", "val")
    assert other["loss"] != document["loss"]


def test_think_takes_a_run_folder_and_defaults_to_the_latest(home, here, capsys):
    for words in ([], ["--checkpoint", "runs/first"], ["--checkpoint", str(home[1])]):
        assert run(["think", *words, "--steps", "3", "--json", "--out", str(here / "thought")]) == 0
        document = json.loads(told(capsys)[0])
        assert document["steps_used"] == [3]
        assert len(document["energies"]) == 4
        assert {"energy_gap", "error", "states", "files"} <= set(document)


@pytest.fixture
def start(home):
    """Starts `ebwm` in a process of its own, which never outlives the test."""
    with contextlib.ExitStack() as stack:

        def begin(*words):
            process = subprocess.Popen(
                [sys.executable, "-m", "ebwm_cli", *words], cwd=home[0], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_save_and_say_so(home, start, number, code):
    process = start("train", *TINY, "train.steps=100000", "--out", f"runs/{code}", "--json")
    assert process.stdout.readline(), process.stderr.read()
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert err.splitlines()[-2].startswith("error: ")
    assert any((home[0] / "runs" / str(code) / "checkpoints").iterdir())


def test_a_reader_that_leaves_early_is_no_drama(home, start):
    process = start("train", *TINY, "train.steps=100000", "--out", "runs/pipe", "--json")
    assert process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=600)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr.read()
    assert any((home[0] / "runs/pipe/checkpoints").glob("step_*"))  # what was learned is saved


def test_output_off_a_terminal_has_no_escape_codes(start):
    process = start("train", *TINY, "--out", "runs/plain")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "\x1b" not in out + err
    assert "step 3/3" in out
    assert "trained" in out
