"""`scenes` behind the dataset contract: rendered when asked for, nothing on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import UsageError
from densebench.datasets.dataset import DatasetInfo, DenseDataset, Keypoints, Sample
from densebench.datasets.scenes.labels import CLASSES, FIRST_THING, PALETTE
from densebench.datasets.scenes.render import RENDERER_VERSION, Scene, render

SIZE = 160
LENGTHS = {"train": 512, "val": 160, "unlabelled": 20_000}


class Scenes(DenseDataset):
    """Rendered worlds with masks, depth, parts and keypoints; any length, any size, the same on every machine.

    >>> Scenes(None, "val").sample(0).mask.shape
    (160, 160)
    """

    info = DatasetInfo(
        name="scenes",
        title="densebench scenes (rendered, embedded)",
        classes=CLASSES,
        palette=PALETTE,
        stuff=tuple(range(1, FIRST_THING)),
        splits=LENGTHS,
        targets=frozenset({"mask", "depth", "keypoints"}),
        input_size=SIZE,
        embedded=True,
        licence="Apache-2.0",
        citation="densebench, embedded dataset `scenes`",
        how_to_get="nothing to get: the package renders it",
    )

    version = RENDERER_VERSION

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        transforms: Callable[[Any, Any], Any] | None = None,
        *,
        size: int | tuple[int, int] = SIZE,
        seed: int = 0,
        length: int | None = None,
    ) -> None:
        """`size` is a side or (H, W) in pixels; `length` overrides the split's own; `root` is not used."""
        super().__init__(root, split, transforms)
        if length is not None and length < 1:
            raise UsageError(f"scenes: length {length} asked for, expected at least 1.")
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if min(self.size) < 8:
            raise UsageError(f"scenes: size {self.size} asked for, expected sides of at least 8 pixels.")
        self.seed = seed
        self.ids = [f"{split}_{i:06d}" for i in range(length or self.info.splits[split])]

    def scene(self, index: int, want: Collection[str]) -> Scene:
        """Render what is wanted of one scene; see `render`."""
        if not 0 <= index < len(self.ids):
            raise IndexError(f"scenes: index {index} of {len(self.ids)}")
        return render(index, self.split, self.seed, self.size, want)

    def image(self, index: int) -> Image.Image:
        """Return the rendered image."""
        return Image.fromarray(self._array(index, "image"))

    def image_size(self, index: int) -> tuple[int, int]:
        """Return width and height in pixels."""
        return self.size[::-1]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return class ids (H, W), 255 = ignore."""
        return self._array(index, "mask")

    def depth(self, index: int) -> NDArray[np.float32]:
        """Return metres along the optical axis (H, W), at most 20; 0 = sky."""
        return self._array(index, "depth")

    def parts(self, index: int) -> NDArray[np.uint8]:
        """Return global part ids (H, W), named by `labels.PARTS`, 0 = no part."""
        return self._array(index, "parts")

    def instances(self, index: int) -> NDArray[np.uint8]:
        """Return object numbers (H, W), 0 = stuff or background."""
        return self._array(index, "instances")

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        """Return the keypoints of all objects of which something is seen."""
        return _keypoints(self.scene(index, ("keypoints",)))

    def sample(self, index: int) -> Sample:
        """Render everything of one image at once."""
        scene = self.scene(index, ("image", "mask", "depth", "keypoints"))
        assert scene.image is not None
        return Sample(self.ids[index], Image.fromarray(scene.image), scene.mask, scene.depth, _keypoints(scene))

    def draw_sheet(self, n: int) -> bytes:
        """Return a PNG of `n` scenes, in twos, with their parts, and of pairs of keypoints: for `data sheet`."""
        from densebench.datasets.scenes.sheet import contact_sheet

        return contact_sheet((n + 1) // 2, split=self.split, seed=self.seed)

    def digest(self) -> str:
        """Return a digest of all that decides the pixels: renderer version, seed, split, size and length."""
        state = ["scenes", RENDERER_VERSION, self.seed, self.split, self.size, len(self.ids), CLASSES]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Scenes({self.split!r}, size={self.size}, seed={self.seed}, length={len(self)})"

    def _array(self, index: int, name: str) -> Any:
        return getattr(self.scene(index, (name,)), name)


class ScenesLarge(Scenes):
    """The same with as many validation images as VOC; the first 160 are those of `scenes`.

    With 300 or 500 clusters for 160 images, features that tell single images apart look good in overclustering.
    """

    info = replace(
        Scenes.info,
        name="scenes_large",
        title="densebench scenes (rendered, embedded), 1440 validation images",
        splits={**LENGTHS, "val": 1440},
    )


def _keypoints(scene: Scene) -> tuple[Keypoints, ...]:
    return tuple(
        Keypoints(
            CLASSES[k.cls], k.xy, k.visible, (float(k.bbox[0]), float(k.bbox[1]), float(k.bbox[2]), float(k.bbox[3]))
        )
        for k in scene.keypoints
    )
