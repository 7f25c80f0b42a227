"""COCO 2017, the images alone: what PaKA, NeCo and DIP are trained on.

Expected below the data root (the root itself, `coco/`, `COCO/`, `coco2017/`, `cocostuff/` or `coco_stuff164k/`), or the
archives train2017.zip and val2017.zip as they are:

    train2017/ID.jpg   val2017/ID.jpg, or the same below images/
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from densebench.datasets.dataset import DatasetInfo, Root, Transforms
from densebench.datasets.files import Archived, find_tree
from densebench.datasets.io.left_out import unread

PLACES = ("coco", "COCO", "coco2017", "cocostuff", "coco_stuff164k", ".")


class COCO(Archived):
    """COCO 2017 without its annotations, which are not needed on disk: a split is what its folder holds."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="coco",
        family="coco",
        title="COCO 2017, images to train on",
        classes=(),
        palette=(),
        splits={"train": 118_287, "val": 5000},
        targets=frozenset(),
        licence="images: Flickr terms, research use",
        citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
        how_to_get="Run `densebench data fetch coco`, or download train2017.zip (18 GB) and val2017.zip (1 GB) from "
        "cocodataset.org and put both, packed or not, in a folder coco/ below the data root.",
    )

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        needed = (f"{split}2017", f"images/{split}2017")
        self._tree = find_tree(self.info, root, PLACES, needed, (f"{split}2017.zip",))
        self.ids = [name.removesuffix(".jpg") for name in self._tree.some(self.info, ".jpg")]

    def left_out(self) -> list[str]:
        """Return, in a sentence, which images are not read for their ending."""
        return unread("images", self._tree.folder, self._tree.names(""), ".jpg", ())

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image of one sample."""
        return (self._tree.path(f"{self.ids[index]}.jpg"),)
