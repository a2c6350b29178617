"""What a study's YAML says, and the runs it becomes."""

import contextlib
from pathlib import Path

import pytest
from small_set import make_set

from ebwm_cli.errors import DataError, RecipeError
from ebwm_cli.recipe.load import load_recipe, shipped_recipes
from ebwm_cli.recipe.load_study import dump_study, load_study, shipped_studies
from ebwm_cli.recipe.schema import StateSpec
from ebwm_cli.run import study_folder
from ebwm_cli.run.packing import pack
from ebwm_cli.run.safe_write import remove, replace_file
from ebwm_cli.run.study_folder import choose_study_folder
from ebwm_cli.run.study_points import runs_of
from ebwm_cli.world.build import cost

SMALL = [
    "changes={model.layers: 1, model.width: 16, model.heads: 2, train.batch_size: 8, train.steps: 40}",
    "seeds=2",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("study") / "set")


def runs(prepared, tmp_path, *words):
    return runs_of(load_study("video_data", [*SMALL, *words]), prepared, tmp_path)


def test_shipped_studies_are_apart_from_recipes():
    assert "scale/video_data" in shipped_studies()
    assert not set(shipped_studies()) & set(shipped_recipes())
    assert load_study("video_data") == load_study("scale/video_data")
    with pytest.raises(RecipeError, match="there is no recipe scale/video_data"):
        load_recipe("scale/video_data")


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_reads_and_becomes_runs(name, tmp_path):
    study = load_study(name)
    assert len({run.point.key for run in runs_of(load_study(name, words_for(name)), None, tmp_path)}) == (
        len(study.kinds) * max(len(study.variants), 1) * sum(map(len, study.axes.values())) * study.seeds
    )


def words_for(name):
    states = "data.state_dim: 300, data.context: 32" if "text" in name else "data.state_dim: 128, data.context: 16"
    return [f"changes={{{states}}}"]


