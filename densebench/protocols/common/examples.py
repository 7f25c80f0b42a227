"""What the pictures beside the numbers show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from densebench.core.resampling import RESAMPLING
from densebench.datasets.dataset import DenseDataset
from densebench.features.spec import FeatureSpec

Example = tuple[NDArray[np.uint8], NDArray[np.integer], NDArray[np.integer]]
"""Image (H, W, 3), truth and prediction (H, W)."""


def spread(count: int, n: int) -> set[int]:
    """Return `count` of `n` positions, evenly spread, the first and the last among them; all where there are fewer."""
    return set(np.linspace(0, n - 1, min(count, n)).astype(int).tolist())


def as_seen(data: DenseDataset, index: int, spec: FeatureSpec) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) as the backbone sees it."""
    return np.asarray(data.image(index).resize(spec.size[::-1], RESAMPLING[spec.interpolation]))
