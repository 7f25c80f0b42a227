"""SAM's image encoder (Kirillov et al., ICCV 2023) as timm has it: windows, relative positions, no class token.

Features are the tokens of the blocks, and the keys, queries and values of their attention, which do not depend on the
windows. The neck after the blocks (256 channels) serves the mask decoder and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from densebench.core.errors import ModelError
from densebench.model_zoo.adapters.timm_attention import project
from densebench.model_zoo.adapters.timm_nets import described, fill, made
from densebench.model_zoo.backbone import FACETS, Backbone, BackboneInfo, FeatureKey
from densebench.model_zoo.families import ModelSpec


class SamBackbone(Backbone):
    """timm's VisionTransformerSAM behind the backbone contract: block outputs, which no norm follows."""

    def __init__(self, net: Any, name: str, **info: Any) -> None:
        super().__init__()
        self.net: Any = net
        declared = dict(
            described(net),
            name=name,
            patch=int(net.patch_embed.patch_size[0]),
            width=int(net.embed_dim),
            depth=len(net.blocks),
            heads=int(net.blocks[0].attn.num_heads),
            prefix=0,
            has_class_token=False,
            facets=FACETS,
            any_layer=True,
            attention=False,
        )
        self.info = BackboneInfo(**{**declared, **info})

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return block outputs and projections of all keys from one forward pass; there is no final norm."""
        seen: dict[int, Tensor] = {}

        def keep(index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[index] = output.flatten(1, 2)  # before it is cut into windows, (B, h*w, D)

        unique, blocks = sorted({key.layer for key in keys}), self.net.blocks
        projected = {key.layer for key in keys if key.facet != "token"}
        with ExitStack() as hooks:
            for index in projected:
                hooks.enter_context(blocks[index].norm1.register_forward_hook(partial(keep, index)))
            maps = self.net.forward_intermediates(pixels, indices=unique, stop_early=True, intermediates_only=True)
        tokens = {index: out.flatten(2).transpose(1, 2) for index, out in zip(unique, maps, strict=True)}
        return [
            tokens[layer] if facet == "token" else project(blocks[layer].attn, seen[layer], facet)
            for layer, facet, _ in keys
        ]

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Raise ModelError, which says why there is none."""
        raise ModelError(
            f"{self.info.name} gives no attention maps: most blocks attend within windows, padded at the border, so "
            "that no softmax runs over all patches. Its keys, queries and values can be read."
        )


def load(spec: ModelSpec, kwargs: Mapping[str, Any], **info: Any) -> Backbone:
    """Build timm's `samvit_*`, with arguments `kwargs`, with hub weights, a local file, or random weights."""
    import timm

    net = made(spec, partial(timm.create_model, spec.name, num_classes=0, **kwargs))
    return SamBackbone(net, spec.text, notes=fill(net, spec), **info)
