"""From counted pixels to mIoU: the value, its interval over validation images, and the score of each class."""

from __future__ import annotations

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
    PoissonBootstrap,
    counts,
    iou,
    mean_iou,
    percentile_interval,
)
from densebench.protocols.protocol import by_class
from densebench.results import Metric


class Miou(NamedTuple):
    """One reading of counted pixels, in [0, 1]."""

    value: float
    replicates: Tensor
    """(B,): the same of resampled images."""
    per_class: Tensor
    """(C,)."""


def miou(found: Counts, again: Counts, absent: AbsentRule, *, present: bool = False) -> Miou:
    """Return the mIoU of counts (C,) and of their replicates (B, C).

    With `present` the mean is over the classes that occur in the ground truth, in the replicates too.
    """
    missing = torch.nonzero(found.tp + found.fn == 0).flatten().tolist() if present else []
    value, replicates = (mean_iou(*some, absent=absent, exclude=missing) for some in (found, again))
    return Miou(float(value), replicates, iou(*found, absent=absent))


def metric(
    name: str, runs: Mapping[str, Miou], held: str, *, main: bool = False, info: DatasetInfo | None = None
) -> Metric:
    """Return the mean of some runs as a metric in percent, its interval over validation images.

    Args:
        name: of the metric.
        runs: by seed; the one run of a protocol that does not repeat is called "".
        held: what the images are resampled under, in words.
        main: see `densebench.results.Metric`.
        info: whose classes are scored one by one; None: none are.
    """
    values = {seed: 100 * run.value for seed, run in runs.items()}
    replicates = torch.stack([run.replicates for run in runs.values()]).mean(0)
    low, high = percentile_interval(100 * replicates).tolist()
    classes = torch.stack([run.per_class for run in runs.values()]).mean(0)
    return Metric(
        name=name,
        value=sum(values.values()) / len(values),
        main=main,
        ci95=(low, high),
        ci_method=f"Poisson bootstrap over validation images, {held} held fixed",
        seeds={seed: value for seed, value in values.items() if seed},
        per_class=by_class(info, classes) if info is not None else {},
    )


class PixelTally:
    """Counts predicted classes of pixels, with replicates over images."""

    def __init__(self, n_classes: int, ignored: tuple[int, ...]) -> None:
        self.matrix = ConfusionMatrix(n_classes, n_classes, ignored)
        self.bootstrap = PoissonBootstrap((n_classes, n_classes))

    def update(self, images: Sequence[int], predictions: Tensor, targets: Tensor) -> None:
        """Add predictions and masks (B, H, W) of images, by their number."""
        for image, prediction, target in zip(images, predictions.cpu(), targets, strict=True):
            self.bootstrap.update(image, self.matrix.update(prediction, target))

    def miou(self, absent: AbsentRule) -> Miou:
        """Return the mIoU of predictions as they are."""
        return miou(counts(self.matrix.table), counts(self.bootstrap.replicates()), absent)

    def readings(self, absent: AbsentRule) -> dict[str, Miou]:
        """Return the mIoU as it is, over the classes that occur, and after one matching of predictions to classes."""
        table, again = self.matrix.table, self.bootstrap.replicates()
        plain, mapping = (counts(table), counts(again)), matching.hungarian(table)
        return {
            "miou": miou(*plain, absent),
            "miou_present": miou(*plain, absent, present=True),
            "miou_hungarian": miou(counts(table, mapping), counts(again, mapping), absent),
        }
