"""Standardisation, PCA and k-means of streamed tokens: what the clustering protocols share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densebench.ops import clustering, faiss_calls
from densebench.ops.lloyd import assign
from densebench.ops.resize import resize_labels
from densebench.protocols.common.kmeans_config import KMeansConfig
from densebench.protocols.protocol import Context


@dataclass(frozen=True)
class Space:
    """How tokens are clustered: as they are, or standardised and reduced by PCA."""

    dims: int
    projection: clustering.Projection | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return tokens (N, dims) of tokens (N, D)."""
        return tokens if self.projection is None else self.projection(tokens)


@dataclass(frozen=True)
class KMeansRun:
    """A k-means to do."""

    k: int
    seed: int
    spherical: bool = False


@dataclass(frozen=True)
class Fit:
    """A k-means done."""

    k: int
    seed: int
    centroids: Tensor  # (k, d)
    objective: float
    n_train: int

    def facts(self) -> dict[str, float]:
        """Return what a record says of it."""
        return {"k": self.k, "seed": self.seed, "objective": self.objective, "trained_on": self.n_train}

    def maps(self, tokens: Tensor, grid: Sequence[int], size: int) -> Tensor:
        """Return the clusters (B, size, size), on the CPU, of tokens (B*h*w, d) of a grid (B, h, w)."""
        return resize_labels(assign(tokens, self.centroids).view(*grid), size).cpu()


def fit_space(config: KMeansConfig, tokens: Iterable[Tensor], context: Context) -> Space:
    """Return the space that the config asks for, of all tokens (N, D) if it is to be learned."""
    width = context.features.info.width
    if config.pca is None:
        return Space(width)
    moments = clustering.StreamingMoments(width)
    for some in tokens:
        with context.stage("projection"):
            moments.update(some)
    with context.stage("projection"):
        projection = moments.pca(config.pca)
    return Space(projection.components.shape[1], projection)


def fit_clusters(
    config: KMeansConfig,
    runs: Sequence[KMeansRun],
    rows: Iterable[tuple[Tensor, Tensor]],
    n_rows: int,
    dims: int,
    context: Context,
) -> list[Fit]:
    """Gather, in one pass, the union of the rows that each k-means trains on; then fit them all.

    `rows` yields (tokens (N, d), index (M,) of the token of each row), `n_rows` rows in all or very nearly so: tokens
    that are computed anew, in another batch, can differ in their last digits and belong to another cluster.
    """
    most = config.points_per_centroid
    drawn = [clustering.kmeans_training_rows(n_rows, run.k, run.seed, most) for run in runs]
    wanted = [torch.arange(n_rows) if some is None else some for some in drawn]
    union = torch.cat(wanted).unique()
    # the rows are clustered on the CPU, where distances are skipped, unless faiss is to search a GPU and can
    device = context.features.device
    at = device if config.kmeans == "faiss" and not faiss_calls.why_not(device) else torch.device("cpu")
    points = torch.empty(len(union), dims, device=at)
    seen = filled = 0
    for tokens, index in rows:
        inside = union[filled : int(torch.searchsorted(union, seen + len(index)))] - seen
        points[filled : filled + len(inside)] = tokens[index[inside].to(tokens.device)].to(at)
        filled += len(inside)
        seen += len(index)
    wanted = [some[some < seen] for some in wanted]
    fits = []
    todo = list(zip(runs, wanted, strict=True))
    for run, mine in context.progress.track(todo, "k-means", len(todo), unit="fits"):
        with context.stage("k-means"):
            centroids, info = clustering.kmeans(
                points[torch.searchsorted(union, mine).to(at)],
                run.k,
                seed=run.seed,
                n_iter=config.n_iter,
                n_redo=config.n_redo,
                backend=config.kmeans,
                spherical=run.spherical,
                max_points_per_centroid=most,
            )
        fits.append(Fit(run.k, run.seed, centroids.to(context.features.device), info.objective, len(mine)))
    return fits
