"""How much a position tells about a class, or one token about another: mutual information of counts, in nats.

Source: "Unsupervised Semantic Segmentation Facilitates Model Understanding", equations 2 and 3 and the locality bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from densebench.ops.jackknife import group_of
from densebench.ops.precision import widen


class PositionCounts:
    """Streams label maps of one size into counts n(position, class), kept apart by groups of images.

    Groups serve the delete-a-group jackknife, see `ops/jackknife.py`.
    Memory is G * P * C cells of 2 bytes, or of 4 from 32,768 images (pixels of one position) per group on.

    Args:
        n_positions: P of the common grid.
        n_classes: C.
        n_groups: G; 1 keeps only the sum.
        positions: (H * W,) the position of each pixel, see :func:`coarse_positions`; None: each is its own, P = H * W.
    """

    def __init__(self, n_positions: int, n_classes: int, n_groups: int = 1, positions: Tensor | None = None) -> None:
        self.n_classes = n_classes
        self.images = torch.zeros(n_groups, dtype=torch.int64)
        self._cells = torch.zeros(n_groups, n_positions * n_classes, dtype=torch.int16)
        self._first = (torch.arange(n_positions) if positions is None else positions) * n_classes
        self._pixels = 1 if positions is None else int(positions.bincount().max())  # of a position, at most

    def update(self, image: int, labels: Tensor) -> None:
        """Add the label map (H, W) of image number ``image``; labels outside [0, C), such as -1 and 255, are void."""
        flat = labels.reshape(-1).cpu().long()
        if len(flat) != len(self._first):
            raise ValueError(f"expected {len(self._first)} positions, got {tuple(labels.shape)}")
        group = group_of(image, len(self.images))
        self.images[group] += 1
        if self._cells.dtype == torch.int16 and self.images[group] * self._pixels > torch.iinfo(torch.int16).max:
            self._cells = self._cells.int()
        valid = (flat >= 0) & (flat < self.n_classes)
        found = (self._first + flat)[valid]
        if self._pixels == 1:
            self._cells[group, found] += 1  # an image has each position once: no cell repeats
        else:
            self._cells[group] += found.bincount(minlength=self._cells.shape[1])

    def total(self) -> Tensor:
        """Return n(p, c) over all images, (P, C) int64."""
        return self._cells.sum(0, dtype=torch.int64).view(-1, self.n_classes)

    def left_out(self) -> Iterator[Tensor]:
        """Yield n(p, c) without each non-empty group in turn, (P, C) int64."""
        total = self.total()
        for group in self.images.nonzero().squeeze(1):
            yield total - self._cells[group].view_as(total)


def coarse_positions(size: tuple[int, int], cell: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the position (H * W,) of each pixel on a grid of squares of `cell` pixels, and that grid's size.

    Squares at the right and lower rim may be narrower.
    """
    rows, columns = (torch.arange(side) // cell for side in size)
    grid = int(rows[-1]) + 1, int(columns[-1]) + 1
    return (rows[:, None] * grid[1] + columns).flatten(), grid


class MutualInformation(NamedTuple):
    """I(position; class) in nats: per class (C,), total, class entropy H(C), and their ratio in [0, 1]."""

    classwise: Tensor
    total: float
    entropy: float
    nmi: float


def mutual_information(counts: Tensor) -> MutualInformation:
    """Return the mutual information of position and class of counts (P, C), eq. 3, in float64.

    The joint is n / sum(n) and 0 ln 0 = 0. The normaliser is the class entropy alone; ``nmi`` is 0 when that is 0.
    """
    joint = _normalised(counts)
    of_class = joint.sum(0)
    if int((of_class > 0).sum()) < 2:  # shares that sum to nearly 1 would leave 1e-16 over 1e-16
        return MutualInformation(torch.zeros_like(of_class), 0.0, 0.0, 0.0)
    classwise = _pointwise(joint).sum(0)
    total, entropy = float(classwise.sum()), float(-torch.xlogy(of_class, of_class).sum())
    return MutualInformation(classwise, total, entropy, total / entropy if entropy > 0 else 0.0)


def mi_bias(n_positions: int, n_classes: int, n: int) -> float:
    """Return the first-order bias (P - 1)(C - 1) / (2 n) in nats of the mutual information of ``n`` counted labels.

    Counts of independent variables show about this much. ``n`` is the sum of the counts: images times positions
    where nothing is void. Source: Miller 1955.
    """
    return (n_positions - 1) * (n_classes - 1) / (2 * n)


def aggregate_map(counts: Tensor, palette: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the picture (H, W, 3) float64 of the mean class colour at each position, eq. 2.

    ``counts`` is (P, C) with P = H * W, ``palette`` (C, 3) in any unit, which the picture keeps. A position
    without a label is black.
    """
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return (share @ palette.to(share)).view(*size, palette.shape[1])


def attention_mutual_information(attention: Tensor) -> Tensor:
    """Return I(query; key) in nats of attention matrices (..., N, N), one value each, float64: the locality bias.

    A matrix is read as a joint distribution after division by its sum; rows = queries need not be normalised, as
    after dropping class and register tokens. For the head-averaged value, average the matrices first.
    """
    weights = attention.double()
    rows, columns = weights.sum(-1), weights.sum(-2)
    total = rows.sum(-1)
    share = 1 / torch.where(total > 0, total, 1.0)
    marginals = sum(torch.special.entr(m * share[..., None]).sum(-1) for m in (rows, columns))
    joint = torch.special.entr(weights).sum((-2, -1)) * share - share.log()  # of weights / total
    return marginals - joint


class LocalityBias:
    """Streams attention into I(query; key) per layer, averaged over images, by both orders of averaging heads.

    The paper does not say whether heads are averaged before or after: `of_heads` has the value of each head, whose
    mean is one reading, `of_mean` that of the mean matrix, the other. With all tokens the second is never greater.

    Args:
        n_layers: L.
        n_heads: number of heads.
        prefix: tokens that are left out as queries and as keys before the rest is renormalised.
    """

    def __init__(self, n_layers: int, n_heads: int, prefix: int = 0) -> None:
        self.prefix = prefix
        self._images = torch.zeros(n_layers, dtype=torch.int64)
        self._heads = torch.zeros(n_layers, n_heads, dtype=torch.float64)
        self._mean = torch.zeros(n_layers, dtype=torch.float64)

    def update(self, layer: int, attention: Tensor) -> None:
        """Add the attention (B, heads, N, N) of one layer, rows = queries."""
        patches = widen(attention[..., self.prefix :, self.prefix :])
        self._images[layer] += len(patches)
        self._heads[layer] += attention_mutual_information(patches).sum(0).cpu()
        self._mean[layer] += attention_mutual_information(patches.mean(1)).sum(0).cpu()

    @property
    def of_heads(self) -> Tensor:
        """The mean over images per layer and head, (L, heads) float64 in nats; NaN where no image was added."""
        return self._heads / self._images[:, None]

    @property
    def of_mean(self) -> Tensor:
        """The same of the mean over heads, (L,)."""
        return self._mean / self._images


class Correlation(NamedTuple):
    """How two quantities go together over n points; NaN where fewer than 3 points or no spread leave it undefined."""

    n: int
    pearson: float
    spearman: float


def correlation(x: Tensor, y: Tensor) -> Correlation:
    """Return Pearson's and Spearman's coefficients of x (n,) and y (n,); points that are not finite are left out.

    Spearman's is Pearson's of the ranks, where equal values share their mean rank.
    """
    both = torch.stack([x.double(), y.double()])
    both = both[:, both.isfinite().all(0)]
    n = both.shape[1]
    ranks = torch.from_numpy(stats.rankdata(both.numpy(), axis=1))
    return Correlation(n, *(float(_pearson(pair)) if n > 2 else math.nan for pair in (both, ranks)))


def _pearson(pair: Tensor) -> Tensor:
    centred = pair - pair.mean(1, keepdim=True)
    spread = centred.norm(dim=1)
    return (centred[0] @ centred[1]) / spread.prod() if bool((spread > 0).all()) else pair.new_tensor(math.nan)


def _normalised(weights: Tensor) -> Tensor:
    """Return weights (..., R, S) >= 0 as joint distributions, float64; all-zero ones stay zero."""
    weights = weights.double()
    total = weights.sum((-2, -1), keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def _pointwise(joint: Tensor) -> Tensor:
    """Return P(a,b) ln[P(a,b) / (P(a) P(b))] for joints (..., R, S), 0 where P(a,b) is 0."""
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.xlogy(joint, joint / torch.where(product > 0, product, 1.0))
