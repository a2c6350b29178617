"""Principal components: state = scale * (frame - mean) @ basis, fitted exactly in one pass.

Frames are integers, so their second moments sum to exact integers in any order, and the fit is the same for any number
of workers. One common scale makes the average component variance 1 and keeps the relative sizes; the basis is
orthonormal, so `decode` is its transpose. It must not know where frames come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ebwm_cli.errors import DataError

CENTRE = 128  # pixels are taken as integers in [-128, 127], so that float32 sums of 1024 products are exact
BLOCK = 1024
LANCZOS_FROM = 1024
RANK_TOLERANCE = 1e-10  # of the largest eigenvalue


class PcaEncoder:
    """Linear, invertible on its own subspace."""

    name = "pca"

    def __init__(self, mean: np.ndarray, basis: np.ndarray, scale: float, size: int, explained_variance: float) -> None:
        """mean (P,) float32 in pixel units, basis (P, D) float32 orthonormal, P = size * size * 3; scale in states per
        pixel unit; explained_variance as a fraction of the variance of the frames it was fitted on."""
        self.mean = mean
        self.basis = basis
        self.scale = scale
        self.size = size
        self.explained_variance = explained_variance

    @property
    def latent_dim(self) -> int:
        """D, numbers per state."""
        return self.basis.shape[1]

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """States (N, D) float32 of frames (N, S, S, 3) uint8."""
        pixels = frames.reshape(len(frames), -1).astype(np.float32)  # (N, P)
        return np.ascontiguousarray((pixels - self.mean) @ self.basis * np.float32(self.scale))

    def decode(self, states: np.ndarray) -> np.ndarray:
        """Frames (N, S, S, 3) uint8 of states (N, D)."""
        pixels = (np.asarray(states, np.float32) / np.float32(self.scale)) @ self.basis.T + self.mean  # (N, P)
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(len(pixels), self.size, self.size, 3)

    def config(self) -> dict[str, Any]:
        """JSON for the manifest and the checkpoint."""
        return {
            "name": self.name,
            "latent_dim": self.latent_dim,
            "size": self.size,
            "scale": self.scale,
            "explained_variance": self.explained_variance,
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """`mean` (P,) and `basis` (P, D), float32."""
        return {"mean": self.mean, "basis": self.basis}

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> PcaEncoder:
        """From `config()` and `tensors()`; raises DataError where shapes disagree."""
        try:
            size, latent_dim = int(config["size"]), int(config["latent_dim"])
            mean, basis = tensors["mean"], tensors["basis"]
            scale, explained = float(config["scale"]), float(config["explained_variance"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the pca encoder is incomplete: {error}", "prepare the set again") from None
        pixels = size * size * 3
        if mean.shape != (pixels,) or basis.shape != (pixels, latent_dim):
            raise DataError(
                f"the pca encoder is for {size} x {size} pixels and {latent_dim} numbers, its tensors have the shapes "
                f"{mean.shape} and {basis.shape}",
                "prepare the set again",
            )
        return cls(mean.astype(np.float32), basis.astype(np.float32), scale, size, explained)


def fit_pca(chunks: Iterable[np.ndarray], frame_count: int, size: int, latent_dim: int) -> PcaEncoder:
    """Exact principal components of `frame_count` frames that come in `chunks` of (n, S, S, 3) uint8.

    With fewer frames than pixels the Gram matrix of the frames is solved instead of their covariance (and the frames
    are held in memory, frame_count x P bytes). `latent_dim` is cut to the rank of the frames; compare the result's.
    Raises DataError where all frames are alike.
    """
    pixels = size * size * 3
    with one_thread():
        if frame_count < pixels:
            frames = np.concatenate([np.asarray(chunk).reshape(-1, pixels) for chunk in chunks])
            mean, values, basis, total = _solve_gram(frames, latent_dim)
        else:
            mean, values, basis, total = _solve_covariance(chunks, pixels, latent_dim)
    rank = int(np.sum(values > RANK_TOLERANCE * max(values.max(initial=0.0), 1e-30)))
    if total <= 0 or rank == 0:
        raise DataError("every frame of the training clips is the same picture", "give clips in which something moves")
    values, basis = values[:rank], basis[:, :rank]
    largest = np.argmax(np.abs(basis), axis=0)
    basis = basis * np.sign(basis[largest, np.arange(rank)])  # the sign is free: make the largest entry positive
    scale = 1.0 / float(np.sqrt(values.mean()))
    return PcaEncoder(
        mean.astype(np.float32),
        np.ascontiguousarray(basis.astype(np.float32)),
        scale,
        size,
        min(1.0, float(values.sum() / total)),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread: the same bits on any number of cores, and no waiting for a core that others use."""
    import scipy.linalg
    import scipy.sparse.linalg  # noqa: F401 (both must be loaded before they can be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _solve_covariance(chunks: Iterable[np.ndarray], pixels: int, latent_dim: int) -> tuple[np.ndarray, ...]:
    """Mean (P,), leading eigenvalues (D,) falling, eigenvectors (P, D), total variance; from one pass."""
    moment = np.zeros((pixels, pixels))
    total, count = np.zeros(pixels), 0
    for frames in _blocks(chunks, pixels):
        block = frames.astype(np.float32) - CENTRE  # integers
        moment += block.T @ block  # each entry an exact integer, at most 2**24
        total += block.sum(axis=0, dtype=np.float64)
        count += len(block)
    mean = total / count
    covariance = moment / count - np.outer(mean, mean)
    values, vectors = _leading(covariance, latent_dim)
    return mean + CENTRE, values, vectors, np.trace(covariance)


