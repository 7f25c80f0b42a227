"""PASCAL VOC 2012 segmentation in the VOCdevkit layout, with the SBD masks for `trainaug`.

Expected below the data root (the root itself, `VOC2012/` or `VOCdevkit/VOC2012/`), or VOCtrainval_11-May-2012.tar as
it is, with SegmentationClassAug, as a folder or a zip, and the list trainaug.txt beside it:

    JPEGImages/ID.jpg   SegmentationClass/ID.png   SegmentationClassAug/ID.png   ImageSets/Segmentation/SPLIT.txt

or the package that HBIRD and NeCo read, in which all of these are:

    VOCSegmentation/{images/ID.jpg,SegmentationClass/ID.png,SegmentationClassAug/ID.png,sets/SPLIT.txt}
"""

from __future__ import annotations

from typing import ClassVar

from densebench.datasets.dataset import DatasetInfo, Root, Transforms
from densebench.datasets.files import FileDataset, find_tree, read_split, table
from densebench.datasets.io.palettes import voc_palette

PLACES = ("VOCdevkit/VOC2012", "VOC2012", "voc", ".")
ARCHIVES = ("VOCtrainval_11-May-2012.tar",)
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VOC(FileDataset):
    """VOC 2012: 20 classes and background; `trainaug` takes its masks from SBD (SegmentationClassAug)."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="voc",
        family="voc",
        title="PASCAL VOC 2012",
        classes=CLASSES,
        palette=voc_palette(len(CLASSES)),
        palette_stored=True,
        splits={"train": 1464, "trainaug": 10582, "val": 1449},
        train="trainaug",
        licence="images: Flickr terms, research use; annotations: research use",
        citation="Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010; masks of trainaug: "
        "Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011",
        how_to_get="Run `densebench data fetch voc`, or download VOCtrainval_11-May-2012.tar (2 GB) from "
        "host.robots.ox.ac.uk/pascal/VOC/voc2012 and put it, packed or not, below the data root. For trainaug put "
        "SegmentationClassAug.zip (12,031 masks of SBD in VOC's ids; the README of "
        "github.com/DrSleep/tensorflow-deeplab-resnet links it), packed or not, in VOCdevkit/VOC2012/, and "
        "trainaug.txt (github.com/vpariza/open-hummingbird-eval, file_sets/voc/full/) in "
        "VOCdevkit/VOC2012/ImageSets/Segmentation/.",
    )

    labels = table(len(CLASSES))

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        named = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
        images = find_tree(self.info, root, PLACES, ("JPEGImages", "VOCSegmentation/images"), ARCHIVES)
        lists = ("ImageSets/Segmentation", "VOCSegmentation/sets")
        ids = read_split(self.info, root, PLACES, lists, f"{split}.txt", ARCHIVES)
        folders = (named, f"VOCSegmentation/{named}")
        masks = find_tree(self.info, root, PLACES, folders, (*ARCHIVES, "SegmentationClassAug.zip"))
        self.pair(images, masks, ((id_, f"{id_}.jpg", f"{id_}.png") for id_ in ids))
