"""What timm's attention modules hold: keys, queries and values from their input, and the attention itself.

Facets are those before norms of queries and keys and before rotary embeddings, whichever way a module projects:
fused, apart, with biases beside the projection. The attention is after both, as the module's own `forward` has it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densebench.model_zoo.backbone import FACETS, QUERY_AND_KEY, Facet


def attention_modules(net: Any) -> list[Any]:
    """Return the attention module of each block; [] where blocks hold none, or several."""
    found = [getattr(block, "attn", None) for block in net.blocks]
    return [] if any(module is None for module in found) else found


def readable_facets(modules: list[Any], width: int) -> tuple[Facet, ...]:
    """Return the facets that have `width` channels in every block: shared keys and values have fewer."""
    if not modules:
        return ("token",)
    return tuple(f for f in FACETS if f == "token" or all(_channels(module, f) == width for module in modules))


def is_plain(attention: Any) -> bool:
    """Return whether attention is the softmax of keys and queries, rotated or not, and nothing else.

    Modules with biases of relative position or other kernels are of other classes.
    """
    from timm.layers import AttentionRope
    from timm.models.eva import EvaAttention
    from timm.models.vision_transformer import Attention

    return type(attention) in (Attention, AttentionRope, EvaAttention)


def attend(attention: Any, x: Tensor, rope: Tensor | None) -> Tensor:
    """Return softmaxed attention (B, heads, N, N) of an attention module from its input, as its `forward` has it."""
    heads = {"query": attention.num_heads, "key": getattr(attention, "num_kv_heads", attention.num_heads)}
    query, key = (
        getattr(attention, f"{facet[0]}_norm")(
            project(attention, x, facet).unflatten(2, (heads[facet], -1)).transpose(1, 2)
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
    if heads["key"] != heads["query"]:  # a group of queries shares one key
        key = key.repeat_interleave(heads["query"] // heads["key"], dim=1)
    return (query @ key.transpose(2, 3) * attention.scale).softmax(dim=-1)


def project(attention: Any, x: Tensor, facet: Facet) -> Tensor:
    """Return keys, queries or values (..., D) of an attention module from its input, heads concatenated."""
    short = facet[0]
    separate = getattr(attention, f"{short}_proj", None)
    if separate is not None:
        return separate(x)
    weight = attention.qkv.weight
    width, i = weight.shape[0] // 3, "qkv".index(short)
    part = slice(i * width, (i + 1) * width)
    bias = attention.qkv.bias
    # Eva keeps bias vectors beside the projection; keys have a zero buffer
    bias = bias[part] if bias is not None else getattr(attention, f"{short}_bias", None)
    return F.linear(x, weight[part], bias)


def _channels(attention: Any, facet: Facet) -> int:
    separate = getattr(attention, f"{facet[0]}_proj", None)
    return int(separate.weight.shape[0] if separate is not None else attention.qkv.weight.shape[0] // 3)
