"""Segmentation scores from confusion counts, and their uncertainty, in memory that no image count can grow.

A confusion table has one row per ground-truth class and one column per prediction (class or cluster):
``table[c, k]`` is the number of pixels of class ``c`` predicted as ``k``. Everything else is a function of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

AbsentRule = Literal["zero", "skip"]
"""What a class without a single pixel in ground truth and prediction scores: 0, or nothing at all (NaN)."""


def confusion(pred: Tensor, target: Tensor, n_pred: int, n_target: int, ignore: int | tuple[int, ...] = 255) -> Tensor:
    """Return the int64 table (n_target, n_pred) of pixel counts, rows = ground truth, columns = prediction.

    Args:
        pred: integers in [0, n_pred), any shape.
        target: integers of the same shape and device. Labels in ``ignore`` and labels outside
            [0, n_target) are left out, as in open-hummingbird-eval and Leopart.
        n_pred: number of predicted ids (clusters may outnumber the classes).
        n_target: number of ground-truth classes.
        ignore: the label or labels that are not evaluated.

    Raises:
        ValueError: the shapes differ, a tensor is not integer, or a prediction is out of range.
    """
    if pred.shape != target.shape:
        raise ValueError(f"prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
    if pred.is_floating_point() or target.is_floating_point():
        raise ValueError(f"labels are integers, got {pred.dtype} and {target.dtype}")
    if pred.numel() == 0:
        return torch.zeros(n_target, n_pred, dtype=torch.int64, device=pred.device)
    low, high = (int(v) for v in torch.aminmax(pred))
    if low < 0 or high >= n_pred:
        raise ValueError(f"predictions span {low}..{high}, expected 0..{n_pred - 1}")
    index_dtype = torch.int32 if (n_target + 1) * n_pred < 2**31 else torch.int64
    rows = target.reshape(-1).to(index_dtype)
    dropped = (rows < 0) | (rows >= n_target)
    for label in _as_tuple(ignore):
        if 0 <= label < n_target:
            dropped |= rows == label
    cells = rows.masked_fill(dropped, n_target) * n_pred + pred.reshape(-1)  # row n_target is thrown away
    return torch.bincount(cells, minlength=(n_target + 1) * n_pred)[: n_target * n_pred].view(n_target, n_pred)


class Counts(NamedTuple):
    """True positives, false positives and false negatives per class, each (..., C)."""

    tp: Tensor
    fp: Tensor
    fn: Tensor


def counts(table: Tensor, mapping: Tensor | None = None) -> Counts:
    """Return the counts per class of confusion tables (..., C, K) once clusters have become classes.

    Args:
        table: one table or a stack of them, such as bootstrap replicates; integer or floating.
        mapping: (K,) class of each prediction id. Without it an id is its own class, and ids >= C
            are false negatives only: they belong to no class that could count them as false positives.

    Raises:
        ValueError: the mapping's shape or range is wrong.
    """
    n_classes, n_pred = table.shape[-2:]
    if mapping is None:
        mapping = torch.arange(n_pred, device=table.device)
    elif mapping.shape != (n_pred,):
        raise ValueError(f"mapping has shape {tuple(mapping.shape)}, the table has {n_pred} columns")
    elif n_pred and int(mapping.min()) < 0:
        raise ValueError("mapping holds a negative class")
    column = mapping.to(table.device, torch.int64).clamp(max=n_classes)
    merged = table.new_zeros(*table.shape[:-1], n_classes + 1).index_add_(-1, column, table)[..., :n_classes]
    tp = merged.diagonal(dim1=-2, dim2=-1).contiguous()
    return Counts(tp, merged.sum(-2) - tp, table.sum(-1) - tp)


def iou(tp: Tensor, fp: Tensor, fn: Tensor, absent: AbsentRule = "zero") -> Tensor:
    """Return the intersection over union per class, float64 in [0, 1], of the broadcast shape.

    ``absent="zero"`` clamps the denominator at 1e-8 (open-hummingbird-eval, Leopart, NeCo): a class that is
    neither in ground truth nor predicted scores 0. ``"skip"`` makes it NaN (DIP ``miou.py``).
    """
    tp = tp.double()
    union = tp + fp + fn
    if absent == "zero":
        return tp / union.clamp(min=1e-8)
    if absent == "skip":
        return torch.where(union > 0, tp / union.clamp(min=1e-8), torch.nan)
    raise ValueError(f"absent is 'zero' or 'skip', got {absent!r}")


def mean_iou(tp: Tensor, fp: Tensor, fn: Tensor, absent: AbsentRule = "zero", exclude: Iterable[int] = ()) -> Tensor:
    """Return the mean IoU in [0, 1] over the last dimension, (...,) float64.

    Args:
        tp: true positives (..., C); ``fp`` and ``fn`` alike.
        fp: false positives.
        fn: false negatives.
        absent: see :func:`iou`; with ``"skip"`` absent classes leave the mean, and a row without any class is NaN.
        exclude: classes left out of the mean by name, such as class 0 = "other" of ADE20K.
    """
    scores = iou(tp, fp, fn, absent)
    keep = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    keep[list(exclude)] = False
    return scores[..., keep].nanmean(-1)


class ConfusionMatrix:
    """Streams predictions into one confusion table (n_target, n_pred); the order of images does not matter."""

    def __init__(self, n_pred: int, n_target: int, ignore: int | tuple[int, ...] = 255) -> None:
        self.n_pred, self.n_target, self.ignore = n_pred, n_target, _as_tuple(ignore)
        self.table = torch.zeros(n_target, n_pred, dtype=torch.int64)

    def update(self, pred: Tensor, target: Tensor) -> Tensor:
        """Add one image or batch and return the table it contributed, on the CPU."""
        added = confusion(pred, target, self.n_pred, self.n_target, self.ignore).cpu()
        self.table += added
        return added

    def compute(self, mapping: Tensor | None = None) -> Counts:
        """Return the counts per class so far, see :func:`counts`."""
        return counts(self.table, mapping)

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add another worker's table to this one and return self."""
        mine, theirs = [(m.n_pred, m.n_target, set(m.ignore)) for m in (self, other)]
        if mine != theirs:
            raise ValueError(f"these tables count different things: {mine} and {theirs}")
        self.table += other.table
        return self


