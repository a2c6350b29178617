"""The pca encoder against a singular value decomposition in float64: every way of solving, any order of chunks."""

import numpy as np
import pytest

from ebwm_cli.data.encoders import Encoder, load_encoder
from ebwm_cli.data.encoders import pca as pca_module
from ebwm_cli.data.encoders.pca import PcaEncoder, fit_pca
from ebwm_cli.errors import DataError


def frames_of(count: int, size: int, seed: int = 0, rank: int = 20) -> np.ndarray:
    """Frames (count, size, size, 3) that mostly live in `rank` directions."""
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((rank, size * size * 3))
    weights = rng.standard_normal((count, rank)) * np.linspace(30, 5, rank)
    frames = 120 + weights @ basis / 4 + rng.standard_normal((count, size * size * 3)) * 2
    return np.clip(frames, 0, 255).astype(np.uint8).reshape(count, size, size, 3)


def reference(frames: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray, float]:
    """States scaled to unit average variance, singular values squared over N, explained share; by SVD in float64."""
    flat = frames.reshape(len(frames), -1).astype(np.float64)
    centred = flat - flat.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    values = s**2 / len(flat)
    states = u[:, :dims] * s[:dims] / np.sqrt(values[:dims].mean())
    return states, values, values[:dims].sum() / values.sum()


@pytest.mark.parametrize(("count", "size"), [(300, 6), (60, 12)], ids=["covariance", "gram"])
def test_fit_equals_svd(count: int, size: int) -> None:
    frames = frames_of(count, size)
    encoder = fit_pca(np.array_split(frames, 7), count, size, 10)
    states, _, explained = reference(frames, 10)
    mine = encoder.encode(frames)
    signs = np.sign((mine * states).sum(axis=0))
    np.testing.assert_allclose(mine, states * signs, atol=2e-4)
    assert encoder.explained_variance == pytest.approx(explained, rel=1e-6)
    np.testing.assert_allclose(mine.mean(axis=0), 0, atol=1e-4)
    assert mine.var(axis=0).mean() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(encoder.basis.T @ encoder.basis, np.eye(10), atol=1e-5)


def test_lanczos_gives_the_same_components(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of(400, 8)
    dense = fit_pca([frames], 400, 8, 10)
    monkeypatch.setattr(pca_module, "LANCZOS_FROM", 1)
    lanczos = fit_pca([frames], 400, 8, 10)
    np.testing.assert_allclose(lanczos.basis, dense.basis, atol=1e-6)
    assert lanczos.scale == pytest.approx(dense.scale, rel=1e-9)


def test_fit_is_bit_identical_for_any_chunks_and_order() -> None:
    frames = frames_of(2500, 5)
    whole = fit_pca([frames], 2500, 5, 8)
    rng = np.random.default_rng(1)
    for pieces in (3, 40, 1000):
        shuffled = frames[rng.permutation(2500)]
        other = fit_pca(np.array_split(shuffled, pieces), 2500, 5, 8)
        assert other.basis.tobytes() == whole.basis.tobytes()
        assert other.mean.tobytes() == whole.mean.tobytes()
        assert other.scale == whole.scale


def test_decode_inverts_encode_when_nothing_is_cut() -> None:
    frames = frames_of(40, 4)
    encoder = fit_pca([frames], 40, 4, 48)
    assert np.abs(encoder.decode(encoder.encode(frames)).astype(int) - frames).max() <= 1


def test_latent_dim_is_cut_to_the_rank() -> None:
    frames = frames_of(5, 8)
    encoder = fit_pca([frames], 5, 8, 128)
    assert encoder.latent_dim == 4
    repeated = fit_pca([np.repeat(frames, 100, axis=0)], 500, 8, 128)
    assert repeated.latent_dim == 4
    assert repeated.explained_variance == pytest.approx(1)


def test_equal_frames_are_refused() -> None:
    with pytest.raises(DataError, match="same picture"):
        fit_pca([np.full((30, 4, 4, 3), 17, np.uint8)], 30, 4, 8)


def test_signs_are_fixed() -> None:
    encoder = fit_pca([frames_of(100, 6)], 100, 6, 8)
    largest = np.abs(encoder.basis).argmax(axis=0)
    assert (encoder.basis[largest, range(8)] > 0).all()


def test_round_trip_through_config_and_tensors() -> None:
    encoder = fit_pca([frames_of(100, 6)], 100, 6, 8)
    assert isinstance(encoder, Encoder)
    again = load_encoder(encoder.config(), encoder.tensors())
    frames = frames_of(3, 6, seed=9)
    assert again.encode(frames).tobytes() == encoder.encode(frames).tobytes()
    assert (again.latent_dim, again.size, again.name) == (8, 6, "pca")


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"size": 7}, {"latent_dim": 9}, {"scale": None}, {"size": "x"}],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_does_not_fit_is_a_data_error(change: dict) -> None:
    encoder = fit_pca([frames_of(100, 6)], 100, 6, 8)
    with pytest.raises(DataError):
        load_encoder({**encoder.config(), **change}, encoder.tensors())
    with pytest.raises(DataError):
        PcaEncoder.load(encoder.config(), {})
