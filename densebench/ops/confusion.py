"""Segmentation scores from confusion counts, in memory that no image count can grow.

A confusion table has one row per ground-truth class and one column per prediction (class or cluster):
``table[c, k]`` is the number of pixels of class ``c`` predicted as ``k``. Everything else is a function of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from densebench.ops.choices import AbsentRule


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
        table: one table or a stack of them, such as one per group of images left out; integer or floating.
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
    return _mean(iou(tp, fp, fn, absent), exclude)


def mean_iou_left_out(found: Counts, rest: Counts, absent: AbsentRule = "zero", exclude: Iterable[int] = ()) -> Tensor:
    """Return the mean IoU in [0, 1], (...,) float64, of a part of the images, over the classes of all of them.

    All images together fix which classes enter. A class that has ground truth in them but none in the part says
    nothing there and is left out of the part's mean: as 0 it would pull every part below the whole. A class without
    ground truth anywhere keeps the value that it has in the whole: 0 in every part, or none under ``"skip"``.

    Args:
        found: counts (C,) of all images.
        rest: counts (..., C) of the parts.
        absent: see :func:`iou`.
        exclude: see :func:`mean_iou`.
    """
    lacking = (found.tp + found.fn > 0) & (rest.tp + rest.fn == 0)
    return _mean(iou(*rest).masked_fill(lacking | iou(*found, absent).isnan(), torch.nan), exclude)


def _mean(scores: Tensor, exclude: Iterable[int]) -> Tensor:
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


def _as_tuple(ignore: int | tuple[int, ...]) -> tuple[int, ...]:
    return (ignore,) if isinstance(ignore, int) else tuple(ignore)