class PoissonBootstrap:
    """Bootstrap replicates of a sum over images, streamed: every image enters replicate b Poisson(1) times.

    The weights of an image come from a generator that knows only (seed, image index), so neither order nor
    batches nor workers change a replicate, and runs that share a seed see the same resampled images: their
    differences can be compared pair by pair. Memory is ``n_replicates`` tables, whatever the number of images.

    Args:
        shape: shape of the per-image table: a confusion table, stacked counts, or sums of errors.
        n_replicates: number of replicates B.
        seed: >= 0.
        dtype: ``torch.int64`` for counts (kept as int32 until one outgrows it), ``torch.float64`` for sums.

    Source: Hanley & MacGibbon 2006; Chamandy et al. 2012, "Estimating uncertainty for massive data streams".
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_replicates: int = 1000,
        seed: int = 0,
        dtype: torch.dtype = torch.int64,
    ) -> None:
        if dtype not in (torch.int64, torch.float64):
            raise ValueError(f"dtype is torch.int64 or torch.float64, got {dtype}")
        self.shape, self.n_replicates, self.seed, self.dtype = tuple(shape), n_replicates, seed, dtype
        storage = np.int32 if dtype == torch.int64 else np.float64
        self._sums = np.zeros((math.prod(self.shape), n_replicates), storage)  # a cell's replicates lie together

    @property
    def nbytes(self) -> int:
        """Bytes held now; counts double when one outgrows int32."""
        return self._sums.nbytes

    def weights(self, image: int) -> Tensor:
        """Return the (B,) int64 number of times that image ``image`` enters each replicate."""
        drawn = np.random.default_rng((self.seed, image)).poisson(1.0, self.n_replicates)
        return torch.from_numpy(drawn)

    def update(self, image: int, table: Tensor) -> None:
        """Add the table of image number ``image`` (its stable index in the data set); only non-zero cells cost.

        Raises:
            ValueError: the table has another shape, or holds fractions where counts were announced.
        """
        if tuple(table.shape) != self.shape:
            raise ValueError(f"expected a table of shape {self.shape}, got {tuple(table.shape)}")
        if self.dtype == torch.int64 and table.is_floating_point():
            raise ValueError("a bootstrap of counts got a floating table; ask for dtype=torch.float64")
        values = table.detach().cpu().to(self.dtype).numpy().reshape(-1)
        cells = np.flatnonzero(values)
        if not cells.size:
            return
        grown = self._sums[cells] + values[cells, None] * self.weights(image).numpy()
        if self._sums.dtype == np.int32 and np.abs(grown).max() > np.iinfo(np.int32).max:
            self._sums = self._sums.astype(np.int64)
        self._sums[cells] = grown

    def merge(self, other: PoissonBootstrap) -> PoissonBootstrap:
        """Add the replicates of other images (another worker's share) and return self."""
        same = ("shape", "n_replicates", "seed", "dtype")
        if any(getattr(self, name) != getattr(other, name) for name in same):
            raise ValueError("only bootstraps of the same shape, size, seed and dtype can be merged")
        total = self._sums.astype(np.promote_types(self._sums.dtype, np.int64)) + other._sums
        fits = self.dtype == torch.int64 and (not total.size or np.abs(total).max() <= np.iinfo(np.int32).max)
        self._sums = total.astype(np.int32) if fits else total
        return self

    def replicates(self) -> Tensor:
        """Return the replicated tables (B, *shape); int32 or int64 for counts, float64 for sums."""
        return torch.from_numpy(self._sums).T.reshape(self.n_replicates, *self.shape)


def percentile_interval(values: Tensor, level: float = 0.95) -> Tensor:
    """Return (2, ...) float64: the bounds of the central ``level`` of replicates ``values`` (B, ...).

    NaN replicates (a class that no drawn image holds, under ``absent="skip"``) are left out; only NaN gives NaN.
    """
    replicates = values.detach().cpu().double().numpy()
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    hollow = np.isnan(replicates).all(axis=0)
    bounds = np.nanquantile(np.where(hollow, 0.0, replicates), tails, axis=0)
    return torch.from_numpy(np.where(hollow, np.nan, bounds))


def jackknife_interval(estimate: float, left_out: Tensor, level: float = 0.95) -> Tensor:
    """Return (2,) float64: a delete-a-group jackknife interval, for statistics that resampling would bias.

    Args:
        estimate: the statistic on all images.
        left_out: (G,) the statistic with each of G >= 2 groups of images left out in turn.
        level: coverage of the interval; the quantile is Student's t with G - 1 degrees of freedom.

    Source: Kott 2001, "The delete-a-group jackknife".
    """
    n_groups = left_out.numel()
    if n_groups < 2:
        raise ValueError(f"a jackknife needs at least 2 groups, got {n_groups}")
    spread = left_out.double() - left_out.double().mean()
    error = math.sqrt((n_groups - 1) / n_groups * float(spread.square().sum()))
    reach = float(stats.t.ppf((1 + level) / 2, n_groups - 1)) * error
    return torch.tensor([estimate - reach, estimate + reach], dtype=torch.float64)


def _as_tuple(ignore: int | tuple[int, ...]) -> tuple[int, ...]:
    return (ignore,) if isinstance(ignore, int) else tuple(ignore)
