"""COCO things drawn from the polygons of the instances JSON, for those who have no panoptic masks.

Expected below the data root (the root itself, `coco/`, `COCO/` or `coco2017/`):

    {train2017,val2017}/ID.jpg, or the same below images/   annotations/instances_{train,val}2017.json

The published numbers of COCO-things are on panoptic masks (`coco_masks.CocoThings`), which were corrected by hand where
polygons overlap: these are other labels under another name. Crowds are drawn first, then large objects before small,
which no source prescribes; pixels in no polygon are void.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import Root, Transforms, json_digest
from densebench.datasets.files import Archived, find_tree
from densebench.datasets.sets.coco import index as coco_index
from densebench.datasets.sets.coco.classes import THINGS_12, THINGS_80, ClassMerge
from densebench.datasets.sets.coco.masks import PLACES, find_images, merged_info

ARCHIVE = "annotations_trainval2017.zip"
HOW = f"Masks: {ARCHIVE} (241 MB) from cocodataset.org, in coco/, packed or not."


class CocoThingsInstances(Archived):
    """The 12 super-categories of things, drawn from polygons and run lengths by pycocotools' rule."""

    info = merged_info("coco_things_instances", "COCO-things from instances, 12 super-categories", THINGS_12, HOW)
    merge: ClassVar[ClassMerge] = THINGS_12

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        self._tree = find_images(self.info, root, split)
        name = f"instances_{split}2017.json"
        self._json = find_tree(self.info, root, PLACES, ("annotations", "."), (ARCHIVE,), name).path(name)
        self._instances = coco_index.read_instances(self._json)
        self.ids = self._instances.images
        if not self.ids:
            raise DatasetError(f"{self.info.name}: {self._json} lists no images. {self.info.how_to_get}")
        self._tree.require(self.info, split, [f"{id_}.jpg" for id_ in self.ids])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Draw one label map, (H, W) with class ids and 255 = void."""
        return self.merge.lookup()[self._instances.categories(index)]

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the image of one sample; the masks of all are in one file."""
        return (self._tree.path(f"{self.ids[index]}.jpg"),)

    def digest(self) -> str:
        """Return the digest of images and annotations."""
        return json_digest([super().digest(), coco_index.annotation_digest(self._json)])


class CocoThings80Instances(CocoThingsInstances):
    """All 80 things, as detection numbers them."""

    info = replace(
        merged_info("coco_things80_instances", "COCO from instances, 80 things", THINGS_80, ""),
        how_to_get=CocoThingsInstances.info.how_to_get,
        variant_of="coco_things_instances",
    )
    merge = THINGS_80
