"""Lloyd's iterations as faiss does them, exact on every device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.ops import faiss_calls, ties

SPLIT_EPSILON = 1 / 1024  # by how much faiss pushes the halves of a split cluster apart
ROWS = 8192  # at a time, where sums are in float64


def lloyd(
    x: Tensor,
    centroids: Tensor,
    n_iter: int,
    spherical: bool = False,
    find: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, float]:
    """Return the centroids (K, D) after at most ``n_iter`` iterations from ``centroids``, and the last objective.

    Args:
        x: rows (N, D), float32.
        centroids: where to start, (K, D).
        n_iter: iterations, at least 1; they end early once no row changes its cluster.
        spherical: normalise the centroids before each iteration and at the end.
        find: used instead of :func:`assign`.

    The objective is the sum over rows of the squared distance to the nearest centroid (spherical: of the dot product
    with it) at the last assignment. Sums of clusters are kept in float64 and updated by the rows that move only.
    """
    find = find or assign
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=x.device)
    members = torch.full((len(x),), -1, device=x.device)
    for _ in range(n_iter):
        used = centroids = F.normalize(centroids, dim=1) if spherical else centroids
        nearest = find(x, centroids)
        moved = (nearest != members).nonzero().squeeze(1)
        if not len(moved):
            break  # converged: further iterations would repeat this one
        for some in moved.split(ROWS):
            rows, before = x[some].double(), members[some]
            sums.index_add_(0, nearest[some], rows)
            sums.index_add_(0, before.clamp(min=0), rows * (before >= 0)[:, None], alpha=-1)
        members = nearest
        sizes = torch.bincount(members, minlength=len(centroids))
        centroids = _split_empty((sums / sizes.clamp(min=1)[:, None]).to(x.dtype), sizes, len(x))
    objective = 0.0
    for rows, own in zip(x.split(ROWS), used[members].split(ROWS), strict=True):
        objective += float((rows * own if spherical else (rows - own).square()).sum(dtype=torch.float64))
    return F.normalize(centroids, dim=1) if spherical else centroids, objective


def assign(x: Tensor, centroids: Tensor, chunk: int | None = None) -> Tensor:
    """Return the (N,) int64 index of the nearest centroid by Euclidean distance, of rows (N, D).

    Near ties go to the lowest by the rule of :mod:`densebench.ops.ties`: the outcome does not depend on the chunks.
    """
    centroids = centroids.to(x.device)
    wide = centroids.double()
    squares = wide.square().sum(1)
    longest, bias = squares.max().sqrt(), (-squares / 2).to(centroids.dtype)
    # the scores of a chunk: on a CPU half a second-level cache, but no product so thin that it is slow
    chunk = chunk or max(512, (2**17 if x.device.type == "cpu" else 2**22) // len(centroids))
    nearest = torch.empty(len(x), dtype=torch.int64, device=x.device)
    lead = centroids.new_empty(len(x))
    for some, index, ahead in zip(x.split(chunk), nearest.split(chunk), lead.split(chunk), strict=True):
        scores = torch.addmm(bias, some.to(centroids.dtype), centroids.T)  # of the nearest x.c - |c|^2 / 2 is greatest
        ties.leader(scores, index, ahead)
    scale = (torch.linalg.vector_norm(x, dim=1, dtype=centroids.dtype) + longest / 2) * longest
    unsure = (lead <= ties.margin(scale, x.shape[1], centroids.dtype)).nonzero().squeeze(1)
    for rows in unsure.split(max(chunk, 4096)):
        exact = torch.addmm(-squares / 2, x[rows].double(), wide.T)
        nearest[rows] = ties.first_greatest(exact, scale[rows, None])
    return nearest


def assign_with_faiss(x: Tensor, centroids: Tensor) -> Tensor:
    """Return what :func:`assign` returns, of contiguous float32 rows on one device, by faiss's search.

    Squared distances that are more than twice their rounding error and a step apart are in order; the rule decides the
    rest. The error of |x|^2 + |c|^2 - 2 x.c is at most (D + 4) u (|x| + |c|)^2, by the bound of a dot product.
    """
    if len(centroids) == 1:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    squares, found = faiss_calls.knn(centroids.contiguous(), x, 2, "l2")
    reach = (torch.linalg.vector_norm(x, dim=1) + torch.linalg.vector_norm(centroids, dim=1).max()).square()
    nearest = found[:, 0].clone()
    unsure = (squares[:, 1] - squares[:, 0] <= ties.margin(reach, x.shape[1], x.dtype)).nonzero().squeeze(1)
    nearest[unsure] = assign(x[unsure], centroids)
    return nearest


def _split_empty(centroids: Tensor, sizes: Tensor, n_rows: int) -> Tensor:
    """Give every empty cluster half of another one, drawn with odds that grow with its size, as faiss does."""
    empty = (sizes == 0).nonzero().squeeze(1).tolist()
    if not empty:
        return centroids
    size = sizes.tolist()
    draw = np.random.RandomState(1234)
    sign = 1 - 2 * (torch.arange(centroids.shape[1], device=centroids.device) % 2)
    for cluster in empty:
        donor = 0
        while draw.randint(2**32, dtype=np.uint32) / (2**32 - 1) >= (size[donor] - 1) / max(1, n_rows - len(size)):
            donor = (donor + 1) % len(size)
        centroids[cluster] = centroids[donor] * (1 + SPLIT_EPSILON * sign)
        centroids[donor] = centroids[donor] * (1 - SPLIT_EPSILON * sign)
        size[cluster] = size[donor] // 2
        size[donor] -= size[cluster]
    return centroids
