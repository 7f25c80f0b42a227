"""State dicts as the authors' own code saves them, written down from that code: names, shapes and what lies around."""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def fill(shapes: dict[str, tuple[int, ...]], device: str = "meta", seed: int = 0) -> State:
    generator = None if device == "meta" else torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(shape, device="meta") if generator is None else 0.3 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def stem(width: int, patch: int) -> dict[str, tuple[int, ...]]:
    return {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}


def dino(width: int, depth: int, patch: int, grid: int, class_token: bool = True) -> dict[str, tuple[int, ...]]:
    """DINO's vision_transformer.py (iBOT, Mugs, CrOC, CrIBo, Leopart, TimeT, MoCo v3 name things alike)."""
    shapes = {"pos_embed": (1, grid**2 + class_token, width), **stem(width, patch)}
    if class_token:
        shapes |= {"cls_token": (1, 1, width), **norm("norm", width)}
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes


def dinov2(
    width: int, depth: int, grid: int, registers: int = 0, gated: bool = False, chunks: int = 0, patch: int = 14
) -> dict[str, tuple[int, ...]]:
    """DINOv2's vision_transformer.py: class token and positions, registers apart, LayerScale, gated MLPs in g."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, grid**2 + 1, width),
        "mask_token": (1, width),
        **stem(width, patch),
        **norm("norm", width),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8 if gated else 4 * width
    for i in range(depth):
        block = f"blocks.{i // (depth // chunks)}.{i}" if chunks else f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
        if gated:
            shapes |= linear(f"{block}.mlp.w12", 2 * hidden, width) | linear(f"{block}.mlp.w3", width, hidden)
        else:
            shapes |= linear(f"{block}.mlp.fc1", hidden, width) | linear(f"{block}.mlp.fc2", width, hidden)
    return shapes


def capi(width: int = 1024, depth: int = 24, heads: int = 16, decoder: int = 12) -> dict[str, tuple[int, ...]]:
    """CAPI's EncoderDecoder: no biases, frequencies of the rotation as a parameter, a decoder that looks back."""
    shapes = {
        "mask_token": (1, width),
        "registers": (1, 16, width),
        "patch_embed.weight": (width, 3, 14, 14),
        "patch_embed.bias": (width,),
    }
    for part, n in (("encoder", depth), ("decoder", decoder)):
        for i in range(n):
            block = f"{part}.blocks.{i}"
            shapes |= {f"{block}.residual{k}.norm.weight": (width,) for k in (1, 2)}
            shapes |= {
                f"{block}.residual1.fn.{q}.weight": (width, width) for q in ("q_proj", "k_proj", "v_proj", "proj")
            }
            shapes[f"{block}.residual1.fn.rope.freqs"] = (2, width // heads)
            shapes[f"{block}.residual2.fn.fc1.weight"] = (4 * width, width)
            shapes[f"{block}.residual2.fn.fc2.weight"] = (width, 4 * width)
    return shapes


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}
