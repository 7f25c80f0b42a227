"""Adapter over timm: every plain ViT with patch tokens and a free input size.

The data config (mean, std, interpolation, native size) and the number of prefix tokens are read from the model
itself. Keys, queries and values are projected again from the attention's input (`timm_attention`).

The final norm is timm's `norm`. Nets that norm the mean over patches instead (`fc_norm`) have none: their tokens are
raw, here as in timm. EVA and EVA-02 are the exception: their own code puts patch tokens through that norm
(`return_patch_tokens` of `modeling_finetune.py`, baaivision/EVA), and in their masked pretraining it ends every token
(`modeling_pretrain.py`, where it is called `norm`; timm loads it as `fc_norm`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from densebench.core.errors import ModelError
from densebench.model_zoo.adapters import cnn
from densebench.model_zoo.adapters.timm_attention import attend, attention_modules, is_plain, project, readable_facets
from densebench.model_zoo.adapters.timm_nets import FixedSizeError, build_free, check_known, described, fill, made
from densebench.model_zoo.backbone import Backbone, BackboneInfo, Facet, FeatureKey
from densebench.model_zoo.families import ModelSpec


class TimmBackbone(Backbone):
    """A timm VisionTransformer, Eva (DINOv3, EVA-02) or NaFlexVit (C-RADIO) behind the backbone contract."""

    def __init__(self, net: Any, name: str, **info: Any) -> None:
        super().__init__()
        embeds: Any = getattr(net, "embeds", net)  # of NaFlexVit, which has patches and class token in one module
        for needed in ("blocks", "num_prefix_tokens", "forward_intermediates"):
            if not hasattr(net, needed):
                raise ModelError(
                    f"{name} has no `{needed}`: it is not a plain ViT with patch tokens. "
                    "Run `densebench list models 'timm/*vit*'` for those that are."
                )
        self.net: Any = net  # timm's attributes are not typed
        attentions = attention_modules(net)
        self.final, told = _final_norm(net)
        declared: dict[str, Any] = {
            **described(net),
            "name": name,
            "patch": int(embeds.patch_size[0] if embeds is not net else net.patch_embed.feat_ratio()),
            "width": int(net.embed_dim),
            "depth": len(net.blocks),
            "heads": int(attentions[0].num_heads) if attentions else 1,
            "prefix": int(net.num_prefix_tokens),
            "has_class_token": getattr(embeds, "cls_token", None) is not None,
            "facets": readable_facets(attentions, int(net.embed_dim)),
            "any_layer": True,
            "attention": bool(attentions) and all(is_plain(module) for module in attentions),
        }
        self.info = BackboneInfo(**{**declared, **info, "notes": {"final norm": told, **info.get("notes", {})}})

    def weights_digest(self) -> str:
        """Return the digest of the weights; another where `fc_norm` is applied to tokens, which timm does not."""
        digest = super().weights_digest()
        return hashlib.sha256(f"{digest};norm=fc_norm".encode()).hexdigest() if self.final == "fc_norm" else digest

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return block outputs and projections of all keys from exactly one forward pass."""
        outputs, inputs = self._forward(
            pixels,
            sorted({key.layer for key in keys if key.facet == "token"}),
            sorted({key.layer for key in keys if key.facet != "token"}),
        )

        def read(layer: int, facet: Facet, norm: bool) -> Tensor:
            if facet != "token":
                return project(self.net.blocks[layer].attn, inputs[layer][0], facet)
            return getattr(self.net, self.final)(outputs[layer]) if norm else outputs[layer]

        return [read(*key) for key in keys]

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; one forward pass gives what enters all of them."""
        if not self.info.attention:
            block = self.net.blocks[0]
            kind = type(getattr(block, "attn", block)).__name__
            raise ModelError(
                f"{self.info.name} has attention of a kind ({kind}) that its keys and queries do not tell. "
                "Wrap it in an adapter with a method `attention` of its own."
            )
        _, inputs = self._forward(pixels, [], sorted(set(layers)))
        for layer in layers:
            yield attend(self.net.blocks[layer].attn, *inputs[layer])

    def _forward(
        self, pixels: Tensor, outputs: list[int], inputs: list[int]
    ) -> tuple[dict[int, Tensor], dict[int, tuple[Tensor, Tensor | None]]]:
        """Run the net once, up to the last layer asked for.

        Returns the outputs (B, N, D) of some blocks, and what enters the attention of some: its input (B, N, D) and
        the angles by which keys and queries are rotated, None where they are not.
        """
        seen: dict[int, tuple[Tensor, Tensor | None]] = {}

        def keep(index: int, module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Any]) -> None:
            seen[index] = args[0] if args else kwargs["x"], kwargs.get("rope")

        blocks, prefix = self.net.blocks, self.info.prefix
        indices = sorted({*outputs, max([*outputs, *inputs])})
        with ExitStack() as hooks:
            for i in inputs:
                hooks.enter_context(blocks[i].attn.register_forward_pre_hook(partial(keep, i), with_kwargs=True))
            found = self.net.forward_intermediates(
                pixels,
                indices=indices,
                norm=False,
                stop_early=True,
                output_fmt="NLC",
                return_prefix_tokens=prefix > 0,
                intermediates_only=True,
            )
        tokens = [torch.cat([first, patches], dim=1) for patches, first in found] if prefix else found
        return dict(zip(indices, tokens, strict=True)), seen


def _final_norm(net: Any) -> tuple[str, str]:
    """Return the name of the norm that ends every token, and what to say of it; see the module's docstring."""
    kinds = {name: type(getattr(net, name, nn.Identity())).__name__ for name in ("norm", "fc_norm")}
    if kinds["norm"] != "Identity":
        return "norm", f"norm ({kinds['norm']})"
    if kinds["fc_norm"] == "Identity":
        return "norm", "none"
    if str(net.pretrained_cfg.get("architecture", "")).startswith("eva"):
        return "fc_norm", f"fc_norm ({kinds['fc_norm']}), as in its authors' code; timm itself gives tokens without"
    return "norm", f"none; fc_norm ({kinds['fc_norm']}) belongs to the mean over patches"


def load(spec: ModelSpec, kwargs: Mapping[str, Any] | None = None, **info: Any) -> Backbone:
    """Build `timm/NAME` with hub weights, a local file, or random weights; nets without patch tokens are stages.

    `kwargs` are arguments of the architecture, `info` replaces what timm says of it.
    """
    name, colon, _ = spec.name.partition(":")
    check_known(spec)
    if colon:
        return cnn.load(spec)
    try:
        net = made(spec, partial(build_free, name, **(kwargs or {})))
    except FixedSizeError:
        return cnn.load(spec)
    if not hasattr(net, "blocks"):  # Swin takes any size, and has stages
        return cnn.load(spec)
    return TimmBackbone(net, spec.text, notes=fill(net, spec), **info)
