"""Cluster-based foreground extraction (CBFE): clusters of tokens that lie where the class token attends.

The first half of `unsupervised_segmentation.py`, which has the settings and their sources; the numerics are in
`ops/cbfe.py`. Passes stream: nothing is held per image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset
from densebench.features.attention import ClassAttention
from densebench.features.source import FeatureSource
from densebench.features.spec import Batch, FeatureSpec
from densebench.ops import cbfe
from densebench.ops.resize import resize_labels
from densebench.protocols.common.clusters import Fit, KMeansRun, Space, fit_clusters, fit_space
from densebench.protocols.protocol import Context, Data
from densebench.views.squash import Labels

if TYPE_CHECKING:
    from densebench.protocols.unsupervised_segmentation.config import UnsupervisedSegmentationConfig


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a dataset, and its classes with the background as one."""

    data: DenseDataset
    indices: list[int]
    info: DatasetInfo
    relabel: Tensor  # uint8 (256,): the label of each label that masks hold

    def labels(self, batch: Batch) -> Tensor:
        """Return the ground truth (B, H, W) of a batch at the input size."""
        return self.relabel[batch.labels.long()]


def one_background(info: DatasetInfo, background: Sequence[int]) -> tuple[DatasetInfo, Tensor]:
    """Return a dataset's info with the `background` classes merged into class 0, and the new label (256,) of each.

    The others keep their order; labels that are ignored become void. Where class 0 alone is background, as on VOC,
    nothing changes.
    """
    others = [label for label in range(info.n_classes) if label not in background and label not in info.ignored]
    relabel = torch.full((256,), VOID, dtype=torch.uint8)
    relabel[list(background)] = 0
    relabel[others] = torch.arange(1, len(others) + 1, dtype=torch.uint8)
    kept = [background[0], *others]
    merged = replace(
        info,
        classes=("background", *(info.classes[label] for label in others)),
        palette=tuple(info.palette[label] for label in kept),
        background=(0,),
        ignored=(VOID,),
    )
    return merged, relabel


