"""`ebwm scale` as typed: a plan that writes nothing, a study that ends in laws, deaths that lose and repeat nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml
from small_set import make_set

from ebwm_cli.cli import run

STUDY = {
    "name": "tiny",
    "base": "video_{kind}_4xs",
    "kinds": ["ebt", "transformer"],
    "changes": {"model.layers": 1, "model.width": 16, "model.heads": 2, "train.batch_size": 8},
    "axes": {"data": [0.25, 0.5, 0.75, 1.0]},
    "budget": {"steps": 12},
    "seeds": 1,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a set and a study, where commands are typed."""
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "data" / "small")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    return tmp_path


def typed(place, *words, **options):
    """The command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "ebwm_cli", *words]
    return subprocess.Popen(
        line, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def journal(study):
    return [json.loads(line) for line in (study / "points.jsonl").read_text().splitlines()]


def test_a_plan_writes_nothing_and_packs_every_run(place, capsys):
    before = sorted(place.rglob("*"))
    assert run(["scale", "tiny.yaml", "--plan", "--json", "--device", "cpu", "--gpus", "2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["runs"]) == 8
    assert plan["flops"] == pytest.approx(sum(each["point"]["flops"] for each in plan["runs"]))
    assert plan["device_hours"] == pytest.approx(sum(each["hours"] for each in plan["runs"]))
    assert 0.999 * plan["device_hours"] / 2 <= plan["wall_hours"] <= plan["device_hours"]
    assert {each["device"] for each in plan["runs"]} == {0, 1}
    assert sorted(place.rglob("*")) == before


def test_hours_come_from_flops_per_second_where_they_are_given(place, capsys):
    words = ["scale", "tiny.yaml", "--plan", "--json", "--gpus", "8", "--flops-per-second", "1e6"]
    assert run(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["devices"], plan["device"]) == (8, "cuda")
    assert plan["device_hours"] == pytest.approx(plan["flops"] / 1e6 / 3600)
    assert run(["scale", "tiny.yaml", "--flops-per-second", "1e6"]) == 2
    assert "--plan" in capsys.readouterr().err


def test_fewer_gpus_than_asked_is_a_lack_of_resources(place, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(["scale", "tiny.yaml", "--gpus", "8"]) == 7
    told = capsys.readouterr().err
    assert "error: no GPU is visible, 8 asked for" in told
    assert "--device cpu" in told
    assert "--plan" in told


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["scale", "tiny.yalm"], 3, "no recipe"),
        (["scale", "tiny.yaml", "sedes=2"], 3, "did you mean seeds?"),
        (["scale", "tiny.yaml", "--data", "nowhere"], 4, "nowhere"),
        (["scale", "tiny.yaml", "gpus_per_run=3", "--device", "cpu", "--gpus", "2"], 7, "3 of 2 devices"),
        (["scale", "tiny.yaml", "--out", "data"], 2, "is no study"),
        (["scale", "a.yaml", "b.yaml"], 2, "ebwm scale"),
    ],
)
def test_what_can_not_be_done_is_said(place, capsys, words, code, told):
    assert run(words) == code
    assert told in capsys.readouterr().err


def test_a_killed_study_goes_on_and_ends_in_laws(place):
    """kill -9 at random moments, then to the end: every run is done once, and a second call runs none."""
    words = ["scale", "tiny.yaml", "--device", "cpu", "--gpus", "2", "--out", "runs/study", "--json"]
    rng, study = random.Random(0), place / "runs" / "study"
    for _ in range(2):
        process = typed(place, *words)
        time.sleep(rng.uniform(4, 9))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=1800)
    process = typed(place, *words)
    out, error = process.communicate(timeout=1800)
    assert process.returncode == 0, error
    report = json.loads(out)
    assert {point["status"] for point in report["points"]} == {"done"}
    ended = [line["key"] for line in journal(study) if line["event"] == "ended"]
    assert sorted(ended) == sorted(point["key"] for point in report["points"])
    assert len(ended) == len(set(ended)) == 8
    for point in report["points"]:
        told = json.loads((study / "runs" / point["key"] / "train.json").read_text())
        assert (point["val_loss"], point["steps"]) == (told["val_loss"], 12)
        assert point["flops"] == pytest.approx(told["flops_per_step"] * 12)
        assert point["device_hours"] == pytest.approx(told["updating_seconds"] / 3600)
        assert point["loss"] is not None
    assert [fit["kind"] for fit in report["fits"]] == ["ebt", "transformer"]
    assert {fit["points"] for fit in report["fits"]} == {4}
    assert report["slope_ratio"][0]["kind"] == "ebt"
    names = {path.name for path in study.iterdir()}
    assert {"report.html", "fits.json", "scale.json", "loss_by_data.png", "frontier.png"} <= names
    assert json.loads((study / "scale.json").read_text())["fits"] == report["fits"]

    again, error = typed(place, *words).communicate(timeout=1800)
    assert [line["key"] for line in journal(study) if line["event"] == "ended"] == ended
    assert json.loads(again)["fits"] == report["fits"]
    assert "8 of 8 runs have ended before" in error

    other, error = typed(place, *words, "changes={train.learning_rate: 0.1}").communicate(timeout=1800)
    assert "of another recipe" in error
    assert not other
