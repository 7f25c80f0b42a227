"""COCO 2017 with masks: things, stuff, and both, merged into classes as `coco_classes` says.

Expected below the data root (the root itself, `coco/`, `COCO/`, `coco2017/`, `cocostuff/` or `coco_stuff164k/`), the
archives of images as they are if you like:

    {train2017,val2017}/ID.jpg, or the same below images/
    annotations/panoptic_{train,val}2017.json and annotations/panoptic_{train,val}2017/ID.png      things
    annotations/stuff_{train,val}2017_pixelmaps/ID.png                                             stuff
    stuffthingmaps/{train2017,val2017}/ID.png, or annotations/{train2017,val2017}/ID.png           both

These three are annotated and numbered differently, and each class list is published with one of them: the 12 things
with panoptic ids, the 15 stuff classes with the stuff pixel maps (NeCo `data/coco/coco_data_module.py`), the 27 and 171
classes with stuffthingmaps (STEGO `src/data.py`; COCO-Stuff-164K of the Segmenter experiments).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import VOID, DatasetInfo, Root, Transforms, json_digest
from densebench.datasets.files import WRONG, FileDataset, Tree, find_tree, read_split
from densebench.datasets.io.decode import decoding
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.sets.coco import index as coco_index
from densebench.datasets.sets.coco.classes import STUFF_15, STUFF_27, STUFF_171, THINGS_12, THINGS_80, ClassMerge
from densebench.datasets.sets.coco.images import PLACES

PANOPTIC = "panoptic_annotations_trainval2017.zip"
IMAGES = "Images: train2017.zip (18 GB) and val2017.zip (1 GB) from cocodataset.org (`densebench data fetch coco`)."


def merged_info(name: str, title: str, merge: ClassMerge, how_to_get: str) -> DatasetInfo:
    """Return the facts of COCO with these classes."""
    return DatasetInfo(
        name=name,
        family="coco",
        title=title,
        classes=merge.classes,
        palette=voc_palette(len(merge.classes) + 1)[1:],
        splits={"train": 118_287, "val": 5000},
        background=(),
        licence="annotations: CC BY 4.0; images: Flickr terms, research use",
        citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; stuff: Caesar et al., COCO-Stuff, "
        "CVPR 2018; panoptic: Kirillov et al., Panoptic Segmentation, CVPR 2019",
        how_to_get=f"{IMAGES} {how_to_get}",
    )


def find_images(info: DatasetInfo, root: Root, split: str) -> Tree:
    """Return the images of a split."""
    return find_tree(info, root, PLACES, (f"{split}2017", f"images/{split}2017"), (f"{split}2017.zip",))


class CocoMaps(FileDataset):
    """COCO with label files; subclasses say where these are and which numbering they have."""

    merge: ClassVar[ClassMerge]
    zero_based: ClassVar[bool] = False
    folders: ClassVar[tuple[str, ...]]
    """Where the label files are; `{}` is the split."""
    stored: ClassVar[Collection[int]]
    """Values that a label file may hold, beside 255."""
    archives: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        folders, archives = ([name.format(self._half) for name in names] for names in (self.folders, self.archives))
        masks = find_tree(self.info, root, PLACES, folders, archives)
        stems = [name.removesuffix(".png") for name in masks.names(".png") if not name.endswith("TrainIds.png")]
        images = find_images(self.info, root, self._half)  # more of them than masks, perhaps
        self.pair(images, masks, ((s, f"{s}.jpg", f"{s}.png") for s in stems), ("", ".png"))

    def __init_subclass__(cls) -> None:
        """What a label file may hold is a class or void, anything else is wrong: a file of another numbering."""
        super().__init_subclass__()
        labels = cls.merge.lookup(cls.zero_based)
        labels[[value for value in range(VOID) if value not in cls.stored]] = WRONG
        cls.labels = labels

    @property
    def _half(self) -> str:
        """train or val."""
        return self.split.removesuffix("_curated")


class CocoThings(CocoMaps):
    """The 12 super-categories of things; stuff and unlabelled pixels are void. Masks are the panoptic ones.

    They are read from the panoptic PNGs and their JSON, or from the PNGs of category ids that panopticapi makes of
    them, where those are there; the two give the same labels, but are different files and have different digests.
    """

    info = merged_info(
        "coco_things",
        "COCO-things, 12 super-categories",
        THINGS_12,
        f"Masks: {PANOPTIC} (821 MB) from cocodataset.org, in coco/, packed or not (`densebench data fetch "
        "coco_things` does all of it).",
    )
    merge = THINGS_12
    stored = range(201)
    converted = (
        "annotations/panoptic_annotations/semantic_segmentation_{}2017",
        "annotations/panoptic_annotations/semantic_segmenations_{}2017",  # as HBIRD's DATASET.md spells it
    )
    folders = ("annotations/panoptic_{}2017", "panoptic_{}2017", *converted)
    archives = (PANOPTIC,)

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        self._segments: coco_index.Segments | None = None
        folder = self.files(0)[1].parent
        if folder.name == f"panoptic_{split}2017":
            name = f"panoptic_{split}2017.json"
            self._json = find_tree(self.info, root, PLACES, ("annotations", "."), (PANOPTIC,), name).path(name)
            self._segments = coco_index.read_segments(self._json)
            lacking = [id_ for id_ in self.ids if id_ not in self._segments]
            if lacking:
                raise DatasetError(
                    f"{self.info.name}: {self._json} lacks {len(lacking)} of {len(self)} images of {folder} (first: "
                    f"{lacking[0]}). {self.info.how_to_get}"
                )

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode one label map, (H, W) with class ids and 255 = stuff or unlabelled."""
        if self._segments is None:
            return super().mask(index)
        path = self.files(index)[1]
        with decoding(path, "a panoptic mask", index) as image:
            if image.mode != "RGB":
                raise DatasetError(f"{path} is a {image.mode} image; expected an RGB PNG of panoptic segment ids.")
            colors = np.array(image).astype(np.uint32)
        segments = colors[..., 0] | colors[..., 1] << 8 | colors[..., 2] << 16
        try:
            categories = self._segments.categories(self.ids[index], segments)
        except KeyError as error:
            raise DatasetError(f"{path} holds segment {error}, which {self._json} does not list.") from None
        return self._as_classes(categories, path)

    def digest(self) -> str:
        """Return the digest of the files, and of the JSON where labels are read through it."""
        own = super().digest()
        if self._segments is None:
            return own
        return json_digest([own, coco_index.annotation_digest(self._json)])


