"""Hummingbird: segmentation by retrieving labelled patches, without training anything.

Patches of training images go into a memory with their soft labels; each validation patch attends to its nearest
memory patches and takes the mean of their labels; label maps are upsampled and scored by mIoU. Source: Balazevic et
al. 2023, in the open implementation that PaKA (5.2, A.2) and NeCo (A.2) use, open-hummingbird-eval 2.0 (HBIRD).

Left open by the papers, with the defaults here: input size (HBIRD's table: 512 px, 504 for patches of 14), passes over
the augmented memory images (HBIRD's default: 1), which of the two mIoU is printed (both are in every result).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from densebench.config import no_score
from densebench.datasets.augment import Augment
from densebench.datasets.checks import label_presence
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.errors import FeatureError, UsageError
from densebench.features import FeatureSpec, Labels
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet
from densebench.ops import matching, retrieval, sampling
from densebench.ops.confusion import (
    AbsentRule,
    ConfusionMatrix,
    PoissonBootstrap,
    counts,
    iou,
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
class HummingbirdConfig:
    """Settings of in-context retrieval; sections are those of the HBIRD code and the papers named above."""

    input_size: int | None = None
    """Side in pixels; None: 512 rounded down to a multiple of the patch."""
    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    """Take the last layer after its final norm."""
    std: tuple[float, float, float] | None = None
    """Channel deviations instead of the weights' own."""
    neighbours: int = 30
    temperature: float = 0.02
    """Of the softmax over the neighbours' cosine similarities."""
    similarity: Literal["cosine", "l2"] = "cosine"
    """"cosine": unit-norm memory, inner product. "l2": squared distance of raw features, as DIP's code has it."""
    memory_size: int | None = 10_240_000
    """Rows of the memory, shared evenly by the images; None keeps every patch."""
    augmentation_epochs: int = 1
    """Passes over the memory images, each with new colour jitter and crop; 0 takes the images as they are."""
    void_to: int = 0
    """The class that void pixels of memory images join."""
    absent: AbsentRule = "zero"
    """What a class scores that is neither in ground truth nor predicted."""
    fractions: tuple[int, ...] = (1, 8, 64, 128)
    """Memories of 1/f of the images; f > 1 is averaged over `subset_seeds`."""
    subset_seeds: tuple[int, ...] = (42, 400, 783, 1293, 4019)
    subset_dir: Path | None = None
    """Folder of image lists `1_div_F/*_F_SEED.txt` to use instead of drawing subsets by the published rule."""
    search: Literal["exact", "scann"] = "exact"
    """"scann" is approximate, with the published parameters; needs the extra `scann`."""
    backend: Literal["auto", "torch", "faiss"] = no_score("auto")
    """Which exact search: they agree, so this is not part of the score hash."""


