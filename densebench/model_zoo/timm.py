"""Adapter over timm: every plain ViT with patch tokens and a free input size.

The data config (mean, std, interpolation, native size) and the number of prefix tokens are read from the model
itself. Keys, queries and values are projected again from the attention's input, so that fused and separate
projections, with or without bias vectors of their own, all give the same facet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.errors import ModelError
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import FACETS, Backbone, BackboneInfo, Facet, Read
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
            "attention": all(_is_plain(block.attn) for block in net.blocks),
            "licence": str(net.pretrained_cfg.get("license", "")),
            "citation": str(net.pretrained_cfg.get("origin_url", "")),
        }
        self.info = BackboneInfo(**{**declared, **info})

    def tokens(self, pixels: Tensor, layers: Sequence[int], facet: Facet, norm: bool) -> list[Tensor]:
        """Return block outputs, or the attention's projections, of the requested layers."""
        return self.tokens_many(pixels, [Read(layer, facet, norm) for layer in layers])

    def tokens_many(self, pixels: Tensor, reads: Sequence[Read]) -> list[Tensor]:
        """Return block outputs and projections of all reads from exactly one forward pass."""
        outputs, inputs = self._forward(
            pixels,
            sorted({read.layer for read in reads if read.facet == "token"}),
            sorted({read.layer for read in reads if read.facet != "token"}),
        )
        last = self.info.depth - 1
        found: dict[Read, Tensor] = {}
        for read in reads:
            if read in found:
                continue
            if read.facet != "token":
                found[read] = _project(self.net.blocks[read.layer].attn, inputs[read.layer][0], read.facet)
            else:
                tokens = outputs[read.layer]
                found[read] = self.net.norm(tokens) if read.norm and read.layer == last else tokens
        return [found[read] for read in reads]

    def attention(self, images: Tensor, layer: int) -> Tensor:
        """Return softmaxed attention (B, heads, N, N) of one layer, prefix tokens first."""
        return next(self.attentions(images, [layer]))

    def attentions(self, images: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; one forward pass gives what enters all of them."""
        if not self.info.attention:
            kind = type(self.net.blocks[0].attn).__name__
            raise ModelError(
                f"{self.info.name} has attention of a kind ({kind}) that its keys and queries do not tell. "
                "Wrap it in an adapter with a method `attention` of its own."
            )
        indices = [layer % self.info.depth for layer in layers]
        _, inputs = self._forward(self.normalise(images), [], sorted(set(indices)))
        for index in indices:
            yield _attend(self.net.blocks[index].attn, *inputs[index])

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
        handles = [blocks[i].attn.register_forward_pre_hook(partial(keep, i), with_kwargs=True) for i in inputs]
        try:
            found = self.net.forward_intermediates(
                pixels,
                indices=indices,
                norm=False,
                stop_early=True,
                output_fmt="NLC",
                return_prefix_tokens=prefix > 0,
                intermediates_only=True,
            )
        finally:
            for handle in handles:
                handle.remove()
        tokens = [torch.cat([first, patches], dim=1) for patches, first in found] if prefix else found
        return dict(zip(indices, tokens, strict=True)), seen


def _attend(attention: Any, x: Tensor, rope: Tensor | None) -> Tensor:
    """Return softmaxed attention (B, heads, N, N) of an attention module from its input, as its `forward` has it."""
    query, key = (
        getattr(attention, f"{facet[0]}_norm")(
            _project(attention, x, facet).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        )
        for facet in QUERY_AND_KEY
    )
    if rope is not None:
        from timm.layers import apply_rot_embed_cat

        half, n = getattr(attention, "rotate_half", False), attention.num_prefix_tokens
        query, key = (
            torch.cat([part[:, :, :n], apply_rot_embed_cat(part[:, :, n:], rope, half=half)], dim=2).type_as(part)
            for part in (query, key)
        )
    return (query @ key.transpose(2, 3) * attention.scale).softmax(dim=-1)


def _is_plain(attention: Any) -> bool:
    """Return whether attention is the softmax of keys and queries, rotated or not, and nothing else.

    Modules with biases of relative position, other kernels or shared keys are of other classes.
    """
    from timm.layers import AttentionRope
    from timm.models.eva import EvaAttention
    from timm.models.vision_transformer import Attention

    shared = getattr(attention, "num_kv_heads", attention.num_heads) != attention.num_heads
    return type(attention) in (Attention, AttentionRope, EvaAttention) and not shared


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


class FixedSizeError(ModelError):
    """A net that does not take `dynamic_img_size`: no plain ViT, perhaps a CNN."""


def load(spec: ModelSpec) -> Backbone:
    """Build `timm/NAME` with hub weights, a local file, or random weights; nets without patch tokens are stages."""
    import timm

    from densebench.model_zoo import cnn

    if ":" in spec.name:
        return cnn.load(spec)
    if not timm.is_model(spec.name):
        known = timm.list_models(pretrained=False) + timm.list_pretrained()
        raise unknown_name("model", spec.text, [f"timm/{name}" for name in known])
    from_hub = not spec.random and spec.weights is None
    try:
        net = _from_hub(spec) if from_hub else create(spec.name, spec.random_seed or 0)
    except FixedSizeError:
        return cnn.load(spec)
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
        raise FixedSizeError(
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
    """Load a safetensors or torch file into `net`; raises ModelError that names keys it lacks, or has too many.

    Classifier keys are dropped: densebench builds backbones without one.
    """
    from densebench.model_zoo.checkpoint import fit, read

    heads = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    state = read(path)
    if isinstance(state, dict):
        state = {k: v for k, v in state.items() if not any(str(k).startswith(f"{head}.") for head in heads)}
    fit(net, state, name, path.name)
