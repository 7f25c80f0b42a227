"""A backbone's attention read as one more feature, so that it is streamed and cached like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from densebench.core.errors import ModelError
from densebench.model_zoo.backbone import Backbone, FeatureKey
from densebench.ops.cbfe import class_attention


class ClassAttention(Backbone):
    """A backbone whose feature is how much its class token attends to each token, 1 where attention is even."""

    def __init__(self, backbone: Backbone, digest: str) -> None:
        super().__init__()
        self.backbone, self.digest = backbone, digest
        given = backbone.info
        self.info = replace(
            given, name=f"attention of {given.name}", width=1, mean=(0.0,) * 3, std=(1.0,) * 3, facets=("token",)
        )

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return (B, prefix + h*w, 1) per key; `attentions` wants images as they are, hence no mean and deviation."""
        each = self.backbone.attentions(pixels, [key.layer for key in keys])
        return [(class_attention(a, 0) * a.shape[-1])[..., None] for a in each]

    def weights_digest(self) -> str:
        """Return the digest of the backbone, which is known already."""
        return self.digest


def check_attention(backbone: Backbone) -> None:
    """Raise ModelError for a backbone whose attention cannot be read, before anything is computed."""
    info = backbone.info
    if not backbone.has_attention:
        raise ModelError(
            f"{info.name} gives no attention maps. Its adapter would need a method `attention(pixels, layers)` "
            "that yields the softmaxed attention (B, heads, N, N) of each layer, class token first, then registers, "
            "then patches; see `Backbone.attention`. `overclustering` runs without."
        )
    side = 2 * info.patch
    with torch.inference_mode():
        next(backbone.attentions(torch.zeros(1, 3, side, side, device=backbone.device), [-1]))
