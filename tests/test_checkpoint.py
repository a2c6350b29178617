"""The model file: self-contained, whole or refused, and never a pickle."""

import json
import os
import random

import pytest
import torch
from safetensors import safe_open
from small_set import make_run, make_set, small_recipe

from ebwm_cli.errors import CheckpointError
from ebwm_cli.run.checkpoint import load_world, resolve_checkpoint, save_model
from ebwm_cli.run.folder import RunFolder
from ebwm_cli.run.tensor_file import pack, unpack
from ebwm_cli.world.build import build_world


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def model_file(prepared, tmp_path):
    return make_run(tmp_path / "runs/one", prepared)


def test_a_moved_file_gives_the_same_world_and_encoder_back(prepared, model_file, tmp_path):
    moved = tmp_path / "elsewhere" / "x.safetensors"
    moved.parent.mkdir()
    os.replace(model_file, moved)
    loaded = load_world(moved)
    torch.manual_seed(0)
    world = build_world(small_recipe().model, prepared.spec)
    states = torch.tensor(prepared.split("test").states[:6])[None]
    think = loaded.recipe.think
    rng = torch.Generator().manual_seed(0)
    expected = world.predict(world.observe(states), think, rng).state
    assert torch.equal(loaded.world.predict(loaded.world.observe(states), think, rng).state, expected)
    assert loaded.recipe == small_recipe()
    assert loaded.spec == prepared.spec
    assert loaded.data == prepared.origin()
    assert loaded.step == 0
    assert loaded.space is loaded.world.space
    assert (loaded.encoder.decode(states[0].numpy()) == prepared.encoder.decode(states[0].numpy())).all()
    assert not loaded.world.training
    assert loaded.device == torch.device("cpu")


def test_others_may_read_it(model_file):
    mask = os.umask(0)
    os.umask(mask)
    assert model_file.stat().st_mode & 0o777 == 0o644 & ~mask


def test_metadata_is_json(model_file):
    with safe_open(model_file, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "ebwm-model-1"
    assert len(metadata["digest"]) == 64
    for key in ("recipe", "spec", "encoder", "data", "step"):
        json.loads(metadata[key])


def test_every_flipped_byte_and_every_cut_is_found(model_file):
    content, dice = model_file.read_bytes(), random.Random(1)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, header, 7), *(dice.randrange(len(content)) for _ in range(600))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= dice.randrange(1, 256)
        model_file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_world(model_file)
    for length in [0, 4, 8, header, len(content) - 1, *(dice.randrange(len(content)) for _ in range(100))]:
        model_file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_world(model_file)
    model_file.write_bytes(content)
    load_world(model_file)


def test_white_space_in_the_header_counts(tmp_path):
    file = tmp_path / "x.safetensors"
    for size in range(8):  # one of these headers is padded
        content = pack({"a": torch.ones(3)}, {"note": "x" * size})
        header = 8 + int.from_bytes(content[:8], "little")
        if content[header - 1 : header] == b" ":
            break
    file.write_bytes(content)
    unpack(file)
    file.write_bytes(content[: header - 1] + b"\n" + content[header:])
    with pytest.raises(CheckpointError, match="damaged"):
        unpack(file)


def test_mutated_files_give_clean_errors(model_file):
    content, dice = model_file.read_bytes(), random.Random(2)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(1000):
        mutated = bytearray(content)
        for _ in range(dice.randrange(1, 8)):
            place = dice.randrange(header) if dice.random() < 0.8 else dice.randrange(len(mutated))
            what = dice.randrange(3)
            if what == 0:
                mutated[place] = dice.randrange(256)
            elif what == 1:
                del mutated[place : place + dice.randrange(1, 40)]
            else:
                mutated[place:place] = dice.randbytes(dice.randrange(1, 40))
        if bytes(mutated) == content:
            continue
        model_file.write_bytes(mutated)
        with pytest.raises(CheckpointError):
            load_world(model_file)


@pytest.mark.parametrize("key", ["recipe", "spec", "encoder", "data", "step", "format"])
def test_a_well_sealed_file_of_nonsense_is_refused(key, model_file):
    tensors, metadata = unpack(model_file)
    for nonsense in ("", "{}", "[1]", '{"name": "pca"}', "null", "x"):
        if key == "data" and nonsense != "" and nonsense != "x":
            continue  # any JSON may be said of the set
        model_file.write_bytes(pack(tensors, {**metadata, key: nonsense}))
        with pytest.raises(CheckpointError):
            load_world(model_file)


def test_weights_of_another_shape_are_listed_first_differences_only(prepared, tmp_path):
    file = tmp_path / "model.safetensors"
    recipe, wide = small_recipe(), small_recipe(width=32)
    save_model(
        file,
        build_world(wide.model, prepared.spec).state_dict(),
        recipe=recipe,
        spec=prepared.spec,
        encoder=prepared.encoder,
        data={},
        step=1,
    )
    with pytest.raises(CheckpointError) as error:
        load_world(file)
    assert "space.observed_in.weight" in error.value.message or "network" in error.value.message
    assert "[32" in error.value.message
    assert "[16" in error.value.message
    assert len(error.value.message.splitlines()) <= 6


def test_a_zip_of_pickles_is_never_opened(tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("opened")

    for suffix in (".pt", ".pth", ".ckpt", ".bin", ".PT"):
        file = tmp_path / f"model{suffix}"
        file.write_bytes(b"PK")
        with monkeypatch.context() as patched:
            patched.setattr("builtins.open", opened)
            with pytest.raises(CheckpointError, match="pickle") as error:
                load_world(file)
        assert "safetensors" in error.value.hint


def test_a_checkpoint_is_a_file_a_run_or_the_latest(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no run") as error:
        resolve_checkpoint(None)
    assert "ebwm train" in error.value.hint
    file = make_run(tmp_path / "runs/one", prepared)
    RunFolder(tmp_path / "runs/one").point_latest()
    for asked in (None, tmp_path / "runs/latest", tmp_path / "runs/one", file):
        assert resolve_checkpoint(asked).resolve() == file
    (tmp_path / "runs/latest").unlink()
    (tmp_path / "runs/latest").write_text("one")  # where there are no symbolic links
    assert resolve_checkpoint(None).resolve() == file
    with pytest.raises(CheckpointError, match=r"runs/two"):
        resolve_checkpoint(tmp_path / "runs/two")
