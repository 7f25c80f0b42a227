"""The errors of predicted depth, averaged over images: what `depth` and `in_context_depth` share.

The numerics, and the names MDE has for the errors, are in `ops/depth.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DenseDataset
from densebench.ops import depth as ops
from densebench.protocols.common import scoring
from densebench.protocols.common.scoring import Scored
from densebench.protocols.protocol import MetricInfo
from densebench.results.counts import ImageStatistics
from densebench.results.schema import Coordinate, Metric

THEIRS = {"rmse": "rmse", "abs_rel": "abs_rel", "delta1": "a1", "delta2": "a2", "delta3": "a3", "log10": "log_10"}
"""Our names of the errors, and MDE's."""
MAIN = ("rmse", "abs_rel", "delta1")
"""What the papers print."""
MEANING = {
    "rmse": "root of the mean squared error, per image",
    "abs_rel": "mean of |error| / true depth, per image",
    "delta1": "share of pixels off by a factor below 1.25, per image",
    "delta2": "share of pixels off by a factor below 1.25^2, per image",
    "delta3": "share of pixels off by a factor below 1.25^3, per image",
    "log10": "mean of |log10 prediction - log10 truth|, per image",
}


def described(names: tuple[str, ...], at: tuple[str, ...] = ()) -> tuple[MetricInfo, ...]:
    """Return what the errors mean."""
    return tuple(
        MetricInfo(name, "m" if name == "rmse" else "1", name.startswith("delta"), MEANING[name], at) for name in names
    )


class DepthScores:
    """Errors of some predictions of every image, one row each, and examples.

    Args:
        rows: what predicts, such as "linear1" or "constant".
    """

    def __init__(self, *rows: str) -> None:
        self.rows = rows
        self.means = ops.ImageMean((len(rows), len(ops.ERRORS)))
        self.n_invalid = 0
        """Images without a valid pixel."""
        self._images: list[int] = []
        self._pixels: list[int] = []
        self._errors: list[NDArray[np.float64]] = []
        self.examples: list[tuple[NDArray[Any], list[NDArray[Any]]]] = []
        """Images, each with truth and predictions."""

    def update(self, image: int, errors: Tensor, pixels: int) -> None:
        """Add the errors (rows, ERRORS) of an image on so many valid pixels, NaN where there are none."""
        self.n_invalid += int(errors.isnan().any())
        self.means.update(image, errors)
        self._images.append(image)
        self._pixels.append(pixels)
        self._errors.append(errors.double().numpy().copy())  # 72 bytes a row: some MB of ten thousands of images

    def check(self, protocol: str, data: DenseDataset, min_depth: float, max_depth: float | None) -> None:
        """Raise DatasetError where no image had a valid pixel."""
        if self.n_invalid == len(data):
            raise DatasetError(
                f"{data.info.name} {data.split}: no pixel of any image lies between {min_depth} and "
                f"{max_depth} m. Is its depth in metres? Else set {protocol}.max_depth."
            )

    def values(self, names: tuple[str, ...], row: str) -> dict[str, float]:
        """Return some errors of a row."""
        mean = self.means.mean()[self.rows.index(row)]
        return {name: float(mean[ops.ERRORS.index(THEIRS[name])]) for name in names}

    def metrics(
        self, names: tuple[str, ...], rows: Mapping[str, Mapping[str, Coordinate]], fixed: str
    ) -> Iterator[Scored]:
        """Yield some errors of some rows, {row: coordinates of its metrics}, with intervals over images."""
        left_out = self.means.left_out()
        order = np.argsort(self._images, kind="stable")
        images, pixels = (np.asarray(of_images, np.int64)[order] for of_images in (self._images, self._pixels))
        errors = np.stack(self._errors)[order]
        for row, at in rows.items():
            values = self.values(names, row)
            for info in described(names):
                place = self.rows.index(row), ops.ERRORS.index(THEIRS[info.name])
                rest = left_out[:, *place]
                most = 1.0 if info.name.startswith("delta") else math.inf
                ci95, ci_method = scoring.interval(values[info.name], rest, fixed, (0.0, most))
                metric = Metric(
                    name=info.name,
                    at=dict(at),
                    value=values[info.name],
                    unit="m" if info.name == "rmse" else "1",
                    higher_is_better=info.higher_is_better,
                    main=info.name in MAIN,
                    ci95=ci95,
                    ci_method=ci_method,
                )
                arrays = {"image": images, "value": errors[:, *place], "pixels": pixels}
                yield Scored(metric, (ImageStatistics(kind="mean", name=info.name, at=metric.at, arrays=arrays),))
