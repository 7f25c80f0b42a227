"""How far a score might move with other images: the delete-a-group jackknife, streamed, for every score of sums.

Images fall into a fixed number of groups by chance; a score is computed anew without each group in turn, and the
spread of these scores gives an interval around the value. Nothing grows with the number of images, and no image is
drawn twice, so that scores that resampling would bias (mutual information, classes of few images) keep their place.
`benchmarks/coverage.py` has the simulations behind the choice.

Source: Kott 2001, "The delete-a-group jackknife".
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

GROUPS = 20
"""Groups of images: fewer make wider and less steady intervals, more keep more tables."""


def group_of(image: int, n_groups: int = GROUPS) -> int:
    """Return the group in [0, n_groups) of image number `image`, its stable index in the data set.

    Groups are drawn from the number alone: they depend on neither order, batches nor workers, are the same for every
    model, and do not follow an order that the data set has, such as by scene or by category.
    """
    return int(np.random.default_rng(image).integers(n_groups))


class GroupSums:
    """Streams tables of images into one sum per group of images.

    Args:
        shape: of one image's table: a confusion table, counts, or sums of errors.
        n_groups: G; memory is G tables.
        dtype: ``torch.int64`` for counts, ``torch.float64`` for sums.
    """

    def __init__(self, shape: tuple[int, ...], n_groups: int = GROUPS, dtype: torch.dtype = torch.int64) -> None:
        self.images = torch.zeros(n_groups, dtype=torch.int64)
        self._sums = torch.zeros(n_groups, *shape, dtype=dtype)

    def update(self, image: int, table: Tensor) -> None:
        """Add the table of image number `image`.

        Raises:
            ValueError: the table has another shape, or holds fractions where counts were announced.
        """
        shape = tuple(self._sums.shape[1:])
        if tuple(table.shape) != shape:
            raise ValueError(f"expected a table of shape {shape}, got {tuple(table.shape)}")
        if table.is_floating_point() and not self._sums.is_floating_point():
            raise ValueError("sums of counts got a floating table; ask for dtype=torch.float64")
        group = group_of(image, len(self.images))
        self.images[group] += 1
        self._sums[group] += table.to(self._sums)

    def total(self) -> Tensor:
        """Return the sum over all images, of the announced shape."""
        return self._sums.sum(0)

    def left_out(self) -> Tensor:
        """Return (G, *shape): the sum without each group in turn that has an image."""
        return self.total() - self._sums[self.images > 0]


def jackknife_interval(
    estimate: Tensor | float,
    left_out: Tensor,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Tensor:
    """Return (2, ...) float64: the ends of an interval around the estimate, which lies in its middle.

    Args:
        estimate: the statistic (...) on all images.
        left_out: (G, ...) the statistic with each of G groups of images left out in turn. NaN where the rest has none:
            that group does not count. Fewer than 2 others make no interval: NaN.
        level: coverage of the interval; the quantile is Student's t with G - 1 degrees of freedom.
        bounds: the least and the largest value that the statistic can take: the interval ends there.
    """
    rest = left_out.detach().cpu().double()
    known = ~rest.isnan()
    n = known.sum(0).double()
    spread = torch.where(known, rest - rest.nanmean(0), 0.0)
    error = ((n - 1) / n * spread.square().sum(0)).sqrt()
    quantile = torch.from_numpy(np.asarray(stats.t.ppf((1 + level) / 2, (n - 1).clamp(min=1).numpy())))
    reach = torch.where(n > 1, quantile * error, torch.nan)
    middle = torch.as_tensor(estimate, dtype=torch.float64).cpu()
    return torch.stack([middle - reach, middle + reach]).clamp(*bounds)
