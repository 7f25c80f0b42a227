"""What is asked of a backbone, and what comes back: requests and batches of features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from densebench.core.config import as_json
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.views.augment import Augment


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """What is asked of the backbone: everything that can change a feature except weights and image."""

    size: tuple[int, int]
    """Input height and width in pixels; images are squashed to it (aspect ratio not kept)."""
    keys: tuple[FeatureKey, ...] = (FeatureKey(),)
    """Which layers, facets and norms, all of one forward pass."""
    attention: tuple[int, ...] = ()
    """Layers whose attention is read, by a forward pass of its own."""
    interpolation: str = "bilinear"
    """PIL resampling, antialiased."""
    std: tuple[float, float, float] | None = None
    """Channel deviations instead of the weights' own (parity with code that normalises otherwise)."""
    augment: Augment | None = None

    def grid(self, backbone: BackboneInfo) -> tuple[int, int]:
        """Return the feature map's height and width in patches."""
        return self.size[0] // backbone.patch, self.size[1] // backbone.patch

    def as_record(self) -> dict[str, Any]:
        """Return the request as records hold it: one key as three fields, as in records of any age."""
        found = as_json(self)
        size, keys, attention = (found.pop(name) for name in ("size", "keys", "attention"))
        asked = self.keys[0]._asdict() if len(keys) == 1 else {"keys": keys}
        return {"size": size, **asked, **({"attention": attention} if attention else {}), **found}

    def nbytes(self, backbone: BackboneInfo, n_images: int, dtype: str = "float16") -> int:
        """Return the size of the features of `n_images` in the cache."""
        height, width = self.grid(backbone)
        return n_images * len(self.keys) * height * width * backbone.width * np.dtype(dtype).itemsize


@dataclass(frozen=True)
class Batch:
    """Some images' features and labels, in the order asked for."""

    indices: list[int]
    """Positions in the dataset."""
    by_key: tuple[Tensor, ...]
    """(B, D, h, w) per key, on the source's device and in its type: many of them would be too many in float32."""
    labels: Tensor
    """(B, H, W) uint8 on the CPU; (B, 0, 0) where none were asked for."""
    attention: Iterator[Tensor] = field(default_factory=lambda: iter(()))
    """(B, heads, N, N) per layer asked for, rows = queries, prefix tokens first; only one is held at a time. Read it
    once, before the next batch."""

    @cached_property
    def maps(self) -> Tensor:
        """The map (B, D, h, w) of a request with one key, in float32."""
        (maps,) = self.by_key
        return maps.float()

    @property
    def tokens(self) -> Tensor:
        """The same map as rows, (B*h*w, D), image after image, row-major."""
        return self.maps.flatten(2).transpose(1, 2).flatten(0, 1)