class CocoThings80(CocoThings):
    """All 80 things by panoptic ids, numbered as detection numbers them."""

    info = replace(
        merged_info("coco_things80", "COCO, 80 things", THINGS_80, ""),
        how_to_get=CocoThings.info.how_to_get,
        variant_of="coco_things",
    )
    merge = THINGS_80


class CocoStuff(CocoMaps):
    """The 15 super-categories of stuff; things (0) and other (183) are void."""

    info = merged_info(
        "coco_stuff",
        "COCO-stuff, 15 super-categories",
        STUFF_15,
        "Masks: images.cocodataset.org/annotations/stuff_annotations_trainval2017.zip, in coco/, packed or not.",
    )
    merge = STUFF_15
    stored = (0, *range(92, 184))
    folders = (
        "annotations/stuff_{}2017_pixelmaps",
        "annotations/stuff_annotations/stuff_{}2017_pixelmaps",
        "stuff_{}2017_pixelmaps",
    )
    archives = ("stuff_annotations_trainval2017.zip",)


STUFFTHING = (
    "Masks: stuffthingmaps_trainval2017.zip (659 MB; github.com/nightrome/cocostuff links it), in coco/ as it is or "
    "extracted in coco/stuffthingmaps/."
)


class CocoStuff164K(CocoMaps):
    """All 80 things and 91 kinds of stuff."""

    info = merged_info("coco_stuff164k", "COCO-Stuff-164K, 171 classes", STUFF_171, STUFFTHING)
    merge = STUFF_171
    zero_based = True
    stored = range(182)
    folders = ("stuffthingmaps/{}2017", "annotations/{}2017")
    archives = ("stuffthingmaps_trainval2017.zip",)


CURATED = "Coco164kFull_Stuff_Coarse_7.txt"


class CocoStuff27(CocoStuff164K):
    """27 super-categories of things and stuff; `*_curated` are the lists of IIC, PiCIE and STEGO.

    They leave out pictures of one thing. A list lies in `curated/{train2017,val2017}/`, one image id per line.
    """

    info = replace(
        merged_info(
            "coco_stuff27",
            "COCO-Stuff-27",
            STUFF_27,
            f"{STUFFTHING} For the splits *_curated put the folder curated/ of github.com/janghyuncho/PiCIE in coco/.",
        ),
        splits={"train": 118_287, "val": 5000, "train_curated": 49_629, "val_curated": 2175},
    )
    merge = STUFF_27

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        if self.split != self._half:
            listed = read_split(self.info, root, PLACES, f"curated/{self._half}2017", CURATED)
            where = {id_: i for i, id_ in enumerate(self.ids)}
            missing = [id_ for id_ in listed if id_ not in where]
            if missing:
                raise DatasetError(
                    f"{self.info.name}: {len(missing)} of {len(listed)} images of the list of {self.split} have no "
                    f"mask (first: {missing[0]}). {self.info.how_to_get}"
                )
            self.keep([where[id_] for id_ in listed])