def _blocks(chunks: Iterable[np.ndarray], pixels: int) -> Iterator[np.ndarray]:
    """The same frames as (n, P) uint8, BLOCK at a time."""
    waiting: list[np.ndarray] = []
    for chunk in chunks:
        waiting.append(np.asarray(chunk).reshape(-1, pixels))
        if sum(map(len, waiting)) >= BLOCK:
            frames = np.concatenate(waiting)
            whole = len(frames) // BLOCK * BLOCK
            yield from frames[:whole].reshape(-1, BLOCK, pixels)
            waiting = [frames[whole:]]
    rest = np.concatenate(waiting) if waiting else np.empty((0, pixels), np.uint8)
    if len(rest):
        yield rest


def _solve_gram(frames: np.ndarray, latent_dim: int) -> tuple[np.ndarray, ...]:
    """The same from frames (N, P) with N < P: G u = N v u for the centred Gram matrix G makes X^T u a component."""
    count, pixels = frames.shape
    gram = np.zeros((count, count))
    for first in range(0, pixels, BLOCK):
        block = frames[:, first : first + BLOCK].astype(np.float32) - CENTRE
        gram += block @ block.T
    means = gram.mean(axis=0)
    centred = gram - means[:, None] - means[None, :] + gram.mean()
    values, vectors = _leading(centred / count, latent_dim)
    mean = frames.mean(axis=0, dtype=np.float64)
    basis = (frames - mean).T @ vectors  # (P, D)
    norms = np.linalg.norm(basis, axis=0)
    return mean, values, basis / np.where(norms > 0, norms, 1.0), np.trace(centred) / count


def _leading(matrix: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The `wanted` largest eigenvalues of a symmetric matrix, falling, and their vectors as columns.

    Where few of many are wanted: Lanczos to machine precision from a fixed start, the same numbers much sooner.
    """
    side = len(matrix)
    if side >= LANCZOS_FROM and wanted * 8 <= side:
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(matrix, k=wanted, which="LA", v0=np.ones(side), tol=0)
        order = np.argsort(-values, kind="stable")
        return np.maximum(values[order], 0.0), vectors[:, order]
    from scipy.linalg import eigh

    values, vectors = eigh(matrix, subset_by_index=(max(0, side - wanted), side - 1), driver="evr")
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]
