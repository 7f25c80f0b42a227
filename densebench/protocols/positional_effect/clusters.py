"""Clusters of the positional-effect study: one pass fits the centroids of all reads, one assigns validation images.

A read is one layer and facet (`model_zoo/backbone.py`). `positional_effect.py` has the settings and their sources.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.features.spec import Batch
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.ops import clustering, cosine_kmeans, information, matching
from densebench.ops.confusion import (
    ConfusionMatrix,
    counts,
    iou,
    mean_iou,
    mean_iou_left_out,
)
from densebench.ops.jackknife import GroupSums
from densebench.protocols.common import scoring
from densebench.protocols.common.examples import spread
from densebench.protocols.common.image_tables import MAX_TABLE_BYTES, ImageTables
from densebench.protocols.protocol import Context, Data
from densebench.results.schema import Metric
from densebench.views.squash import Labels

if TYPE_CHECKING:
    from densebench.protocols.positional_effect.config import PositionalEffectConfig


@dataclass(frozen=True)
class Reads:
    """Streams the reads of one study."""

    config: PositionalEffectConfig
    reads: tuple[FeatureKey, ...]
    context: Context

    def stream(
        self,
        data: DenseDataset,
        indices: Sequence[int] | None,
        title: str,
        labels: Labels | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """Yield the maps of all reads, one image batch after another."""
        spec = replace(self.config.spec, keys=self.reads)
        stream = self.context.features.stream(data, spec, indices, labels=labels, batch_size=batch_size, title=title)
        yield from self.context.timed(stream, "features")


def fit(reads: Reads, data: DenseDataset) -> tuple[list[Tensor], list[float]]:
    """Return centroids (K, D) of the online cosine k-means per read, and their mean loss over the last 100 steps."""
    config, context = reads.config, reads.context
    rng = np.random.default_rng(context.seed)
    order = _shuffled_epochs(len(data), config.steps * config.batch, rng)
    first = sorted(set(order[: config.init_batches * config.batch]))
    moments = [clustering.StreamingMoments(context.features.info.width) for _ in reads.reads]
    for batch in reads.stream(data, first, "initial centroids"):
        with context.stage("k-means"):
            for seen, maps in zip(moments, batch.by_key, strict=True):
                seen.update(_rows(maps))
    info, device = context.features.info, context.features.device
    fits = [
        cosine_kmeans.CosineKMeans(_initial(seen, config.n_clusters, info).to(device), config.learning_rate)
        for seen in moments
    ]
    losses: list[deque[Tensor]] = [deque(maxlen=100) for _ in fits]
    stream = reads.stream(data, order, "cosine k-means", batch_size=config.batch)
    for step in _whole_batches(stream, config.batch):
        with context.stage("k-means"):
            for one, maps, last in zip(fits, step, losses, strict=True):
                last.append(one.step(_rows(maps)))
    return [one.centroids for one in fits], [sum(map(float, last)) / max(len(last), 1) for last in losses]


def _whole_batches(stream: Iterator[Batch], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the maps (size, D, h, w) of each read: a batch is a step, whatever the cache holds.

    Streams end a batch where cached and missing images alternate; steps of fewer images would change the clusters.
    """
    waiting: list[tuple[Tensor, ...]] = []
    for batch in stream:
        if not waiting and len(batch.indices) == size:
            yield batch.by_key
            continue
        for i in range(len(batch.indices)):
            waiting.append(tuple(maps[i : i + 1] for maps in batch.by_key))
            if len(waiting) == size:
                yield tuple(torch.cat(some) for some in zip(*waiting, strict=True))
                waiting = []


def _rows(maps: Tensor) -> Tensor:
    """Return maps (B, D, h, w) as float32 rows (B*h*w, D)."""
    return maps.float().flatten(2).transpose(1, 2).flatten(0, 1)


def _initial(moments: clustering.StreamingMoments, k: int, backbone: BackboneInfo) -> Tensor:
    """Return k principal directions (k, D); beyond D of them, the first ones again with their sign turned."""
    if k > 2 * backbone.width:
        raise UsageError(
            f"positional_effect.clusters={k} exceeds twice the width of {backbone.name} ({backbone.width}): "
            "there are no more principal directions to start from. Set fewer."
        )
    directions = cosine_kmeans.principal_directions(moments, min(k, backbone.width))
    return torch.cat([directions, -directions])[:k]


