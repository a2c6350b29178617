"""Recipes from text: what is read, what is refused, and in which words."""

import json
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebwm_cli import cli
from ebwm_cli.errors import RecipeError
from ebwm_cli.recipe import strict_yaml
from ebwm_cli.recipe.load import diff_recipes, dump_yaml, load_recipe, recipe_json_schema, shipped_recipes
from ebwm_cli.recipe.model import KINDS, EbtSection, MatchSection, RnnSection, TransformerSection
from ebwm_cli.recipe.schema import Recipe


def write(folder, text, name="mine.yaml"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refusal(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        load_recipe(*arguments, **options)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    return caught.value.message


def test_numbers_are_read_as_people_write_them(tmp_path):
    file = write(tmp_path, "train:\n  learning_rate: 1e-4\n  steps: 1_000\n  weight_decay: .5\n  clip_norm: 2\n")
    train = load_recipe(file).train
    assert (train.learning_rate, train.steps, train.weight_decay, train.clip_norm) == (1e-4, 1000, 0.5, 2.0)


@pytest.mark.parametrize("text", ["no", "on", "0x10", "1:30", "2001-01-01", "0o7", "<<", "inf", ".nan"])
def test_words_stay_words(text):
    assert strict_yaml.parse(f"key: {text}") == {"key": text}


def test_a_file_is_named_after_itself(tmp_path):
    assert load_recipe(write(tmp_path, "", "my first run.yaml")).name == "my-first-run"
    assert load_recipe(write(tmp_path, "name: other")).name == "other"
    child = write(tmp_path, "extends: mine.yaml", "child.yaml")
    assert load_recipe(child).name == "child"


def test_extends_merges_key_by_key_and_overrides_win(tmp_path):
    write(tmp_path, "train: {steps: 10, batch_size: 4}\nmodel: {descent: {anchor: 0.25}}", "sub/base.yaml")
    file = write(tmp_path, "extends: sub/base\ntrain: {steps: 20}")
    recipe = load_recipe(file, ["train.warmup=3", "model.descent.steps=[1, 4]", "data.state_dim=null"])
    assert (recipe.train.steps, recipe.train.batch_size, recipe.train.warmup) == (20, 4, 3)
    assert recipe.model.descent.anchor == 0.25
    assert recipe.model.descent.steps_range == (1, 4)


def test_extends_finds_shipped_recipes_from_anywhere(tmp_path):
    recipe = load_recipe(write(tmp_path, "extends: video_ebt_xxs\nseed: 3"))
    assert (recipe.model.layers, recipe.model.width, recipe.seed) == (6, 384, 3)


def test_circles_are_refused(tmp_path):
    write(tmp_path, "extends: b.yaml", "a.yaml")
    write(tmp_path, "extends: a.yaml", "b.yaml")
    assert "circle" in refusal(tmp_path / "a.yaml")


def test_every_problem_is_told_at_once_with_the_nearest_name(tmp_path):
    file = write(
        tmp_path,
        "train: {stesp: 5, batch_size: none, ema: 1.5}\nmodel: {start: lst, descent: {anchr: 1, steps: [3, x]}}\n",
    )
    message = refusal(file, ["steps=7", "nonsense", "train.keep.x=1", "seed=true", "think.stop=[1"])
    for expected in (
        "train.stesp: unknown key; did you mean train.steps?",
        "train.batch_size: should be a valid integer, got",
        "train.ema: should be less than 1, got 1.5",
        "model.start: should be 'noise', 'zeros', 'last' or 'forecast', got \"lst\"",
        "model.descent.anchr: unknown key; did you mean model.descent.anchor?",
        'model.descent.steps[1]: should be a valid integer, got "x"',
        "steps: unknown key; did you mean model.descent.steps or train.steps or think.steps?",
        "nonsense: an override is written key=value",
        "seed: should be a valid integer, got true",
        "think.stop:",
    ):
        assert expected in message, expected
    assert "model.descent.steps: should" not in message


def test_an_override_below_a_value_is_refused(tmp_path):
    file = write(tmp_path, "train: {keep: 2}")
    assert "train.keep is a value" in refusal(file, ["train.keep.x=1"])


def test_checks_between_keys_name_the_key():
    assert "model.width: 130 must be heads (4) times" in refusal("video_ebt_4xs", ["model.width=130", "model.heads=4"])
    assert "train.accumulate: 3 must divide" in refusal("video_ebt_4xs", ["train.accumulate=3"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\na: 2", "twice"),
        ("train: {steps: 1, steps: 2}", "twice"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("a: !custom x", "tags"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("- 1", "keys with values"),
        ("just words", "keys with values"),
        ("? [a, b]\n: 1", "key"),
        ("a: [", "line 1"),
        ("\x00", "characters"),
        (b"\xff\xfe\x00", "mine.yaml"),
        ("[" * 5000, "nested"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 1\n---\nb: 2", "document"),
        ("x: 1\n" * 100_000, "large"),
    ],
)
def test_what_is_not_a_plain_recipe_is_refused(tmp_path, text, word):
    assert word in refusal(write(tmp_path, text))


def test_alias_bombs_cost_nothing(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    start = time.process_time()
    assert "aliases" in refusal(write(tmp_path, "\n".join(lines)))
    assert time.process_time() - start < 1


def test_unknown_names_get_the_nearest(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe("video_ebt_4x")
    assert caught.value.hint == "ebwm train video_ebt_4xs"
    assert "there is no recipe file" in refusal(tmp_path / "absent.yaml")
    assert "there is no recipe" in refusal("../../etc/passwd")


def test_a_dump_reads_back_equal(tmp_path):
    recipe = load_recipe("quickstart", ["train.learning_rate=3e-7", "model.descent.free_steps=[0, 0]"])
    assert load_recipe(write(tmp_path, dump_yaml(recipe))) == recipe


def test_differences_are_lines_a_person_reads():
    old = load_recipe("video_ebt_4xs")
    new = load_recipe("video_ebt_4xs", ["train.steps=7", "model.descent.steps=[1, 2]"])
    assert diff_recipes(old, new) == ["model.descent.steps: 1 -> [1, 2]", "train.steps: 1000 -> 7"]
    assert diff_recipes(old, old) == []


def test_the_schema_holds_every_key_with_its_meaning():
    schema = recipe_json_schema()
    assert set(schema["properties"]) == {"extends", *Recipe.model_fields}
    json.dumps(schema)
    for section in schema["$defs"].values():
        assert section["additionalProperties"] is False
    assert "weights" in schema["$defs"]["TrainSection"]["properties"]["steps"]["description"]


def test_shipped_recipes_are_listed_by_name():
    names = shipped_recipes()
    assert {"quickstart", "video_ebt_4xs", "paper/video_ebt_s1_xxs"} <= set(names)


# ------------------------------------------------------------------------------------------ kinds of model


@pytest.mark.parametrize("kind", ["lstm", "trnsformer", "[a]", "null", "3", "''"])
def test_an_unknown_kind_lists_those_there_are(kind, capsys):
    message = refusal("video_ebt_4xs", [f"model.kind={kind}"])
    assert "model.kind: should be ebt, transformer, rnn, diffusion, got " in message
    assert message.endswith("did you mean transformer?") == (kind == "trnsformer")
    assert cli.run(["train", "video_ebt_4xs", f"model.kind={kind}", "--plan"]) == 3
    assert "ebt, transformer, rnn, diffusion" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("value", ["5", "null", "[1]"])
def test_a_model_that_is_no_section_is_refused(value):
    assert "model: should be an object, got" in refusal("video_ebt_4xs", [f"model={value}"])


@pytest.mark.parametrize(
    ("kind", "wish", "told"),
    [
        ("rnn", "model.heads=4", "model.heads: unknown key, it is of kind=ebt, transformer or diffusion"),
        ("rnn", "model.descent.steps=3", "model.descent: unknown key, it is of kind=ebt"),
        ("rnn", "model.tokens.rule=logits", "model.tokens.rule: unknown key, it is of kind=ebt"),
        ("ebt", "model.cell=lstm", "model.cell: unknown key, it is of kind=rnn"),
        ("ebt", "model.residual=false", "model.residual: unknown key, it is of kind=transformer, rnn or diffusion"),
        ("diffusion", "model.cell=lstm", "model.cell: unknown key, it is of kind=rnn"),
        ("rnn", "model.cel=lstm", "model.cel: unknown key; did you mean model.cell?"),
        ("transformer", "model.hedas=4", "model.hedas: unknown key; did you mean model.heads?"),
        ("diffusion", "model.match.parms=2", "model.match.parms: unknown key; did you mean model.match.params?"),
        ("transformer", "steps=4", "steps: unknown key; did you mean train.steps or think.steps?"),
        ("rnn", "model.layers=0", "model.layers: should be greater than or equal to 1, got 0"),
    ],
)
def test_keys_of_another_kind_are_refused_with_the_nearest_name(kind, wish, told):
    assert refusal(f"video_{kind}_4xs", [wish]).removeprefix(f"recipe video_{kind}_4xs: ") == told


def test_a_value_of_the_key_beside_is_told_where_it_belongs():
    for value in ("spectral", "learned", "fixed"):
        told = refusal("video_ebt_4xs", [f"model.descent.step_size={value}"])
        assert told.endswith(f'got "{value}"; did you mean model.descent.step_control={value}?')
    assert refusal("video_ebt_4xs", ["think.tolerance=still"]).endswith("; did you mean think.stop=still?")
    for wish in ("model.descent.step_size=fast", "model.descent.step_size=[1]", "seed=fixed", "train.steps=fixed"):
        assert "did you mean" not in refusal("video_ebt_4xs", [wish])
    assert "did you mean" not in refusal("video_rnn_4xs", ["model.layers=spectral"])


def test_another_kind_keeps_what_it_has_too_and_drops_the_rest():
    before = load_recipe("video_ebt_4xs", ["model.context_noise=0.3"])
    for wish in (["model.kind=rnn"], ["model={kind: rnn}"]):
        after = load_recipe("video_ebt_4xs", ["model.context_noise=0.3", *wish])
        assert isinstance(after.model, RnnSection)
        for key in RnnSection.model_fields.keys() & EbtSection.model_fields.keys() - {"kind", "tokens"}:
            assert getattr(after.model, key) == getattr(before.model, key), key
        assert after.model.tokens.table == before.model.tokens.table
        assert (after.data, after.train, after.think) == (before.data, before.train, before.think)


def test_the_kind_decides_what_keys_mean_wherever_it_is_said():
    recipe = load_recipe("video_ebt_4xs", ["model.cell=lstm", "model.kind=rnn"])
    assert isinstance(recipe.model, RnnSection)
    assert recipe.model.cell == "lstm"
    back = load_recipe("video_rnn_4xs", ["model.heads=2", "model.descent.anchor=0.25", "model.kind=ebt"])
    assert isinstance(back.model, EbtSection)
    assert back.model.descent.anchor == 0.25


@pytest.mark.parametrize("base", ["video_ebt_4xs", "text_ebt_4xs"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_extends_another_kind_starts_from_what_they_share(tmp_path, base, kind):
    write(tmp_path, f"extends: {base}\nmodel: {{kind: {kind}, layers: 5}}", "base.yaml")
    recipe = load_recipe(write(tmp_path, "extends: base\nmodel: {width: 64}"))
    assert isinstance(recipe.model, KINDS[kind])
    assert (recipe.model.layers, recipe.model.width) == (5, 64)
    assert recipe.train == load_recipe(base).train
    assert recipe.model.motion == load_recipe(base).model.motion


def test_a_file_of_another_kind_has_its_own_keys_and_is_refused_the_old_ones(tmp_path):
    file = write(tmp_path, "extends: video_ebt_4xs\nmodel: {kind: transformer, residual: false, match: {params: 1}}")
    model = load_recipe(file).model
    assert isinstance(model, TransformerSection)
    assert not model.residual
    assert model.match == MatchSection(params=1)
    file = write(tmp_path, "extends: video_ebt_4xs\nmodel: {kind: transformer, descent: {anchor: 0.1}}")
    assert "model.descent: unknown key, it is of kind=ebt" in refusal(file)


@pytest.mark.parametrize("wish", ["{}", "{of: video_ebt_4xs}", "{flops: 1, seconds: 2}", "{params: 0}"])
def test_a_match_says_what_is_matched(tmp_path, wish):
    assert "model.match" in refusal(write(tmp_path, f"model: {{match: {wish}}}"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", ["video", "text"])
def test_a_dump_of_every_kind_reads_back_equal(tmp_path, kind, modality):
    for wishes in ([], ["model.layers=3", "model.match={params: 2, flops: 1e9}"]):
        recipe = load_recipe(f"{modality}_{kind}_4xs", wishes)
        assert recipe.model.kind == kind
        again = load_recipe(write(tmp_path, dump_yaml(recipe)))
        assert again == recipe
        assert type(again.model) is KINDS[kind]
        assert Recipe.model_validate_json(recipe.model_dump_json(), strict=True) == recipe


def test_the_schema_holds_every_kind():
    schema = recipe_json_schema()
    names = {choice["$ref"].rpartition("/")[2] for choice in schema["properties"]["model"]["oneOf"]}
    assert names == {section.__name__ for section in KINDS.values()}
    for kind, section in KINDS.items():
        shown = schema["$defs"][section.__name__]["properties"]
        assert shown["kind"]["const"] == kind
        assert set(shown) == set(section.model_fields)


# JSON writes characters beyond U+FFFF as two escapes, which YAML doesn't join.
text = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(plain)
def test_json_is_read_back_as_it_is(value):
    """JSON is a part of YAML, so an independent writer must agree with the reader."""
    assert strict_yaml.parse(json.dumps({"key": value})) == {"key": value}


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_cleanly(anything):
    try:
        value = strict_yaml.parse(anything)
    except strict_yaml.StrictYamlError:
        return
    yaml.safe_dump(value)
