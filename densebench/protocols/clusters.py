"""K-means on streamed tokens and its mIoU over seeds: what the clustering protocols share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo
from densebench.ops import clustering
from densebench.ops.confusion import AbsentRule, Counts, iou, mean_iou, percentile_interval
from densebench.protocols.protocol import Context, by_class
from densebench.results import Metric


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """How k-means is run; protocols' configs add to it."""

    n_iter: int = 100
    n_redo: int = 5
    points_per_centroid: int = 256
    """k-means trains on at most so many tokens per centroid, faiss's default, which the published code leaves on."""
    kmeans: Literal["auto", "faiss", "torch"] = "auto"
    """Which implementation; "auto" is torch. Both draw the same rows, starts and splits, but their rounding differs and
    iterations amplify it, so it is part of the score hash."""

    @property
    def backend(self) -> Literal["faiss", "torch"]:
        """What `kmeans` comes to."""
        return "torch" if self.kmeans == "auto" else self.kmeans


@dataclass(frozen=True)
class Run:
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


def fit_clusters(
    config: KMeansConfig,
    runs: Sequence[Run],
    rows: Iterable[tuple[Tensor, Tensor]],
    n_rows: int,
    dims: int,
    context: Context,
) -> list[Fit]:
    """Gather, in one pass, the union of the rows that each k-means trains on; then fit them all.

    `rows` yields (tokens (N, d), index (M,) of the token of each row), `n_rows` rows in all or very nearly so: a tie
    between clusters can fall otherwise in another pass, whose batches differ while the cache fills.
    """
    most = config.points_per_centroid
    drawn = [clustering.kmeans_training_rows(n_rows, run.k, run.seed, most) for run in runs]
    wanted = [torch.arange(n_rows) if some is None else some for some in drawn]
    union = torch.cat(wanted).unique()
    points = torch.empty(len(union), dims)
    seen = filled = 0
    for tokens, index in rows:
        inside = union[filled : int(torch.searchsorted(union, seen + len(index)))] - seen
        points[filled : filled + len(inside)] = tokens[index[inside].to(tokens.device)].cpu()
        filled += len(inside)
        seen += len(index)
    wanted = [some[some < seen] for some in wanted]
    fits = []
    todo = list(zip(runs, wanted, strict=True))
    for run, mine in context.progress.track(todo, "k-means", len(todo), unit="fits"):
        with context.stage("k-means"):
            centroids, info = clustering.kmeans(
                points[torch.searchsorted(union, mine)],
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


def miou_over_seeds(
    name: str, info: DatasetInfo, scored: Mapping[str, Counts], replicates: Tensor, absent: AbsentRule, main: bool
) -> Metric:
    """Return the mean mIoU of some seeds' counts, with replicates (B, seeds, 3, C) of the same."""
    values = {seed: 100 * float(mean_iou(*counts, absent=absent)) for seed, counts in scored.items()}
    again = [mean_iou(*Counts(*some.unbind(1)), absent=absent) for some in replicates.unbind(1)]
    low, high = percentile_interval(100 * torch.stack(again).mean(0)).tolist()
    return Metric(
        name=name,
        value=sum(values.values()) / len(values),
        main=main,
        ci95=(low, high),
        ci_method="Poisson bootstrap over validation images, clusters and matching held fixed",
        seeds=values,
        per_class=by_class(info, torch.stack([iou(*counts, absent=absent) for counts in scored.values()]).mean(0)),
    )
