"""From counted pixels to mIoU: the value, its interval over validation images, and the score of each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
from densebench.protocols.protocol import by_class
from densebench.results.schema import Coordinate, Metric


class Miou(NamedTuple):
    """One reading of counted pixels, in [0, 1]."""

    value: float
    left_out: Tensor
    """(G,): the same without each group of images in turn."""
    per_class: Tensor
    """(C,)."""


def miou(found: Counts, rest: Counts, absent: AbsentRule, *, present: bool = False) -> Miou:
    """Return the mIoU of counts (C,), and of those (G, C) without each group of images in turn.

    With `present` the mean is over the classes that occur in the ground truth.
    """
    missing = torch.nonzero(found.tp + found.fn == 0).flatten().tolist() if present else []
    value = mean_iou(*found, absent=absent, exclude=missing)
    return Miou(float(value), mean_iou_left_out(found, rest, absent, missing), iou(*found, absent=absent))


def interval(
    value: float, left_out: Tensor, held: str, bounds: tuple[float, float] = (0.0, 100.0)
) -> tuple[tuple[float, float] | None, str]:
    """Return the 95 % interval of a value over validation images, None where there is none, and how it was made.

    Args:
        value: on all images.
        left_out: (G,) without each group of images in turn, NaN where the rest has no value.
        held: what stays as it is while images are left out, in words.
        bounds: the least and the largest value there can be.
    """
    low, high = jackknife_interval(value, left_out, bounds=bounds).tolist()
    if math.isnan(low):
        return None, ""
    groups = int(left_out.isnan().logical_not().sum())
    return (low, high), f"jackknife over {groups} groups of validation images, {held} held fixed"


def metric(
    name: str,
    runs: Mapping[str, Miou],
    held: str,
    *,
    at: Mapping[str, Coordinate] | None = None,
    main: bool = False,
    info: DatasetInfo | None = None,
) -> Metric:
    """Return the mean of some runs as a metric in percent, its interval over validation images.

    Args:
        name: of the metric.
        runs: by seed; the one run of a protocol that does not repeat is called "".
        held: see :func:`interval`.
        at: its coordinates.
        main: see `densebench.results.schema.Metric`.
        info: whose classes are scored one by one; None: none are.
    """
    values = {seed: 100 * run.value for seed, run in runs.items()}
    value = sum(values.values()) / len(values)
    left_out = 100 * torch.stack([run.left_out for run in runs.values()]).mean(0)
    ci95, ci_method = interval(value, left_out, held)
    classes = torch.stack([run.per_class for run in runs.values()]).mean(0)
    return Metric(
        name=name,
        at=dict(at or {}),
        value=value,
        main=main,
        ci95=ci95,
        ci_method=ci_method,
        seeds={seed: value for seed, value in values.items() if seed},
        per_class=by_class(info, classes) if info is not None else {},
    )


class PixelTally:
    """Counts predicted classes of pixels, apart by groups of images."""

    def __init__(self, n_classes: int, ignored: tuple[int, ...]) -> None:
        self.matrix = ConfusionMatrix(n_classes, n_classes, ignored)
        self.groups = GroupSums((n_classes, n_classes))

    def update(self, images: Sequence[int], predictions: Tensor, targets: Tensor) -> None:
        """Add predictions and masks (B, H, W) of images, by their number."""
        for image, prediction, target in zip(images, predictions.cpu(), targets, strict=True):
            self.groups.update(image, self.matrix.update(prediction, target))

    def miou(self, absent: AbsentRule) -> Miou:
        """Return the mIoU of predictions as they are."""
        return miou(counts(self.matrix.table), counts(self.groups.left_out()), absent)

    def readings(self, absent: AbsentRule) -> dict[str, Miou]:
        """Return the mIoU as it is, over the classes that occur, and after one matching of predictions to classes."""
        table, rest = self.matrix.table, self.groups.left_out()
        plain, mapping = (counts(table), counts(rest)), matching.hungarian(table)
        return {
            "miou": miou(*plain, absent),
            "miou_present": miou(*plain, absent, present=True),
            "miou_hungarian": miou(counts(table, mapping), counts(rest, mapping), absent),
        }
