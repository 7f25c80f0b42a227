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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.errors import ModelError, UsageError
from densebench.features import Batch, FeatureSource, FeatureSpec, Labels
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet
from densebench.ops import cbfe, clustering, matching
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
from densebench.progress import Progress
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

ATTENTION_BYTES = 2**28
"""The largest attention tensor made at once."""
MAIN = ("miou", "miou_cbfe")


@dataclass(frozen=True, kw_only=True)
class UnsupervisedSegmentationConfig:
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
    n_iter: int = 100
    n_redo: int = 5
    points_per_centroid: int = 256
    """k-means trains on at most so many tokens per centroid, faiss's default, which the published code leaves on."""
    kmeans: Literal["auto", "faiss", "torch"] = "auto"
    """Which implementation; "auto" is torch."""
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
            kmeans="torch" if config.kmeans == "auto" else config.kmeans,
        )
        _check(resolved)
        return resolved

    def estimate(self, config: UnsupervisedSegmentationConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return feature passes, k-means' training rows and the arithmetic of clustering and attention."""
        spec = _spec(config)
        height, width = spec.grid(backbone)
        n_train, n_val = (len(part.indices) for part in _parts(config, data))
        n = n_train + n_val
        dims = min(config.pca or backbone.width, backbone.width)
        runs = [_Run(config.k_fg_extraction, config.clustering_seed), *_foreground_runs(config)]
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
        _check_attention(backbone)
        train, val = _parts(config, data)
        images = _Images(config, context, _projection(config, (train, val), context))
        base = _fit_base(images, (train, val))
        precisions = [_precision(images, base, part) for part in (train, val)]
        threshold, train_iou = _threshold(images, base, train, precisions[0].compute())
        chosen = [p.compute() >= threshold for p in precisions]
        foreground = _Foreground(base, dict(zip((train, val), chosen, strict=True)))
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
                "kmeans": [
                    {"k": f.k, "seed": f.seed, "objective": f.objective, "trained_on": f.n_train} for f in (base, *fits)
                ],
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


@dataclass(frozen=True, eq=False)
class _Part:
    """Some images of a dataset."""

    data: DenseDataset
    indices: list[int]


@dataclass(frozen=True)
class _Run:
    """A k-means to do."""

    k: int
    seed: int
    spherical: bool = False


@dataclass(frozen=True)
class _Fit:
    """A k-means done."""

    k: int
    seed: int
    centroids: Tensor  # (k, d)
    objective: float
    n_train: int


@dataclass(frozen=True)
class _Images:
    """How images become rows to cluster and maps of clusters."""

    config: UnsupervisedSegmentationConfig
    context: Context
    projection: clustering.Projection | None

    def stream(self, part: _Part, title: str, labels: bool = False) -> Iterator[tuple[Batch, Tensor]]:
        """Yield (batch, tokens (N, d) as they are clustered); masks come at the input size."""
        spec = _spec(self.config)
        wanted = Labels(spec.size, "centre") if labels else None
        stream = self.context.features.stream(part.data, spec, part.indices, labels=wanted, title=title)
        for batch in self.context.timed(stream, "features"):
            with self.context.stage("projection"):
                tokens = batch.tokens if self.projection is None else self.projection(batch.tokens)
            yield batch, tokens

    def maps(self, batch: Batch, tokens: Tensor, fit: _Fit) -> Tensor:
        """Return the clusters (B, S, S) of a batch on the CPU, at the evaluation size."""
        with self.context.stage("assign"):
            grid = (len(batch.indices), *batch.maps.shape[2:])
            return resize_labels(clustering.assign(tokens, fit.centroids).view(grid), self.config.eval_size).cpu()

    def masks(self, batch: Batch) -> Tensor:
        """Return the ground truth (B, S, S) of a batch at the evaluation size."""
        assert batch.labels is not None
        return resize_labels(batch.labels, self.config.eval_size)


@dataclass(frozen=True)
class _Foreground:
    """The clusters that are foreground; training and validation images have precisions of their own."""

    base: _Fit
    clusters: Mapping[_Part, Tensor]  # bool (K,) each

    def __call__(self, images: _Images, part: _Part, batch: Batch, tokens: Tensor) -> Tensor:
        """Return the foreground (B, S, S)."""
        return self.clusters[part][images.maps(batch, tokens, self.base)]


class _ClassAttention(Backbone):
    """A backbone whose feature is how much its class token attends to each token, 1 where attention is even."""

    def __init__(self, backbone: Backbone, digest: str) -> None:
        super().__init__()
        self.backbone, self.digest = backbone, digest
        given = backbone.info
        self.info = replace(
            given, name=f"attention of {given.name}", width=1, mean=(0.0,) * 3, std=(1.0,) * 3, facets=("token",)
        )

    def tokens(self, pixels: Tensor, layers: Sequence[int], facet: Facet, norm: bool) -> list[Tensor]:
        """Return (B, prefix + h*w, 1) per layer; `attention` wants images as they are, hence no mean and deviation."""
        each = (self.backbone.attention(pixels, layer) for layer in layers)
        return [(cbfe.class_attention(a, 0) * a.shape[-1])[..., None] for a in each]

    def weights_digest(self) -> str:
        """Return the digest of the backbone, which is known already."""
        return self.digest


def _check(config: UnsupervisedSegmentationConfig) -> None:
    """Raise UsageError for settings that mean nothing."""
    wrong = [
        f"{name}={value}"
        for name, value, ok in (
            ("attention_mass", config.attention_mass, 0 < config.attention_mass <= 1),
            ("blur_sigma", config.blur_sigma, config.blur_sigma > 0),
            ("k_fg_extraction", config.k_fg_extraction, config.k_fg_extraction > 1),
            ("k_community", config.k_community, config.k_community > 0),
            ("objects", config.objects, (config.objects or 0) > 0),
            ("markov_time", config.markov_time, config.markov_time > 0),
            ("community_seeds", config.community_seeds, min(config.community_seeds, default=0) > 0),
            ("object_seeds", config.object_seeds, min(config.object_seeds, default=-1) >= 0),
        )
        if not ok
    ]
    if wrong:
        raise UsageError(
            f"unsupervised_segmentation.{', unsupervised_segmentation.'.join(wrong)}: expected positive numbers, a "
            "mass of at most 1, and at least one seed, of Infomap from 1."
        )


def _check_attention(backbone: Backbone) -> None:
    """Raise ModelError for a backbone whose attention cannot be read, before anything is computed."""
    info = backbone.info
    if type(backbone).attention is Backbone.attention:
        raise ModelError(
            f"{info.name} gives no attention maps. Its adapter would need a method `attention(images, layer)` "
            "that returns the softmaxed attention (B, heads, N, N) of one layer on images in [0, 1], class token "
            "first, then registers, then patches; see `Backbone.attention`. `overclustering` runs without."
        )
    side = 2 * info.patch
    with torch.inference_mode():
        found = backbone.attention(torch.zeros(1, 3, side, side, device=backbone.device), info.depth - 1)
    want = info.prefix + 4
    if found.ndim != 4 or found.shape[-2:] != (want, want):
        raise ModelError(
            f"{info.name} returned attention {tuple(found.shape)} for {side}x{side} pixels; expected "
            f"(1, heads, {want}, {want}), where {want} = {info.prefix} prefix + 2x2 patches."
        )


def _parts(config: UnsupervisedSegmentationConfig, data: Data) -> tuple[_Part, _Part]:
    """Return the images of the training split asked for, and all validation images."""
    train = _Part(data.train, list(range(len(data.train))))
    if config.train_split != data.train.split:
        whole: DenseDataset = getattr(data.train, "base", data.train)  # a view, such as --limit makes, has a base
        assert config.train_split is not None, "resolve() fills it in"
        listed = set(type(whole)(whole.root, config.train_split).ids)
        inside = [i for i, name in enumerate(data.train.ids) if name in listed]
        if not inside:
            raise UsageError(
                f"none of the {len(data.train)} training images is in {data.info.name}'s split {config.train_split}. "
                "Raise --limit, or set unsupervised_segmentation.train_split=" + data.train.split + "."
            )
        train = _Part(data.train, inside)
    return train, _Part(data.val, list(range(len(data.val))))


def _projection(
    config: UnsupervisedSegmentationConfig, parts: Iterable[_Part], context: Context
) -> clustering.Projection | None:
    if config.pca is None:
        return None
    moments = clustering.StreamingMoments(context.features.info.width)
    for part in parts:
        for _, tokens in _Images(config, context, None).stream(part, "moments"):
            with context.stage("projection"):
                moments.update(tokens)
    with context.stage("projection"):
        return moments.pca(config.pca)


def _fit(
    images: _Images, runs: Sequence[_Run], n_rows: int, rows: Iterable[tuple[Tensor, Tensor]], dims: int
) -> list[_Fit]:
    """Gather the union of the rows that each k-means trains on, then fit them all.

    `rows` yields (tokens (N, d), index (M,) of the token of each row), `n_rows` rows in all or very nearly so.
    """
    config, context = images.config, images.context
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
    # a tie between clusters can fall otherwise in another pass, whose batches differ while the cache fills
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
        fits.append(_Fit(run.k, run.seed, centroids.to(context.features.device), info.objective, len(mine)))
    return fits


def _fit_base(images: _Images, parts: Sequence[_Part]) -> _Fit:
    """Cluster all tokens; centroids of length 1 make the nearest one that of the greatest dot product."""
    config, features = images.config, images.context.features
    height, width = _spec(config).grid(features.info)
    n_rows = height * width * sum(len(part.indices) for part in parts)
    if n_rows < config.k_fg_extraction:
        raise UsageError(
            f"{config.k_fg_extraction} clusters need as many patches; there are {n_rows}. "
            "Lower unsupervised_segmentation.k_fg_extraction, or raise --limit."
        )
    rows = ((tokens, torch.arange(len(tokens))) for part in parts for _, tokens in images.stream(part, "training rows"))
    run = _Run(config.k_fg_extraction, config.clustering_seed, spherical=True)
    return _fit(images, [run], n_rows, rows, _dims(images))[0]


def _attention_masks(images: _Images, part: _Part) -> Iterator[Tensor]:
    """Yield the attention's foreground (S, S) of one image after another."""
    config, features = images.config, images.context.features
    info, spec = features.info, FeatureSpec(size=_spec(config).size)
    height, width = spec.grid(info)
    each = 4 * info.heads * (info.prefix + height * width) ** 2
    source = FeatureSource(
        _ClassAttention(features.backbone, features.weights_digest),
        cache=features.cache,
        progress=Progress(quiet=True),
        device=str(features.device),
        precision=features.precision,
        dtype=features.dtype,
        batch_size=max(1, min(features.batch_size, ATTENTION_BYTES // each)),
        workers=features.workers,
    )
    for batch in images.context.timed(source.stream(part.data, spec, part.indices), "attention"):
        with images.context.stage("attention"):
            masks = cbfe.attention_mask(
                batch.maps[:, 0].cpu(), config.attention_mass, config.blur_sigma, min_component=config.min_component
            )
            masks = resize_labels(masks, config.eval_size)
        yield from masks


def _precision(images: _Images, base: _Fit, part: _Part) -> cbfe.ClusterPrecision:
    """Return how precisely each cluster lies in the attention's foreground."""
    precision = cbfe.ClusterPrecision(base.k)
    masks = _attention_masks(images, part)
    for batch, tokens in images.stream(part, "attention"):
        for clusters in images.maps(batch, tokens, base):
            mask = next(masks)
            with images.context.stage("score"):
                precision.update(clusters, mask)
    return precision


def _threshold(images: _Images, base: _Fit, train: _Part, precisions: Tensor) -> tuple[float, float | None]:
    """Return the threshold and the training images' foreground IoU it was chosen for, None where it was given."""
    if images.config.threshold is not None:
        return images.config.threshold, None
    search = cbfe.ThresholdSearch(precisions)
    for batch, tokens in images.stream(train, "threshold", labels=True):
        maps = images.maps(batch, tokens, base)
        with images.context.stage("score"):
            truth = cbfe.label_foreground(images.masks(batch), train.data.info.background)
            for clusters, target in zip(maps, truth, strict=True):
                search.update(clusters, target)
    return search.compute()


def _foreground_runs(config: UnsupervisedSegmentationConfig) -> list[_Run]:
    """Return the k-means of the foreground: the one for communities first, if any."""
    assert config.objects is not None, "resolve() fills it in"
    fine = [_Run(config.k_community, config.clustering_seed)] if config.community_detection is not None else []
    return [*fine, *(_Run(config.objects, seed) for seed in config.object_seeds)]


def _fit_foreground(images: _Images, foreground: _Foreground, parts: Sequence[_Part], n_rows: int) -> list[_Fit]:
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

    return _fit(images, runs, n_rows, rows(), _dims(images))


def _segments(
    images: _Images, foreground: _Foreground, fits: Sequence[_Fit], part: _Part, batch: Batch, tokens: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the foreground (B, S, S) and the clusters of each fit, background being the last id of each."""
    inside = foreground(images, part, batch, tokens)
    return inside, [images.maps(batch, tokens, fit).masked_fill(~inside, fit.k) for fit in fits]


def _tables(images: _Images, foreground: _Foreground, fits: Sequence[_Fit], val: _Part) -> list[Tensor]:
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
    images: _Images, foreground: _Foreground, fits: Sequence[_Fit], parts: Sequence[_Part]
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
    fits: Sequence[_Fit],
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
    images: _Images, foreground: _Foreground, fits: Sequence[_Fit], scored: Sequence[_Scored], val: _Part
) -> tuple[Tensor, Metric]:
    """Return replicates (B, scored, 3, C) of counts, and the foreground's metric, which is a mean over images."""
    info, side = val.data.info, _spec(images.config).size
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
        found = [counts(tables[scored[i].fit], scored[i].mapping) for i in mine]
        values = {
            scored[i].seed: 100 * float(mean_iou(*c, absent=config.absent)) for i, c in zip(mine, found, strict=True)
        }
        again = [mean_iou(*Counts(*replicates[:, i].unbind(1)), absent=config.absent) for i in mine]
        low, high = percentile_interval(100 * torch.stack(again).mean(0)).tolist()
        yield Metric(
            name=name,
            value=sum(values.values()) / len(values),
            main=name in MAIN,
            ci95=(low, high),
            ci_method="Poisson bootstrap over validation images, clusters and matching held fixed",
            seeds=values,
            per_class=by_class(info, torch.stack([iou(*c, absent=config.absent) for c in found]).mean(0)),
        )


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


def _dims(images: _Images) -> int:
    if images.projection is None:
        return images.context.features.info.width
    return images.projection.components.shape[1]


def _spec(config: UnsupervisedSegmentationConfig) -> FeatureSpec:
    assert config.input_size is not None, "resolve() fills it in"
    side = config.input_size
    return FeatureSpec(size=(side, side), layer=config.layer, facet=config.facet, norm=config.norm)
