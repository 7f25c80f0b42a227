"""A dataset of coloured boards, held in memory, and the smallest training run; also run as a script, to be killed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

from densebench.datasets import DATASETS
from densebench.datasets.dataset import DatasetInfo, DenseDataset

SMALL: dict[str, Any] = {
    "images": None,
    "cache": None,
    "global_size": 16,
    "local_size": 8,
    "local_crops": 2,
    "epochs": 2,
    "batch": 4,
    "hidden": 16,
    "bottleneck": 8,
    "prototypes": 16,
    "checkpoint_every": 2,
    "log_every": 3,
}
"""Seven steps per epoch on 30 images."""


class Boards(DenseDataset):
    info = DatasetInfo(name="boards", title="boards", classes=(), palette=(), splits={"train": 30}, targets=frozenset())

    def __init__(self, root: Any, split: str, transforms: Any = None) -> None:
        super().__init__(root, split, transforms)
        self.ids = [f"board_{i:02}" for i in range(30)]

    def image(self, index: int) -> Image.Image:
        rng = np.random.default_rng(index)
        return Image.fromarray(np.kron(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)))

    def digest(self) -> str:
        return "boards"


class Torn(Boards):
    def image(self, index: int) -> Image.Image:
        if index == 17:
            raise OSError("truncated")
        return super().image(index)


def register() -> None:
    DATASETS.add("boards", Boards)
    DATASETS.add("torn", Torn)


def run(name: str, resume: bool = False, small: dict[str, Any] = SMALL, **overrides: Any) -> Any:
    from densebench.methods import train

    settings = {"method": "dino", "base": "pico?random", "data": "boards", "name": name, "workers": 0}
    given = {key: overrides.pop(key) for key in list(overrides) if key in (*settings, "overwrite", "out")}
    return train(**{**settings, **given}, overrides={**small, **overrides}, resume=resume, device="cpu")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    register()
    name, epochs, *rest = sys.argv[1:]
    if rest:
        run(name, epochs=int(epochs), base=rest[0], accumulate=int(rest[1]), weights="fp32")
    else:
        run(name, epochs=int(epochs))
