"""Overclustering: k-means on validation patches, clusters matched to classes, mIoU at 100 x 100 pixels.

Source: Leopart and NeCo `experiments/overcluster` (LEO, NECO), which PaKA (5.2, A.2) follows: tokens of the validation
split are standardised, reduced to 50 dimensions by PCA and clustered with faiss k-means; K = number of classes is
matched by Hungarian on IoU, larger K many-to-one by pixel precision, with no second matching (the papers describe
one; the code has none). Nothing is held per image: moments, training rows and contingency tables are streamed.

Two things differ from the code and change no result that is reproducible there: PCA is exact over all tokens (faiss
trains it on at most 1000 x D of them), and k-means is handed the very rows that faiss would have drawn. Unless faiss is
asked for, k-means is `ops.lloyd`: faiss's starts, iterations and splits, with other rounding, which many iterations can
amplify to another local optimum of much the same objective.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo
from densebench.errors import UsageError
from densebench.features import FeatureSpec, Labels
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet
from densebench.ops import clustering, matching
from densebench.ops.confusion import (
    AbsentRule,
    ConfusionMatrix,
    Counts,
    PoissonBootstrap,
    confusion,
    counts,
    iou,
    mean_iou,
    percentile_interval,
)
from densebench.ops.resize import resize_labels
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Preset,
    Protocol,
    by_class,
    input_size,
)
from densebench.results import Metric


@dataclass(frozen=True, kw_only=True)
class OverclusteringConfig:
    """Settings of overclustering, with the names of the published configs where they have one."""

    input_size: int | None = None
    """Side in pixels; None: 448 rounded down to a multiple of the patch."""
    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    eval_size: int = 100
    """Side that cluster maps and masks are compared at."""
    pca: int | None = 50
    """Dimensions kept of the standardised tokens; None clusters the tokens as they are, not standardised either."""
    clusters: tuple[int | Literal["classes"], ...] = ("classes", 300, 500)
    """Numbers of clusters; "classes" is the number of classes."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_iter: int = 100
    n_redo: int = 5
    points_per_centroid: int = 256
    """k-means trains on at most so many tokens per centroid, faiss's default, which the published code leaves on."""
    kmeans: Literal["auto", "faiss", "torch"] = "auto"
    """Which implementation; "auto" is torch. Both draw the same rows, starts and splits, but their rounding differs and
    iterations amplify it, so it is part of the score hash."""
    absent: AbsentRule = "zero"


