"""Positional effect: how far clusters of patch features are a matter of where a patch is, not of what it shows.

Features are clustered by cosine similarity, every pixel gets a cluster, and the mutual information of position and
cluster is divided by the clusters' entropy (NMI). The same is done for the ground truth, whose NMI is the positional
structure that belongs to the data. Source: "Unsupervised Semantic Segmentation Facilitates Model Understanding"
(POS), 2.1 to 2.3 and A.2. With `layers` and `facets` it becomes the study of a whole network, POS 2.4 and 3
(`network.py`).

Left open by the paper, with the defaults here: image size (448, which shares the feature pass with overclustering),
position grid (the pixels of that size), centred PCA for the initial centroids, images drawn in shuffled epochs of the
training split, no flip and no crop. Intervals come from a jackknife over groups of images: resampling images would
repeat some, which raises mutual information.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import information
from densebench.protocols.common import scoring, sweeps
from densebench.protocols.common.sweeps import feature_keys
from densebench.protocols.positional_effect import network
from densebench.protocols.positional_effect.clusters import Assigned, Positions, Reads, Score, assign, fit
from densebench.protocols.positional_effect.config import PositionalEffectConfig
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    by_class,
    input_size,
)
from densebench.results.schema import Metric


class PositionalEffect(Protocol[PositionalEffectConfig]):
    """Normalised mutual information of position and cluster."""

    name = "positional_effect"
    title = "Positional effect"
    version = 4
    config = PositionalEffectConfig
    presets = PositionalEffectConfig.presets
    metrics = (
        MetricInfo("nmi", "1", False, "mutual information of position and cluster over the clusters' entropy"),
        MetricInfo("nmi_ground_truth", "1", False, "the same for the true classes: what the data itself carries"),
        MetricInfo("nmi_excess", "1", False, "nmi minus nmi_ground_truth"),
        MetricInfo("mi", "nat", False, "mutual information of position and cluster"),
        MetricInfo("miou", "%", True, "mIoU of the clusters after one global matching"),
        MetricInfo("miou", "%", True, "in a sweep: of the facet's best layer, chosen by this number", at=("facet",)),
        MetricInfo("nmi", "1", False, "in a sweep: nmi of that layer", at=("facet",)),
        MetricInfo("nmi_excess", "1", False, "in a sweep: nmi_excess of that layer", at=("facet",)),
    )
    shrink_hint = "Set fewer positional_effect.layers or .facets, a smaller .input_size or .batch, or a larger .cell."

    def resolve(
        self, config: PositionalEffectConfig, backbone: BackboneInfo, data: DatasetInfo
    ) -> PositionalEffectConfig:
        """Fill in input size, number of clusters, and the layers and facets of a sweep."""
        sweep = _sweep(config, backbone)
        return replace(
            config,
            **sweep,
            input_size=input_size(config.input_size, 448, backbone, data),
            clusters=data.n_classes + config.extra_clusters if config.clusters == "auto" else config.clusters,
        )

    def estimate(self, config: PositionalEffectConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, the larger of training batch and count tables, and the arithmetic of the clusters."""
        reads = feature_keys(config, backbone)
        if len(reads) > 1:
            return network.estimate(config, reads, backbone, data)
        spec = config.spec
        height, width = spec.grid(backbone)
        cells = Positions.of(config).n * (config.n_clusters + data.info.n_classes)
        return Estimate(
            features={"train": (spec, len(data.train)), "val": (spec, len(data.val))},
            bank_bytes=cells * (8 + 4 * config.groups),
            search_flops=6.0 * config.steps * config.batch * height * width * backbone.width * config.n_clusters,
        )

    def run(self, config: PositionalEffectConfig, data: Data, context: Context) -> Measurement:
        """Cluster the training split, assign every validation pixel, count positions."""
        reads = Reads(config, feature_keys(config, context.features.info), context)
        centroids, losses = fit(reads, data.train)
        found = assign(reads, centroids, data)
        if config.layers is not None:
            return network.measure(reads, losses, found, data)
        return _one(config, losses[0], found, data, context)


