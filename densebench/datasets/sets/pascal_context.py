"""Pascal Context: 59 classes of things and stuff on VOC 2010, with or without the background as a class.

Expected below the data root (the root itself, `VOCdevkit/VOC2010/` or `VOC2010/`), or VOCtrainval_03-May-2010.tar:

    JPEGImages/ID.jpg
    SegmentationClassContext/ID.png, ids 0..59 as mmsegmentation's converter makes them, or
    trainval/ID.mat, the authors' own labels of 459 categories
    ImageSets/SegmentationContext/{train,val}.txt, or ImageSets/Main/{train,val}.txt, which list the same images
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, Root, Transforms
from densebench.datasets.files import FileDataset, find_tree, read_split, table
from densebench.datasets.io.decode import read_mat
from densebench.datasets.io.palettes import voc_palette

PLACES = ("VOCdevkit/VOC2010", "VOC2010", "pascal_context", ".")
ARCHIVES = ("VOCtrainval_03-May-2010.tar",)

CATEGORIES = {
    2: "aeroplane", 9: "bag", 18: "bed", 19: "bedclothes", 22: "bench", 23: "bicycle", 25: "bird", 31: "boat",
    33: "book", 34: "bottle", 44: "building", 45: "bus", 46: "cabinet", 59: "car", 65: "cat", 68: "ceiling",
    72: "chair", 80: "cloth", 85: "computer", 98: "cow", 104: "cup", 105: "curtain", 113: "dog", 115: "door",
    144: "fence", 158: "floor", 159: "flower", 162: "food", 187: "grass", 189: "ground", 207: "horse",
    220: "keyboard", 232: "light", 258: "motorbike", 259: "mountain", 260: "mouse", 284: "person", 295: "plate",
    296: "platform", 308: "pottedplant", 324: "road", 326: "rock", 347: "sheep", 349: "shelves", 354: "sidewalk",
    355: "sign", 360: "sky", 366: "snow", 368: "sofa", 397: "table", 415: "track", 416: "train", 420: "tree",
    424: "truck", 427: "tvmonitor", 440: "wall", 445: "water", 454: "window", 458: "wood",
}  # fmt: skip
"""The 59 of the authors' 459 categories that are used, by their number, and so in the order of the PNGs' ids.

Numbers: mmsegmentation `tools/dataset_converters/pascal_context.py`. The names of its dataset class are the same ones
in another order, which its converter's files do not have."""
CLASSES = tuple(CATEGORIES.values())
_FROM_459 = np.zeros(460, dtype=np.uint8)
_FROM_459[list(CATEGORIES)] = np.arange(1, 60)


class PascalContext(FileDataset):
    """60 classes: the background, class 0, is trained on and evaluated, as in mmsegmentation's 60-class set."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="pascal_context",
        family="pascal_context",
        title="Pascal Context, 59 classes and background",
        classes=("background", *CLASSES),
        palette=voc_palette(60),
        splits={"train": 4998, "val": 5105},
        licence="images: Flickr terms, research use; annotations: research use",
        citation="Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, "
        "CVPR 2014",
        how_to_get="Download VOCtrainval_03-May-2010.tar from the VOC 2010 site and extract it below the data root, "
        "and trainval.tar.gz (the labels) from the Pascal Context page (cs.stanford.edu/~roozbeh/pascal-context) and "
        "extract it in VOCdevkit/VOC2010/.",
    )
    labels = table(60)

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        images = find_tree(self.info, root, PLACES, "JPEGImages", ARCHIVES)
        masks = find_tree(self.info, root, PLACES, ("SegmentationClassContext", "trainval"))
        lists = ("ImageSets/SegmentationContext", "ImageSets/Main")
        ids = read_split(self.info, root, PLACES, lists, f"{split}.txt", ARCHIVES)
        ending = ".png" if masks.folder.name == "SegmentationClassContext" else ".mat"
        self.pair(images, masks, ((id_, f"{id_}.jpg", id_ + ending) for id_ in ids))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode one label map, (H, W) with class ids and 255 = ignore."""
        path = self.files(index)[1]
        if path.suffix == ".png":
            return super().mask(index)
        try:
            stored = read_mat(path, index)["LabelMap"]
            return self._as_classes(_FROM_459[stored], path)
        except (KeyError, IndexError):
            raise DatasetError(f"{path} holds no LabelMap of categories 0..459. Get the original file.") from None


class PascalContext59(PascalContext):
    """The 59 classes alone; the background is void."""

    info = replace(
        PascalContext.info,
        name="pascal_context59",
        variant_of="pascal_context",
        title="Pascal Context, 59 classes",
        classes=CLASSES,
        palette=voc_palette(60)[1:],
        background=(),
    )
    labels = table(59, {i + 1: i for i in range(59)}, void=(0,))
