"""COCO 2017, the images alone: what PaKA, NeCo and DIP are trained on.

Expected below the data root (the root itself, `coco/`, `COCO/` or `coco2017/`):

    train2017/ID.jpg   val2017/ID.jpg
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from densebench.datasets.dataset import DatasetInfo, DenseDataset, read_image
from densebench.datasets.layout import find_root, list_stems


class COCO(DenseDataset):
    """COCO 2017 without its annotations, which are not needed on disk: a split is what its folder holds."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="coco",
        title="COCO 2017, images to train on",
        classes=(),
        palette=(),
        splits={"train": 118_287, "val": 5000},
        targets=frozenset(),
        licence="images: Flickr terms, research use",
        citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
        how_to_get="Download train2017.zip (18 GB) and val2017.zip (1 GB) from cocodataset.org and extract both in a "
        "folder coco/ below the data root, so that it holds train2017/ and val2017/.",
    )

    def __init__(
        self, root: str | Path | None, split: str = "val", transforms: Callable[[Any, Any], Any] | None = None
    ) -> None:
        super().__init__(root, split, transforms)
        needed = f"{split}2017"
        self.folder = find_root(self.info, root, ("coco", "COCO", "coco2017", "."), needed) / needed
        self.ids = list_stems(self.info, self.folder, ".jpg")

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return read_image(self.files(index)[0], index)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image of one sample."""
        return (self.folder / f"{self.ids[index]}.jpg",)
