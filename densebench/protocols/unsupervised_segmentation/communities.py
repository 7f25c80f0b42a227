"""Clusters of the foreground, the graph of which lie side by side, and what classes they come to.

The second half of `unsupervised_segmentation.py`, which has the settings and their sources; the numerics are in
`ops/cbfe.py` and `ops/matching.py`. Passes stream: of single images, small tables are held, up to a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo
from densebench.features.spec import Batch
from densebench.ops import cbfe, matching
from densebench.ops.confusion import ConfusionMatrix, confusion, counts
from densebench.ops.jackknife import GroupSums
from densebench.ops.resize import resize_labels
from densebench.protocols.common import scoring
from densebench.protocols.common.clusters import Fit, KMeansRun, fit_clusters
from densebench.protocols.common.examples import Example, as_seen, spread
from densebench.protocols.common.image_tables import MAX_TABLE_BYTES, ImageTables
from densebench.protocols.unsupervised_segmentation.foreground import Foreground, Part, TokenImages
from densebench.results.counts import ImageStatistics
from densebench.results.schema import Metric

if TYPE_CHECKING:
    from densebench.protocols.unsupervised_segmentation.config import UnsupervisedSegmentationConfig


def foreground_runs(config: UnsupervisedSegmentationConfig) -> list[KMeansRun]:
    """Return the k-means of the foreground: the one for communities first, if any."""
    fine = [KMeansRun(config.k_community, config.clustering_seed)] if config.community_detection is not None else []
    return [*fine, *(KMeansRun(config.n_objects, seed) for seed in config.object_seeds)]


def fit_foreground(images: TokenImages, foreground: Foreground, parts: Sequence[Part], n_rows: int) -> list[Fit]:
    """Cluster the foreground, every pixel of the evaluation size one row, as the code does."""
    runs = foreground_runs(images.config)
    most = max(run.k for run in runs)
    if n_rows < most:
        raise UsageError(
            f"{most} clusters of the foreground need as many pixels; attention left {n_rows} above the threshold. "
            "Lower unsupervised_segmentation.k_community, raise --limit, or give another threshold."
        )

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for part in parts:
            for batch, tokens in images.stream(part, "foreground rows"):
                inside = foreground(images, part, batch, tokens)
                places = torch.arange(len(tokens)).view(len(batch.indices), *batch.maps.shape[2:])
                yield tokens, resize_labels(places, images.config.eval_size)[inside]

    return fit_clusters(images.config, runs, rows(), n_rows, images.space.dims, images.context)


def _segments(
    images: TokenImages,
    foreground: Foreground,
    fits: Sequence[Fit],
    part: Part,
    batch: Batch,
    tokens: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Return the foreground (B, S, S) and the clusters of each fit, background being the last id of each."""
    inside = foreground(images, part, batch, tokens)
    return inside, [images.maps(batch, tokens, fit).masked_fill(~inside, fit.k) for fit in fits]


def tables_of(images: TokenImages, foreground: Foreground, fits: Sequence[Fit], val: Part) -> list[Tensor]:
    """Return the contingency table (C, k + 1) of every fit."""
    info = val.info
    matrices = [ConfusionMatrix(fit.k + 1, info.n_classes, info.ignored) for fit in fits]
    for batch, tokens in images.stream(val, "contingency", labels=True):
        _, maps = _segments(images, foreground, fits, val, batch, tokens)
        with images.context.stage("score"):
            for matrix, clusters in zip(matrices, maps, strict=True):
                matrix.update(clusters, images.masks(val, batch))
    return [matrix.table for matrix in matrices]


