"""Architectures that cards and the catalogue name: a network of timm, its arguments, and its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Positions = Literal["antialias", "offset"]
"""How position embeddings reach another grid: see `densebench.model_zoo.adapters.positions`."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A timm model with arguments, and the preprocessing its weights are trained with."""

    timm: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    stem: tuple[int, ...] = ()
    """Channels of the convolutions (3x3, stride 2) that make the patch tokens; () = timm's own patch embedding."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    interpolation: str = "bilinear"
    native_size: int = 224
    positions: Positions | None = "antialias"
    """None where the net has a rule of its own, so that there is nothing to choose."""


ARCHITECTURES = {
    # 1.2 M parameters, 20 x 20 tokens on a 160 px scene; convolutions for a patch embedding learn from fewer images
    # (Xiao et al., Early Convolutions Help Transformers See Better, NeurIPS 2021)
    "pico": Architecture(
        timm="vit_tiny_patch16_224",
        kwargs={"patch_size": 1, "embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 96},
        stem=(24, 48, 128),
        native_size=96,
    ),
}
