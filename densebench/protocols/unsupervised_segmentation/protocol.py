"""Fully unsupervised segmentation: foreground from attention, clusters of it, clusters side by side become objects.

Source: Leopart and NeCo `experiments/fully_unsup_seg` (LEO, NeCo code), described in NeCo A.2. Tokens of training and
validation images are standardised, reduced to 50 dimensions and clustered; clusters that lie where the class token
attends are foreground (cluster-based foreground extraction, CBFE). The foreground is clustered again, finely, and
Infomap merges clusters that keep occurring side by side into communities (CD), which are matched to classes one to one.

"Unsupervised" holds for the clusters, not for their settings: the foreground's threshold is chosen on the ground truth
of the training images, unless one is given, and the authors tuned the graph's settings there. Every record says so.

Nothing is held per image. Attention is read as one more feature of width 1 (times the number of tokens, so that
float16 keeps it), and is therefore streamed and cached like any other. Against the code: PCA is exact, k-means is
`ops.lloyd` unless faiss is asked for, and images without any foreground, which end in NaN there, leave the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo
from densebench.features.attention import check_attention
from densebench.figures import kit as figures
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import cbfe
from densebench.ops.confusion import Counts, counts, mean_iou
from densebench.protocols.common import scoring
from densebench.protocols.common.clusters import KMeansRun
from densebench.protocols.common.feature_config import ATTENTION_BYTES
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    input_size,
)
from densebench.protocols.unsupervised_segmentation.communities import (
    ScoredClusters,
    Second,
    find_communities,
    fit_foreground,
    foreground_runs,
    mappings_of,
    second_pass,
    tables_of,
)
from densebench.protocols.unsupervised_segmentation.config import UnsupervisedSegmentationConfig
from densebench.protocols.unsupervised_segmentation.foreground import (
    Foreground,
    attention_precision,
    find_threshold,
    fit_base,
    images_of,
    parts_of,
)

MAIN = ("miou", "miou_cbfe")


class UnsupervisedSegmentation(Protocol[UnsupervisedSegmentationConfig]):
    """Segmentation without labels: attention finds the foreground, co-occurrence the objects."""

    name = "unsupervised_segmentation"
    title = "Fully unsupervised segmentation"
    version = 2
    config = UnsupervisedSegmentationConfig
    presets = UnsupervisedSegmentationConfig.presets
    seeded = False
    metrics = (
        MetricInfo("miou", "%", True, "mIoU of communities of foreground clusters and background, Hungarian"),
        MetricInfo("miou_cbfe", "%", True, "mIoU of the foreground in as many clusters as object classes, Hungarian"),
        MetricInfo("foreground_iou", "%", True, "IoU of the extracted foreground, averaged over images"),
        MetricInfo("miou_bound", "%", True, "what perfect communities would reach: clusters matched by precision"),
    )
    shrink_hint = "Take fewer clusters, such as --set unsupervised_segmentation.k_fg_extraction=100."

    def missing_targets(self, data: DatasetInfo) -> str:
        """Return what a dataset lacks: masks, or a class that is background."""
        no_background = "" if _background(data) else f"{self.name} needs a background class, which {data.name} lacks"
        return super().missing_targets(data) or no_background

    def unsupported_reason(self, config: UnsupervisedSegmentationConfig, backbone: BackboneInfo) -> str:
        """Return what the backbone or the machine lacks: a class token, its attention, or Infomap."""
        if not backbone.has_class_token or not backbone.prefix:
            return f"{self.name} needs a class token, which {backbone.name} does not have"
        if backbone.attention is False:
            return (
                f"{self.name} needs attention maps, which {backbone.name} does not give: "
                "its adapter would need a method `attention`"
            )
        if config.community_detection is not None and not cbfe.has_infomap():
            return (
                f"{self.name} needs the package infomap (GPL-3.0), which is not installed: run "
                "`pip install 'densebench[communities]'`, or leave communities out with "
                f"--set {self.name}.community_detection=none"
            )
        return ""

    def resolve(
        self, config: UnsupervisedSegmentationConfig, backbone: BackboneInfo, data: DatasetInfo
    ) -> UnsupervisedSegmentationConfig:
        """Fill in the input size, the background, the training split, the number of objects and the k-means."""
        lacking = self.unsupported_reason(config, backbone) or self.missing_targets(data)
        if lacking:
            raise UsageError(f"{lacking}.")
        given = config.background
        background = given if not isinstance(given, str) else _background(data, stuff=given == "stuff")
        outside = [label for label in background if label not in _labels(data)]
        if outside:
            raise UsageError(f"{self.name}.background={background}: {data.name} has no class {outside[0]}.")
        default = "train" if "train" in data.splits else data.train
        split = default if config.train_split == "auto" else config.train_split
        if split not in data.splits:
            raise UsageError(f"{self.name}.train_split={split}: {data.name} has {', '.join(data.splits)}.")
        return replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            background=tuple(dict.fromkeys(background)),
            train_split=split,
            objects=len(_labels(data) - set(background)) if config.objects == "auto" else config.objects,
            kmeans=config.backend,
        )

    def estimate(self, config: UnsupervisedSegmentationConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, k-means' training rows and the arithmetic of clustering and attention."""
        spec = config.spec
        height, width = spec.grid(backbone)
        n_train, n_val = (len(part.indices) for part in parts_of(config, data))
        n = n_train + n_val
        dims = min(config.pca or backbone.width, backbone.width)
        runs = [KMeansRun(config.k_fg_extraction, config.clustering_seed), *foreground_runs(config)]
        rows = [config.points_per_centroid * run.k for run in runs]
        lloyd = sum(2.0 * dims * run.k * r * config.n_iter * config.n_redo for run, r in zip(runs, rows, strict=True))
        assign = 2.0 * dims * n * height * width * sum(run.k * 3 for run in runs)
        tokens = height * width + backbone.prefix
        attention = n * backbone.token_flops(tokens)
        return Estimate(
            features={"train": (spec, n_train), "val": (spec, n_val)},
            bank_bytes=4 * dims * (max(rows[0], sum(rows[1:])) + max(rows)) + ATTENTION_BYTES,
            search_flops=lloyd + assign + attention,
        )

    def run(self, config: UnsupervisedSegmentationConfig, data: Data, context: Context) -> Measurement:
        """Pass over the features for moments, rows, attention, threshold, rows again, graph and tables, scores."""
        check_attention(context.backbone)
        train, val = parts_of(config, data)
        images = images_of(config, (train, val), context)
        base = fit_base(images, (train, val))
        precisions = [attention_precision(images, base, part) for part in (train, val)]
        threshold, train_iou = find_threshold(images, base, train, precisions[0].compute())
        chosen = [p.compute() >= threshold for p in precisions]
        foreground = Foreground(base, dict(zip((train, val), chosen, strict=True)))
        n_rows = sum(int(p.pixels[ids].sum()) for p, ids in zip(precisions, chosen, strict=True))
        fits = fit_foreground(images, foreground, (train, val), n_rows)
        tables = tables_of(images, foreground, fits, val)
        found, graph = find_communities(images, foreground, fits, (train, val))
        scored = mappings_of(config, val.info, fits, tables, found)
        second = second_pass(images, foreground, fits, scored, val)
        with context.stage("figures"):
            shown = figures.segmentations(second.examples, val.info.classes, val.info.palette)
        tuned = _labels_used(config, threshold, len(train.indices))
        return scoring.measurement(
            (*_metrics(config, val.info, tables, scored, second), second.foreground),
            facts={
                "images": {"train": len(train.indices), "val": len(val.indices), "train_split": config.train_split},
                "kmeans": [fit.facts() for fit in (base, *fits)],
                "foreground": {
                    "threshold": threshold,
                    "clusters": {"train": int(chosen[0].sum()), "val": int(chosen[1].sum())},
                    "iou_where_chosen": train_iou,
                    "rows": n_rows,
                },
                "communities": graph,
                "classes": list(val.info.classes),
                "without_looking": {"miou": _background_alone(config, tables[0]), "foreground_iou": second.everything},
                "labels_used_for": tuned,
            },
            notes=(
                *(f"labels: {use}" for use in tuned),
                f"k-means trains on at most {config.points_per_centroid} tokens per centroid",
                "attention is the evaluated backbone's own, last layer, class token, mean of heads",
                "without_looking: mIoU of background everywhere, foreground IoU of foreground everywhere",
            ),
            artifacts={"examples.png": shown} if second.examples else {},
        )


