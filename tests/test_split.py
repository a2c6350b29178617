"""Splits share no frame and no window; by clip they stay put when clips come."""

import numpy as np
import pytest

from ebwm_cli.data.sampling import Sampling
from ebwm_cli.data.split import GAP, TEST, TRAIN, VAL, ClipStates, divide, stretches
from ebwm_cli.errors import DataError

SAMPLING = Sampling(interval=0.25)


def clip(name: str, *lengths: int) -> ClipStates:
    return ClipStates(name, np.repeat(np.arange(len(lengths)), lengths))


def windows(labels: np.ndarray, segments: np.ndarray, part: int, context: int) -> int:
    runs = stretches(np.where(labels == part, segments, -1))
    return sum(max(0, b - a - context) for a, b in runs if labels[a] == part)


@pytest.mark.parametrize("states", [100, 121, 320, 960])
@pytest.mark.parametrize("context", [4, 16])
def test_time_blocks_come_in_order_with_gaps_of_a_window(states: int, context: int) -> None:
    division = divide([clip("a", states)], context, SAMPLING)
    labels = division.labels[0]
    assert division.by == "time"
    blocks = [(int(labels[a]), b - a) for a, b in stretches(labels)]
    assert [part for part, _ in blocks] == [TRAIN, GAP, VAL, GAP, TEST]
    sizes = [size for _, size in blocks]
    assert sizes[1] == sizes[3] == context + 1
    assert sizes[2] == sizes[4] >= max(context + 1, states // 10)
    assert sizes[0] >= context + 1


def test_short_stretches_train_whole_beside_a_long_one() -> None:
    labels = divide([clip("a", 400), clip("b", 16), clip("c", 40, 300)], 16, SAMPLING).labels
    assert (labels[1] == TRAIN).all()
    assert (labels[2][:40] == TRAIN).all()
    assert set(labels[2][40:].tolist()) == {TRAIN, GAP, VAL, TEST}


def test_few_short_clips_are_held_out_whole() -> None:
    division = divide([clip(name, 20) for name in "abcd"] + [clip("e", 5)], 16, SAMPLING)
    assert division.by == "clip"
    parts = [int(labels[0]) for labels in division.labels]
    assert {TRAIN, VAL, TEST} == set(parts[:4])
    assert all(len(set(labels.tolist())) == 1 for labels in division.labels)


def test_from_twenty_clips_on_the_hash_decides_and_new_clips_move_none() -> None:
    clips = [clip(f"{i:03d}", 30) for i in range(60)]
    few, many = divide(clips[:40], 16, SAMPLING), divide(clips, 16, SAMPLING)
    assert few.by == many.by == "clip"
    before, after = ([int(labels[0]) for labels in division.labels] for division in (few, many))
    assert before == after[:40]
    shares = np.bincount(after, minlength=3) / 60
    assert 0.65 < shares[TRAIN] < 0.95
    assert shares[VAL] > 0
    assert shares[TEST] > 0


def test_equal_clips_stay_together() -> None:
    clips = [clip(f"{i % 12:03d}", 30) for i in range(24)]
    parts = [int(labels[0]) for labels in divide(clips, 16, SAMPLING).labels]
    assert parts[:12] == parts[12:]
    assert {TRAIN, VAL, TEST} == set(parts)


def test_every_part_holds_a_window_whatever_the_hashes() -> None:
    for start in range(200):
        clips = [clip(f"{start}-{i}", 17 if i < 3 else 5) for i in range(20)]
        division = divide(clips, 16, SAMPLING)
        for part in (TRAIN, VAL, TEST):
            pairs = zip(division.labels, clips, strict=True)
            assert sum(windows(labels, each.segments, part, 16) for labels, each in pairs) >= 1


def test_two_clips_of_just_enough_are_divided_in_time() -> None:
    assert divide([clip("a", 85), clip("b", 20)], 16, SAMPLING).by == "time"


def test_too_little_is_refused_with_what_would_fit() -> None:
    with pytest.raises(DataError, match="60 states") as error:
        divide([clip("a", 60)], 16, SAMPLING)
    assert error.value.hint.startswith("--context 11, or --interval 0.17")
    divide([clip("a", 60)], 11, SAMPLING)
    divide([clip("a", int(60 * 0.25 / 0.17))], 16, SAMPLING)
