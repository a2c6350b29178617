"""Text is divided by document or by block: nothing twice, gaps between, copies on one side, advice that works."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebwm_cli.data.split import TEST, TRAIN, VAL
from ebwm_cli.data.text_split import BY_DOCUMENT_FROM, divide_text, place_of
from ebwm_cli.errors import DataError

PER_TOKEN = 4


def even(number: int) -> list[float]:
    """Places of documents as even as hashes are on average."""
    return [(i + 0.5) / number for i in range(number)]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(60, 3000),
    st.sampled_from(["word ", "a line\n", "nospaceatall", "wörter\r\n", "字字字字。\n"]),
)
def test_blocks_come_in_order_with_gaps_and_are_cut_between_words(context: int, times: int, part: str) -> None:
    text = part * times
    try:
        division = divide_text([0.5], [len(text)], context)
    except DataError:
        assert len(text) < 50 * PER_TOKEN * (context + 1)
        return
    assert division.by == "block"
    train, val, test = division.stretches(0, text)
    assert (train.label, val.label, test.label) == (TRAIN, VAL, TEST)
    assert (train.first, test.last) == (0, len(text))
    slack = len(text) // 50
    window = PER_TOKEN * (context + 1)
    assert train.last + window <= val.first + slack
    assert val.last + window <= test.first + slack
    for held in (val, test):
        assert held.last - held.first >= max(window, len(text) // 10 - slack)
    assert train.last >= len(text) // 5
    for cut in (train.last, val.first, val.last, test.first):
        if len(part) <= slack and part[-1] in " \n":
            assert text[cut - 1] in " \n"


def test_documents_too_short_to_divide_train_whole_beside_a_long_one() -> None:
    texts = ["short. ", "long enough to be cut\n" * 100]
    division = divide_text([0.1, 0.2], [len(text) for text in texts], 8)
    assert [s.label for s in division.stretches(0, texts[0])] == [TRAIN]
    assert [s.label for s in division.stretches(1, texts[1])] == [TRAIN, VAL, TEST]


def test_many_documents_are_divided_by_their_hashes() -> None:
    places = [place_of(f"document {number}") for number in range(2000)]
    assert all(0 <= place < 1 for place in places)
    division = divide_text(places, [500] * 2000, 8)
    assert division.by == "document"
    assert division.labels is not None
    expected = [TEST if place >= 0.9 else VAL if place >= 0.8 else TRAIN for place in places]
    assert division.labels.tolist() == expected
    assert all(abs(expected.count(part) / 2000 - 0.1) < 0.03 for part in (VAL, TEST))
    more = divide_text([*places, 0.85, 0.1], [500] * 2002, 8)
    assert more.labels is not None
    assert more.labels[:2000].tolist() == expected  # new ones don't move old ones


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.just(0)), min_size=1, max_size=60),
    st.integers(10, 400),
    st.integers(1, 12),
)
def test_the_same_documents_stay_on_one_side(copies: list[tuple[int, int]], unit: int, context: int) -> None:
    names = [name for name, _ in copies]
    lengths = [unit * (1 + name % 7) for name in names]
    places = [place_of(str(name)) for name in names]
    try:
        division = divide_text(places, lengths, context)
    except DataError:
        return
    if division.by == "block":
        assert division.labels is None
        return
    assert division.labels is not None
    sides = {
        name: {int(label) for label, each in zip(division.labels, names, strict=True) if each == name} for name in names
    }
    assert all(len(side) == 1 for side in sides.values())
    for part in (TRAIN, VAL, TEST):
        held = sum(length for length, label in zip(lengths, division.labels, strict=True) if label == part)
        assert held >= 2 * PER_TOKEN * (context + 1)


@pytest.mark.parametrize("places", [[0.1] * 30, [0.95] * 15 + [0.1] * 15], ids=["one", "two"])
def test_copies_of_one_document_or_two_are_no_three_parts(places: list[float]) -> None:
    with pytest.raises(DataError, match="different documents"):
        divide_text(places, [90] * 30, 2)


@pytest.mark.parametrize("places", [even(30), [0.01 * i for i in range(30)]], ids=["even", "low"])
def test_a_part_without_a_window_gets_the_nearest_documents(places: list[float]) -> None:
    labels = divide_text(places, [100] * 30, 8).labels
    assert labels is not None
    counts = [int((labels == part).sum()) for part in (TRAIN, VAL, TEST)]
    assert counts == ([24, 3, 3] if places == even(30) else [28, 1, 1])
    assert (np.diff([[TRAIN, VAL, TEST].index(label) for label in labels]) >= 0).all()


def test_train_gets_some_where_hashes_leave_it_none() -> None:
    labels = divide_text([0.99 - 0.001 * i for i in range(30)], [100] * 30, 8).labels
    assert labels is not None
    assert all((labels == part).sum() >= 1 for part in (TRAIN, VAL, TEST))
    assert labels[-1] == TRAIN


def test_a_giant_among_many_is_divided_itself_where_its_part_would_starve_the_others() -> None:
    places, lengths = [*even(24), 0.95], [*([5] * 24), 100_000]
    division = divide_text(places, lengths, 64)
    assert division.by == "block"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=0, max_size=2 * BY_DOCUMENT_FROM), st.integers(1, 2000))
def test_too_little_text_is_told_with_a_context_that_works(lengths: list[int], context: int) -> None:
    places = even(len(lengths))
    error = failure(places, lengths, context)
    if error is None:
        return
    assert f"{sum(lengths):,} characters" in error.message
    advised = re.match(r"--context (\d+), or more text$", error.hint)
    if advised:
        assert int(advised[1]) < context
        assert failure(places, lengths, int(advised[1])) is None
    else:
        assert error.hint == "more text"
        assert failure(places, lengths, 1)


def failure(places: list[float], lengths: list[int], context: int) -> DataError | None:
    try:
        divide_text(places, lengths, context)
    except DataError as error:
        return error
    return None
