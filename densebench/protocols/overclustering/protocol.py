"""Overclustering: k-means on validation patches, clusters matched to classes, mIoU at 100 x 100 pixels.

Source: Leopart and NeCo `experiments/overcluster` (LEO, NeCo code), which PaKA (5.2, A.2) follows: tokens of the
validation split are standardised, reduced to 50 dimensions by PCA and clustered with faiss k-means; K = number of
classes is matched by Hungarian on IoU, larger K many-to-one by pixel precision, with no second matching. The papers
describe one for any K (preset `text`); the code has none. No features are held per image: moments, training rows and
contingency tables are streamed.

Two things differ from the code and change no result that is reproducible there: PCA is exact over all tokens (faiss
trains it on at most 1000 x D of them), and k-means is handed the very rows that faiss would have drawn. Unless faiss is
asked for, k-means is `ops.lloyd`: faiss's starts, iterations and splits, with other rounding, which many iterations can
amplify to another local optimum of much the same objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo
from densebench.figures import kit as figures
from densebench.figures.arrays import Picture, enlarge, overlay
from densebench.figures.clusters import cluster_overlay
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import matching
from densebench.ops.confusion import AbsentRule, confusion, counts
from densebench.ops.jackknife import GroupSums
from densebench.ops.resize import resize_labels
from densebench.protocols.common import scoring
from densebench.protocols.common.clusters import Fit, KMeansRun, Space, fit_clusters, fit_space
from densebench.protocols.common.examples import as_seen, spread
from densebench.protocols.common.image_tables import MAX_TABLE_BYTES, ImageTables
from densebench.protocols.overclustering.config import OverclusteringConfig
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    input_size,
)
from densebench.views.squash import Labels


class Overclustering(Protocol[OverclusteringConfig]):
    """Unsupervised segmentation by k-means with at least as many clusters as classes."""

    name = "overclustering"
    title = "Overclustering"
    version = 3
    config = OverclusteringConfig
    presets = OverclusteringConfig.presets
    seeded = False
    metrics = (
        MetricInfo(
            "miou",
            "%",
            True,
            "mIoU with so many clusters, matched with classes as `matching` says",
            at=("clusters",),
        ),
    )
    reads_train = False
    shrink_hint = "Take fewer clusters or seeds, such as --set overclustering.clusters='[\"classes\"]'."

    def resolve(self, config: OverclusteringConfig, backbone: BackboneInfo, data: DatasetInfo) -> OverclusteringConfig:
        """Fill in the input size, the numbers of clusters and the k-means."""
        numbers = tuple(data.n_classes if k == "classes" else k for k in config.clusters)
        return replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            clusters=tuple(dict.fromkeys(numbers)),
            kmeans=config.backend,
        )

    def estimate(self, config: OverclusteringConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, k-means' training rows and its arithmetic."""
        spec = config.spec
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

    def run(self, config: OverclusteringConfig, data: Data, context: Context) -> Measurement:
        """Three passes over the validation features: moments, training rows, contingency tables."""
        found = cluster(config, data, context)
        metrics = []
        for k in _numbers(config):
            by_seed = {
                str(fit.seed): _score(table, _rule(config, fit.k, data.info.n_classes), config.absent)
                for fit, table in zip(found.fits, found.tables, strict=True)
                if fit.k == k
            }
            fixed = "clusters and matching"
            metrics.append(scoring.metric("miou", by_seed, fixed, at={"clusters": k}, main=True, info=data.info))
        with context.stage("figures"):
            pictures = _picture(config, found, data)
        return scoring.measurement(
            metrics,
            facts={
                "kmeans": [fit.facts() for fit in found.fits],
                "tokens": found.n_tokens,
                "dimensions": found.space.dims,
                "matching": {f"K={k}": _rule(config, k, data.info.n_classes) for k in _numbers(config)},
            },
            notes=(f"k-means trains on at most {config.points_per_centroid} tokens per centroid",),
            artifacts=pictures,
        )


class Tables(NamedTuple):
    """Contingency tables (C, K): sums over groups of images, and those of single ones."""

    groups: GroupSums
    images: ImageTables


class ClusteredImage(NamedTuple):
    """A validation image for the picture."""

    image: int
    clusters: list[Tensor]
    """(eval_size, eval_size) per fit."""


@dataclass(frozen=True)
class Clustered:
    """The validation split in clusters."""

    n_tokens: int
    space: Space
    fits: list[Fit]
    tables: list[Tables]
    """One per fit."""
    examples: list[ClusteredImage]


def cluster(config: OverclusteringConfig, data: Data, context: Context) -> Clustered:
    """Cluster the validation tokens with every number of clusters and seed, and count clusters by class.

    Raises UsageError where there are fewer tokens than clusters.
    """
    height, width = config.spec.grid(context.backbone.info)
    n_tokens = len(data.val) * height * width
    if n_tokens < max(_numbers(config)):
        raise UsageError(
            f"{max(_numbers(config))} clusters need as many patches; {len(data.val)} images have {n_tokens}. "
            "Lower overclustering.clusters, or raise --limit."
        )
    stream = context.timed(context.features.stream(data.val, config.spec, title="moments"), "features")
    space = fit_space(config, (batch.tokens for batch in stream), context)
    fits = _fit_clusters(config, space, n_tokens, data, context)
    return Clustered(n_tokens, space, fits, *_count(config, space, fits, data, context))