@dataclass(frozen=True)
class TokenImages:
    """How images become rows to cluster and maps of clusters."""

    config: UnsupervisedSegmentationConfig
    context: Context
    space: Space

    def stream(self, part: Part, title: str, labels: bool = False) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (batch, tokens (N, d) as they are clustered); masks come at the input size."""
        spec = self.config.spec
        wanted = Labels(spec.size, "centre") if labels else None
        stream = self.context.features.stream(part.data, spec, part.indices, labels=wanted, title=title)
        for batch in self.context.timed(stream, "features"):
            with self.context.stage("projection"):
                tokens = self.space(batch.tokens)
            yield batch, tokens

    def maps(self, batch: Batch, tokens: Tensor, fit: Fit) -> Tensor:
        """Return the clusters (B, S, S) of a batch on the CPU, at the evaluation size."""
        with self.context.stage("assign"):
            return fit.maps(tokens, (len(batch.indices), *batch.maps.shape[2:]), self.config.eval_size)

    def masks(self, part: Part, batch: Batch) -> Tensor:
        """Return the ground truth (B, S, S) of a batch at the evaluation size."""
        return resize_labels(part.labels(batch), self.config.eval_size)


@dataclass(frozen=True)
class Foreground:
    """The clusters that are foreground; training and validation images have precisions of their own."""

    base: Fit
    clusters: Mapping[Part, Tensor]  # bool (K,) each

    def __call__(self, images: TokenImages, part: Part, batch: Batch, tokens: Tensor) -> Tensor:
        """Return the foreground (B, S, S)."""
        return self.clusters[part][images.maps(batch, tokens, self.base)]


def parts_of(config: UnsupervisedSegmentationConfig, data: Data) -> tuple[Part, Part]:
    """Return the images of the training split asked for, and all validation images."""
    labels = one_background(data.info, config.background_labels)
    train = Part(data.train, list(range(len(data.train))), *labels)
    if config.train_split != data.train.split:
        whole = data.train
        while isinstance(inner := getattr(whole, "base", None), DenseDataset):  # of a view, such as --limit makes
            whole = inner
        listed = set(type(whole)(whole.root, config.train_split).ids)
        inside = [i for i, name in enumerate(data.train.ids) if name in listed]
        if not inside:
            raise UsageError(
                f"none of the {len(data.train)} training images is in {data.info.name}'s split {config.train_split}. "
                "Raise --limit, or set unsupervised_segmentation.train_split=" + data.train.split + "."
            )
        train = Part(data.train, inside, *labels)
    return train, Part(data.val, list(range(len(data.val))), *labels)


def images_of(config: UnsupervisedSegmentationConfig, parts: Sequence[Part], context: Context) -> TokenImages:
    """Return the images in the space of the tokens of all parts."""
    plain = TokenImages(config, context, Space(context.features.info.width))
    tokens = (tokens for part in parts for _, tokens in plain.stream(part, "moments"))
    return replace(plain, space=fit_space(config, tokens, context))


def fit_base(images: TokenImages, parts: Sequence[Part]) -> Fit:
    """Cluster all tokens; centroids of length 1 make the nearest one that of the greatest dot product."""
    config, features = images.config, images.context.features
    height, width = config.spec.grid(features.info)
    n_rows = height * width * sum(len(part.indices) for part in parts)
    if n_rows < config.k_fg_extraction:
        raise UsageError(
            f"{config.k_fg_extraction} clusters need as many patches; there are {n_rows}. "
            "Lower unsupervised_segmentation.k_fg_extraction, or raise --limit."
        )
    rows = ((tokens, torch.arange(len(tokens))) for part in parts for _, tokens in images.stream(part, "training rows"))
    run = KMeansRun(config.k_fg_extraction, config.clustering_seed, spherical=True)
    return fit_clusters(config, [run], rows, n_rows, images.space.dims, images.context)[0]


def _attention_masks(images: TokenImages, part: Part) -> Iterator[Tensor]:
    """Yield the attention's foreground (S, S) of one image after another."""
    config, features = images.config, images.context.features
    source = FeatureSource(
        ClassAttention(features.backbone, features.weights_digest),
        cache=features.cache,
        progress=Progress(quiet=True),
        device=str(features.device),
        precision=features.precision,
        dtype=features.dtype,
        batch_size=config.attention_batch(features.info, features.batch_size),
        workers=features.workers,
    )
    stream = source.stream(part.data, FeatureSpec(size=config.spec.size), part.indices)
    for batch in images.context.timed(stream, "attention"):
        with images.context.stage("attention"):
            masks = cbfe.attention_mask(
                batch.maps[:, 0].cpu(), config.attention_mass, config.blur_sigma, min_component=config.min_component
            )
            masks = resize_labels(masks, config.eval_size)
        yield from masks


def attention_precision(images: TokenImages, base: Fit, part: Part) -> cbfe.ClusterPrecision:
    """Return how precisely each cluster lies in the attention's foreground."""
    precision = cbfe.ClusterPrecision(base.k)
    masks = _attention_masks(images, part)
    for batch, tokens in images.stream(part, "attention"):
        for clusters in images.maps(batch, tokens, base):
            mask = next(masks)
            with images.context.stage("score"):
                precision.update(clusters, mask)
    return precision


def find_threshold(images: TokenImages, base: Fit, train: Part, precisions: Tensor) -> tuple[float, float | None]:
    """Return the threshold and the training images' foreground IoU it was chosen for, None where it was given."""
    if images.config.threshold is not None:
        return images.config.threshold, None
    search = cbfe.ThresholdSearch(precisions)
    for batch, tokens in images.stream(train, "threshold", labels=True):
        maps = images.maps(batch, tokens, base)
        with images.context.stage("score"):
            truth = cbfe.label_foreground(images.masks(train, batch))
            for clusters, target in zip(maps, truth, strict=True):
                search.update(clusters, target)
    return search.compute()
