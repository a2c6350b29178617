"""Batches: their order is arithmetic on (seed, epoch, step), and their content the split's own rows."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebwm_cli.data.loader import Loader, permutation
from ebwm_cli.errors import DataError


def split_of(states: int, context: int = 3, name: str = "train") -> SimpleNamespace:
    """A split of one segment whose state i is (i, -i)."""
    rows = np.arange(states, dtype=np.float32)

    def windows(asked: int | None = None, stride: int | None = None, share: float = 1.0) -> np.ndarray:
        return np.arange(0, round(share * states) - (asked or context), stride or 1)

    def stretches(asked: int, share: float) -> list[tuple[int, int]]:
        return [(0, round(share * states))]

    return SimpleNamespace(
        states=np.stack([rows, -rows], axis=1), windows=windows, stretches=stretches, context=context, name=name
    )


def test_a_share_is_all_that_is_learned_and_too_small_a_one_is_said() -> None:
    loader = Loader(split_of(40), 4, 0, share=0.25)  # type: ignore[arg-type]
    assert (loader.windows, loader.states_seen) == (7, 10)
    seen = np.concatenate([loader.batch(step).states[..., 0].numpy().ravel() for step in range(20)])
    assert seen.max() == 9
    with pytest.raises(DataError, match=r"0\.05 of the train split") as caught:
        Loader(split_of(40), 4, 0, share=0.05)  # type: ignore[arg-type]
    assert "data.fraction" in caught.value.hint


def test_batches_hold_the_rows_of_their_windows() -> None:
    loader = Loader(split_of(20), batch_size=4, seed=0)
    batch = loader.batch(2)
    assert batch.states.shape == (4, 4, 2)
    assert batch.states.dtype == torch.float32
    assert batch.ids.tolist() == loader.order(2).tolist()
    for window, first in zip(batch.states, batch.ids.tolist(), strict=True):
        assert window[:, 0].tolist() == [first, first + 1, first + 2, first + 3]


def test_an_epoch_visits_every_window_once_and_drops_the_tail() -> None:
    loader = Loader(split_of(20), batch_size=4, seed=1)  # 17 windows
    assert loader.steps_per_epoch == 4
    first = np.concatenate([loader.order(step) for step in range(4)])
    second = np.concatenate([loader.order(step) for step in range(4, 8)])
    assert len(set(first.tolist())) == 16
    assert len(set(second.tolist())) == 16
    assert first.tolist() != second.tolist()
    assert first.tolist() == permutation(17, 1, 0)[:16].tolist()


def test_a_split_smaller_than_a_batch_sees_each_window_equally_often() -> None:
    loader = Loader(split_of(8), batch_size=12, seed=1)  # 5 windows
    ids = np.concatenate([loader.order(step) for step in range(5)])
    assert np.bincount(ids).tolist() == [12] * 5


def test_any_step_can_be_asked_first() -> None:
    forwards = Loader(split_of(50), batch_size=8, seed=3)
    orders = [forwards.order(step).tolist() for step in range(20)]
    for step in (19, 0, 7, 12):
        assert Loader(split_of(50), batch_size=8, seed=3).order(step).tolist() == orders[step]
    assert Loader(split_of(50), batch_size=8, seed=4).order(0).tolist() != orders[0]


def test_order_is_the_same_in_another_process() -> None:
    code = "from ebwm_cli.data.loader import permutation; print(permutation(1000, 5, 2).tolist())"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    assert told.stdout.strip() == str(permutation(1000, 5, 2).tolist())


def test_permutation_is_pinned() -> None:
    assert permutation(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_shorter_context_than_the_set() -> None:
    assert Loader(split_of(20, context=8), batch_size=4, seed=0, context=2).batch(0).states.shape == (4, 3, 2)


def test_sequential_keeps_order_and_the_ragged_end() -> None:
    batches = list(Loader.sequential(split_of(20), batch_size=5))
    assert [len(batch.ids) for batch in batches] == [5, 5, 5, 2]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(17))


def test_no_window_is_said_with_a_remedy() -> None:
    with pytest.raises(DataError, match="no window"):
        Loader(split_of(3), batch_size=4, seed=0)