def _sweep(config: PositionalEffectConfig, backbone: BackboneInfo) -> dict[str, Any]:
    """Return layers, facets and locality; a study of one layer and facet has no locality to fill in."""
    sweep = sweeps.resolve("positional_effect", config, backbone)
    asked = config.locality
    if not sweep:  # nothing is measured of attention
        return {"locality": None if asked == "auto" else asked}
    if asked in ("patches", "all") and not backbone.attention:
        raise UsageError(f"positional_effect.locality={asked}: {backbone.name} gives no attention. Set none.")
    return {**sweep, "locality": ("patches" if backbone.attention else "none") if asked in ("auto", None) else asked}


def _one(config: PositionalEffectConfig, loss: float, assigned: Assigned, data: Data, context: Context) -> Measurement:
    """Return what is said of one layer and facet."""
    info, (tally,) = data.info, assigned.tallies
    with context.stage("score"):
        score, real = tally.score(), information.mutual_information(assigned.truth.total())
    found, n_pixels = score.information, int(tally.positions.total().sum())
    with context.stage("figures"):
        pictures = _pictures(assigned, score, real, data)
    positional = map(scoring.Scored, _positional(tally.positions, assigned.truth, found, real))
    return scoring.measurement(
        (*positional, tally.segmented(_segmentation(score, info), score.mapping)),
        facts={
            "k_means_loss": loss,
            "classwise_mi": {
                f"{i}:{info.classes[c]}": v
                for i, (c, v) in enumerate(zip(score.mapping.tolist(), found.classwise.tolist(), strict=True))
            },
            "classwise_mi_ground_truth": dict(zip(info.classes, real.classwise.tolist(), strict=True)),
            "mi_bias": information.mi_bias(assigned.grid.n, config.n_clusters, n_pixels),
            "n_pixels": n_pixels,
            "clusters_used": score.used,
        },
        notes=("clusters come from the training split, all scores from the validation split",),
        artifacts=pictures,
    )


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
    rows: tuple[tuple[str, float, Tensor, Literal["1", "nat"], tuple[float, float]], ...] = (
        ("nmi", found.nmi, nmi, "1", (0.0, 1.0)),
        ("nmi_ground_truth", real.nmi, nmi_real, "1", (0.0, 1.0)),
        ("nmi_excess", found.nmi - real.nmi, nmi - nmi_real, "1", (-1.0, 1.0)),
        ("mi", found.total, mi, "nat", (0.0, math.inf)),
    )
    for name, value, left_out, unit, bounds in rows:
        ci95, ci_method = scoring.interval(value, left_out, "clusters", bounds)
        yield Metric(
            name=name,
            value=value,
            unit=unit,
            higher_is_better=False,
            main=name == "nmi",
            ci95=ci95,
            ci_method=ci_method,
        )


def _segmentation(score: Score, info: DatasetInfo) -> Metric:
    """Return the mIoU of clusters matched to classes, absent classes as 0."""
    ci95, ci_method = scoring.interval(score.miou, score.left_out, "clusters and matching")
    return Metric(
        name="miou",
        value=score.miou,
        main=True,
        ci95=ci95,
        ci_method=ci_method,
        per_class=by_class(info, score.ious),
    )


def _pictures(assigned: Assigned, score: Score, real: information.MutualInformation, data: Data) -> dict[str, bytes]:
    """Return the aggregated maps and the example grid as PNG, clusters in the colours of their classes."""
    palette = torch.tensor(data.info.palette, dtype=torch.float64)
    (tally,) = assigned.tallies
    maps = {
        f"{name}  NMI {found.nmi:.3f}": information.aggregate_map(counted.total(), colors, assigned.grid.size).numpy()
        for name, counted, found, colors in (
            ("clusters", tally.positions, score.information, palette[score.mapping]),
            ("ground truth", assigned.truth, real, palette),
        )
    }
    rows = []
    for index, truth, (clusters,) in assigned.examples:
        image = data.val.image(index).resize((truth.shape[1], truth.shape[0]))
        rows.append((np.asarray(image), truth.numpy(), score.mapping[clusters.long()].numpy()))
    examples = {"examples.png": figures.segmentations(rows, data.info.classes, data.info.palette)} if rows else {}
    return {"aggregate.png": figures.aggregate(maps, data.info.classes, data.info.palette), **examples}
