"""What is asked of a backbone, and what comes back: requests and batches of features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from densebench.model_zoo.backbone import BackboneInfo, Facet
from densebench.views.augment import Augment


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """What is asked of the backbone: everything that can change a feature except weights and image."""

    size: tuple[int, int]
    """Input height and width in pixels; images are squashed to it (aspect ratio not kept)."""
    layer: int = -1
    facet: Facet = "token"
    norm: bool = True
    interpolation: str = "bilinear"
    """PIL resampling, antialiased."""
    std: tuple[float, float, float] | None = None
    """Channel deviations instead of the weights' own (parity with code that normalises otherwise)."""
    augment: Augment | None = None

    def grid(self, backbone: BackboneInfo) -> tuple[int, int]:
        """Return the feature map's height and width in patches."""
        return self.size[0] // backbone.patch, self.size[1] // backbone.patch

    def nbytes(self, backbone: BackboneInfo, n_images: int, dtype: str = "float16") -> int:
        """Return the size of the features of `n_images` in the cache."""
        height, width = self.grid(backbone)
        return n_images * height * width * backbone.width * np.dtype(dtype).itemsize


@dataclass(frozen=True)
class Batch:
    """Some images' features and labels, in the order asked for."""

    indices: list[int]
    """Positions in the dataset."""
    maps: Tensor
    """(B, D, h, w) float32 on the source's device; empty where only labels were asked for."""
    labels: Tensor | None
    """(B, H, W) uint8 on the CPU."""

    @property
    def tokens(self) -> Tensor:
        """The maps as rows, (B*h*w, D), image after image, row-major."""
        return self.maps.flatten(2).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class KeyedBatch:
    """Some images' maps of several reads, in the order asked for, and labels."""

    indices: list[int]
    """Positions in the dataset."""
    maps: tuple[Tensor, ...]
    """(B, D, h, w) per read, on the source's device and in its type: many of them are too many in float32."""
    labels: Tensor | None
    """(B, H, W) uint8 on the CPU."""


@dataclass(frozen=True)
class AttentionBatch:
    """Some images' attention, layer after layer: read it once, before the next batch."""

    indices: list[int]
    layers: Iterator[Tensor]
    """(B, heads, N, N) per layer asked for, rows = queries, prefix tokens first; only one is held at a time."""
