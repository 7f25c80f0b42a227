"""Cityscapes, fine annotations: the 19 classes of its benchmark, or 27 as in unsupervised segmentation.

Expected below the data root (the root itself, `cityscapes/` or `Cityscapes/`), or leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip as they are:

    leftImg8bit/{train,val}/CITY/ID_leftImg8bit.png   gtFine/{train,val}/CITY/ID_gtFine_labelIds.png

The masks of `labelTrainIds` that other tools make are not needed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.dataset import Color, DatasetInfo, Root, Transforms
from densebench.datasets.files import FileDataset, Tree, find_tree, table

PLACES = ("cityscapes", "Cityscapes", ".")
ARCHIVES = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
FIRST = 7
"""The first stored id that is a class: 0 to 6 are void of several kinds."""

LABELS: dict[str, Color] = {
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "parking": (250, 170, 160), "rail track": (230, 150, 140),
    "building": (70, 70, 70), "wall": (102, 102, 156), "fence": (190, 153, 153), "guard rail": (180, 165, 180),
    "bridge": (150, 100, 100), "tunnel": (150, 120, 90), "pole": (153, 153, 153), "polegroup": (153, 153, 153),
    "traffic light": (250, 170, 30), "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152), "sky": (70, 130, 180), "person": (220, 20, 60), "rider": (255, 0, 0),
    "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100), "caravan": (0, 0, 90), "trailer": (0, 0, 110),
    "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip
"""The 27 labels with ids 7 to 33 and their colours, in the order of their ids."""
NOT_EVALUATED = ("parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer")
CLASSES = tuple(name for name in LABELS if name not in NOT_EVALUATED)
PALETTE = tuple(LABELS[name] for name in CLASSES)

USUAL = ("traffic sign", "vegetation", "sky", "person", "car")
"""What streets are full of; their label ids are beyond the 19 train ids."""

_ids = {name: FIRST + i for i, name in enumerate(LABELS)}
_stored = range(FIRST + len(LABELS))


def label_ids(stores_255: bool) -> NDArray[np.uint8]:
    """Return the table from label ids, 0 to 33 and perhaps 255, to the 19 classes."""
    evaluated = {_ids[name]: i for i, name in enumerate(CLASSES)}
    return table(19, evaluated, {*_stored} - {*evaluated}, stores_255=stores_255)


class Cityscapes(FileDataset):
    """The 19 classes that are evaluated; an id is CITY_SEQUENCE_FRAME. The test split has no public labels."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="cityscapes",
        title="Cityscapes, 19 classes",
        classes=CLASSES,
        palette=PALETTE,
        splits={"train": 2975, "val": 500},
        background=(),
        usual=USUAL,
        licence="research and other non-commercial use, by agreement on its site",
        citation="Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
        how_to_get="Register at cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip (11 GB) and "
        "gtFine_trainvaltest.zip (241 MB), and put both, packed or not, in a folder cityscapes/ below the data root.",
    )
    labels = label_ids(stores_255=False)
    renumbered = (
        "Files of `labelIds` hold label ids, 0 to 33; those with 255 hold train ids, the 19 classes from 0 on, which "
        "mean others here. Get the original files *_gtFine_labelIds.png."
    )

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        images = find_tree(self.info, root, PLACES, f"leftImg8bit/{split}", ARCHIVES)
        masks = find_tree(self.info, root, PLACES, f"gtFine/{split}", ARCHIVES)
        endings = "_leftImg8bit.png", "_gtFine_labelIds.png"
        self.pair(images, masks, paired(images, *endings), endings)


class Cityscapes27(Cityscapes):
    """All 27 classes, ids 7 to 33 counted from 0, as STEGO (`src/data.py:CityscapesSeg`) has them."""

    info = replace(
        Cityscapes.info,
        name="cityscapes27",
        variant_of="cityscapes",
        title="Cityscapes, 27 classes",
        classes=tuple(LABELS),
        palette=tuple(LABELS.values()),
    )
    labels = table(27, {FIRST + i: i for i in range(27)}, range(FIRST), stores_255=False)


def paired(images: Tree, of_image: str, of_mask: str) -> list[tuple[str, str, str]]:
    """Return (id, image name, mask name) where both lie in folders of one name and end in the suffixes given."""
    stems = [name.removesuffix(of_image) for name in images.names(of_image)]
    return [(stem.rpartition("/")[2], stem + of_image, stem + of_mask) for stem in stems]