def _shuffled_epochs(n: int, length: int, rng: np.random.Generator) -> list[int]:
    """Return `length` image indices: all images in random order, again and again."""
    epochs = [rng.permutation(n) for _ in range(-(-length // n))]
    return np.concatenate(epochs)[:length].tolist()


class Score(NamedTuple):
    """What the clusters of one read are worth."""

    mapping: Tensor
    """(K,) the class of each cluster."""
    miou: float
    """In percent, absent classes as 0."""
    left_out: Tensor
    """(G,): the mIoU in percent without each group of images in turn."""
    ious: Tensor
    """(C,) in [0, 1]."""
    information: information.MutualInformation
    used: int
    """Clusters with a pixel."""


class Tally:
    """Streams the clusters of one read into counts; memory depends on the grid, not on the number of images, up to
    `max_bytes`.

    Args:
        config: of the study.
        info: of the dataset.
        grid: the position of each pixel, and the number of positions.
        low_memory: as many reads need it. Positions are then counted without the groups of the jackknife.
        max_bytes: what the tables of single images may take; above, they are not kept.
    """

    def __init__(
        self,
        config: PositionalEffectConfig,
        info: DatasetInfo,
        grid: Positions,
        low_memory: bool,
        max_bytes: int = MAX_TABLE_BYTES,
    ) -> None:
        self.info, self.rule = info, config.matching
        self.positions = information.PositionCounts(
            grid.n, config.n_clusters, 1 if low_memory else config.groups, grid.of_pixel
        )
        self.tables = GroupSums((info.n_classes, config.n_clusters), config.groups)
        self._matrix = ConfusionMatrix(config.n_clusters, info.n_classes, info.ignored)
        self._images = ImageTables(max_bytes)

    def update(self, indices: Sequence[int], clusters: Tensor, labels: Tensor) -> None:
        """Add cluster maps and labels (B, H, W) of images, ignored pixels -1."""
        for image, found, truth in zip(indices, clusters, labels, strict=True):
            self.positions.update(image, found)
            table = self._matrix.update(found, truth)
            self.tables.update(image, table)
            self._images.update(image, table)

    def score(self) -> Score:
        """Match clusters with classes once over all images, and measure."""
        table = self._matrix.table
        mapping = matching.hungarian(table) if self.rule == "hungarian" else matching.many_to_one(table)
        found = counts(table, mapping)
        miou = 100 * float(mean_iou(*found))
        without = 100 * mean_iou_left_out(found, counts(self.tables.left_out(), mapping))
        measured = information.mutual_information(self.positions.total())
        return Score(mapping, miou, without, iou(*found), measured, int((table.sum(0) > 0).sum()))

    def segmented(self, metric: Metric, mapping: Tensor) -> scoring.Scored:
        """Return the mIoU of a matching with the counts of single images."""
        settings = {"n_classes": self.info.n_classes, "absent": "zero", "present": False}
        return scoring.segmented(metric, {"": (settings, self._images.arrays(mapping, merge=True))})


@dataclass(frozen=True)
class Positions:
    """The common grid that all images are squashed to."""

    size: tuple[int, int]
    """Height and width in positions."""
    of_pixel: Tensor | None
    """(H * W,); None: every pixel is a position."""

    @property
    def n(self) -> int:
        """The number of positions."""
        return self.size[0] * self.size[1]

    @classmethod
    def of(cls, config: PositionalEffectConfig) -> Positions:
        """Return the grid of a study."""
        size = config.spec.size
        if config.cell == 1:
            return cls(size, None)
        of_pixel, grid = information.coarse_positions(size, config.cell)
        return cls(grid, of_pixel)


class Example(NamedTuple):
    """One validation image for the pictures."""

    image: int
    truth: Tensor
    """(H, W) uint8."""
    clusters: tuple[Tensor, ...]
    """(H, W) per read, in the smallest type that holds them."""


@dataclass
class Assigned:
    """The validation split after assignment."""

    grid: Positions
    truth: information.PositionCounts
    tallies: list[Tally]
    examples: list[Example] = field(default_factory=list)


def assign(reads: Reads, centroids: Sequence[Tensor], data: Data) -> Assigned:
    """Assign every validation pixel to a cluster of every read, and count."""
    config, context, info = reads.config, reads.context, data.info
    grid, size = Positions.of(config), config.spec.size
    low_memory = len(reads.reads) > 1
    found = Assigned(
        grid,
        information.PositionCounts(grid.n, info.n_classes, config.groups, grid.of_pixel),
        [Tally(config, info, grid, low_memory, MAX_TABLE_BYTES // len(reads.reads)) for _ in reads.reads],
    )
    shown = spread(context.pictures, len(data.val))
    small = torch.uint8 if config.n_clusters <= 256 else torch.int16
    for batch in reads.stream(data.val, None, "assignment", labels=Labels(size)):
        labels = batch.labels.long()
        for label in info.ignored:
            labels = labels.masked_fill(batch.labels == label, -1)
        with context.stage("score"):
            for image, label_map in zip(batch.indices, labels, strict=True):
                found.truth.update(image, label_map)
        kept: dict[int, list[Tensor]] = {i: [] for i, image in enumerate(batch.indices) if image in shown}
        for maps, means, tally in zip(batch.by_key, centroids, found.tallies, strict=True):
            with context.stage("assign"):
                clusters = cosine_kmeans.assign_cosine(maps.float(), means, size).cpu()
            with context.stage("score"):
                tally.update(batch.indices, clusters, labels)
            for i, those in kept.items():
                those.append(clusters[i].to(small))
        found.examples += [Example(batch.indices[i], batch.labels[i], tuple(those)) for i, those in kept.items()]
    return found
