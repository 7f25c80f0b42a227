"""SAM's image encoder (Kirillov et al., ICCV 2023) as timm has it: windows, relative positions, no class token.

Features are the tokens of the blocks, and the keys, queries and values of their attention, which do not depend on the
windows. The neck after the blocks (256 channels) serves the mask decoder and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densebench.errors import ModelError
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import FACETS, Backbone, BackboneInfo, Facet, Read
from densebench.model_zoo.timm_attention import project


class SamBackbone(Backbone):
    """timm's VisionTransformerSAM behind the backbone contract: block outputs, which no norm follows."""

    def __init__(self, net: Any, name: str, **info: Any) -> None:
        super().__init__()
        import timm.data

        self.net: Any = net
        config = timm.data.resolve_model_data_config(net)
        self.info = BackboneInfo(
            name=name,
            patch=int(net.patch_embed.patch_size[0]),
            width=int(net.embed_dim),
            depth=len(net.blocks),
            heads=int(net.blocks[0].attn.num_heads),
            prefix=0,
            has_class_token=False,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            native_size=int(config["input_size"][-1]),
            facets=FACETS,
            any_layer=True,
            attention=False,
            **info,
        )

    def tokens(self, pixels: Tensor, layers: Sequence[int], facet: Facet, norm: bool) -> list[Tensor]:
        """Return block outputs or projections; `norm` changes nothing, for there is no final norm."""
        return self.tokens_many(pixels, [Read(layer, facet, norm) for layer in layers])

    def tokens_many(self, pixels: Tensor, reads: Sequence[Read]) -> list[Tensor]:
        """Return block outputs and projections of all reads from one forward pass."""
        seen: dict[int, Tensor] = {}

        def keep(index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[index] = output.flatten(1, 2)  # before it is cut into windows, (B, h*w, D)

        unique, blocks = sorted({read.layer for read in reads}), self.net.blocks
        projected = {read.layer for read in reads if read.facet != "token"}
        handles = [blocks[index].norm1.register_forward_hook(partial(keep, index)) for index in projected]
        try:
            maps = self.net.forward_intermediates(pixels, indices=unique, stop_early=True, intermediates_only=True)
        finally:
            for handle in handles:
                handle.remove()
        tokens = {index: out.flatten(2).transpose(1, 2) for index, out in zip(unique, maps, strict=True)}
        return [
            tokens[layer] if facet == "token" else project(blocks[layer].attn, seen[layer], facet)
            for layer, facet, _ in reads
        ]

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Raise ModelError, which says why there is none."""
        raise ModelError(
            f"{self.info.name} gives no attention maps: most blocks attend within windows, padded at the border, so "
            "that no softmax runs over all patches. Its keys, queries and values can be read."
        )


def load(spec: ModelSpec, **info: Any) -> Backbone:
    """Build timm's `samvit_*` with hub weights, a local safetensors file, or random weights."""
    import timm

    from densebench.model_zoo.timm import load_weights

    from_hub = not spec.random and spec.weights is None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.random_seed or 0)
        try:
            net = timm.create_model(spec.name, pretrained=from_hub, num_classes=0)
        except (OSError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"the weights of {spec.text} could not be fetched ({reason}). Give a local file with --weights FILE."
            ) from error
    if spec.weights is not None:
        load_weights(net, spec.weights, spec.text)
    return SamBackbone(net, spec.text, **info)
