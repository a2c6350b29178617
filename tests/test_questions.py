"""Questions put to a model of text: what it believes, and what is no question."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from judges import OneAtATime
from small_set import make_run
from small_text import make_text_set, small_text_recipe

from ebwm_cli import cli
from ebwm_cli.data.encoders.tokenizer import byte_tokenizer
from ebwm_cli.errors import DataError
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.run.questions import Question, ask, read_questions, score


class Parrot(OneAtATime):
    """A model of text whose token after a is a + 1, and whose energy of a token is how far it is from that."""

    score = "energy"

    def __init__(self, size: int) -> None:
        self.size = size

    def observe(self, states, memory=None):
        return states if memory is None else torch.cat([memory, states], 1)

    def predict(self, memory, think, rng, *, positions=None, record=False):
        last = memory[:, -(positions or memory.shape[1]) :]
        logits = 20.0 * torch.nn.functional.one_hot((last + 1) % self.size, self.size).float()
        none = torch.zeros(last.shape, dtype=torch.int64)
        return SimpleNamespace(state=logits, energy=none.float(), steps_used=none, looks=none, tries=none)

    def judge(self, candidate, memory, start=None):
        last = memory[:, -candidate.shape[1] :]
        return (candidate.argmax(-1) - (last + 1) % self.size).abs().float()


@pytest.fixture
def parrot():
    """It can only count up through the alphabet."""
    tokenizer, space = byte_tokenizer(), TokenSpace(257, 4, "zeros")
    spec = StateSpec(modality="text", state_dim=257, context=8)
    loaded = SimpleNamespace(world=Parrot(257), space=space, spec=spec, device=torch.device("cpu"), encoder=tokenizer)
    return loaded, tokenizer


def test_questions_are_answered_by_what_the_model_believes(parrot):
    questions = [
        Question("abc", "def", ["dxx", "def"]),
        Question("abc", "xyz", ["xyz", "def"]),
        Question("a" * 20 + "abc", "defg", None),
        Question("abc", "xyz", None),
    ]
    row = ask(*parrot, questions, ThinkSection(), 0)
    assert (row.questions, row.multiple_choice, row.chance) == (4, 2, 0.5)
    assert row.accuracy_by_energy == row.accuracy_by_likelihood == 0.5
    assert row.exact_match_by_energy == row.exact_match_by_likelihood == 0.5


def test_a_continuation_is_judged_token_by_token(parrot):
    loaded, tokenizer = parrot
    given = tokenizer.encode("abc").tolist()
    found = score(loaded, given, tokenizer.encode("dxg").tolist(), ThinkSection())
    assert found.energy == pytest.approx((ord("x") - ord("e")) + (ord("y") - ord("g")))
    assert found.likelihood == pytest.approx(-40, abs=1e-3)
    assert score(loaded, given, tokenizer.encode("defghijklm").tolist(), ThinkSection()).likelihood == pytest.approx(
        0, abs=1e-3
    )


def test_eval_asks_and_reports(tmp_path, capsys):
    make_run(tmp_path / "run", make_text_set(tmp_path / "set"), recipe=small_text_recipe())
    file = tmp_path / "questions.jsonl"
    rows = [
        {"prompt": "the cat ", "answer": "sees", "choices": ["sees", "eats", "hears"]},
        {"prompt": "my 🦊 sees the", "answer": " moon"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", "--checkpoint", str(tmp_path / "run"), "--data", str(tmp_path / "set")]
    words += ["--questions", str(file), "--steps", "1", "--samples", "1"]
    assert cli.run([*words, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["questions"]
    assert answers["chance"] == pytest.approx(1 / 3)
    assert {answers["accuracy_by_energy"], answers["exact_match_by_likelihood"]} <= {0.0, 1.0}
    assert cli.run(words) == 0
    assert "picked right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("not json", "line 1"),
        ('{"prompt": "a"}', "line 1"),
        ('{"prompt": "a", "answer": "b", "choices": ["c"]}', "not among"),
        ('{"prompt": "a", "answer": ""}', "not empty"),
        ('{"prompt": "a\\ud800", "answer": "b"}', "line 1: half a surrogate pair"),
        ('{"prompt": "a", "answer": "b", "choices": ["b", "\\udfff"]}', "line 1: half a surrogate pair"),
        ("[" * 100_000, "line 1"),
        ("", "no questions"),
    ],
)
def test_questions_that_are_none_are_named(tmp_path, line, word):
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=word):
        read_questions(tmp_path / "q.jsonl")


def test_a_line_ends_where_json_lines_end(tmp_path):
    rows = [{"prompt": f"a{end}b", "answer": "c"} for end in "\u2028\u2029\u0085"]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "q.jsonl").write_bytes("\r\n".join([*lines, "", lines[0]]).encode())
    assert [each.prompt for each in read_questions(tmp_path / "q.jsonl")] == [
        "a\u2028b",
        "a\u2029b",
        "a\x85b",
        "a\u2028b",
    ]
