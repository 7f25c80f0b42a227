"""Hummingbird: segmentation by retrieving labelled patches, without training anything.

Patches of training images go into a memory with their soft labels; each validation patch attends to its nearest
memory patches and takes the mean of their labels; label maps are upsampled and scored by mIoU. Source: Balazevic et
al. 2023, in the open implementation that PaKA (5.2, A.2) and NeCo (A.2) use, open-hummingbird-eval 2.0 (HBIRD).

Left open by the papers, with the defaults here: input size (HBIRD's table: 512 px, 504 for patches of 14), passes over
the augmented memory images (HBIRD's default: 1), which of the two mIoU is printed (both are in every result).

Memory and queries may come from different datasets with the same classes: domain shift, as DIP table 2 has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from densebench.core.errors import UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset
from densebench.datasets.io.id_lists import ids_of, read_lines, repeated
from densebench.datasets.tools.checks import label_presence
from densebench.model_zoo.backbone import BackboneInfo
from densebench.ops import retrieval, sampling
from densebench.protocols.common import memory, scoring
from densebench.protocols.common.memory import Content, Memory
from densebench.protocols.hummingbird.config import HummingbirdConfig
from densebench.protocols.hummingbird.pictures import ClassExamples
from densebench.protocols.protocol import (
    Context,
    Data,
    Estimate,
    Measurement,
    MetricInfo,
    Protocol,
    input_size,
)

AT = ("fraction",)
"""Coordinates of the metrics: the share of the training images in memory, "1" or "1/8"."""


class Hummingbird(Protocol[HummingbirdConfig]):
    """In-context segmentation by dense nearest-neighbour retrieval."""

    name = "hummingbird"
    title = "Hummingbird in-context retrieval"
    version = 2
    config = HummingbirdConfig
    presets = HummingbirdConfig.presets
    metrics = (
        MetricInfo("miou", "%", True, "mIoU with the predicted classes as they are, by share of images in memory", AT),
        MetricInfo("miou_hungarian", "%", True, "the same after matching predictions to classes, as HBIRD reports", AT),
        MetricInfo("miou_present", "%", True, "mean over the classes that occur in the validation masks", AT),
    )
    shrink_hint = "Take fewer rows with --set hummingbird.memory_size=N, or a smaller hummingbird.input_size."

    def resolve(self, config: HummingbirdConfig, backbone: BackboneInfo, data: DatasetInfo) -> HummingbirdConfig:
        """Fill in the input size."""
        if config.void_to not in range(data.n_classes):
            raise UsageError(f"hummingbird.void_to={config.void_to} is not a class of {data.name}.")
        memory.check(self.name, config)
        return replace(config, input_size=input_size(config.input_size, 512, backbone, data))

    def estimate(self, config: HummingbirdConfig, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return memory rows, feature passes and the arithmetic of the search."""
        plans = [
            memory.size_of(config, backbone, images)
            for f in config.fractions
            for images in [max(1, len(data.train) // f)] * (1 if f == 1 else len(config.subset_seeds))
        ]
        return Estimate(
            features={
                "train": (memory.request(config, 0), len(data.train) * plans[0].epochs),
                "val": (memory.request(config), len(data.val)),
            },
            bank_bytes=max(p.nbytes(config, backbone.width, data.train.info.n_classes) for p in plans),
            search_flops=2.0 * backbone.width * len(data.val) * plans[0].patches * sum(p.rows for p in plans),
        )

    def run(self, config: HummingbirdConfig, data: Data, context: Context) -> Measurement:
        """Build a memory per fraction and seed, predict all validation patches from it, score."""
        metrics: list[scoring.Scored] = []
        banks: dict[str, Any] = {}
        pictures: dict[str, bytes] = {}
        content = content_of(config, context.backbone.info.patch, data.train.info.n_classes)
        for factor in config.fractions:
            runs: dict[str, _MemoryScores] = {}
            for seed, indices in _subsets(config, factor, data.train, context):
                with context.stage("memory"):
                    title = f"memory 1/{factor}"
                    bank = memory.fit(config, context.backbone.info, data.train, indices, content, context, title)
                shown = ClassExamples(0 if banks else context.pictures, bank, data, context.backbone.info.patch)
                scores = _score(config, bank, data, context, factor, shown)
                runs["" if factor == 1 else str(seed)] = scores
                banks[f"1/{factor}:{seed}"] = {**bank.facts, "recall": scores.recall}
                with context.stage("figures"):
                    pictures |= shown.draw()
                del bank, shown
            metrics += _metrics(factor, runs, data.info)
        return scoring.measurement(metrics, notes=_notes(config, data), facts={"banks": banks}, artifacts=pictures)


def _notes(config: HummingbirdConfig, data: Data) -> Iterator[str]:
    if config.augmentation_epochs:
        yield "the augmentation of a memory image is drawn from (seed, epoch, image), the same in all subsets"
    if config.subset_dir is None and max(config.fractions) > 1:
        yield "subsets are drawn by the published rule, not the published lists"
    if data.train.info.name != data.val.info.name:
        yield f"domain shift: memory from {data.train.info.name}, queries from {data.val.info.name}"


def content_of(config: HummingbirdConfig, patch: int, n_classes: int) -> Content:
    """Return what the memory knows of a patch: the share of each class among its pixels."""
    of = partial(sampling.soft_labels, patch=patch, n_classes=n_classes, void_to=config.void_to)
    return Content(n_classes, of, sampling.scores_of)


class _MemoryScores(NamedTuple):
    """What one memory knows."""

    variants: dict[str, scoring.Miou]
    """mIoU by metric."""
    recall: float
    """Share of the exact neighbours that the search finds, on the first batch of queries."""


def _score(
    config: HummingbirdConfig, bank: Memory, data: Data, context: Context, factor: int, shown: ClassExamples
) -> _MemoryScores:
    """Label every validation image from the memory and count."""
    info = data.info
    ignored = info.ignored if config.ignore == "dataset" else (VOID,)
    tally = scoring.PixelTally(info.n_classes, ignored)
    recall = 1.0
    for batch, label_hat, recalled in memory.predict(bank, data.val, context, f"queries 1/{factor}"):
        recall = recalled
        with context.stage("score"):
            predictions = retrieval.upsample_argmax(label_hat.permute(0, 3, 1, 2), bank.config.spec.size).cpu()
            tally.update(batch.indices, predictions, batch.labels)
            for i, image in enumerate(batch.indices):
                if image in shown.images:
                    shown.add(image, batch.maps[i], predictions[i], batch.labels[i])
    return _MemoryScores(tally.variants(config.absent), recall)


def _metrics(factor: int, runs: dict[str, _MemoryScores], info: DatasetInfo) -> Iterator[scoring.Scored]:
    """Yield the three variants of one fraction: means over subset seeds, intervals over images."""
    for name in ("miou", "miou_hungarian", "miou_present"):
        is_main = name == "miou"
        yield scoring.metric(
            name,
            {seed: scores.variants[name] for seed, scores in runs.items()},
            "matching and memory",
            at={"fraction": "1" if factor == 1 else f"1/{factor}"},
            main=is_main,
            info=info if is_main else None,
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
            yield seed, _listed(config.subset_dir, factor, seed, train, context.progress)
        return
    presence = torch.from_numpy(label_presence(train, context.progress))
    for seed in config.subset_seeds:
        yield seed, sampling.draw_subset(presence, factor, seed, train.info.background).tolist()


def _listed(folder: Path, factor: int, seed: int, train: DenseDataset, progress: Progress) -> list[int]:
    """Return the images of a published list file; raises UsageError for no list or several, and for other images."""
    found = sorted((folder / f"1_div_{factor}").glob(f"*_{factor}_{seed}.txt"))
    if len(found) != 1:
        named = ", ".join(path.name for path in found) or "none"
        raise UsageError(
            f"expected one list 1_div_{factor}/*_{factor}_{seed}.txt below {folder}, which has {named}. Run with "
            "--set 'hummingbird.subset_seeds=[SEED,...]' for the seeds there are."
        )
    where = f"the list {found[0]}"
    position = {id_: i for i, id_ in enumerate(train.ids)}
    names = ids_of(read_lines(found[0], where), position.__contains__)
    unknown = [name for name in names if name not in position]
    if unknown or not names:
        what = (
            f"names {len(unknown)} images that {train.info.name} lacks (first: {unknown[0]})" if names else "is empty"
        )
        raise UsageError(f"{where} {what}; expected ids such as {train.ids[0]}, one per line.")
    if twice := repeated(names):
        progress.say(f"{where} names {len(twice)} images more than once (first: {twice[0]}); each counts once.")
    return sorted({position[name] for name in names})
