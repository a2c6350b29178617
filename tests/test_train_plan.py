"""What stands before a training: its plan, refusals that leave nothing behind, the device and its threads."""

import pytest
import torch
from small_set import make_set, small_recipe
from training import finish, short_recipe

from ebwm_cli.commands.train import plan, train
from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import open_set
from ebwm_cli.errors import DataError, RecipeError, ResourceError, UsageError
from ebwm_cli.run.device import resolve_device, set_threads, usable_cores


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("data") / "set").path


def test_a_plan_writes_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = plan(short_recipe(), data, device="cpu")
    assert list(tmp_path.iterdir()) == []
    assert report.seconds_estimate is not None
    assert report.seconds_estimate > 0
    assert report.flops_total == pytest.approx(23 * report.flops_per_step)
    assert report.windows == len(Loader(open_set(data).split("train"), 8, 0).starts)
    with pytest.raises(RecipeError):
        plan(short_recipe())
    alone = small_recipe().model_copy(
        update={"data": small_recipe().data.model_copy(update={"state_dim": 8, "context": 6})}
    )
    assert plan(alone).params == report.params
    assert plan(alone).seconds_estimate is None


def test_a_plan_for_several_devices_is_that_of_a_share(data):
    whole, half = (plan(short_recipe(), data, device="cpu", gpus=gpus) for gpus in (1, 2))
    share = plan(short_recipe(batch_size=short_recipe().train.batch_size // 2), data, device="cpu")
    assert half.memory_bytes == share.memory_bytes < whole.memory_bytes
    assert half.flops_total == whole.flops_total
    assert (whole.devices, half.devices) == (1, 2)
    with pytest.raises(RecipeError):
        plan(short_recipe(), data, gpus=3)


def test_a_plan_foresees_the_disk_a_run_takes(data, tmp_path):
    foreseen = plan(short_recipe(ema=0.9), data).disk_bytes
    finish(short_recipe(ema=0.9), data, tmp_path / "run")
    used = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors"))
    assert 0.3 * foreseen < used < 2 * foreseen  # headers weigh at this size


def test_a_set_that_does_not_fit_leaves_no_folder_behind(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    narrow = short_recipe().model_copy(update={"model": small_recipe(width=4).model})
    with pytest.raises(RecipeError):
        list(train(narrow, data))
    with pytest.raises(DataError):
        list(train(short_recipe(), tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_in_the_set_is_found_before_training(tmp_path):
    prepared = make_set(tmp_path / "set")
    file = next((prepared.path / "train").glob("*.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError):
        list(train(short_recipe(), prepared.path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_devices_by_name():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    missing = [
        name
        for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        if not there
    ]
    for name in missing:
        with pytest.raises(ResourceError) as error:
            resolve_device(name)
        assert error.value.hint == "--device cpu"
    with pytest.raises(UsageError):
        resolve_device("tpu")


def test_threads_stay_within_the_containers_quota(tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_cores(quota) == 1
    quota.write_text("max 100000\n")
    assert usable_cores(quota) == usable_cores(tmp_path / "absent") >= 1
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_threads() == 1
    assert set_threads(2) == torch.get_num_threads() == 2
    torch.set_num_threads(before)