def _labels(data: DatasetInfo) -> set[int]:
    """Return the labels that are classes and count."""
    return set(range(data.n_classes)) - set(data.ignored)


def _background(data: DatasetInfo, stuff: bool = False) -> tuple[int, ...]:
    """Return the labels that a dataset calls background, those of its stuff too where asked for."""
    called = {*data.background, *(data.stuff if stuff else ())}
    return tuple(label for label in sorted(called) if label in _labels(data))


def _metrics(
    config: UnsupervisedSegmentationConfig,
    info: DatasetInfo,
    tables: Sequence[Tensor],
    scored: Sequence[ScoredClusters],
    second: Second,
) -> Iterator[scoring.Scored]:
    for name in dict.fromkeys(s.metric for s in scored):
        found = {
            s.seed: scoring.miou(
                counts(tables[s.fit], s.mapping),
                Counts(*rest.unbind(1)),
                config.absent,
                images=second.images[s.fit].arrays(s.mapping, merge=True),
            )
            for s, rest in zip(scored, second.left_out.unbind(1), strict=True)
            if s.metric == name
        }
        yield scoring.metric(name, found, "clusters and matching", main=name in MAIN, info=info)


def _background_alone(config: UnsupervisedSegmentationConfig, table: Tensor) -> float:
    """Return the mIoU in percent of calling every pixel background, from any contingency table (C, K)."""
    return 100 * float(mean_iou(*counts(table.sum(1, keepdim=True), torch.zeros(1).long()), absent=config.absent))


def _labels_used(config: UnsupervisedSegmentationConfig, threshold: float, n_train: int) -> list[str]:
    """Return every use that is made of ground truth, tuning first."""
    uses = []
    if config.threshold is None:
        uses.append(f"the foreground threshold {threshold:.2f} was chosen on the masks of {n_train} training images")
    if config.community_detection is not None:
        uses.append(
            "the published k_community, weight_threshold and markov_time were tuned on the masks of VOC train; here "
            f"{config.k_community}, {config.weight_threshold} and {config.markov_time} were set, not searched"
        )
    uses.append("clusters and communities are matched to classes on the validation masks that they are scored on")
    return uses
