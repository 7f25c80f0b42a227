"""From counted pixels to mIoU: value, interval over validation images, score of each class, and counts per image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densebench.datasets.dataset import DatasetInfo
from densebench.ops import matching
from densebench.ops.confusion import (
    AbsentRule,
    ConfusionMatrix,
    Counts,
    counts,
    iou,
    mean_iou,
    mean_iou_left_out,
)
from densebench.ops.jackknife import GroupSums, jackknife_interval
from densebench.protocols.common.image_tables import MAX_TABLE_BYTES, ImageTables
from densebench.protocols.protocol import Measurement, by_class
from densebench.results.counts import Arrays, ImageStatistics
from densebench.results.schema import Coordinate, Metric


class Miou(NamedTuple):
    """One mIoU of counted pixels, in [0, 1]."""

    value: float
    left_out: Tensor
    """(G,): the same without each group of images in turn."""
    per_class: Tensor
    """(C,)."""
    settings: Mapping[str, Any] = {}
    """How classes enter, as `results/counts.py` names it."""
    images: Arrays | None = None
    """What each image adds, see `image_tables.py`; None where nothing is kept."""


class Scored(NamedTuple):
    """A metric with what its images add to it."""

    metric: Metric
    statistics: tuple[ImageStatistics, ...] = ()
    """One entry per seed; none where nothing is kept."""
    too_large: bool = False
    """Whether nothing is kept because it would need too much memory."""


def measurement(scored: Iterable[Scored], *, notes: Iterable[str] = (), **rest: Any) -> Measurement:
    """Return a measurement of metrics and what their images add; a note says of which nothing is kept.

    Args:
        scored: in the order of the record.
        notes: of the measurement.
        **rest: its facts and artifacts.
    """
    every = list(scored)
    large = ", ".join(one.metric.label for one in every if one.too_large)
    limit = f"{MAX_TABLE_BYTES >> 20} MB"
    note = f"what each image adds is not kept of {large}: it needs more than {limit} while it is counted"
    return Measurement(
        metrics=tuple(one.metric for one in every),
        statistics=tuple(entry for one in every for entry in one.statistics),
        notes=(*notes, note) if large else tuple(notes),
        **rest,
    )


def segmented(metric: Metric, runs: Mapping[str, tuple[Mapping[str, Any], Arrays | None]]) -> Scored:
    """Return a metric with counts per image and class: settings and arrays of its runs, by seed."""
    entries = [
        ImageStatistics(
            kind="segmentation", name=metric.name, at=metric.at, seed=seed, settings=settings, arrays=arrays
        )
        for seed, (settings, arrays) in runs.items()
        if arrays is not None
    ]
    return Scored(metric, tuple(entries) if len(entries) == len(runs) else (), len(entries) < len(runs))


def miou(
    found: Counts, rest: Counts, absent: AbsentRule, *, present: bool = False, images: Arrays | None = None
) -> Miou:
    """Return the mIoU of counts (C,), and of those (G, C) without each group of images in turn.

    With `present` the mean is over the classes that occur in the ground truth. `images` are the same counts, by image.
    """
    missing = torch.nonzero(found.tp + found.fn == 0).flatten().tolist() if present else []
    value = mean_iou(*found, absent=absent, exclude=missing)
    settings = {"n_classes": len(found.tp), "absent": absent, "present": present}
    left_out, per_class = mean_iou_left_out(found, rest, absent, missing), iou(*found, absent=absent)
    return Miou(float(value), left_out, per_class, settings, images)


def interval(
    value: float, left_out: Tensor, fixed: str, bounds: tuple[float, float] = (0.0, 100.0)
) -> tuple[tuple[float, float] | None, str]:
    """Return the 95 % interval of a value over validation images, None where there is none, and how it was made.

    Args:
        value: on all images.
        left_out: (G,) without each group of images in turn, NaN where the rest has no value.
        fixed: what stays as it is while images are left out, in words.
        bounds: the least and the largest value there can be.
    """
    low, high = jackknife_interval(value, left_out, bounds=bounds).tolist()
    if math.isnan(low):
        return None, ""
    groups = int(left_out.isnan().logical_not().sum())
    return (low, high), f"jackknife over {groups} groups of validation images, {fixed} held fixed"


def metric(
    name: str,
    runs: Mapping[str, Miou],
    fixed: str,
    *,
    at: Mapping[str, Coordinate] | None = None,
    main: bool = False,
    info: DatasetInfo | None = None,
) -> Scored:
    """Return the mean of some runs as a metric in percent, its interval over validation images, and their counts.

    Args:
        name: of the metric.
        runs: by seed; the one run of a protocol that does not repeat is called "".
        fixed: see :func:`interval`.
        at: its coordinates.
        main: see `densebench.results.schema.Metric`.
        info: whose classes are scored one by one; None: none are.
    """
    values = {seed: 100 * run.value for seed, run in runs.items()}
    value = sum(values.values()) / len(values)
    left_out = 100 * torch.stack([run.left_out for run in runs.values()]).mean(0)
    ci95, ci_method = interval(value, left_out, fixed)
    classes = torch.stack([run.per_class for run in runs.values()]).mean(0)
    made = Metric(
        name=name,
        at=dict(at or {}),
        value=value,
        main=main,
        ci95=ci95,
        ci_method=ci_method,
        seeds={seed: value for seed, value in values.items() if seed},
        per_class=by_class(info, classes) if info is not None else {},
    )
    return segmented(made, {seed: (run.settings, run.images) for seed, run in runs.items()})


class PixelTally:
    """Counts predicted classes of pixels, apart by groups of images, and what each image adds.

    Args:
        n_classes: C.
        ignored: labels that are not evaluated.
        max_bytes: what the tables of single images may take; above, they are not kept.
    """

    def __init__(self, n_classes: int, ignored: tuple[int, ...], max_bytes: int = MAX_TABLE_BYTES) -> None:
        self.matrix = ConfusionMatrix(n_classes, n_classes, ignored)
        self.groups = GroupSums((n_classes, n_classes))
        self.images = ImageTables(max_bytes)

    def update(self, images: Sequence[int], predictions: Tensor, targets: Tensor) -> None:
        """Add predictions and masks (B, H, W) of images, by their number."""
        for image, prediction, target in zip(images, predictions.cpu(), targets, strict=True):
            table = self.matrix.update(prediction, target)
            self.groups.update(image, table)
            self.images.update(image, table)

    def miou(self, absent: AbsentRule) -> Miou:
        """Return the mIoU of predictions as they are."""
        left_out = counts(self.groups.left_out())
        return miou(counts(self.matrix.table), left_out, absent, images=self.images.arrays())

    def variants(self, absent: AbsentRule) -> dict[str, Miou]:
        """Return the mIoU as it is, over the classes that occur, and after one matching of predictions to classes."""
        table, rest = self.matrix.table, self.groups.left_out()
        plain, mapping = (counts(table), counts(rest)), matching.hungarian(table)
        images, matched = self.images.arrays(), self.images.arrays(mapping)
        return {
            "miou": miou(*plain, absent, images=images),
            "miou_present": miou(*plain, absent, present=True, images=images),
            "miou_hungarian": miou(counts(table, mapping), counts(rest, mapping), absent, images=matched),
        }
