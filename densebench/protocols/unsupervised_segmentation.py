"""Fully unsupervised segmentation: foreground from attention, clusters of it, clusters side by side become objects.

Source: Leopart and NeCo `experiments/fully_unsup_seg` (LEO, NECO), described in P-NeCo A.2. Tokens of training and
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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo
from densebench.errors import UsageError
from densebench.features import Batch
from densebench.model_zoo.attention import check_attention
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet
from densebench.ops import cbfe, matching
from densebench.ops.confusion import (
    AbsentRule,
    ConfusionMatrix,
    PoissonBootstrap,
    confusion,
    counts,
    percentile_interval,
)
from densebench.ops.resize import resize_labels
from densebench.protocols.clusters import Fit, KMeansConfig, Run, fit_clusters, miou_over_seeds
from densebench.protocols.foreground import (
    ATTENTION_BYTES,
    Foreground,
    Images,
    Part,
    attention_precision,
    dims_of,
    find_threshold,
    fit_base,
    fit_projection,
    parts_of,
    spec_of,
)
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Preset,
    Protocol,
    input_size,
    refuse_nonsense,
)
from densebench.results import Metric

MAIN = ("miou", "miou_cbfe")


@dataclass(frozen=True, kw_only=True)
class UnsupervisedSegmentationConfig(KMeansConfig):
    """Settings of CBFE and community detection, with the names of the published code where it has one."""

    input_size: int | None = None
    """Side in pixels; None: 448 rounded down to a multiple of the patch."""
    train_split: str | None = None
    """Split clustered beside the validation images; None: "train" where the dataset has one, else its own training
    split. On VOC these are the 1,464 images of `train`, with the masks of `trainaug` (P-NeCo A.2; LEO, NECO)."""
    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    pca: int | None = 50
    """Dimensions kept of the standardised tokens; None clusters the tokens as they are, not standardised either."""
    eval_size: int = 100
    """Side that cluster maps, attention and masks are compared at."""
    attention_mass: float = 0.7
    """Share of the attention's mass that is foreground: P-NeCo A.2 says 0.7, the code has 0.65."""
    blur_sigma: float = 0.6
    """Deviation in patches of the Gaussian, 7 patches wide, that attention is blurred with."""
    min_component: int = 3
    """Attention's components of fewer patches are background."""
    k_fg_extraction: int = 200
    """Clusters of all tokens, spherical k-means."""
    threshold: float | None = None
    """Precision from which a cluster is foreground; None: the best of 55 % to 75 % background on the **ground truth**
    of the training images, rounded to a multiple of 0.05."""
    objects: int | None = None
    """Clusters of the foreground for `miou_cbfe`, and the communities to aim at; None: the classes but background. With
    background they are matched to classes one to one if there are as many, else by precision (LEO, NECO)."""
    object_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    community_detection: Literal["infomap"] | None = "infomap"
    """None stops at `miou_cbfe` and needs no further package."""
    k_community: int = 189
    """Clusters of the foreground that become communities. 189, 0.07 and 1.2 are P-NeCo's, tuned on the ground truth of
    VOC `train` for NeCo's ViT-S/14."""
    weight_threshold: float = 0.07
    """Share of each other's neighbours from which two clusters are linked."""
    markov_time: float = 1.2
    """Of Infomap: the longer, the fewer communities."""
    community_seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    """Of Infomap. Published: 0 to 9; the package has since come to refuse 0."""
    clustering_seed: int = 0
    absent: AbsentRule = "zero"


