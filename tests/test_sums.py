"""The built-in text: right answers, labels by trying what else could stand there, and no problem on both sides."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from kills import digests

from ebwm_cli.cli import run
from ebwm_cli.commands import prepare, prepare_text
from ebwm_cli.commands.prepare_text import prepare_sums
from ebwm_cli.data.labels import UNKNOWN
from ebwm_cli.data.store import SPLITS, PreparedSet, open_set
from ebwm_cli.data.sums import (
    DIFFICULTY,
    LINES_PER_DOCUMENT,
    LISTS,
    MOST_CARRY,
    SORTED,
    carry_chains,
    documents,
    draw_lines,
    label_tokens,
    write_sums,
)
from ebwm_cli.run.report import Notice

LINES = 3000

# ---------------------------------------------------------------------------------------------- text


def lines_of(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.splitlines()]


def test_every_answer_is_right() -> None:
    lines = draw_lines(np.random.default_rng(5), 2000)
    adding = 0
    for line in lines:
        question, answer = line.removesuffix("\n").split("=")
        if question.startswith("sort "):
            digits = question.removeprefix("sort ")
            assert len(digits) in LISTS
            assert answer == "".join(sorted(digits))
        else:
            one, other = question.split("+")
            assert (len(one), len(other), len(answer)) == (4, 4, 5)
            assert int(answer) == int(one) + int(other)
            adding += 1
    assert 0.45 < adding / len(lines) < 0.55


def test_all_lengths_and_chains_occur() -> None:
    lines = draw_lines(np.random.default_rng(0), 8000)
    sums = [line.partition("=")[0].split("+") for line in lines if "+" in line]
    assert {len(str(int(one))) for one, _ in sums} == {len(str(int(other))) for _, other in sums} == {1, 2, 3, 4}
    lists = np.bincount([len(line.partition("=")[0]) - 5 for line in lines if "+" not in line])
    shares = (lists * np.arange(len(lists)))[list(LISTS)] / (lists * np.arange(len(lists))).sum()
    assert shares == pytest.approx(np.full(len(LISTS), 1 / len(LISTS)), abs=0.02)
    chains = np.bincount([chain for one, other in sums for chain in carry_chains(int(one), int(other))])
    assert len(chains) == MOST_CARRY + 1
    assert (chains > 0.01 * chains.sum()).all()


def test_documents_follow_from_the_seed_and_lose_few_lines() -> None:
    one, again, other = (list(documents(seed, LINES)) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    lengths = [len(text.splitlines()) for text in one]
    assert min(lengths) >= LINES_PER_DOCUMENT
    assert LINES - 600 < sum(lengths) <= LINES
    assert all(text.endswith("\n") for text in one)


def test_text_is_written_once_and_replaces_that_of_other_seeds(tmp_path: Path) -> None:
    assert write_sums(tmp_path, 0, LINES) == len(list(documents(0, LINES)))
    (path,) = tmp_path.iterdir()
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == list(documents(0, LINES))
    assert write_sums(tmp_path, 0, LINES) == 0
    (tmp_path / ".sums-0-3.jsonl.part").touch()  # what a killed run leaves
    assert write_sums(tmp_path, 1, LINES) > 0
    assert [each.name for each in tmp_path.iterdir()] == [f"sums-1-{LINES}.jsonl"]


# -------------------------------------------------------------------------------------------- labels


def possible_sums(one: int, other: int, own: int, low: int) -> list[int]:
    """What columns `own` down to `low` could sum to, in units of `own`, whatever is carried into `low`."""
    width = 10 ** (own + 1 - low)
    read = one // 10**low % width + other // 10**low % width
    return [(read + carry) // 10 ** (own - low) for carry in ((0, 1) if low else (0,))]


def columns_read(one: int, other: int, own: int) -> int:
    """The fewest columns besides `own` by which its digit is certain: some to its right; or that to its left, whose
    digit is known, as what it has more than the column sums to is the carry out of `own`."""
    if len(set(possible_sums(one, other, own, own))) == 1:
        return 0
    left = one // 10 ** (own + 1) % 10 + other // 10 ** (own + 1) % 10
    told = (one + other) // 10 ** (own + 1) % 10
    if len([each for each in possible_sums(one, other, own, own) if (left + each // 10) % 10 == told]) == 1:
        return 1
    return next(own - low for low in reversed(range(own)) if len(set(possible_sums(one, other, own, low))) == 1)


def naive_chains(one: int, other: int) -> list[int]:
    """By trying; none above what could be carried to."""
    reach = max(len(str(one)), len(str(other)))
    looks = [columns_read(one, other, own) if own <= reach else 0 for own in reversed(range(5))]
    return [min(each, MOST_CARRY) for each in looks]


@pytest.mark.parametrize(
    ("one", "other", "chains"),
    [
        (487, 86, [0, 1, 1, 1, 0]),  # 00573
        (999, 1, [0, 3, 1, 1, 0]),  # 01000: the 1 needs both nines and the units; it tells the first 0, that the next
        (454, 545, [0, 3, 1, 1, 0]),  # 00999, as hard as 1000
        (1454, 2545, [1, 3, 1, 1, 0]),  # 03999: the 3 could be a 4
        (1454, 2546, [1, 3, 1, 1, 0]),  # 04000
        (4444, 5555, [3, 1, 1, 1, 0]),  # four nines, shown as the most there is
        (911, 1091, [1, 2, 1, 1, 0]),  # 02002: the first 2 needs 9 + 0 and then 1 + 9, and tells the 0 after it
        (5, 4, [0, 0, 0, 1, 0]),
        (5, 5, [0, 0, 0, 1, 0]),
        (0, 0, [0, 0, 0, 1, 0]),
    ],
)
def test_chains_of_carries_by_hand(one: int, other: int, chains: list[int]) -> None:
    assert carry_chains(one, other) == chains
    assert carry_chains(other, one) == chains


def test_chains_of_carries_are_how_far_a_digit_must_look() -> None:
    pairs = [*combinations(range(120), 2)]
    rng = np.random.default_rng(0)
    pairs += rng.integers(0, 10**4, (1500, 2)).tolist()
    pairs += [(one, 10 ** len(str(one)) - 1 - one + step) for one in range(0, 9999, 17) for step in (0, 1)]
    for one, other in pairs:
        assert carry_chains(one, other) == naive_chains(one, other), (one, other)


def test_labels_of_bytes_are_those_of_lines_one_by_one() -> None:
    text = "".join(draw_lines(np.random.default_rng(3), 500))
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    expected: list[int] = []
    for line in text.splitlines(keepends=True):
        question, answer = line.removesuffix("\n").split("=")
        expected += [UNKNOWN] * (len(question) + 1)
        if question.startswith("sort "):
            expected += [SORTED + len(answer)] * len(answer)
        else:
            expected += naive_chains(*map(int, question.split("+")))
        expected.append(UNKNOWN)
    assert label_tokens(tokens).tolist() == expected
    assert label_tokens(tokens).dtype == np.int8


def test_lines_that_are_none_have_no_labels() -> None:
    text = "1+2\n1+2=3\n+2=3\n0001+0002=3\n1+2=3 \nsort =\nsorts 21=12\nhello=1\n"
    assert set(label_tokens(np.frombuffer(text.encode(), np.uint8)).tolist()) == {UNKNOWN}


# ----------------------------------------------------------------------------------------------- set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PreparedSet:
    """A small set."""
    out = tmp_path_factory.mktemp("sums") / "sums"
    reports = list(prepare_sums(out, lines=LINES, context=16, workers=1))
    assert any(isinstance(each, Notice) and "documents of sums" in each.notice for each in reports)
    return open_set(out)


@pytest.mark.parametrize("name", SPLITS)
def test_every_label_stands_beside_its_token(made: PreparedSet, name: str) -> None:
    split = made.split(name)
    labels, states = split.labels, split.states
    assert labels is not None
    assert labels.shape == states.shape
    assert states.dtype == np.int32
    text = "".join(chr(token) if token < 256 else "\n" for token in states.tolist())
    expected = np.full(len(text), UNKNOWN)
    for line in re.finditer(r"(\d+)\+(\d+)=(\d+)", text):
        expected[line.start(3) : line.end(3)] = naive_chains(int(line[1]), int(line[2]))
    for line in re.finditer(r"sort (\d+)=(\d+)", text):
        expected[line.start(2) : line.end(2)] = SORTED + len(line[1])
    np.testing.assert_array_equal(labels, expected)
    assert {each.label for each in DIFFICULTY.classes} <= set(labels.tolist())


def test_no_problem_is_in_two_parts_in_either_order(made: PreparedSet) -> None:
    asked: dict[str, set[tuple[str, ...]]] = {}
    for name in SPLITS:
        text = "".join(chr(token) if token < 256 else "\n" for token in made.split(name).states.tolist())
        questions = [line.partition("=")[0] for line in text.split("\n") if line]
        asked[name] = {tuple(sorted(question.split("+"))) for question in questions}
    assert made.manifest["split_by"] == "document"
    assert min(map(len, asked.values())) > 100
    for one, other in combinations(SPLITS, 2):
        assert not asked[one] & asked[other]


def test_the_manifest_says_what_labels_mean(made: PreparedSet) -> None:
    assert made.labels == DIFFICULTY
    assert made.manifest["labels"]["classes"][:2] == [
        {"label": 0, "name": "sum, carry 0", "group": "sum"},
        {"label": 1, "name": "sum, carry 1", "group": "sum"},
    ]
    assert {name: len(group) for name, group in DIFFICULTY.groups.items()} == {"sum": 4, "sort": 4}
    assert made.manifest["encoder"]["name"] == "bytes"


def test_sets_are_byte_identical_for_any_number_of_workers_and_again(made: PreparedSet, tmp_path: Path) -> None:
    before = digests(made.path)
    list(prepare_sums(tmp_path / "two", lines=LINES, context=16, workers=2))
    assert digests(tmp_path / "two") == before
    reports = list(prepare_sums(made.path, lines=LINES, context=16, workers=1))
    assert not any(isinstance(each, Notice) for each in reports)
    assert digests(made.path) == before
    list(prepare_sums(tmp_path / "two", lines=LINES, context=16, workers=1, seed=1))
    assert open_set(tmp_path / "two").fingerprint != made.fingerprint


def test_text_that_nobody_labels_has_no_labels(made: PreparedSet, tmp_path: Path) -> None:
    source = str(made.path / prepare_text.TEXTS)
    list(prepare_text.prepare_text(source, tmp_path / "plain", tokenizer="bytes", context=16, workers=1))
    plain = open_set(tmp_path / "plain")
    assert plain.labels is None
    for name in SPLITS:
        assert plain.split(name).labels is None
        assert "label" not in plain.split(name).table.column_names
        np.testing.assert_array_equal(plain.split(name).states, made.split(name).states)
        np.testing.assert_array_equal(plain.split(name).windows(), made.split(name).windows())


# ------------------------------------------------------------------------------------------- command


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object, dict[str, object]]]:
    """What each world was made with, instead of making it."""
    calls: list[tuple[str, object, dict[str, object]]] = []

    def record(name: str):
        def command(out: object = None, **options: object):
            calls.append((name, out, options))
            yield Notice(notice=name)

        return command

    monkeypatch.setattr(prepare, "prepare_demo", record("balls"))
    monkeypatch.setattr(prepare_text, "prepare_sums", record("sums"))
    return calls


def test_the_world_picks_the_command_and_its_options(called: list[tuple[str, object, dict[str, object]]]) -> None:
    usual = {"encoder": "pca", "interval": None, "every": None, "size": 32, "latent_dim": 128}
    assert run(["prepare", "demo", "-q"]) == 0
    assert run(["prepare", "demo", "--world", "balls", "--context", "9", "--every", "2", "--seed", "3", "-q"]) == 0
    assert run(["prepare", "demo", "--world", "sums", "-q"]) == 0
    sums = ["--context", "64", "--workers", "2", "--seed", "4", "--out", "x"]
    assert run(["prepare", "demo", "--world", "sums", *sums, "-q"]) == 0
    assert called == [
        ("balls", None, {**usual, "seed": 0, "workers": None}),
        ("balls", None, {**usual, "every": 2, "seed": 3, "workers": None, "context": 9}),
        ("sums", None, {"seed": 0, "workers": None}),
        ("sums", Path("x"), {"seed": 4, "workers": 2, "context": 64}),
    ]


@pytest.mark.parametrize("typed", ["--interval 0.5", "--every 2", "--size 32", "--latent-dim 8", "--encoder pca"])
def test_options_that_mean_nothing_for_sums_are_refused(
    typed: str, called: list[tuple[str, object, dict[str, object]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prepare", "demo", "--world", "sums", *typed.split()]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {typed.split()[0]} and --world sums exclude each other"
    assert hint == "hint: ebwm prepare demo --world sums"
    assert not called


def test_other_worlds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", "demo", "--world", "cubes"]) == 2
    assert "--world is balls or sums, not cubes" in capsys.readouterr().err