class Hummingbird(Protocol[HummingbirdConfig]):
    """In-context segmentation by dense nearest-neighbour retrieval."""

    name = "hummingbird"
    title = "Hummingbird in-context retrieval"
    config = HummingbirdConfig
    presets = {
        "paper": Preset(source="PaKA A.2, NeCo A.2, with the code they ran (open-hummingbird-eval)"),
        "open-hummingbird-v2": Preset(
            source="open-hummingbird-eval 2.0.0, README results: std 0.255 in blue, two augmentation passes",
            settings={"std": (0.229, 0.224, 0.255), "augmentation_epochs": 2, "fractions": (1,)},
        ),
        "dip": Preset(
            source="DIP README and hummingbird/src: L2 on raw features, temperature 0.07, absent classes skipped",
            settings={
                "input_size": 504,
                "similarity": "l2",
                "temperature": 0.07,
                "augmentation_epochs": 2,
                "std": (0.229, 0.224, 0.255),
                "absent": "skip",
                "fractions": (1,),
            },
        ),
    }
    metrics = (
        MetricInfo("miou@F", "%", True, "mIoU with the predicted classes as they are, memory of a fraction F"),
        MetricInfo("miou_hungarian@F", "%", True, "the same after matching predictions to classes, as HBIRD reports"),
        MetricInfo("miou_present@F", "%", True, "mean over the classes that occur in the validation masks"),
    )
    shrink_hint = "Take fewer rows with --set hummingbird.memory_size=N, or a smaller hummingbird.input_size."

    def resolve(self, config: HummingbirdConfig, backbone: BackboneInfo, data: DatasetInfo) -> HummingbirdConfig:
        """Fill in the input size."""
        if config.void_to not in range(data.n_classes):
            raise UsageError(f"hummingbird.void_to={config.void_to} is no class of {data.name}.")
        if config.search == "scann" and config.similarity == "l2":
            raise UsageError("hummingbird.search=scann has published settings for similarity=cosine only; use exact.")
        for wanted, package in ((config.search, "scann"), (config.backend, "faiss")):
            if wanted == package and importlib.util.find_spec(package) is None:
                extra = {"scann": "scann", "faiss": "cpu"}[package]
                raise UsageError(f"{package} is not installed: pip install 'densebench[{extra}]'.")
        return replace(config, input_size=input_size(config.input_size, 512, backbone, data))

    def estimate(self, config: HummingbirdConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return memory rows, feature passes and the arithmetic of the search."""
        size = _side(config)
        patches = (size // backbone.patch) ** 2
        epochs = max(1, config.augmentation_epochs)
        queries = len(data.val) * patches
        rows = [
            images * epochs * _rows_per_image(config, images, patches)
            for f in config.fractions
            for images in [max(1, len(data.train) // f)] * (1 if f == 1 else len(config.subset_seeds))
        ]
        return Estimate(
            features={
                "train": (_spec(config, 0), len(data.train) * epochs),
                "val": (_spec(config), len(data.val)),
            },
            bank_bytes=max(rows) * (backbone.width + data.info.n_classes) * 4,
            search_flops=2.0 * backbone.width * queries * sum(rows),
        )

    def run(self, config: HummingbirdConfig, backbone: Backbone, data: Data, context: Context) -> Measurement:
        """Build a memory per fraction and seed, answer all validation patches from it, score."""
        device = context.features.device
        if config.backend == "faiss" and device.type != "cpu":
            raise UsageError(f"hummingbird.backend=faiss searches on the CPU; on {device} use torch.")
        metrics: list[Metric] = []
        banks: dict[str, Any] = {}
        for factor in config.fractions:
            runs = {}
            for seed, indices in _subsets(config, factor, data.train, context):
                with context.stage("memory"):
                    bank = _memory(config, backbone.info, data.train, indices, context, factor)
                runs[seed] = _score(config, backbone.info, bank, data, context, factor)
                banks[f"1/{factor}:{seed}"] = {"images": len(indices), **bank.facts, "recall": runs[seed].recall}
                del bank
            metrics += _metrics(factor, runs, data.info)
        notes = []
        if config.augmentation_epochs:
            notes.append(
                "the augmentation of a memory image is drawn from (seed, epoch, image), the same in all subsets"
            )
        if config.subset_dir is None and max(config.fractions) > 1:
            notes.append("subsets are drawn by the published rule, not the published lists")
        return Measurement(metrics=tuple(metrics), facts={"banks": banks}, notes=tuple(notes))


@dataclass(frozen=True)
class _Bank:
    """A searchable memory: an index over keys (N, D) and their soft labels (N, C)."""

    index: retrieval.Index
    keys: Tensor
    labels: Tensor
    facts: Mapping[str, object]


@dataclass(frozen=True)
class _Scores:
    """mIoU in both readings, with replicates (B,) for intervals and IoU per class (C,)."""

    identity: float
    hungarian: float
    present: float
    per_class: Tensor
    replicates: dict[str, Tensor]
    recall: float = 1.0
    """Share of the exact neighbours that the search finds, on the first batch of queries."""


def _memory(
    config: HummingbirdConfig,
    backbone: BackboneInfo,
    train: DenseDataset,
    indices: list[int],
    context: Context,
    factor: int,
) -> _Bank:
    """Collect keys and soft labels of the memory images, sampled per image when the memory is bounded."""
    size = _side(config)
    patches = (size // backbone.patch) ** 2
    epochs = max(1, config.augmentation_epochs)
    per_image = _rows_per_image(config, len(indices), patches)
    rows = len(indices) * epochs * per_image
    device = context.features.device
    keys = torch.empty(rows, backbone.width)
    labels = torch.empty(rows, train.info.n_classes)
    generator = torch.Generator().manual_seed(context.seed)
    filled = 0
    for epoch in range(epochs):
        spec = _spec(config, epoch, context.seed)
        title = f"memory 1/{factor}"
        stream = context.features.stream(train, spec, indices, labels=Labels((size, size)), title=title)
        for batch in stream:
            assert batch.labels is not None
            soft = sampling.soft_labels(batch.labels, backbone.patch, train.info.n_classes, void_to=config.void_to)
            features = batch.maps.flatten(2).transpose(1, 2)  # (B, P, D)
            soft_flat = soft.flatten(1, 2)  # (B, P, C)
            if per_image < patches:
                # one draw per image, so that the batch size cannot change which patches are kept
                noise = torch.stack([torch.rand(patches, generator=generator) for _ in batch.indices])
                chosen = sampling.sample_patches(sampling.scores_of(soft), per_image, noise)[..., None]
                features = features.gather(1, chosen.to(device).expand(-1, -1, features.shape[2]))
                soft_flat = soft_flat.gather(1, chosen.expand(-1, -1, soft_flat.shape[2]))
            count = features.shape[0] * per_image
            keys[filled : filled + count] = features.flatten(0, 1).cpu()
            labels[filled : filled + count] = soft_flat.flatten(0, 1)
            filled += count
    if config.similarity == "cosine":
        try:
            keys = retrieval.normalise_keys(keys)
        except ValueError as error:
            lengthless = int((keys.norm(dim=1) == 0).nonzero()[0])
            image = train.ids[indices[lengthless // per_image % len(indices)]]
            raise FeatureError(
                f"{backbone.name} gives image {image} a patch of length zero, which has no direction to compare "
                f"({error}). Use another layer or facet."
            ) from error
    metric: Literal["ip", "l2"] = "ip" if config.similarity == "cosine" else "l2"
    keys = keys.to(device)
    index = retrieval.make_index(keys, config.search, config.backend, metric, config.neighbours)
    facts = {"rows": rows, "rows_per_image": per_image, "search": config.search, "backend": index.backend}
    return _Bank(index, keys, labels.to(device), facts)


def _score(
    config: HummingbirdConfig, backbone: BackboneInfo, bank: _Bank, data: Data, context: Context, factor: int
) -> _Scores:
    """Label every validation image from the memory and count."""
    size = _side(config)
    info = data.info
    matrix = ConfusionMatrix(info.n_classes, info.n_classes, info.ignored)
    bootstrap = PoissonBootstrap((info.n_classes, info.n_classes))
    stream = context.features.stream(data.val, _spec(config), labels=Labels((size, size)), title=f"queries 1/{factor}")
    recall = 1.0
    for i, batch in enumerate(context.timed(stream, "features")):
        assert batch.labels is not None
        with context.stage("search"):
            queries = batch.tokens
            found = bank.index.search(queries, config.neighbours)
        if i == 0 and config.search != "exact":
            exact = retrieval.search(bank.keys, queries, config.neighbours)
            recall = retrieval.recall_at_k(found.indices, exact.indices)
        with context.stage("search"):
            label_hat = retrieval.attend(
                queries,
                found.indices,
                bank.labels,
                # scores of unit keys are cosines but for the query's norm; raw keys have to be looked at again
                scores=found.scores if config.similarity == "cosine" else None,
                keys=bank.keys if config.similarity == "l2" else None,
                temperature=config.temperature,
            )
        with context.stage("score"):
            grid = batch.maps.shape[2:]
            maps = label_hat.unflatten(0, (len(batch.indices), *grid)).permute(0, 3, 1, 2)
            predictions = retrieval.upsample_argmax(maps, (size, size)).cpu()
            for image, prediction, target in zip(batch.indices, predictions, batch.labels, strict=True):
                bootstrap.update(image, matrix.update(prediction, target))
    return replace(_summarise(matrix.table, bootstrap.replicates(), config.absent), recall=recall)


def _summarise(table: Tensor, replicates: Tensor, absent: AbsentRule) -> _Scores:
    """Turn counts into mIoU: identity, Hungarian (matching held fixed in the replicates), present classes."""
    mapping = matching.hungarian(table)
    present = table.sum(1) > 0
    ways = {"identity": counts(table), "hungarian": counts(table, mapping)}
    again = {"identity": counts(replicates), "hungarian": counts(replicates, mapping)}
    absent_from_truth = torch.nonzero(~present).flatten().tolist()
    return _Scores(
        identity=float(mean_iou(*ways["identity"], absent=absent)),
        hungarian=float(mean_iou(*ways["hungarian"], absent=absent)),
        present=float(mean_iou(*ways["identity"], absent=absent, exclude=absent_from_truth)),
        per_class=iou(*ways["identity"], absent=absent),
        replicates={
            "miou": mean_iou(*again["identity"], absent=absent),
            "miou_hungarian": mean_iou(*again["hungarian"], absent=absent),
            "miou_present": mean_iou(*again["identity"], absent=absent, exclude=absent_from_truth),
        },
    )


def _metrics(factor: int, runs: dict[int, _Scores], info: DatasetInfo) -> Iterator[Metric]:
    """Yield the three readings of one fraction: means over subset seeds, intervals over images."""
    label = "1" if factor == 1 else f"1/{factor}"
    per_class = torch.stack([r.per_class for r in runs.values()]).mean(0)
    values = {
        "miou": {seed: r.identity for seed, r in runs.items()},
        "miou_hungarian": {seed: r.hungarian for seed, r in runs.items()},
        "miou_present": {seed: r.present for seed, r in runs.items()},
    }
    for name, by_seed in values.items():
        replicates = torch.stack([r.replicates[name] for r in runs.values()]).mean(0)
        low, high = percentile_interval(100 * replicates).tolist()
        yield Metric(
            name=f"{name}@{label}",
            value=100 * sum(by_seed.values()) / len(by_seed),
            main=name == "miou",
            ci95=(low, high),
            ci_method="Poisson bootstrap over validation images, matching and memory held fixed",
            seeds={str(seed): 100 * value for seed, value in by_seed.items()} if factor > 1 else {},
            per_class=by_class(info, per_class) if name == "miou" else {},
        )


def _subsets(
    config: HummingbirdConfig, factor: int, train: DenseDataset, context: Context
) -> Iterator[tuple[int, list[int]]]:
    """Yield (seed, image indices) of each memory of a fraction; fraction 1 is everything, once."""
    if factor == 1:
        yield context.seed, list(range(len(train)))
        return
    if config.subset_dir is not None:
        for seed in config.subset_seeds:
            yield seed, _listed(config.subset_dir, factor, seed, train)
        return
    presence = torch.from_numpy(label_presence(train, context.progress))
    for seed in config.subset_seeds:
        yield seed, sampling.draw_subset(presence, factor, seed, train.info.background).tolist()


def _listed(folder: Path, factor: int, seed: int, train: DenseDataset) -> list[int]:
    """Return the images of a published list file."""
    found = sorted((folder / f"1_div_{factor}").glob(f"*_{factor}_{seed}.txt"))
    if not found:
        raise UsageError(f"no list 1_div_{factor}/*_{factor}_{seed}.txt below {folder}; expected one per seed.")
    position = {id_: i for i, id_ in enumerate(train.ids)}
    names = [Path(line.strip()).stem for line in found[0].read_text().splitlines() if line.strip()]
    unknown = [name for name in names if name not in position]
    if unknown:
        raise UsageError(f"{found[0]} names {len(unknown)} images that {train.info.name} lacks (first: {unknown[0]}).")
    return sorted(position[name] for name in names)


def _side(config: HummingbirdConfig) -> int:
    assert config.input_size is not None, "resolve() fills it in"
    return config.input_size


def _rows_per_image(config: HummingbirdConfig, images: int, patches: int) -> int:
    if config.memory_size is None:
        return patches
    return sampling.patches_per_image(config.memory_size, images, max(1, config.augmentation_epochs), patches)


def _spec(config: HummingbirdConfig, epoch: int | None = None, seed: int = 0) -> FeatureSpec:
    """Return the feature request of memory images (an epoch) or validation images (none)."""
    augment = Augment(seed=seed, epoch=epoch) if epoch is not None and config.augmentation_epochs else None
    return FeatureSpec(
        size=(_side(config), _side(config)),
        layer=config.layer,
        facet=config.facet,
        norm=config.norm,
        std=config.std,
        augment=augment,
    )