class UnsupervisedSegmentation(Protocol[UnsupervisedSegmentationConfig]):
    """Segmentation without labels: attention finds the foreground, co-occurrence the objects."""

    name = "unsupervised_segmentation"
    title = "Fully unsupervised segmentation"
    config = UnsupervisedSegmentationConfig
    presets = {
        "paper": Preset(source="NeCo A.2: 70 % of the attention's mass; k_community 189, threshold 0.07, time 1.2"),
        "neco": Preset(
            source="NeCo experiments/fully_unsup_seg: 65 % of the mass; the rest as NeCo A.2",
            settings={"attention_mass": 0.65},
        ),
        "leopart": Preset(
            source="Leopart README, ViT-S/16. There the attention is DINO ViT-S/16's, here the backbone's own",
            settings={"attention_mass": 0.65, "k_community": 149, "weight_threshold": 0.09, "markov_time": 2.0},
        ),
        "leopart_vitb8": Preset(
            source="Leopart README, ViT-B/8. There the attention is DINO ViT-S/16's, here the backbone's own",
            settings={"attention_mass": 0.65, "k_community": 109, "weight_threshold": 0.07, "markov_time": 0.4},
        ),
    }
    metrics = (
        MetricInfo("miou", "%", True, "mIoU of communities of foreground clusters and background, Hungarian"),
        MetricInfo("miou_cbfe", "%", True, "mIoU of the foreground in as many clusters as object classes, Hungarian"),
        MetricInfo("foreground_iou", "%", True, "IoU of the extracted foreground, averaged over images"),
        MetricInfo("miou_bound", "%", True, "what perfect communities would reach: clusters matched by precision"),
    )
    shrink_hint = "Take fewer clusters, such as --set unsupervised_segmentation.k_fg_extraction=100."

    def resolve(
        self, config: UnsupervisedSegmentationConfig, backbone: BackboneInfo, data: DatasetInfo
    ) -> UnsupervisedSegmentationConfig:
        """Fill in the input size, the training split, the number of objects and the k-means."""
        if not backbone.has_class_token or not backbone.prefix:
            raise UsageError(
                f"{backbone.name} has no class token whose attention could tell foreground from "
                "background. Run `densebench list models` for backbones with one."
            )
        background = [label for label in data.background if 0 <= label < data.n_classes and label not in data.ignored]
        if not background:
            raise UsageError(
                f"{data.name} has no background class; expected one, as VOC's class 0. "
                "Run `densebench list datasets`, or `overclustering`, which needs none."
            )
        if config.community_detection is not None:
            try:
                cbfe.load_infomap()
            except ModuleNotFoundError:
                raise UsageError(
                    "community detection needs the package `infomap` (GPL-3.0), which is not installed. "
                    "Run `pip install infomap`, or leave it out with "
                    f"--set {self.name}.community_detection=none."
                ) from None
        split = config.train_split or ("train" if "train" in data.splits else data.train)
        if split not in data.splits:
            raise UsageError(f"{self.name}.train_split={split}: {data.name} has {', '.join(data.splits)}.")
        resolved = replace(
            config,
            input_size=input_size(config.input_size, 448, backbone, data),
            train_split=split,
            objects=config.objects or data.n_classes - len(background),
            kmeans=config.backend,
        )
        _check(resolved)
        return resolved

    def estimate(self, config: UnsupervisedSegmentationConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, k-means' training rows and the arithmetic of clustering and attention."""
        spec = spec_of(config)
        height, width = spec.grid(backbone)
        n_train, n_val = (len(part.indices) for part in parts_of(config, data))
        n = n_train + n_val
        dims = min(config.pca or backbone.width, backbone.width)
        runs = [Run(config.k_fg_extraction, config.clustering_seed), *_foreground_runs(config)]
        rows = [config.points_per_centroid * run.k for run in runs]
        lloyd = sum(2.0 * dims * run.k * r * config.n_iter * config.n_redo for run, r in zip(runs, rows, strict=True))
        assign = 2.0 * dims * n * height * width * sum(run.k * 3 for run in runs)
        tokens = height * width + backbone.prefix
        attention = n * tokens * backbone.depth * (24 * backbone.width**2 + 4 * tokens * backbone.width)
        return Estimate(
            features={"train": (spec, n_train), "val": (spec, n_val)},
            bank_bytes=4 * dims * (max(rows[0], sum(rows[1:])) + max(rows)) + ATTENTION_BYTES,
            search_flops=lloyd + assign + attention,
        )

    def run(
        self, config: UnsupervisedSegmentationConfig, backbone: Backbone, data: Data, context: Context
    ) -> Measurement:
        """Pass over the features for moments, rows, attention, threshold, rows again, graph and tables, bootstrap."""
        check_attention(backbone)
        train, val = parts_of(config, data)
        images = Images(config, context, fit_projection(config, (train, val), context))
        base = fit_base(images, (train, val))
        precisions = [attention_precision(images, base, part) for part in (train, val)]
        threshold, train_iou = find_threshold(images, base, train, precisions[0].compute())
        chosen = [p.compute() >= threshold for p in precisions]
        foreground = Foreground(base, dict(zip((train, val), chosen, strict=True)))
        n_rows = sum(int(p.pixels[ids].sum()) for p, ids in zip(precisions, chosen, strict=True))
        fits = _fit_foreground(images, foreground, (train, val), n_rows)
        tables = _tables(images, foreground, fits, val)
        found, graph = _communities(images, foreground, fits, (train, val))
        scored = _mappings(config, data.info, fits, tables, found)
        replicates, saliency = _bootstrap(images, foreground, fits, scored, val)
        tuned = _labels_used(config, threshold, len(train.indices))
        return Measurement(
            metrics=(*_metrics(config, data.info, tables, scored, replicates), saliency),
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
                "labels_used_for": tuned,
            },
            notes=(
                *(f"labels: {use}" for use in tuned),
                f"k-means trains on at most {config.points_per_centroid} tokens per centroid",
                "attention is the evaluated backbone's own, last layer, class token, mean of heads",
            ),
        )


