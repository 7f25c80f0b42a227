"""Changing the size of label maps and feature maps, by the two rules that the published protocols use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_index(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out,) int64 source index of each output cell: floor(i * n_in / n_out), in float32 like torch.

    ``F.interpolate(mode="nearest")`` multiplies by the float32 quotient ``n_in / n_out``; where the exact product
    is whole, that can land one below integer arithmetic, and this function follows it.
    """
    scale = torch.tensor(n_in, dtype=torch.float32) / torch.tensor(n_out, dtype=torch.float32)
    return (torch.arange(n_out, dtype=torch.float32) * scale).floor().to(torch.int64).clamp_(max=n_in - 1)


def resize_labels(labels: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return labels (..., H, W) at ``size`` by nearest neighbour; dtype kept, no value invented.

    Equal to ``F.interpolate(mode="nearest")``, which takes the pixel at floor(i * in / out), the upper left one.
    PIL's ``NEAREST`` takes floor((i + 0.5) * in / out), the centre: the two differ, by up to half a source pixel,
    and a protocol that resizes files with PIL and maps with torch needs both.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if labels.shape[-2:] == (height, width):
        return labels
    rows = nearest_index(labels.shape[-2], height).to(labels.device)
    columns = nearest_index(labels.shape[-1], width).to(labels.device)
    return labels.index_select(-2, rows).index_select(-1, columns)


def resize_maps(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return maps (B, D, h, w) at ``size``, bilinear with half-pixel centres and no antialiasing.

    This is ``F.interpolate(mode="bilinear", align_corners=False)``, the rule of all published protocols here.
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
