"""Adapter over timm: every plain ViT with patch tokens and a free input size.

The data config (mean, std, interpolation, native size) and the number of prefix tokens are read from the model
itself. Keys, queries and values are projected again from the attention's input, so that fused and separate
projections, with or without bias vectors of their own, all give the same facet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from densebench.errors import ModelError
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import FACETS, Backbone, BackboneInfo, Facet
from densebench.registry import unknown_name

QUERY_AND_KEY: tuple[Facet, Facet] = ("query", "key")


class TimmBackbone(Backbone):
    """A timm VisionTransformer (or Eva: DINOv3, EVA-02) behind the backbone contract."""

    def __init__(self, net: Any, name: str, **info: Any) -> None:
        super().__init__()
        for needed in ("blocks", "patch_embed", "num_prefix_tokens", "forward_intermediates"):
            if not hasattr(net, needed):
                raise ModelError(
                    f"{name} has no `{needed}`: it is not a plain ViT with patch tokens. "
                    "Run `densebench list models 'timm/*vit*'` for those that are."
                )
        import timm.data

        self.net: Any = net  # timm's attributes are not typed
        config = timm.data.resolve_model_data_config(net)
        attention = net.blocks[0].attn
        declared: dict[str, Any] = {
            "name": name,
            "patch": int(net.patch_embed.feat_ratio()),
            "width": int(net.embed_dim),
            "depth": len(net.blocks),
            "heads": int(attention.num_heads),
            "prefix": int(net.num_prefix_tokens),
            "has_class_token": getattr(net, "cls_token", None) is not None,
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
            "interpolation": config["interpolation"],
            "native_size": int(config["input_size"][-1]),
            "facets": FACETS,
            "any_layer": True,
            "licence": str(net.pretrained_cfg.get("license", "")),
            "citation": str(net.pretrained_cfg.get("origin_url", "")),
        }
        self.info = BackboneInfo(**{**declared, **info})

    def tokens(self, pixels: Tensor, layers: Sequence[int], facet: Facet, norm: bool) -> list[Tensor]:
        """Return block outputs, or the attention's projections, of the requested layers."""
        unique = sorted(set(layers))
        if facet == "token":
            found = dict(zip(unique, self._block_outputs(pixels, unique), strict=True))
            last = self.info.depth - 1
            if norm and last in found:
                found[last] = self.net.norm(found[last])
        else:
            inputs = self._attention_inputs(pixels, unique)
            found = {i: _project(self.net.blocks[i].attn, inputs[i], facet) for i in unique}
        return [found[layer] for layer in layers]

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Return softmaxed attention (B, heads, N, N) of one layer, prefix tokens first."""
        layer = layer % self.info.depth
        block = self.net.blocks[layer].attn
        if getattr(self.net, "rope", None) is not None:
            raise ModelError(f"{self.info.name} rotates its keys and queries (RoPE); its attention cannot be read yet.")
        x = self._attention_inputs(self.normalise(images), [layer])[layer]
        heads = self.info.heads
        query, key = (
            getattr(block, f"{facet[0]}_norm", nn.Identity())(
                _project(block, x, facet).unflatten(2, (heads, -1)).transpose(1, 2)
            )
            for facet in QUERY_AND_KEY
        )
        return (query @ key.transpose(2, 3) * block.scale).softmax(dim=-1)

    def _block_outputs(self, pixels: Tensor, layers: list[int]) -> list[Tensor]:
        outputs = self.net.forward_intermediates(
            pixels, indices=layers, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        if not self.info.prefix:
            return [out[0] if isinstance(out, tuple) else out for out in outputs]
        return [torch.cat([prefix, patches], dim=1) for patches, prefix in outputs]

    def _attention_inputs(self, pixels: Tensor, layers: list[int]) -> dict[int, Tensor]:
        """Run the net up to the last layer asked for and keep what enters each layer's attention."""
        seen: dict[int, Tensor] = {}

        def keep(index: int, module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
            seen[index] = args[0] if args else kwargs["x"]

        blocks = self.net.blocks
        handles = [blocks[i].attn.register_forward_pre_hook(partial(keep, i), with_kwargs=True) for i in layers]
        try:
            self.net.forward_intermediates(pixels, indices=[max(layers)], stop_early=True, intermediates_only=True)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def _project(attention: Any, x: Tensor, facet: Facet) -> Tensor:
    """Return keys, queries or values (B, N, D) of an attention module, heads concatenated, before norms and RoPE."""
    short = facet[0]
    separate = getattr(attention, f"{short}_proj", None)
    if separate is not None:
        return separate(x)
    weight = attention.qkv.weight
    width = weight.shape[0] // 3
    part = slice(*(width * i for i in {"q": (0, 1), "k": (1, 2), "v": (2, 3)}[short]))
    bias = attention.qkv.bias
    # Eva keeps bias vectors beside the projection; keys have a zero buffer
    bias = bias[part] if bias is not None else getattr(attention, f"{short}_bias", None)
    return F.linear(x, weight[part], bias)


def load(spec: ModelSpec) -> Backbone:
    """Build `timm/NAME` with hub weights, a local safetensors file, or random weights."""
    import timm

    if not timm.is_model(spec.name):
        known = timm.list_models(pretrained=False) + timm.list_pretrained()
        raise unknown_name("model", spec.text, [f"timm/{name}" for name in known])
    from_hub = not spec.random and spec.weights is None
    net = _from_hub(spec) if from_hub else create(spec.name, spec.random_seed or 0)
    if spec.weights is not None:
        load_weights(net, spec.weights, spec.text)
    return TimmBackbone(net, spec.text)


def create(architecture: str, seed: int = 0, **kwargs: Any) -> nn.Module:
    """Return a timm model without classifier, random weights drawn from `seed`, any input size allowed."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(partial(timm.create_model, architecture, pretrained=False, **kwargs), architecture)


def _build(make: Callable[..., nn.Module], name: str) -> nn.Module:
    try:
        return make(num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ModelError(
            f"timm/{name} does not take free input sizes ({error}): it is not a plain ViT. "
            "Wrap it in an adapter of your own (docs/models.md) to evaluate it at its native size."
        ) from error


def _from_hub(spec: ModelSpec) -> nn.Module:
    import timm

    try:
        return _build(partial(timm.create_model, spec.name, pretrained=True), spec.name)
    except (OSError, RuntimeError) as error:  # hub errors are OSErrors; timm raises RuntimeError without weights
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the weights of {spec.text} could not be fetched ({reason}). Give a local file with --weights FILE, "
            f"or ask for random weights with '{spec.text}?random'."
        ) from error


def load_weights(net: nn.Module, path: Path, name: str) -> None:
    """Load a safetensors file into `net`; missing, unexpected or misshapen keys raise ModelError and are named.

    Classifier keys are dropped: densebench builds backbones without one.
    """
    if not path.exists():
        raise ModelError(f"weights {path} do not exist.")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own type, without a public name
        raise ModelError(f"{path} is no readable safetensors file ({error}). Was the download cut short?") from error
    heads = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    state = {k: v for k, v in state.items() if not any(k.startswith(f"{head}.") for head in heads)}
    own = net.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in sorted(own.keys() & state.keys())
        if own[k].shape != state[k].shape
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise ModelError(
            f"{path.name} does not hold the weights of {name}: of {len(own)} expected keys, {'; '.join(problems)}. "
            "Is it a checkpoint of another architecture?"
        )
    net.load_state_dict(state)