def _check(config: UnsupervisedSegmentationConfig) -> None:
    """Raise UsageError for settings that mean nothing."""
    refuse_nonsense(
        "unsupervised_segmentation",
        "positive numbers, a mass of at most 1, and at least one seed, of Infomap from 1",
        {
            "attention_mass": (config.attention_mass, 0 < config.attention_mass <= 1),
            "blur_sigma": (config.blur_sigma, config.blur_sigma > 0),
            "k_fg_extraction": (config.k_fg_extraction, config.k_fg_extraction > 1),
            "k_community": (config.k_community, config.k_community > 0),
            "objects": (config.objects, (config.objects or 0) > 0),
            "markov_time": (config.markov_time, config.markov_time > 0),
            "community_seeds": (config.community_seeds, min(config.community_seeds, default=0) > 0),
            "object_seeds": (config.object_seeds, min(config.object_seeds, default=-1) >= 0),
        },
    )


def _foreground_runs(config: UnsupervisedSegmentationConfig) -> list[Run]:
    """Return the k-means of the foreground: the one for communities first, if any."""
    assert config.objects is not None, "resolve() fills it in"
    fine = [Run(config.k_community, config.clustering_seed)] if config.community_detection is not None else []
    return [*fine, *(Run(config.objects, seed) for seed in config.object_seeds)]


def _fit_foreground(images: Images, foreground: Foreground, parts: Sequence[Part], n_rows: int) -> list[Fit]:
    """Cluster the foreground, every pixel of the evaluation size one row, as the code does."""
    runs = _foreground_runs(images.config)
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

    return fit_clusters(images.config, runs, rows(), n_rows, dims_of(images), images.context)