def _fit_clusters(config: OverclusteringConfig, space: Space, n_tokens: int, data: Data, context: Context) -> list[Fit]:
    """Cluster the tokens, every one a row."""
    stream = context.features.stream(data.val, config.spec, title="training rows")
    projected = (space(batch.tokens) for batch in context.timed(stream, "features"))
    rows = ((tokens, torch.arange(len(tokens))) for tokens in projected)
    runs = [KMeansRun(k, seed) for k in _numbers(config) for seed in config.seeds]
    return fit_clusters(config, runs, rows, n_tokens, space.dims, context)


def _cluster_maps(
    config: OverclusteringConfig, space: Space, fits: list[Fit], data: Data, context: Context
) -> Iterator[tuple[list[int], list[Tensor], Tensor]]:
    """Yield (image indices, cluster maps per fit, masks), all at the evaluation size."""
    wanted = Labels(config.spec.size, "centre")
    stream = context.features.stream(data.val, config.spec, labels=wanted, title="contingency")
    for batch in context.timed(stream, "features"):
        with context.stage("assign"):
            tokens = space(batch.tokens)
            grid = (len(batch.indices), *batch.maps.shape[2:])
            maps = [fit.maps(tokens, grid, config.eval_size) for fit in fits]
        yield batch.indices, maps, resize_labels(batch.labels, config.eval_size)


def _rule(config: OverclusteringConfig, n_clusters: int, n_classes: int) -> str:
    """Return how so many clusters are matched, as `MATCHERS` and the record call it."""
    if config.matching == "greedy_hungarian":
        return "precision, then hungarian"
    return "hungarian" if n_clusters == n_classes else "precision"


MATCHERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "hungarian": matching.hungarian,
    "precision": matching.many_to_one,
    "precision, then hungarian": matching.greedy_hungarian,
}


def match(config: OverclusteringConfig, table: Tensor) -> Tensor:
    """Return the class (K,) of each cluster of a table (C, K), by the rule of the config."""
    return MATCHERS[_rule(config, table.shape[1], table.shape[0])](table)


def _score(tables: Tables, rule: str, absent: AbsentRule) -> scoring.Miou:
    """Match clusters with classes once over all images, and score."""
    table = tables.groups.total()
    mapping = MATCHERS[rule](table)
    images = tables.images.arrays(mapping, merge=True)
    return scoring.miou(counts(table, mapping), counts(tables.groups.left_out(), mapping), absent, images=images)


def _count(
    config: OverclusteringConfig, space: Space, fits: list[Fit], data: Data, context: Context
) -> tuple[list[Tables], list[ClusteredImage]]:
    """Return the contingency tables of every fit, and some images with their clusters."""
    info, shown, examples = data.info, spread(context.pictures, len(data.val)), list[ClusteredImage]()
    tables = [Tables(GroupSums((info.n_classes, fit.k)), ImageTables(MAX_TABLE_BYTES // len(fits))) for fit in fits]
    for images, maps, masks in _cluster_maps(config, space, fits, data, context):
        for i in (i for i, image in enumerate(images) if image in shown):
            examples.append(ClusteredImage(images[i], [clusters[i].clone() for clusters in maps]))
        with context.stage("score"):
            for fit, of_fit, clusters in zip(fits, tables, maps, strict=True):
                for image, found, mask in zip(images, clusters, masks, strict=True):
                    table = confusion(found, mask, fit.k, info.n_classes, info.ignored)
                    of_fit.groups.update(image, table)
                    of_fit.images.update(image, table)
    return tables, examples


def _picture(config: OverclusteringConfig, found: Clustered, data: Data) -> dict[str, bytes]:
    """Return some images, their truth and their clusters of the first seed, a row per number of clusters, as PNG."""
    if not found.examples:
        return {}
    info, indices = data.info, [example.image for example in found.examples]
    images = [as_seen(data.val, index, config.spec) for index in indices]
    truths = [enlarge(data.val.mask(index), config.spec.size) for index in indices]
    seen = {int(label) for truth in truths for label in np.unique(truth) if label < info.n_classes}
    rows: dict[str, list[Picture | None]] = {
        "image": [*images],
        "ground truth": [overlay(im, figures.colorize(t, info.palette)) for im, t in zip(images, truths, strict=True)],
    }
    for n, (fit, table) in enumerate(zip(found.fits, found.tables, strict=True)):
        if fit.seed == config.seeds[0]:
            mapping = match(config, table.groups.total()).cpu().numpy()
            clusters = [example.clusters[n].numpy() for example in found.examples]
            seen |= {int(label) for some in clusters for label in np.unique(mapping[some])}
            rows[f"K = {fit.k}"] = [
                cluster_overlay(image, some, mapping, info.palette)
                for image, some in zip(images, clusters, strict=True)
            ]
    return {"clusters.png": figures.picture_grid(rows, (), (info.classes, info.palette, sorted(seen)))}


def _numbers(config: OverclusteringConfig) -> list[int]:
    return [k for k in config.clusters if isinstance(k, int)]
