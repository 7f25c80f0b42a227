"""Positional effect: how far clusters of patch features are a matter of where a patch is, not of what it shows.

Features are clustered by cosine similarity, every pixel gets a cluster, and the mutual information of position and
cluster is divided by the clusters' entropy (NMI). The same is done for the ground truth, whose NMI is the positional
structure that belongs to the data. Source: "Unsupervised Semantic Segmentation Facilitates Model Understanding"
(P-POS), 2.1 to 2.3 and A.2.

Left open by the paper, with the defaults here: image size (448, which shares the feature pass with overclustering),
position grid (the pixels of that size), centred PCA for the initial centroids, images drawn in shuffled epochs of the
training split, no flip and no crop. Intervals come from a jackknife over groups of images: resampling images would
repeat some, which raises mutual information.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from densebench import figures
from densebench.datasets.dataset import DatasetInfo
from densebench.errors import UsageError
from densebench.features import FeatureSpec, Labels
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet
from densebench.ops import clustering, information, matching, probe
from densebench.ops.confusion import (
    ConfusionMatrix,
    PoissonBootstrap,
    counts,
    iou,
    jackknife_interval,
    mean_iou,
    percentile_interval,
)
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
class PositionalEffectConfig:
    """Settings of the positional-effect study (P-POS 2.1, A.2)."""

    input_size: int | None = None
    """Side in pixels, and of the position grid; None: 448 rounded down to a multiple of the patch."""
    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    """The final norm belongs to the last layer's tokens only (P-POS 3.2)."""
    clusters: int | None = None
    """Number of clusters; None: number of classes (27 in the paper)."""
    steps: int = 5000
    batch: int = 24
    """Images per step."""
    learning_rate: float = 5e-3
    """Of Adam on the centroids."""
    init_batches: int = 96
    """Batches whose principal components are the initial centroids."""
    groups: int = 10
    """Image groups of the jackknife."""
    examples: int = 8
    """Images in the example grid."""