def _segments(
    images: Images, foreground: Foreground, fits: Sequence[Fit], part: Part, batch: Batch, tokens: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the foreground (B, S, S) and the clusters of each fit, background being the last id of each."""
    inside = foreground(images, part, batch, tokens)
    return inside, [images.maps(batch, tokens, fit).masked_fill(~inside, fit.k) for fit in fits]


def _tables(images: Images, foreground: Foreground, fits: Sequence[Fit], val: Part) -> list[Tensor]:
    """Return the contingency table (C, k + 1) of every fit."""
    info = val.data.info
    matrices = [ConfusionMatrix(fit.k + 1, info.n_classes, info.ignored) for fit in fits]
    for batch, tokens in images.stream(val, "contingency", labels=True):
        _, maps = _segments(images, foreground, fits, val, batch, tokens)
        with images.context.stage("score"):
            for matrix, clusters in zip(matrices, maps, strict=True):
                matrix.update(clusters, images.masks(batch))
    return [matrix.table for matrix in matrices]


def _communities(
    images: Images, foreground: Foreground, fits: Sequence[Fit], parts: Sequence[Part]
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
                edges, fine.k + 1, seed=seed, markov_time=config.markov_time, preferred=config.objects
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
class _Scored:
    """One way to turn the clusters of a fit into classes."""

    metric: str
    seed: str
    fit: int
    mapping: Tensor  # (k + 1,)


def _mappings(
    config: UnsupervisedSegmentationConfig,
    info: DatasetInfo,
    fits: Sequence[Fit],
    tables: Sequence[Tensor],
    found: Mapping[str, Tensor],
) -> list[_Scored]:
    """Match communities and clusters to classes: one to one; the bound, and other than C - 1 objects, many to one.

    Clusters without an edge are community 0, which is matched like the others. The published code stops at more
    communities than classes; here the best matched ones count and the rest become class 0.
    """
    scored = []
    for seed, merged in found.items():
        table = tables[0].new_zeros(info.n_classes, int(merged.max()) + 1).index_add_(1, merged, tables[0])
        scored.append(_Scored("miou", seed, 0, matching.hungarian(table)[merged]))
    first = len(fits) - len(config.object_seeds)
    for i, fit in enumerate(fits[first:], first):
        one_to_one = fit.k + 1 == info.n_classes
        mapping = matching.hungarian(tables[i]) if one_to_one else matching.many_to_one(tables[i], "precision")
        scored.append(_Scored("miou_cbfe", str(fit.seed), i, mapping))
    if found:
        scored.append(_Scored("miou_bound", str(fits[0].seed), 0, matching.many_to_one(tables[0], "precision")))
    return scored


def _bootstrap(
    images: Images, foreground: Foreground, fits: Sequence[Fit], scored: Sequence[_Scored], val: Part
) -> tuple[Tensor, Metric]:
    """Return replicates (B, scored, 3, C) of counts, and the foreground's metric, which is a mean over images."""
    info, side = val.data.info, spec_of(images.config).size
    bootstrap = PoissonBootstrap((len(scored), 3, info.n_classes))
    saliency = PoissonBootstrap((2,), dtype=torch.float64)
    total = torch.zeros(2, dtype=torch.float64)
    for batch, tokens in images.stream(val, "bootstrap", labels=True):
        inside, maps = _segments(images, foreground, fits, val, batch, tokens)
        with images.context.stage("score"):
            assert batch.labels is not None
            masks = images.masks(batch)
            truth = cbfe.label_foreground(batch.labels, info.background)
            # at the input size: the code enlarges the prediction here, and here only
            overlaps = cbfe.foreground_iou(resize_labels(inside, side), truth)
            for i, image in enumerate(batch.indices):
                tables = [
                    confusion(clusters[i], masks[i], fit.k + 1, info.n_classes, info.ignored)
                    for clusters, fit in zip(maps, fits, strict=True)
                ]
                bootstrap.update(image, torch.stack([torch.stack(counts(tables[s.fit], s.mapping)) for s in scored]))
                overlap = torch.stack([overlaps[i].nan_to_num(), (~overlaps[i].isnan()).double()])
                saliency.update(image, overlap)
                total += overlap
    sums = saliency.replicates()
    low, high = percentile_interval(100 * sums[:, 0] / sums[:, 1]).tolist()
    metric = Metric(
        name="foreground_iou",
        value=100 * float(total[0] / total[1].clamp(min=1)),
        ci95=(low, high),
        ci_method="Poisson bootstrap over validation images, foreground held fixed",
    )
    return bootstrap.replicates(), metric


def _metrics(
    config: UnsupervisedSegmentationConfig,
    info: DatasetInfo,
    tables: Sequence[Tensor],
    scored: Sequence[_Scored],
    replicates: Tensor,
) -> Iterator[Metric]:
    for name in dict.fromkeys(s.metric for s in scored):
        mine = [i for i, s in enumerate(scored) if s.metric == name]
        found = {scored[i].seed: counts(tables[scored[i].fit], scored[i].mapping) for i in mine}
        yield miou_over_seeds(name, info, found, replicates[:, mine], config.absent, main=name in MAIN)


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
