"""K-means as the overclustering protocols run it: standardise, PCA, faiss-style Lloyd iterations.

Source: NeCo / Leopart ``experiments/overcluster`` (``StandardScaler``, ``faiss.PCAMatrix``, ``faiss.Kmeans``). The
torch backend follows faiss ``Clustering.cpp`` draw by draw: both train on the same rows, start from the same centroids
and split the same empty clusters. They differ by rounding only, which many iterations can carry to another optimum.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from densebench.ops import faiss_calls
from densebench.ops.lloyd import assign_with_faiss, lloyd
from densebench.ops.precision import widen

REDO_STRIDE = 15486557  # by how much faiss moves the seed from one restart to the next


class Projection(NamedTuple):
    """Standardisation followed by a linear map: mean (D,), scale (D,), components (D, n), float32."""

    mean: Tensor
    scale: Tensor
    components: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return rows (N, D) as (N, n), in their type, float32 at least.

        The product is taken in float64, so that equal rows stay equal wherever in a batch they are.
        """
        mean, weight = (t.to(x.device) for t in (self.mean.double(), self.components.double() / self.scale[:, None]))
        parts = [((part.double() - mean) @ weight).to(widen(part[:0]).dtype) for part in x.split(4096)]
        return torch.cat(parts)


class StreamingMoments:
    """Count, mean and covariance of rows, accumulated in float64 in memory O(D^2); batches may have any size.

    Source: Chan, Golub & LeVeque 1983, the pairwise update, which stays exact when the mean is far from zero.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, x: Tensor, chunk: int = 16384) -> None:
        """Add rows (N, D)."""
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"expected rows of {len(self.mean)} dimensions, got {tuple(x.shape)}")
        for part in x.split(chunk) if len(x) else ():
            rows = part.double()
            mean = rows.mean(0)
            rows = rows - mean
            total = self.count + len(rows)
            step = mean.cpu() - self.mean
            self._scatter += (rows.T @ rows).cpu() + torch.outer(step, step) * (self.count * len(rows) / total)
            self.mean = self.mean + step * (len(rows) / total)
            self.count = total

    @property
    def covariance(self) -> Tensor:
        """The population covariance (D, D), float64: divided by N, as scikit-learn's ``StandardScaler`` does."""
        if not self.count:
            raise ValueError("no rows have been added")
        return self._scatter / self.count

    def standardise(self) -> tuple[Tensor, Tensor]:
        """Return (mean, scale), each (D,) float64; a dimension that never varies gets scale 1."""
        deviation = self.covariance.diagonal().clamp(min=0).sqrt()
        still = deviation <= 10 * torch.finfo(torch.float64).eps * self.mean.abs()
        return self.mean, deviation.masked_fill(still, 1.0)

    def pca(self, n: int) -> Projection:
        """Return standardisation and PCA to min(n, D) dimensions, strongest first, not whitened.

        Each component's greatest entry is positive, so the outcome does not depend on the eigensolver.
        """
        mean, scale = self.standardise()
        components = leading_eigenvectors(self.covariance / torch.outer(scale, scale), min(n, len(mean)))
        return Projection(mean.float(), scale.float(), components.T.float().contiguous())


def leading_eigenvectors(matrix: Tensor, n: int) -> Tensor:
    """Return the (n, D) unit eigenvectors of the greatest eigenvalues of a symmetric matrix, signs fixed.

    The greatest entry is positive: the first of those that are a millionth apart, as in (1, -1) / sqrt(2).
    """
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :n].T
    size = vectors.abs()
    peak = vectors.gather(1, (size >= (1 - 1e-6) * size.amax(1, keepdim=True)).byte().argmax(1, keepdim=True))
    return vectors * torch.where(peak < 0, -1.0, 1.0)


class KMeansInfo(NamedTuple):
    """What a result record says about a clustering.

    ``objective`` is the sum over training rows of the squared distance to the nearest centroid (spherical: of the
    dot product with it) in the last iteration, ``n_train`` the rows trained on, ``backend`` the library.
    """

    objective: float
    n_train: int
    backend: str


