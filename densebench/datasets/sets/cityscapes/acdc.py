"""ACDC: driving in fog, at night, in rain and in snow, with the 19 classes of Cityscapes.

Expected below the data root (the root itself, `acdc/` or `ACDC/`), or rgb_anon_trainvaltest.zip and gt_trainval.zip:

    rgb_anon/{fog,night,rain,snow}/{train,val}/SEQUENCE/ID_rgb_anon.png
    gt/{fog,night,rain,snow}/{train,val}/SEQUENCE/ID_gt_labelIds.png

For the domain shift of DIP table 2: `--dataset acdc --train-dataset cityscapes`.
"""

from __future__ import annotations

from typing import ClassVar

from densebench.datasets.dataset import DatasetInfo, Root, Transforms
from densebench.datasets.files import FileDataset, Tree, find_tree
from densebench.datasets.sets.cityscapes.cityscapes import CLASSES, PALETTE, USUAL, label_ids, paired

PLACES = ("acdc", "ACDC", ".")
ARCHIVES = ("rgb_anon_trainvaltest.zip", "gt_trainval.zip")
CONDITIONS = ("fog", "night", "rain", "snow")


class ACDC(FileDataset):
    """All four conditions together; the reference images of fair weather have no labels and are not read."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="acdc",
        title="ACDC, 19 classes",
        classes=CLASSES,
        palette=PALETTE,
        splits={"train": 1600, "val": 406},
        background=(),
        usual=USUAL,
        licence="research and other non-commercial use, by agreement on its site",
        citation="Sakaridis et al., ACDC: The Adverse Conditions Dataset with Correspondences for Semantic Driving "
        "Scene Understanding, ICCV 2021",
        how_to_get="Register at acdc.vision.ee.ethz.ch, download rgb_anon_trainvaltest.zip and gt_trainval.zip, and "
        "put both, packed or not, in a folder acdc/ below the data root.",
    )
    labels = label_ids(stores_255=True)

    def __init__(self, root: Root, split: str = "val", transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        images = find_tree(self.info, root, PLACES, "rgb_anon", ARCHIVES)
        masks = find_tree(self.info, root, PLACES, "gt", ARCHIVES)
        endings = "_rgb_anon.png", "_gt_labelIds.png"
        self._mine = tuple(f"{condition}/{split}/" for condition in CONDITIONS)
        every = paired(images, *endings)
        self.pair(images, masks, (sample for sample in every if sample[1].startswith(self._mine)), endings)

    def beside(self, tree: Tree) -> list[str]:
        """Return the names of all files of the split."""
        return [name for name in super().beside(tree) if name.startswith(self._mine)]
