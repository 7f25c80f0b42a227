"""State dicts as the authors' own code saves them, written down from that code: names, shapes and what lies around."""

from __future__ import annotations

import numpy as np
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


def deit3(width: int, depth: int, grid: int) -> dict[str, tuple[int, ...]]:
    """DeiT III's models_v2.py: LayerScale under another name than DINOv2's, and a class token without position."""
    shapes = dino(width, depth, 16, grid) | {"pos_embed": (1, grid**2, width), **linear("head", 1000, width)}
    return shapes | {f"blocks.{i}.gamma_{k}": (width,) for i in range(depth) for k in (1, 2)}


def clip(width: int, depth: int, patch: int, grid: int, hidden: int, text: int = 512) -> dict[str, tuple[int, ...]]:
    """CLIP's model.py, and open_clip's transformer.py: both towers; no bias before the first norm."""
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (grid**2 + 1, width),
        "proj": (width, text),
        "conv1.weight": (width, 3, patch, patch),
        **norm("ln_pre", width),
        **norm("ln_post", width),
    }
    for i in range(depth):
        block = f"transformer.resblocks.{i}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= linear(f"{block}.attn.out_proj", width, width) | norm(f"{block}.ln_1", width)
        shapes |= linear(f"{block}.mlp.c_fc", hidden, width) | linear(f"{block}.mlp.c_proj", width, hidden)
        shapes |= norm(f"{block}.ln_2", width)
    tower = {f"visual.{name}": shape for name, shape in shapes.items()}
    return tower | {"positional_embedding": (77, text), "text_projection": (text, text), "logit_scale": ()}


def dinov3(width: int, depth: int, heads: int, gated: bool = False) -> dict[str, tuple[int, ...]]:
    """DINOv3's vision_transformer.py: no positions but the periods of their rotation, and biases with a mask."""
    shapes = {
        "cls_token": (1, 1, width),
        "storage_tokens": (1, 4, width),
        "mask_token": (1, width),
        "rope_embed.periods": (width // heads // 4,),
        **stem(width, 16),
        **norm("norm", width),
    }
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= {f"{block}.attn.qkv.bias_mask": (3 * width,)}
        shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
        if gated:
            shapes |= linear(f"{block}.mlp.w1", 4 * width, width) | linear(f"{block}.mlp.w2", 4 * width, width)
            shapes |= linear(f"{block}.mlp.w3", width, 4 * width)
        else:
            shapes |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes


def sam(
    width: int, depth: int, heads: int, grid: int = 64, window: int = 14, everywhere: tuple[int, ...] = ()
) -> dict[str, tuple[int, ...]]:
    """SAM's image_encoder.py, beside the rest of the model: windows but for the blocks that look everywhere."""
    shapes = {"pos_embed": (1, grid, grid, width), **stem(width, 16)}
    shapes |= {"neck.0.weight": (256, width, 1, 1), **norm("neck.1", 256)}
    shapes |= {"neck.2.weight": (256, 256, 3, 3), **norm("neck.3", 256)}
    for i in range(depth):
        block, side = f"blocks.{i}", grid if i in everywhere else window
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.attn.rel_pos_{axis}": (2 * side - 1, width // heads) for axis in "hw"}
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.lin1", 4 * width, width) | linear(f"{block}.mlp.lin2", width, 4 * width)
    return {f"image_encoder.{name}": shape for name, shape in shapes.items()} | {
        "mask_decoder.iou_token.weight": (1, 8)
    }


def siglip(width: int, depth: int, grid: int) -> dict[str, tuple[int, ...]]:
    """SigLIP as timm's hub has it (its authors' file is one of JAX): no class token, pooling by attention."""
    shapes = dino(width, depth, 16, grid, class_token=False) | norm("norm", width)
    shapes |= {"attn_pool.latent": (1, 1, width), **norm("attn_pool.norm", width)}
    shapes |= linear("attn_pool.q", width, width) | linear("attn_pool.kv", 2 * width, width)
    shapes |= linear("attn_pool.proj", width, width)
    return shapes | linear("attn_pool.mlp.fc1", 4 * width, width) | linear("attn_pool.mlp.fc2", width, 4 * width)


def radio(width: int, depth: int, scaled: bool) -> dict[str, tuple[int, ...]]:
    """C-RADIO v3: positions on 128 x 128 places, four class tokens and four registers in one, no final norm."""
    shapes = {
        "patch_generator.embedder.weight": (width, 3 * 16**2),
        "patch_generator.pos_embed": (1, 128**2, width),
        "patch_generator.cls_token.token": (8, width),
        **{name: shape for name, shape in dino(width, depth, 16, 1).items() if name.startswith("blocks.")},
        **{f"blocks.{i}.ls{k}.grandma": (width,) for i in range(depth if scaled else 0) for k in (1, 2)},
    }
    beside = {"input_conditioner.norm_mean": (3, 1, 1), "input_conditioner.norm_std": (3, 1, 1), "summary_idxs": (2,)}
    return {f"radio_model.model.{name}": shape for name, shape in shapes.items()} | {
        f"radio_model.{name}": shape for name, shape in beside.items()
    }


def optimiser(state: State) -> dict[str, object]:
    """What DINO's training code keeps of AdamW: its schedules are arrays, and so its rates are numbers of numpy."""
    steps = {i: {"step": 3.0, "exp_avg": value, "exp_avg_sq": value} for i, value in enumerate(state.values())}
    rates = np.linspace(0, 1e-3, 7)
    return {"state": steps, "param_groups": [{"lr": rates[3], "weight_decay": rates[4], "params": list(steps)}]}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}
