"""Depth from bins on upsampled logits that are never held.

Four times finer in both directions, 256 logits per pixel are the largest tensor of a linear depth head by far, and on a
CPU nearly all of its time goes into moving it. Here a few rows are upsampled, weighed and dropped, forwards and again
backwards; what stays is the logits of the grid. Values and gradients are those of `decode_bins` but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from densebench.ops.depth import LINEAR_FLOOR, BinNorm, decode_bins
from densebench.ops.resize import resize_maps

TILE = {"cpu": 2**17}
"""Logits upsampled at once: on a CPU half a megabyte, which stays in the processor's cache."""
TILE_ELSEWHERE = 2**25


def decode_upsampled(logits: Tensor, centres: Tensor, norm: BinNorm = "linear", upsample: int = 1) -> Tensor:
    """Return depth (B, 1, upsample * h, upsample * w) in metres: `decode_bins` of logits (B, K, h, w) made finer.

    Args:
        logits: one per bin and position of the grid; upsampled bilinearly as in :func:`ops.depth.linear_logits`.
        centres: (K,) depths of the bins.
        norm: see :data:`ops.depth.BinNorm`; the others than "linear" hold the upsampled logits.
        upsample: whole factor.

    Raises:
        ValueError: another norm, or another number of bins.
    """
    if norm == "linear" and upsample > 1 and logits.shape[1] == len(centres):
        rows, columns = (_stretching(n, upsample).to(logits) for n in logits.shape[2:])
        both = torch.stack([centres, torch.ones_like(centres)]).to(logits)
        return _RectifiedMean.apply(logits.permute(0, 2, 3, 1), rows, columns, both)[:, None]
    if upsample > 1:
        logits = resize_maps(logits, (upsample * logits.shape[2], upsample * logits.shape[3]))
    return decode_bins(logits, centres, norm)


def _stretching(n: int, factor: int) -> Tensor:
    """Return the matrix (factor * n, n) that upsamples n values as `resize_maps` does."""
    return F.interpolate(torch.eye(n)[None], size=factor * n, mode="linear", align_corners=False)[0].T.contiguous()


class _RectifiedMean(torch.autograd.Function):
    """Depth (B, H, W) of logits (B, h, w, K): sum of (relu(l) + floor) * depth over the sum of relu(l) + floor.

    `rows` (H, h) and `columns` (W, w) upsample; `both` (2, K) has the depths of the bins, and ones.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, columns: Tensor, both: Tensor) -> Tensor:
        logits = logits.contiguous()
        sums = logits.new_empty(len(logits), len(rows), len(columns), 2)
        for image, some in _tiles(logits, rows, columns):
            sums[image, some] = _upsampled(logits[image], rows[some], columns).relu_() @ both.T
        sums += LINEAR_FLOOR * both.sum(1)
        depth = sums[..., 0] / sums[..., 1]
        ctx.save_for_backward(logits, rows, columns, both, depth, sums[..., 1].clone())
        return depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, rows, columns, both, depth, total = ctx.saved_tensors
        # the slope at logit k is (depth_k - depth) / total where it is positive, else 0
        slope = torch.stack([grad / total, -grad * depth / total], dim=-1)
        found = torch.zeros_like(logits)
        for image, some in _tiles(logits, rows, columns):
            positive = _upsampled(logits[image], rows[some], columns).relu_().sign_()
            fine = (slope[image, some] @ both).mul_(positive)
            found[image].flatten(1).addmm_(rows[some].T, (columns.T @ fine).flatten(1))
        return found, None, None, None


def _tiles(logits: Tensor, rows: Tensor, columns: Tensor) -> list[tuple[int, slice]]:
    """Return images and runs of upsampled rows that are small enough to be held."""
    most = TILE.get(logits.device.type, TILE_ELSEWHERE)
    step = max(1, most // (len(columns) * logits.shape[-1]))
    return [(i, slice(at, at + step)) for i in range(len(logits)) for at in range(0, len(rows), step)]


def _upsampled(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return logits (h, w, K) at some rows of the finer grid, (r, W, K)."""
    return columns @ (rows @ logits.flatten(1)).unflatten(1, logits.shape[1:])
