"""What facets are measured with: pairs of windows from different clips, and near misses of either modality."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_set import CONTEXT, make_set

from ebwm_cli.commands.prepare_text import prepare_text
from ebwm_cli.data.store import open_set
from ebwm_cli.errors import DataError
from ebwm_cli.model.latent_space import LatentSpace
from ebwm_cli.model.state_space import NEAR_MISS
from ebwm_cli.model.token_space import TokenSpace
from ebwm_cli.run.measure import HeldOut
from ebwm_cli.run.pairs import pair_windows, partners

# ---------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    "sources",
    [[0, 0, 1, 1], [0] * 7 + [1] * 2, [0, 1, 0, 0, 2, 0, 0, 0], [0, 1, 2], [3] * 3 + [1] * 4 + [2], list(range(9))],
)
def test_partners_are_of_another_source_wherever_there_is_one(sources: list[int]) -> None:
    labels = np.array(sources)
    other = partners(labels)
    assert (labels[other] != labels).all()


def test_partners_of_one_source_are_half_the_list_further_on() -> None:
    assert partners(np.zeros(5, np.int64)).tolist() == [2, 3, 4, 0, 1]


def test_pairs_are_windows_of_another_clip(tmp_path: Path) -> None:
    prepared = make_set(tmp_path / "set")
    split = prepared.split("train")
    pairs = pair_windows(HeldOut(split, CONTEXT, 12), CONTEXT)
    clips = split.column("clip")
    assert pairs.foreign == 1
    assert (clips[pairs.starts] != clips[pairs.others]).all()
    alone = pair_windows(HeldOut(prepared.split("test"), CONTEXT), CONTEXT)  # one clip
    assert alone.foreign == 0
    assert (alone.starts != alone.others).all()
    with pytest.raises(DataError, match="holds 1 windows") as caught:
        pair_windows(HeldOut(prepared.split("test"), CONTEXT, 1), CONTEXT)
    assert caught.value.hint


def test_sources_of_text_are_its_documents(tmp_path: Path) -> None:
    source = tmp_path / "two"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": f"{name}{line} says little but says it often. " * 40}) + "\n" for line in "xy")
        )
    list(prepare_text(str(source), tmp_path / "set", vocab_size=300, context=16, workers=1))
    split = open_set(tmp_path / "set").split("train")
    states = np.arange(len(split))
    files, documents = split.column("file"), split.column("document")
    naive = [(files[split.row_of(state)], documents[split.row_of(state)]) for state in states.tolist()]
    sources = split.sources(states)
    assert len(set(naive)) > 1
    assert len(set(naive)) == len(set(zip(naive, sources.tolist(), strict=True))) == len(set(sources.tolist()))


# --------------------------------------------------------------------------------------- near misses


def test_near_misses_of_latents_are_a_tenth_off() -> None:
    space, rng = LatentSpace(64, 64), torch.Generator().manual_seed(0)
    states = torch.randn(8, 32, 64, generator=rng)
    missed = space.near_miss(states, rng) - states
    assert missed.shape == states.shape
    assert float(missed.std()) == pytest.approx(NEAR_MISS, rel=0.02)
    assert float(missed.mean()) == pytest.approx(0, abs=0.005)
    again = [space.near_miss(states, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_near_misses_of_tokens_put_a_tenth_on_another() -> None:
    space, rng = TokenSpace(50, 16), torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (8, 64), generator=rng)
    logits = space.near_miss(tokens, rng)
    p = logits.softmax(-1)
    assert p.shape == (8, 64, 50)
    assert torch.allclose(p.gather(-1, tokens[..., None]), torch.tensor(1 - NEAR_MISS), atol=1e-4)
    best, place = p.topk(2, dim=-1)
    assert torch.equal(place[..., 0], tokens)
    assert torch.allclose(best[..., 1], torch.tensor(NEAR_MISS), atol=1e-4)
    assert float(p.sum(-1).max() - best.sum(-1).min()) < 1e-4  # all of it on the two
    assert len(set(((place[..., 1] - tokens) % 50).flatten().tolist())) > 40  # any other token
    assert torch.equal(space.commit(logits), tokens)
    assert torch.equal(TokenSpace(2, 16).near_miss(tokens % 2, rng).argsort(-1)[..., 0], 1 - tokens % 2)
