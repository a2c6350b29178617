"""Which frames become states, worked out by hand."""

import numpy as np
import pytest

from ebwm_cli.data.sampling import Sampler, Sampling, frame_rate_problem, segments_of


def taken(times: list[float], **how: float | int | None) -> list[int]:
    sampler = Sampler(Sampling(**{"interval": None, "every": None, **how}))  # type: ignore[arg-type]
    return [index for index, time in enumerate(times) if sampler.takes(index, time)]


def test_first_frame_at_or_after_each_tick() -> None:
    fifteen = [i / 15 for i in range(31)]
    assert taken(fifteen, interval=0.25) == [0, 4, 8, 12, 15, 19, 23, 27, 30]


def test_rounding_of_milliseconds_does_not_cost_a_frame() -> None:
    assert taken([0.0, 0.25, 0.4999, 0.75], interval=0.25) == [0, 1, 2, 3]


def test_sparse_frames_are_taken_once() -> None:
    assert taken([0.0, 0.7, 1.1, 1.2, 1.3], interval=0.25) == [0, 1, 2, 4]


def test_frames_closer_than_an_interval_wait_for_the_tick() -> None:
    assert taken([0.0, 0.1, 0.26, 0.3, 0.49, 0.51], interval=0.25) == [0, 2, 5]


def test_a_clock_set_back_starts_anew() -> None:
    assert taken([0.0, 5.0, 5.25, 0.0, 0.1, 0.25], interval=0.25) == [0, 1, 2, 3, 5]


def test_every_counts_frames_whatever_their_time() -> None:
    assert taken([0.0] * 10, every=3) == [0, 3, 6, 9]


def test_long_holes_and_backward_steps_break_time() -> None:
    sampling = Sampling(interval=0.25)
    times = np.array([0.0, 0.25, 1.2, 1.45, 2.5, 2.75, 0.0, 0.25])
    assert segments_of(times, sampling).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert segments_of(np.array([0.0, 30.0, 60.0]), Sampling(interval=10.0)).tolist() == [0, 0, 0]
    assert segments_of(np.array([0.0, 1.0, 2.0, 9.0]), Sampling(None, every=2)).tolist() == [0, 0, 0, 1]
    assert segments_of(np.array([]), sampling).tolist() == []


@pytest.mark.parametrize(("rate", "bad"), [(240.0, False), (5000.0, True)])
def test_absurd_rates_are_named(rate: float, bad: bool) -> None:
    times = np.arange(50) / rate
    assert (frame_rate_problem(times, Sampling()) is not None) == bad
    assert frame_rate_problem(times, Sampling(None, every=1)) is None