class Overclustering(Protocol[OverclusteringConfig]):
    """Unsupervised segmentation by k-means with at least as many clusters as classes."""

    name = "overclustering"
    title = "Overclustering"
    version = 2
    config = OverclusteringConfig
    presets = {
        "paper": Preset(source="PaKA A.2, NeCo A.2, with the code they ran (NeCo and Leopart experiments/overcluster)"),
        "neco": Preset(source="NeCo experiments/overcluster: the same settings"),
        "leopart": Preset(
            source="Leopart experiments/overcluster README: K = 500 for VOC", settings={"clusters": (500,)}
        ),
    }
    metrics = (
        MetricInfo(
            "miou@K=N", "%", True, "mIoU with N clusters: Hungarian if N is the number of classes, else by precision"
        ),
    )
    shrink_hint = "Take fewer clusters or seeds, such as --set overclustering.clusters='[\"classes\"]'."

    def resolve(self, config: OverclusteringConfig, backbone: BackboneInfo, data: DatasetInfo) -> OverclusteringConfig:
        """Fill in the input size, the numbers of clusters and the k-means."""
        numbers = tuple(data.n_classes if k == "classes" else k for k in config.clusters)
        if min(numbers, default=0) < 1:
            raise UsageError(f"overclustering.clusters={config.clusters}: expected numbers of at least 1.")
        return replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            clusters=tuple(dict.fromkeys(numbers)),
            kmeans="torch" if config.kmeans == "auto" else config.kmeans,
        )

    def estimate(self, config: OverclusteringConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, k-means' training rows and its arithmetic."""
        spec = _spec(config)
        height, width = spec.grid(backbone)
        tokens = len(data.val) * height * width
        dims = min(config.pca or backbone.width, backbone.width)
        each = [min(tokens, k * config.points_per_centroid) for k in _numbers(config)]
        flops = sum(
            2.0 * dims * k * (n * config.n_iter * config.n_redo + 2 * tokens)
            for k, n in zip(_numbers(config), each, strict=True)
        )
        return Estimate(
            features={"val": (spec, len(data.val))},
            bank_bytes=4 * dims * (min(tokens, len(config.seeds) * sum(each)) + max(each)),
            search_flops=len(config.seeds) * flops,
        )

    def run(self, config: OverclusteringConfig, backbone: Backbone, data: Data, context: Context) -> Measurement:
        """Four passes over the validation features: moments, training rows, contingency tables, bootstrap."""
        projection = _fit_projection(config, data, context)
        if projection.n_tokens < max(_numbers(config)):
            raise UsageError(
                f"{max(_numbers(config))} clusters need as many patches; {len(data.val)} images have "
                f"{projection.n_tokens}. Lower overclustering.clusters, or raise --limit."
            )
        fits = _fit_clusters(config, projection, data, context)
        tables = _count(config, projection, fits, data, context)
        mappings = [
            matching.hungarian(t) if fit.k == data.info.n_classes else matching.many_to_one(t, "precision")
            for fit, t in zip(fits, tables, strict=True)
        ]
        replicates = _bootstrap(config, projection, fits, mappings, data, context)
        metrics = []
        for k in _numbers(config):
            mine = [i for i, fit in enumerate(fits) if fit.k == k]
            scored = [counts(tables[i], mappings[i]) for i in mine]
            values = {
                str(fits[i].seed): 100 * float(mean_iou(*c, absent=config.absent))
                for i, c in zip(mine, scored, strict=True)
            }
            again = [mean_iou(*Counts(*replicates[:, i].unbind(1)), absent=config.absent) for i in mine]
            low, high = percentile_interval(100 * torch.stack(again).mean(0)).tolist()
            classes = torch.stack([iou(*c, absent=config.absent) for c in scored]).mean(0)
            metrics.append(
                Metric(
                    name=f"miou@K={k}",
                    value=sum(values.values()) / len(values),
                    main=True,
                    ci95=(low, high),
                    ci_method="Poisson bootstrap over validation images, clusters and matching held fixed",
                    seeds=values,
                    per_class=by_class(data.info, classes),
                )
            )
        return Measurement(
            metrics=tuple(metrics),
            facts={
                "kmeans": [{"k": f.k, "seed": f.seed, "objective": f.objective, "trained_on": f.n_train} for f in fits],
                "tokens": projection.n_tokens,
                "dimensions": projection.n_dims,
                "matching": {
                    f"K={k}": "hungarian" if k == data.info.n_classes else "precision" for k in _numbers(config)
                },
            },
            notes=(f"k-means trains on at most {config.points_per_centroid} tokens per centroid",),
        )


@dataclass(frozen=True)
class _Projection:
    """Standardisation and PCA as one affine map."""

    project: clustering.Projection | None
    n_tokens: int
    n_dims: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return tokens (N, d) of tokens (N, D)."""
        return tokens if self.project is None else self.project(tokens)


@dataclass(frozen=True)
class _Fit:
    """One k-means result."""

    k: int
    seed: int
    centroids: Tensor  # (K, d)
    objective: float
    n_train: int


def _fit_projection(config: OverclusteringConfig, data: Data, context: Context) -> _Projection:
    moments = clustering.StreamingMoments(context.features.info.width)
    for batch in context.timed(context.features.stream(data.val, _spec(config), title="moments"), "features"):
        with context.stage("projection"):
            moments.update(batch.tokens)
    if config.pca is None:
        return _Projection(None, moments.count, context.features.info.width)
    with context.stage("projection"):
        project = moments.pca(config.pca)
    return _Projection(project, moments.count, project.components.shape[1])


def _fit_clusters(config: OverclusteringConfig, projection: _Projection, data: Data, context: Context) -> list[_Fit]:
    """Gather, in one pass, the union of the rows that each k-means trains on; then fit them all."""
    runs = [(k, seed) for k in _numbers(config) for seed in config.seeds]
    n, most = projection.n_tokens, config.points_per_centroid
    drawn = [clustering.kmeans_training_rows(n, k, seed, most) for k, seed in runs]
    rows = [torch.arange(n) if some is None else some for some in drawn]
    union = torch.cat(rows).unique()
    points = torch.empty(len(union), projection.n_dims)
    seen = filled = 0
    stream = context.features.stream(data.val, _spec(config), title="training rows")
    for batch in context.timed(stream, "features"):
        tokens = projection(batch.tokens).cpu()
        inside = union[filled : torch.searchsorted(union, torch.tensor(seen + len(tokens)))] - seen
        points[filled : filled + len(inside)] = tokens[inside]
        filled += len(inside)
        seen += len(tokens)
    fits = []
    for (k, seed), mine in context.progress.track(
        list(zip(runs, rows, strict=True)), "k-means", len(runs), unit="fits"
    ):
        with context.stage("k-means"):
            centroids, info = clustering.kmeans(
                points[torch.searchsorted(union, mine)],
                k,
                seed=seed,
                n_iter=config.n_iter,
                n_redo=config.n_redo,
                backend=config.kmeans,
                max_points_per_centroid=config.points_per_centroid,
            )
        fits.append(_Fit(k, seed, centroids.to(context.features.device), info.objective, len(mine)))
    return fits


def _cluster_maps(
    config: OverclusteringConfig, projection: _Projection, fits: list[_Fit], data: Data, context: Context, title: str
) -> Iterator[tuple[list[int], list[Tensor], Tensor]]:
    """Yield (image indices, cluster maps per fit, masks), all at the evaluation size."""
    side = (config.eval_size, config.eval_size)
    size = _spec(config).size
    stream = context.features.stream(data.val, _spec(config), labels=Labels(size, "centre"), title=title)
    for batch in context.timed(stream, "features"):
        assert batch.labels is not None
        with context.stage("assign"):
            tokens = projection(batch.tokens)
            grid = (len(batch.indices), *batch.maps.shape[2:])
            maps = [resize_labels(clustering.assign(tokens, fit.centroids).view(grid), side).cpu() for fit in fits]
        yield batch.indices, maps, resize_labels(batch.labels, side)


def _count(
    config: OverclusteringConfig, projection: _Projection, fits: list[_Fit], data: Data, context: Context
) -> list[Tensor]:
    """Return the contingency table (C, K) of every fit."""
    info = data.info
    matrices = [ConfusionMatrix(fit.k, info.n_classes, info.ignored) for fit in fits]
    for _, maps, masks in _cluster_maps(config, projection, fits, data, context, "contingency"):
        with context.stage("score"):
            for matrix, clusters in zip(matrices, maps, strict=True):
                matrix.update(clusters, masks)
    return [matrix.table for matrix in matrices]


def _bootstrap(
    config: OverclusteringConfig,
    projection: _Projection,
    fits: list[_Fit],
    mappings: list[Tensor],
    data: Data,
    context: Context,
) -> Tensor:
    """Return replicates (B, fits, 3, C) of true positives, false positives and false negatives."""
    info = data.info
    bootstrap = PoissonBootstrap((len(fits), 3, info.n_classes))
    for indices, maps, masks in _cluster_maps(config, projection, fits, data, context, "bootstrap"):
        with context.stage("score"):
            classes = [mapping[clusters] for mapping, clusters in zip(mappings, maps, strict=True)]
            for i, image in enumerate(indices):
                tables = [confusion(c[i], masks[i], info.n_classes, info.n_classes, info.ignored) for c in classes]
                bootstrap.update(image, torch.stack([torch.stack(counts(t)) for t in tables]))
    return bootstrap.replicates()


def _numbers(config: OverclusteringConfig) -> list[int]:
    return [k for k in config.clusters if isinstance(k, int)]


def _spec(config: OverclusteringConfig) -> FeatureSpec:
    assert config.input_size is not None, "resolve() fills it in"
    side = config.input_size
    return FeatureSpec(size=(side, side), layer=config.layer, facet=config.facet, norm=config.norm)
