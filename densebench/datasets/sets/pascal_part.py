"""Pascal-Part, animals alone: six kinds of parts on VOC 2010.

Expected below the data root (the root itself, `VOCdevkit/VOC2010/` or `VOC2010/`), or VOCtrainval_03-May-2010.tar:

    JPEGImages/ID.jpg   Annotations_Part/ID.mat   ImageSets/Main/{train,val}.txt

The study of positional effects (A.6) uses "the animal subsets" with K = 6, about 1,077 training and 1,094 test images,
and names neither classes nor images. Here the classes are the parts that birds, cats, cows, dogs, horses and sheep are
annotated with, finer ones joined (eyes to heads, hooves to legs), which makes six; all else is void. The images are
those of VOC 2010's train and val lists with such a part. Lists of your own in ImageSets/PascalPart/ are used instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.core.memo import remembered
from densebench.core.paths import file_state
from densebench.datasets.dataset import VOID, DatasetInfo, Root, Transforms, json_digest
from densebench.datasets.files import FileDataset, find_tree, read_split, table
from densebench.datasets.io.decode import read_image, read_mat
from densebench.datasets.io.palettes import voc_palette

PLACES = ("VOCdevkit/VOC2010", "VOC2010", "pascal_part", ".")
ARCHIVES = ("VOCtrainval_03-May-2010.tar",)
FOLDERS = ("ImageSets/PascalPart", "ImageSets/Main")
ANIMALS = ("bird", "cat", "cow", "dog", "horse", "sheep")
CLASSES = ("torso", "neck", "wing", "leg", "tail", "head")
"""In the order they are drawn, where masks of parts overlap."""
ENDINGS = {
    "torso": "torso", "neck": "neck", "wing": "wing", "tail": "tail",
    "leg": "leg", "foot": "leg", "pa": "leg", "ho": "leg",
    "head": "head", "eye": "head", "ear": "head", "nose": "head", "muzzle": "head", "horn": "head", "beak": "head",
}  # fmt: skip
"""Parts by how their names end: `lfuleg` is the left front upper leg."""


class PascalPart(FileDataset):
    """Parts of animals; an image may show several animals and other things beside them."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="pascal_part",
        title="Pascal-Part, six parts of animals",
        classes=CLASSES,
        palette=voc_palette(7)[1:],
        splits={"train": 1077, "val": 1094},
        background=(),
        licence="images: Flickr terms, research use; annotations: research use",
        citation="Chen et al., Detect What You Can: Detecting and Representing Objects using Holistic Models and Body "
        "Parts, CVPR 2014",
        how_to_get="Download VOCtrainval_03-May-2010.tar from the VOC 2010 site and extract it below the data root, "
        "and trainval.tar.gz from the Pascal-Part page (roozbehm.info/pascal-parts) and extract it in "
        "VOCdevkit/VOC2010/, so that this holds Annotations_Part/.",
    )
    labels = table(6)

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        images = find_tree(self.info, root, PLACES, "JPEGImages", ARCHIVES)
        masks = find_tree(self.info, root, PLACES, "Annotations_Part", ("trainval.tar",))
        lists = find_tree(self.info, root, PLACES, FOLDERS, ARCHIVES, holding=f"{split}.txt")
        ids = read_split(self.info, root, PLACES, FOLDERS, f"{split}.txt", ARCHIVES)
        self.pair(images, masks, ((id_, f"{id_}.jpg", f"{id_}.mat") for id_ in ids))
        if lists.folder.name == "Main":
            self.keep(self._with_animals())

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Draw one label map, (H, W): 0..5 parts, 255 = all else."""
        path = self.files(index)[1]
        labels = np.full(read_image(self.files(index)[0], index).size[::-1], VOID, dtype=np.uint8)
        parts = sorted(self._parts(index), key=lambda part: part[0])
        for label, inside in parts:
            if inside.shape != labels.shape:
                raise DatasetError(f"{path} has parts of {inside.shape} for an image of {labels.shape} (H, W).")
            labels[inside] = label
        return labels

    def _parts(self, index: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield class and mask of each part of each animal."""
        path = self.files(index)[1]
        try:
            annotation = read_mat(path, index, squeeze_me=True, struct_as_record=False)["anno"]
            for thing in np.atleast_1d(annotation.objects):
                if getattr(thing, "class") not in ANIMALS:
                    continue
                for part in np.atleast_1d(thing.parts):
                    name = next((ENDINGS[end] for end in ENDINGS if part.part_name.endswith(end)), None)
                    if name is None:
                        raise DatasetError(f"{path} has a part {part.part_name!r} that no animal has.")
                    yield CLASSES.index(name), np.asarray(part.mask, dtype=bool)
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{path} is not an annotation of Pascal-Part ({error}). Get the original file."
            ) from None

    def _with_animals(self) -> list[int]:
        """Return which samples show a part of an animal; remembered by the annotation files."""
        stats = [file_state(self.files(i)[1]) for i in range(len(self))]

        def find() -> str:
            found = [i for i in range(len(self)) if next(self._parts(i), None) is not None]
            if not found:
                raise DatasetError(f"{self.info.name}: no image of split {self.split} shows an animal with parts.")
            return json.dumps(found)

        return json.loads(remembered(f"pascal_part/{json_digest(stats)[:16]}.json", find))
