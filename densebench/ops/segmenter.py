"""Segmenter's decoder, a transformer over patches and classes, and what goes with it: drop path, windows, schedule.

Sources: Strudel et al., Segmenter, ICCV 2021 (3.2); MMSEG is mmsegmentation 1.x, whose implementation NeCo (A.2) and
CrIBo ran: `mmseg/models/decode_heads/segmenter_mask_head.py` (decoder), `mmseg/models/backbones/vit.py` (its layers),
`mmseg/models/segmentors/encoder_decoder.py` (windows), mmengine `PolyParamScheduler` (schedule).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INIT_STD = 0.02
"""Of truncated normal weights (MMSEG)."""


class DropPath(nn.Module):
    """Leaves a branch out, for each sample with probability ``rate``, and scales what stays by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, ...) in eval mode, else with samples set to zero."""
        if not self.training or not self.rate:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class TransformerLayer(nn.Module):
    """A transformer layer with norms first; drop path is on the MLP's branch alone, as MMSEG has it."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MaskTransformer(nn.Module):
    """Patches and one learned token per class attend to each other; a mask is the cosine of a class with every patch.

    A LayerNorm over the classes of each patch gives the cosines a scale.

    Args:
        width: D of the patch tokens, and of the decoder.
        n_classes: C.
        layers: transformer layers (MMSEG: 2).
        heads: of the attention; must divide the width.
        drop_path: of the last layer; rates rise linearly from 0 at the first (MMSEG: 0.1).
    """

    def __init__(self, width: int, n_classes: int, layers: int = 2, heads: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, layers).tolist()
        self.project = nn.Linear(width, width)
        self.classes = nn.Parameter(torch.empty(1, n_classes, width))
        layered = [TransformerLayer(width, heads, rate) for rate in rates]
        self.layers = nn.ModuleList(layered)
        self.norm = nn.LayerNorm(width)
        self.patch_projection = nn.Linear(width, width, bias=False)
        self.class_projection = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(n_classes)
        nn.init.trunc_normal_(self.classes, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in layered:
            nn.init.xavier_uniform_(layer.qkv.weight)  # MMSEG leaves torch's own here

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits (B, C, h, w) of patch maps (B, D, h, w)."""
        n_classes = self.classes.shape[1]
        tokens = self.project(maps.flatten(2).transpose(1, 2))
        tokens = torch.cat([tokens, self.classes.to(tokens.dtype).expand(len(maps), -1, -1)], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        patches = F.normalize(self.patch_projection(tokens[:, :-n_classes]), dim=2)
        classes = F.normalize(self.class_projection(tokens[:, -n_classes:]), dim=2)
        return self.mask_norm(patches @ classes.transpose(1, 2)).transpose(1, 2).unflatten(2, maps.shape[2:])


def windows(height: int, width: int, crop: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the windows that cover an image; the last of a row or column ends at the border.

    Windows are ``crop`` pixels high and wide, or as the image where it is smaller.
    """
    for top in _starts(height, crop, stride):
        for left in _starts(width, crop, stride):
            yield slice(top, min(top + crop, height)), slice(left, min(left + crop, width))


def _starts(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - crop), 0) for i in range(count)]


def slide(
    image: Tensor, logits_of: Callable[[Tensor], Iterator[Tensor]], crop: int, stride: int, at_once: int
) -> Tensor:
    """Return logits (C, H, W) of an image (3, H, W), averaged where windows overlap (MMSEG `slide_inference`).

    Args:
        image: pixels.
        logits_of: gives for windows (B, 3, h, w) the logits (C, h, w) of one after the other.
        crop: side of a window in pixels.
        stride: pixels from one window to the next.
        at_once: windows that are encoded together.
    """
    places = list(windows(image.shape[1], image.shape[2], crop, stride))
    total, seen = image.new_empty(0), image.new_zeros(image.shape[1:])
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        found = logits_of(torch.stack([image[:, rows, columns] for rows, columns in some]))
        for (rows, columns), logits in zip(some, found, strict=True):
            total = total if len(total) else image.new_zeros(len(logits), *image.shape[1:])
            total[:, rows, columns] += logits
            seen[rows, columns] += 1
    return total / seen


def poly_rate(step: int, steps: int, end: float = 0.1, power: float = 0.9) -> float:
    """Return the share of the learning rate at a step: from 1 at the first to ``end`` at the last (mmengine)."""
    return end + (1 - end) * (1 - step / max(steps - 1, 1)) ** power