def find_communities(
    images: TokenImages, foreground: Foreground, fits: Sequence[Fit], parts: Sequence[Part]
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the community (k + 1,) of every cluster by Infomap's seed, and facts on the graph."""
    config = images.config
    if config.community_detection is None:
        return {}, {}
    fine = fits[0]
    stream = cbfe.CoOccurrence(fine.k + 1)
    for part in parts:
        for batch, tokens in images.stream(part, "co-occurrence"):
            _, (maps,) = _segments(images, foreground, [fine], part, batch, tokens)
            with images.context.stage("graph"):
                for clusters in maps:
                    stream.update(clusters)
    with images.context.stage("graph"):
        edges = cbfe.strong_edges(stream.compute(), config.weight_threshold)
        found = {
            str(seed): cbfe.communities(
                edges, fine.k + 1, seed=seed, markov_time=config.markov_time, preferred=config.n_objects
            )
            for seed in config.community_seeds
        }
    linked = len(edges.nodes.unique())
    return found, {
        "infomap": cbfe.load_infomap().__version__,
        "edges": len(edges.nodes),
        "linked_clusters": linked,
        "unlinked_clusters": fine.k + 1 - linked,
        "communities": {seed: int(mapping.max()) for seed, mapping in found.items()},
    }


@dataclass(frozen=True)
class ScoredClusters:
    """One way to turn the clusters of a fit into classes."""

    metric: str
    seed: str
    fit: int
    mapping: Tensor  # (k + 1,)


def mappings_of(
    config: UnsupervisedSegmentationConfig,
    info: DatasetInfo,
    fits: Sequence[Fit],
    tables: Sequence[Tensor],
    found: Mapping[str, Tensor],
) -> list[ScoredClusters]:
    """Match communities and clusters to classes: one to one; the bound, and other than C - 1 objects, many to one.

    Clusters without an edge are community 0, which is matched like the others. The published code stops at more
    communities than classes; here the best matched ones count and the rest become class 0.
    """
    scored = []
    for seed, merged in found.items():
        table = tables[0].new_zeros(info.n_classes, int(merged.max()) + 1).index_add_(1, merged, tables[0])
        scored.append(ScoredClusters("miou", seed, 0, matching.hungarian(table)[merged]))
    first = len(fits) - len(config.object_seeds)
    for i, fit in enumerate(fits[first:], first):
        one_to_one = fit.k + 1 == info.n_classes
        mapping = matching.hungarian(tables[i]) if one_to_one else matching.many_to_one(tables[i], "precision")
        scored.append(ScoredClusters("miou_cbfe", str(fit.seed), i, mapping))
    if found:
        scored.append(ScoredClusters("miou_bound", str(fits[0].seed), 0, matching.many_to_one(tables[0], "precision")))
    return scored


class Second(NamedTuple):
    """What comes out of the second pass over the validation images."""

    left_out: Tensor
    """Counts without each group of images, (G, scored, 3, C)."""
    images: list[ImageTables]
    """Of each fit: the tables of single images."""
    foreground: scoring.Scored
    everything: float
    """IoU in percent of calling all of every image foreground."""
    examples: list[Example]
    """The prediction is that of the first of `scored`."""


def second_pass(
    images: TokenImages,
    foreground: Foreground,
    fits: Sequence[Fit],
    scored: Sequence[ScoredClusters],
    val: Part,
) -> Second:
    """Count the validation images by groups, compare the foreground, and keep some examples."""
    info, spec, n = val.info, images.config.spec, len(val.indices)
    groups = GroupSums((len(scored), 3, info.n_classes))
    image_tables = [ImageTables(MAX_TABLE_BYTES // len(fits)) for _ in fits]
    saliency, whole, alone = GroupSums((2,), dtype=torch.float64), 0.0, dict[int, float]()
    shown, examples = spread(images.context.pictures, n), []
    for batch, tokens in images.stream(val, "scores", labels=True):
        inside, maps = _segments(images, foreground, fits, val, batch, tokens)
        with images.context.stage("score"):
            masks = images.masks(val, batch)
            truth = cbfe.label_foreground(val.labels(batch))
            # at the input size: the code enlarges the prediction here, and here only
            overlaps = cbfe.foreground_iou(resize_labels(inside, spec.size), truth)
            for i, image in enumerate(batch.indices):
                tables = [
                    confusion(clusters[i], masks[i], fit.k + 1, info.n_classes, info.ignored)
                    for clusters, fit in zip(maps, fits, strict=True)
                ]
                groups.update(image, torch.stack([torch.stack(counts(tables[s.fit], s.mapping)) for s in scored]))
                overlap = torch.stack([overlaps[i].nan_to_num(), (~overlaps[i].isnan()).double()])
                saliency.update(image, overlap)
                alone[image] = 100 * float(overlaps[i])
                for table, of_fit in zip(tables, image_tables, strict=True):
                    of_fit.update(image, table)
                whole += float(truth[i].double().mean())
                if image in shown:
                    classes = scored[0].mapping[maps[scored[0].fit][i]]
                    examples.append((as_seen(val.data, image, spec), masks[i].numpy().copy(), classes.numpy()))
    total, rest = saliency.total(), saliency.left_out()
    value = 100 * float(total[0] / total[1].clamp(min=1))
    ci95, ci_method = scoring.interval(value, 100 * rest[:, 0] / rest[:, 1], "foreground")
    metric = Metric(name="foreground_iou", value=value, ci95=ci95, ci_method=ci_method)
    order = sorted(alone)
    arrays = {"image": np.asarray(order, np.int64), "value": np.asarray([alone[image] for image in order])}
    # images without any foreground have no value; where none has one, the metric is 0 and no mean
    kept = (ImageStatistics(kind="mean", name=metric.name, arrays=arrays),) if total[1] else ()
    return Second(groups.left_out(), image_tables, scoring.Scored(metric, kept), 100 * whole / max(1, n), examples)
