"""How a ViT's position embeddings reach another grid than the one they were trained on. Loaders differ:

- `antialias`: bicubic to the size asked for, antialiased. timm, and DINOv2's hub for nets with registers.
- `offset`: bicubic by the factor (n + 0.1) / m per side, not antialiased. DINO's code and what is built on it, DINOv2's
  hub for nets without registers, NeCo's code for both (the factor, not the size, then places the samples).

On the trained grid both leave the embeddings as they are. `offset` enters the weights digest, so that features and
scores of the two are never taken for each other.
"""

from __future__ import annotations

import hashlib
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from densebench.core.errors import UsageError
from densebench.model_zoo.adapters.timm import TimmBackbone

OFFSET = 0.1


def resample(positions: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Return embeddings (1, prefix + h * w, D) for a grid (h, w) from those of a square one, by the rule `offset`."""
    own, patches = positions[:, :prefix], positions[:, prefix:]
    side = isqrt(patches.shape[1])
    if grid == (side, side):
        return positions
    maps = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    factors = tuple((n + OFFSET) / side for n in grid)
    maps = F.interpolate(maps, scale_factor=factors, mode="bicubic")
    return torch.cat([own, maps.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


class _OffsetVit(VisionTransformer):
    """timm's ViT, its positions interpolated by the rule `offset`."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        positions = resample(self.pos_embed, grid, 0 if self.no_embed_class else self.num_prefix_tokens)
        first = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        patches = x.flatten(1, 2)
        if self.no_embed_class:
            tokens = torch.cat([*first, patches + positions], dim=1)
        else:
            tokens = torch.cat([*first, patches], dim=1) + positions
        return self.pos_drop(tokens)


class OffsetBackbone(TimmBackbone):
    """A plain timm ViT whose positions are interpolated by the rule `offset`; the digest says so."""

    def __init__(self, net: Any, name: str, **info: Any) -> None:
        if type(net) not in (VisionTransformer, _OffsetVit) or net.pos_embed is None:
            raise UsageError(f"{name} has no learned positions on a grid, so ?pos=offset means nothing for it.")
        net.__class__ = _OffsetVit  # the same weights and layers, copied and saved as before
        super().__init__(net, name, **info)

    def weights_digest(self) -> str:
        """Return the digest of the weights and of the rule."""
        return hashlib.sha256(f"{super().weights_digest()};positions=offset".encode()).hexdigest()
