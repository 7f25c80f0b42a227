"""A dataset and backbones whose right answers are known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from densebench.datasets.io.palettes import voc_palette
from densebench.model_zoo.backbone import FACETS, Backbone, BackboneInfo, FeatureKey

COLORS = np.array([(20, 20, 20), (230, 30, 30), (30, 230, 30), (30, 30, 230)], dtype=np.uint8)
SIDE = 64


def toy_mask(rng: np.random.Generator) -> np.ndarray:
    """Two vertical halves of different classes out of four, the edge on a patch border."""
    left, right = rng.choice(len(COLORS), 2, replace=False)
    mask = np.full((SIDE, SIDE), left, dtype=np.uint8)
    mask[:, SIDE // 2 :] = right
    return mask


def write_voc(root: Path, n_train: int = 8, n_val: int = 6, seed: int = 0) -> Path:
    """Write a VOCdevkit whose classes 0..3 are four colours."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lists: dict[str, list[str]] = {"train": [], "trainaug": [], "val": []}
    for split, count in (("trainaug", n_train), ("val", n_val)):
        for i in range(count):
            name = f"2007_{split}_{i:04d}"
            mask = toy_mask(rng)
            Image.fromarray(COLORS[mask]).save(folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
            for masks in ("SegmentationClass", "SegmentationClassAug"):
                picture = Image.fromarray(mask)
                picture.putpalette([c for rgb in voc_palette(256) for c in rgb])
                picture.save(folder / masks / f"{name}.png")
            lists[split].append(name)
    lists["train"] = lists["trainaug"]
    for split, names in lists.items():
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


class ColorBackbone(Backbone):
    """Features are the patch's mean colour: everything a colour dataset asks for."""

    info = BackboneInfo(name="color", patch=8, width=4, prefix=1, facets=FACETS, any_layer=True, depth=2)

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        pooled = F.avg_pool2d(pixels, self.info.patch)
        maps = torch.cat([pooled, torch.ones_like(pooled[:, :1])], dim=1) * self.scale
        patches = maps.flatten(2).transpose(1, 2)
        return [torch.cat([patches.new_zeros(len(patches), 1, 4), patches], dim=1) for _ in keys]


class OneHotBackbone(ColorBackbone):
    """Features are the colour's class: orthogonal, as cosine clustering likes it."""

    info = BackboneInfo(name="one-hot", patch=8, width=4, prefix=1, depth=2, mean=(0.0,) * 3, std=(1.0,) * 3)

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        tokens = super().tokens(pixels, keys)[0]
        nearest = torch.cdist(tokens[..., :3], torch.from_numpy(COLORS / 255).float()).argmin(-1)
        return [F.one_hot(nearest, 4).float() for _ in keys]


class ShuffledBackbone(ColorBackbone):
    """The same features on the wrong patches of the wrong images: nothing to learn from."""

    info = BackboneInfo(name="shuffled", patch=8, width=4, prefix=1, depth=2)

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        tokens = super().tokens(pixels, keys)[0]
        generator = torch.Generator().manual_seed(int(pixels.double().sum().abs().item() * 1000) % 2**31)
        noise = torch.randn(tokens.shape, generator=generator)
        return [noise for _ in keys]


class NaNBackbone(ColorBackbone):
    """Gives NaN for images that are mostly red on the left."""

    info = BackboneInfo(name="nan", patch=8, width=4, prefix=1, depth=2)

    def tokens(self, pixels: Tensor, keys: Sequence[FeatureKey]) -> list[Tensor]:
        tokens = super().tokens(pixels, keys)[0].clone()
        tokens[-1, 5] = float("nan")
        return [tokens for _ in keys]


class ForgetfulBackbone(ColorBackbone):
    """Declares no prefix although it returns one: the commonest mistake of an adapter."""

    info = BackboneInfo(name="forgetful", patch=8, width=4, prefix=0, depth=2)