def test_what_is_written_out_reads_back_equal(tmp_path):
    study = load_study("start_ablation", ["seeds=5", "gpus_per_run=2"])
    file = tmp_path / "again.yaml"
    file.write_text(dump_study(study))
    assert load_study(file) == study


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["axes={}"], "axes"),
        (["axes={data: [0.5, 2]}"], "up to 1"),
        (["axes={data: [0.5, 0.5]}"], "stands twice"),
        (["axes={depth: [1.5]}"], "whole numbers"),
        (["axes={steps: [10, 20]}", "budget.steps=10"], "axes.steps says how long"),
        (["kinds=[ebt, ebt]"], "stands twice"),
        (["base=video_ebt_4xs"], "{kind}"),
        (["budget.stesp=3"], "did you mean budget.steps?"),
        (["sedes=3"], "did you mean seeds?"),
        (["budget={steps: 3, flops: 4}"], "name one"),
        (["seeds=0"], "seeds"),
        (["changes={train.stesp: 3}"], "train.stesp"),
        (["changes={model.match: {seconds: 3}}"], "by the clock"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(prepared, tmp_path, words, told):
    with pytest.raises(RecipeError) as caught:
        runs_of(load_study("video_data", words), prepared, tmp_path)
    assert told in caught.value.message
    assert caught.value.hint


def test_an_axis_changes_what_it_names_and_nothing_else(prepared, tmp_path):
    axes = "axes={data: [0.5, 1], depth: [1, 3], width: [8, 32], batch: [4, 8], steps: [10, 40]}"
    by_key = {run.point.key: run for run in runs(prepared, tmp_path, axes, "kinds=[ebt]")}
    assert len(by_key) == 20
    base = by_key["ebt-data-1-seed0"].recipe
    changed = {
        "ebt-data-0.5-seed0": ("data", "fraction", 0.5),
        "ebt-depth-3-seed0": ("model", "layers", 3),
        "ebt-batch-4-seed0": ("train", "batch_size", 4),
    }
    for key, (section, field, value) in changed.items():
        recipe = by_key[key].recipe
        assert getattr(getattr(recipe, section), field) == value
        same = getattr(recipe, section).model_copy(update={field: getattr(getattr(base, section), field)})
        assert recipe.model_copy(update={"name": base.name, section: same}) == base
    wide = by_key["ebt-width-32-seed1"].recipe
    assert (wide.model.width, wide.model.heads, wide.seed) == (32, 4, 1)
    assert by_key["ebt-steps-10-seed0"].recipe.train.steps == 10
    assert by_key["ebt-data-0.5-seed0"].point.data == pytest.approx(60, abs=8)
    assert by_key["ebt-data-1-seed0"].point.x == by_key["ebt-data-1-seed0"].point.data == 120


def test_rivals_have_as_many_parameters_as_the_changed_model(prepared, tmp_path):
    params = {run.point.kind: run.point.params for run in runs(prepared, tmp_path, "axes={data: [1]}")}
    assert params["transformer"] == pytest.approx(params["ebt"], rel=0.02)


def test_budgets_end_trainings_as_they_say(prepared, tmp_path):
    spec = StateSpec(state_dim=8, context=6)
    for run in runs(prepared, tmp_path, "axes={flops: [1e8, 4e8]}"):
        spent = cost(run.recipe, spec).flops_per_step * run.recipe.train.steps
        assert spent == pytest.approx(run.point.value, rel=0.05)
        assert run.point.x == pytest.approx(spent)
    (first, *_) = runs(prepared, tmp_path, "axes={params: [3000]}", "budget.epochs=2", "kinds=[transformer]")
    assert first.point.params == pytest.approx(3000, rel=0.02)
    assert first.recipe.train.steps == round(2 * 96 / 8)
    clocked = runs(prepared, tmp_path, "axes={device_hours: [0.001]}", "gpus_per_run=2")[0]
    assert clocked.by_clock == pytest.approx(1.8)
    assert clocked.point.x is None


def test_shares_of_a_set_are_nested_and_of_the_size_they_say(tmp_path):
    split = make_set(tmp_path / "set").split("train")
    whole = sum(last - first for first, last in split.segments)
    before: set[int] = set()
    for share in (0.25, 0.5, 0.75, 1.0):
        kept = split.stretches(6, share)
        states = {state for first, last in kept for state in range(first, last)}
        assert len(states) == pytest.approx(share * whole, abs=7)
        assert before <= states
        assert all(any(a <= first and last <= b for a, b in split.segments) for first, last in kept)
        before = states


def test_runs_are_packed_the_longest_first():
    placed, wall = pack([1.0, 5.0, 2.0, 3.0], [1, 1, 1, 1], 2)
    assert wall == 6.0
    assert [(each.device, each.start) for each in placed] == [(0, 5.0), (0, 0.0), (1, 3.0), (1, 0.0)]
    placed, wall = pack([2.0, 1.0, 1.0], [2, 1, 1], 2)
    assert (wall, placed[0].start) == (3.0, 0.0)
    with pytest.raises(ValueError, match="needs 3 of 2"):
        pack([1.0], [3], 2)


DATA = {"path": "data/x", "fingerprint": "abc"}


class Dying:
    """Lets the first `good` calls through; at the next one the process dies."""

    def __init__(self, call, good):
        self.call, self.good, self.died = call, good, False

    def __call__(self, *given):
        if self.good == 0:
            self.died = True
            raise KeyboardInterrupt
        self.good -= 1
        self.call(*given)


@pytest.fixture(scope="module")
def begin(prepared):
    """Begins a study of two runs as the command does, up to the first run."""
    study = load_study("video_data", [*SMALL, "kinds=[ebt]", "axes={data: [0.5, 1.0]}", "seeds=1"])
    two = runs_of(study, prepared, Path("anywhere"))

    def begun(out, *, data=DATA, fresh=False):
        folder = choose_study_folder(study, data, out, fresh=fresh)
        out.mkdir(exist_ok=True)
        if fresh:
            folder.clear()
        folder.begin(study, two, data)
        return folder

    return begun


def test_a_study_that_dies_while_it_begins_begins_again(begin, tmp_path, monkeypatch):
    for good in range(100):
        for fresh in (False, True):
            out, dying = tmp_path / f"{good}{fresh}", Dying(replace_file, good)
            with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
                patched.setattr(study_folder, "replace_file", dying)
                begin(out)
            assert begin(out, fresh=fresh).study().name == "video_data"
        if not dying.died:
            break
    assert good == 4


def test_a_study_that_dies_while_it_is_cleared_is_one_still(begin, tmp_path, monkeypatch):
    out, other = tmp_path / "study", {"path": "data/y", "fingerprint": "other"}
    begin(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="another prepared set"):
        begin(out, data=other)
    for good in range(100):
        dying = Dying(remove, good)
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(study_folder, "remove", dying)
            begin(out, fresh=True)
        if not dying.died:
            break
    assert good > 2
    assert begin(out, data=other, fresh=True).fingerprint() == "other"
    assert (out / "notes.txt").read_text() == "mine"