def kmeans(
    x: Tensor,
    k: int,
    seed: int,
    n_iter: int = 100,
    n_redo: int = 5,
    backend: Literal["auto", "faiss", "torch"] = "auto",
    spherical: bool = False,
    max_points_per_centroid: int = 256,
) -> tuple[Tensor, KMeansInfo]:
    """Return centroids (k, D) float32 of rows (N, D), N >= k, and how they came about.

    Args:
        x: rows; more than ``k * max_points_per_centroid`` are subsampled, see :func:`kmeans_training_rows`.
        k: number of clusters.
        seed: >= 0; equal seeds give equal centroids on one backend, and nearly equal ones across backends.
        n_iter: Lloyd iterations per restart.
        n_redo: restarts; the one with the best objective wins, the first of those within a part in 1e9.
        backend: ``auto`` is torch, which stays on the device and does not depend on the processor. faiss's own
            iterations read rows on the host, so for rows on a GPU faiss finds the nearest centroids there and the rest
            is the torch backend's. ``benchmarks/kmeans.py`` times both.
        spherical: normalise the centroids after each iteration.
        max_points_per_centroid: faiss's default 256; the published overclustering keeps it.
    """
    if min(k, n_iter, n_redo) < 1:
        raise ValueError(f"k, n_iter and n_redo are at least 1, got {k}, {n_iter} and {n_redo}")
    if len(x) < k:
        raise ValueError(f"{len(x)} rows cannot form {k} clusters")
    rows = kmeans_training_rows(len(x), k, seed, max_points_per_centroid)
    train = widen(x if rows is None else x[rows.to(x.device)])
    if not bool(train.isfinite().all()):
        raise ValueError("k-means got rows that are not finite")
    if backend not in ("auto", "faiss", "torch"):
        raise ValueError(f"backend is 'auto', 'faiss' or 'torch', got {backend!r}")
    name = "faiss" if backend == "faiss" else "torch"
    if name == "faiss":
        if reason := faiss_calls.why_not(train.device):
            raise ImportError(f"k-means by faiss: {reason}, or use torch")
        train = train.float().contiguous()
        if not faiss_calls.on_gpu(train.device):
            return _faiss_kmeans(train, k, seed, n_iter, n_redo, spherical, max_points_per_centroid)
    find = assign_with_faiss if name == "faiss" else None
    seeds = [seed + 1 + redo * REDO_STRIDE for redo in range(n_redo)]
    starts = (train[permutation_head(len(train), k, each).to(x.device)] for each in seeds)
    found = (lloyd(train, start, n_iter, spherical, find=find) for start in starts)
    sign, (best, highest) = 1 if spherical else -1, next(found)
    for centroids, objective in found:
        if sign * (objective - highest) > 1e-9 * abs(highest):
            best, highest = centroids, objective
    return best, KMeansInfo(highest, len(train), name)


def _faiss_kmeans(
    train: Tensor, k: int, seed: int, n_iter: int, n_redo: int, spherical: bool, max_points_per_centroid: int
) -> tuple[Tensor, KMeansInfo]:
    model = faiss_calls.load_faiss().Kmeans(
        train.shape[1],
        k,
        niter=n_iter,
        nredo=n_redo,
        seed=seed,
        spherical=spherical,
        gpu=False,
        min_points_per_centroid=1,  # only silences a warning
        max_points_per_centroid=max_points_per_centroid,
    )
    objective = float(model.train(train.numpy()))
    return torch.from_numpy(np.array(model.centroids)), KMeansInfo(objective, len(train), "faiss")


def kmeans_training_rows(n_rows: int, k: int, seed: int, max_points_per_centroid: int = 256) -> Tensor | None:
    """Return the rows, in order, that faiss trains on out of ``n_rows``; ``None`` for all of them.

    A caller that streams gathers only these, in memory O(k), and gets the centroids of the whole table bit by bit.
    Above ``k * max_points_per_centroid`` rows faiss takes the head of a seeded permutation (``rand_perm``).
    """
    n_train = k * max_points_per_centroid
    return None if n_rows <= n_train else permutation_head(n_rows, n_train, seed)


def permutation_head(n: int, m: int, seed: int) -> Tensor:
    """Return the first m entries of faiss's ``rand_perm(n, seed)``, int64, in memory O(m) and without faiss.

    faiss shuffles forwards (Fisher-Yates) with the 32-bit Mersenne twister modulo the rows left.
    """
    draws = np.frombuffer(np.random.RandomState(seed % 2**32).bytes(4 * m), "<u4")
    moved: dict[int, int] = {}  # the entries that are no longer in their own place
    head = np.empty(m, np.int64)
    for i, other in enumerate((np.arange(m) + draws % (n - np.arange(m))).tolist()):
        head[i] = moved.get(other, other)
        moved[other] = moved.pop(i, i)
    return torch.from_numpy(head)
