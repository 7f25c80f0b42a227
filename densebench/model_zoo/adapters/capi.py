"""CAPI's encoder (Darcet et al. 2025), whose ViT no library has: RMS norms, no biases, rotary positions, 16 registers.

Module names are those of the published checkpoints. Facts of the architecture: `model.py` and
`default_pretrain_config.yaml` of facebookresearch/capi.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.model_zoo.backbone import FACETS, Backbone, BackboneInfo, FeatureKey

WIDTH, DEPTH, HEADS, PATCH, REGISTERS = 1024, 24, 16, 14, 16
EPSILON = 1e-5


class _Rope(nn.Module):
    """Rotates pairs of channels (c, c + d/2) by angles that are linear in the position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(torch.zeros(2, width))  # rows, columns

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        angles = places @ self.freqs
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class _CapiAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.rope = _Rope(width // heads)

    def rotated(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, d) after rotation."""
        query, key = (self.split(project(x)) for project in (self.q_proj, self.k_proj))
        return self.rope(query, places), self.rope(key, places)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(*self.rotated(x, places), self.split(self.v_proj(x)))
        return self.proj(out.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Residual(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=EPSILON)
        self.fn = fn

    def forward(self, x: Tensor, *places: Tensor) -> Tensor:
        return x + self.fn(self.norm(x), *places)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.residual1 = _Residual(width, _CapiAttention(width, heads))
        self.residual2 = _Residual(width, _Mlp(width))

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        return self.residual2(self.residual1(x, places))


class Capi(nn.Module):
    """The encoder; `places` are in [0, 1] from border to border, registers sit around the edge."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS) -> None:
        super().__init__()
        self.registers = nn.Parameter(torch.zeros(1, REGISTERS, width))
        self.patch_embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.enc_norm = nn.RMSNorm(width, eps=EPSILON, elementwise_affine=False)

    @property
    def blocks(self) -> Any:
        """The encoder's blocks."""
        return self.encoder.blocks

    def embed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, registers + h*w, D) and their places (registers + h*w, 2)."""
        maps = self.patch_embed(pixels)
        rows, columns = (torch.linspace(0, 1, n, device=maps.device, dtype=maps.dtype) for n in maps.shape[2:])
        patches = torch.cartesian_prod(rows, columns)
        low, high = patches.amin(0), patches.amax(0)
        edge = low + _edge(REGISTERS).to(patches) * (high - low)
        tokens = torch.cat([self.registers.expand(len(maps), -1, -1), maps.flatten(2).transpose(1, 2)], dim=1)
        return tokens, torch.cat([edge, patches])


def _edge(n: int) -> Tensor:
    """Return n places (n, 2) around the unit square, clockwise from its corner, n / 4 per side."""
    step = torch.arange(n // 4) / (n // 4)
    zero, one = torch.zeros_like(step), torch.ones_like(step)
    sides = ((step, zero), (one, step), (1 - step, one), (zero, 1 - step))
    return torch.cat([torch.stack(side, dim=1) for side in sides])


def random_capi(seed: int = 0, **sizes: int) -> Capi:
    """Return the net with random weights drawn from `seed`; its frequencies are those training starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Capi(**sizes)
        nn.init.normal_(net.registers, std=0.02)
    for block in net.blocks:
        rope = block.residual1.fn.rope
        n = rope.freqs.shape[1] // 4
        line = 2 * torch.pi * 7 * (7 / 7e-4) ** torch.linspace(0, -1, n)
        with torch.no_grad():
            rope.freqs[0, : 2 * n] = line.repeat(2)
            rope.freqs[1, 2 * n :] = line.repeat(2)
    return net


class CapiBackbone(Backbone):
    """CAPI behind the backbone contract; its 16 registers are prefix tokens, and it has no class token."""

    def __init__(self, net: Capi, name: str, **info: Any) -> None:
        super().__init__()
        self.net = net
        self.info = BackboneInfo(
            name=name,
            patch=PATCH,
            width=net.registers.shape[-1],
            depth=len(net.blocks),
            heads=net.blocks[0].residual1.fn.heads,
            prefix=REGISTERS,
            has_class_token=False,
            interpolation="bicubic",
            native_size=224,
            facets=FACETS,
            any_layer=True,
            **info,
        )

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        """Return block outputs, and projections before rotation, of all keys from one forward pass."""
        found: dict[FeatureKey, Tensor] = {}
        for index, attend, before, after, _ in self._pass(pixels, max(key.layer for key in keys)):
            for key in (key for key in keys if key.layer == index):
                if key.facet != "token":
                    found[key] = getattr(attend.fn, f"{key.facet[0]}_proj")(attend.norm(before))
                else:
                    found[key] = self.net.enc_norm(after) if key.norm else after
        return [found[key] for key in keys]

    def attention(self, pixels: Tensor, layers: Sequence[int]) -> Iterator[Tensor]:
        """Yield the attention of each layer; one forward pass gives what enters all of them."""
        steps = self._pass(pixels, max(layers))
        inputs = {index: (attend, before, places) for index, attend, before, _, places in steps if index in layers}
        for layer in layers:
            attend, x, places = inputs[layer]
            query, key = attend.fn.rotated(attend.norm(x), places)
            yield (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)

    def _pass(self, pixels: Tensor, last: int) -> Iterator[tuple[int, Any, Tensor, Tensor, Tensor]]:
        """Yield index and attention of each block up to `last`, tokens (B, N, D) before and after it, and places."""
        after, places = self.net.embed(pixels)
        for index, block in enumerate(self.net.blocks[: last + 1]):
            before, after = after, block(after, places)
            yield index, block.residual1, before, after, places


__all__ = ["Capi", "CapiBackbone", "random_capi"]