class PositionalEffect(Protocol[PositionalEffectConfig]):
    """Normalised mutual information of position and cluster."""

    name = "positional_effect"
    title = "Positional effect"
    config = PositionalEffectConfig
    presets = {
        "paper": Preset(source="Unsupervised Semantic Segmentation Facilitates Model Understanding, 2.1 to 2.3 and A.2")
    }
    metrics = (
        MetricInfo("nmi", "1", False, "mutual information of position and cluster over the clusters' entropy"),
        MetricInfo("nmi_ground_truth", "1", False, "the same for the true classes: what the data itself carries"),
        MetricInfo("nmi_excess", "1", False, "nmi minus nmi_ground_truth"),
        MetricInfo("mi", "nat", False, "mutual information of position and cluster"),
        MetricInfo("miou", "%", True, "mIoU of the clusters after one global Hungarian matching"),
    )

    def resolve(
        self, config: PositionalEffectConfig, backbone: BackboneInfo, data: DatasetInfo
    ) -> PositionalEffectConfig:
        """Fill in input size and number of clusters."""
        return replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            clusters=config.clusters or data.n_classes,
        )

    def estimate(self, config: PositionalEffectConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, count tables and the arithmetic of the online k-means."""
        spec = _spec(config)
        height, width = spec.grid(backbone)
        assert config.clusters is not None
        cells = spec.size[0] * spec.size[1] * (config.clusters + data.info.n_classes)
        return Estimate(
            features={"train": (spec, len(data.train)), "val": (spec, len(data.val))},
            bank_bytes=cells * (8 + 4 * config.groups),
            search_flops=6.0 * config.steps * config.batch * height * width * backbone.width * config.clusters,
        )

    def run(self, config: PositionalEffectConfig, backbone: Backbone, data: Data, context: Context) -> Measurement:
        """Cluster the training split, assign every validation pixel, count positions."""
        assert config.clusters is not None
        centroids, loss = _cluster(config, data, context)
        info, side = data.info, _spec(config).size
        positions = side[0] * side[1]
        predicted = information.PositionCounts(positions, config.clusters, config.groups)
        truth = information.PositionCounts(positions, info.n_classes, config.groups)
        matrix = ConfusionMatrix(config.clusters, info.n_classes, info.ignored)
        bootstrap = PoissonBootstrap((info.n_classes, config.clusters))
        for images, clusters, masks in _assigned(config, centroids, data, context):
            with context.stage("score"):
                ignored = sum((masks == label for label in info.ignored), torch.zeros_like(masks, dtype=torch.bool))
                labels = masks.long().masked_fill(ignored, -1)
                for image, cluster_map, label_map in zip(images, clusters, labels, strict=True):
                    predicted.update(image, cluster_map)
                    truth.update(image, label_map)
                    bootstrap.update(image, matrix.update(cluster_map, label_map))
        mapping = matching.hungarian(matrix.table)
        found, real = (information.mutual_information(c.total()) for c in (predicted, truth))
        with context.stage("figures"):
            pictures = _pictures(config, centroids, mapping, (predicted, found), (truth, real), data, context)
        n_pixels = int(predicted.total().sum())
        return Measurement(
            metrics=(
                *_positional(predicted, truth, found, real),
                _segmentation(matrix.table, bootstrap.replicates(), mapping, info),
            ),
            facts={
                "k_means_loss": loss,
                "classwise_mi": {
                    f"{i}:{info.classes[c]}": v
                    for i, (c, v) in enumerate(zip(mapping.tolist(), found.classwise.tolist(), strict=True))
                },
                "classwise_mi_ground_truth": dict(zip(info.classes, real.classwise.tolist(), strict=True)),
                "mi_bias": information.mi_bias(positions, config.clusters, n_pixels),
                "n_pixels": n_pixels,
                "clusters_used": int((matrix.table.sum(0) > 0).sum()),
            },
            notes=("clusters come from the training split, all scores from the validation split",),
            artifacts=pictures,
        )


def _cluster(config: PositionalEffectConfig, data: Data, context: Context) -> tuple[Tensor, float]:
    """Return unit-norm centroids (K, D) of the online cosine k-means, and its last loss."""
    assert config.clusters is not None
    rng = np.random.default_rng(context.seed)
    order = _shuffled_epochs(len(data.train), config.steps * config.batch, rng)
    spec = _spec(config)
    first = sorted(set(order[: config.init_batches * config.batch]))
    moments = clustering.StreamingMoments(context.features.info.width)
    for batch in context.timed(context.features.stream(data.train, spec, first, title="initial centroids"), "features"):
        moments.update(batch.tokens)
    start = _initial(moments, config.clusters, context.features.info).to(context.features.device)
    stream = context.features.stream(data.train, spec, order, batch_size=config.batch, title="cosine k-means")
    with context.stage("k-means"):
        tokens = (batch.tokens for batch in stream)
        centroids, losses = probe.cosine_kmeans_fit(tokens, start, config.learning_rate)
    last = losses[-100:]
    return centroids, sum(last) / max(len(last), 1)


def _initial(moments: clustering.StreamingMoments, k: int, backbone: BackboneInfo) -> Tensor:
    """Return k principal directions (k, D); beyond D of them, the first ones again with their sign turned."""
    if k > 2 * backbone.width:
        raise UsageError(
            f"positional_effect.clusters={k} exceeds twice the width of {backbone.name} ({backbone.width}): "
            "there are no more principal directions to start from. Set fewer."
        )
    directions = probe.principal_directions(moments, min(k, backbone.width))
    return torch.cat([directions, -directions])[:k]


def _shuffled_epochs(n: int, length: int, rng: np.random.Generator) -> list[int]:
    """Return `length` image indices: all images in random order, again and again."""
    epochs = [rng.permutation(n) for _ in range(-(-length // n))]
    return np.concatenate(epochs)[:length].tolist()


def _assigned(
    config: PositionalEffectConfig,
    centroids: Tensor,
    data: Data,
    context: Context,
    images: list[int] | None = None,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (image indices, cluster maps, masks), each map (B, H, W) at the input size."""
    spec = _spec(config)
    stream = context.features.stream(data.val, spec, images, labels=Labels(spec.size), title="assignment")
    for batch in context.timed(stream, "features"):
        assert batch.labels is not None
        with context.stage("assign"):
            clusters = probe.assign_cosine(batch.maps, centroids, spec.size).cpu()
        yield batch.indices, clusters, batch.labels


def _positional(
    predicted: information.PositionCounts,
    truth: information.PositionCounts,
    found: information.MutualInformation,
    real: information.MutualInformation,
) -> Iterator[Metric]:
    """Yield what positions say about clusters and classes, with jackknife intervals over image groups."""
    without, without_real = (
        [information.mutual_information(counts) for counts in c.left_out()] for c in (predicted, truth)
    )
    nmi, nmi_real = (torch.tensor([w.nmi for w in ws], dtype=torch.float64) for ws in (without, without_real))
    mi = torch.tensor([w.total for w in without], dtype=torch.float64)
    rows: tuple[tuple[str, float, Tensor, Literal["1", "nat"]], ...] = (
        ("nmi", found.nmi, nmi, "1"),
        ("nmi_ground_truth", real.nmi, nmi_real, "1"),
        ("nmi_excess", found.nmi - real.nmi, nmi - nmi_real, "1"),
        ("mi", found.total, mi, "nat"),
    )
    for name, value, left_out, unit in rows:
        low, high = jackknife_interval(value, left_out).tolist() if len(left_out) > 1 else (math.nan, math.nan)
        yield Metric(
            name=name,
            value=value,
            unit=unit,
            higher_is_better=False,
            main=name == "nmi",
            ci95=None if math.isnan(low) else (low, high),
            ci_method=f"jackknife over {len(left_out)} groups of validation images, clusters held fixed",
        )


def _segmentation(table: Tensor, replicates: Tensor, mapping: Tensor, info: DatasetInfo) -> Metric:
    """Return the mIoU of clusters matched to classes, absent classes as 0."""
    scored = counts(table, mapping)
    low, high = percentile_interval(100 * mean_iou(*counts(replicates, mapping))).tolist()
    return Metric(
        name="miou",
        value=100 * float(mean_iou(*scored)),
        main=True,
        ci95=(low, high),
        ci_method="Poisson bootstrap over validation images, clusters and matching held fixed",
        per_class=by_class(info, iou(*scored)),
    )


Counted = tuple[information.PositionCounts, information.MutualInformation]


def _pictures(
    config: PositionalEffectConfig,
    centroids: Tensor,
    mapping: Tensor,
    predicted: Counted,
    truth: Counted,
    data: Data,
    context: Context,
) -> dict[str, bytes]:
    """Return the aggregated maps and the example grid as PNG, clusters in the colours of their classes."""
    palette = torch.tensor(data.info.palette, dtype=torch.float64)
    maps = {}
    for name, (counted, found), colors in (("clusters", predicted, palette[mapping]), ("ground truth", truth, palette)):
        picture = information.aggregate_map(counted.total(), colors, _spec(config).size)
        maps[f"{name}  NMI {found.nmi:.3f}"] = picture.numpy()
    chosen = np.linspace(0, len(data.val) - 1, min(config.examples, len(data.val))).astype(int).tolist()
    rows = []
    for indices, clusters, masks in _assigned(config, centroids, data, context, chosen):
        for index, cluster_map, mask in zip(indices, clusters, masks, strict=True):
            image = data.val.image(index).resize((mask.shape[1], mask.shape[0]))
            rows.append((np.asarray(image), mask.numpy(), mapping[cluster_map].numpy()))
    return {
        "aggregate.png": figures.aggregate(maps, data.info.classes, data.info.palette),
        "examples.png": figures.segmentations(rows, data.info.classes, data.info.palette),
    }


def _spec(config: PositionalEffectConfig) -> FeatureSpec:
    assert config.input_size is not None, "resolve() fills it in"
    side = config.input_size
    return FeatureSpec(size=(side, side), layer=config.layer, facet=config.facet, norm=config.norm)
