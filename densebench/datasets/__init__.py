"""Datasets with dense ground truth. A new one is a file here and a line below; see `docs/datasets.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densebench.core.registry import Registry

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset

DATASETS: Registry[type[DenseDataset]] = Registry("dataset", "densebench.datasets", needs=("info", "image"))
DATASETS.add("scenes", "densebench.datasets.scenes.dataset:Scenes", "rendered scenes, built in, nothing to download")
DATASETS.add("scenes_large", "densebench.datasets.scenes.dataset:ScenesLarge", "scenes with 1440 validation images")
DATASETS.add("voc", "densebench.datasets.voc:VOC", "PASCAL VOC 2012 segmentation, VOCdevkit layout")
DATASETS.add("ade20k", "densebench.datasets.ade20k:ADE20K", "ADE20K, 150 classes and other, which is not evaluated")
DATASETS.add("ade20k_150", "densebench.datasets.ade20k:ADE20K150", "ADE20K, 150 classes, other is void")
DATASETS.add("coco_things", "densebench.datasets.coco_masks:CocoThings", "COCO-things, 12 classes, panoptic masks")
DATASETS.add("coco_stuff", "densebench.datasets.coco_masks:CocoStuff", "COCO-stuff, 15 classes, stuff pixel maps")
DATASETS.add("coco_stuff27", "densebench.datasets.coco_masks:CocoStuff27", "COCO-Stuff-27, things and stuff")
DATASETS.add("coco_stuff164k", "densebench.datasets.coco_masks:CocoStuff164K", "COCO-Stuff-164K, 171 classes")
DATASETS.add("coco_things80", "densebench.datasets.coco_masks:CocoThings80", "COCO, 80 things, panoptic masks")
DATASETS.add(
    "coco_things_instances",
    "densebench.datasets.coco_instances:CocoThingsInstances",
    "COCO-things, 12 classes, drawn from the instances JSON",
)
DATASETS.add(
    "coco_things80_instances",
    "densebench.datasets.coco_instances:CocoThings80Instances",
    "COCO, 80 things, drawn from the instances JSON",
)
DATASETS.add("cityscapes", "densebench.datasets.cityscapes:Cityscapes", "Cityscapes, 19 classes")
DATASETS.add("cityscapes27", "densebench.datasets.cityscapes:Cityscapes27", "Cityscapes, 27 classes")
DATASETS.add("acdc", "densebench.datasets.acdc:ACDC", "ACDC, the 19 classes of Cityscapes in bad conditions")
DATASETS.add("pascal_context", "densebench.datasets.pascal_context:PascalContext", "Pascal Context, 60 classes")
DATASETS.add("pascal_context59", "densebench.datasets.pascal_context:PascalContext59", "Pascal Context, 59 classes")
DATASETS.add("pascal_part", "densebench.datasets.pascal_part:PascalPart", "Pascal-Part, six parts of animals")
DATASETS.add("camvid", "densebench.datasets.camvid:CamVid", "CamVid, 11 classes")
DATASETS.add("coco", "densebench.datasets.coco:COCO", "COCO 2017 images to train on, no masks")
DATASETS.add("spair", "densebench.datasets.spair:SPair", "SPair-71k, pairs of images with key points")
DATASETS.add("pf_willow", "densebench.datasets.pf_willow:PFWillow", "PF-WILLOW, groups of images with ten key points")
DATASETS.add("nyu", "densebench.datasets.nyu:NYU", "NYU Depth v2, indoor images with metric depth")
DATASETS.add("nyu_labeled", "densebench.datasets.nyu:NYULabeled", "NYU Depth v2, the official file alone, 795 / 654")
DATASETS.add("nyu_filled", "densebench.datasets.nyu:NYUFilled", "NYU Depth v2, the official file, depth filled in")
DATASETS.add("nyu_h5", "densebench.datasets.nyu:NYUFrames", "NYU Depth v2, frames of sparse-to-dense, filled in")
DATASETS.add("seven_scenes", "densebench.datasets.seven_scenes:SevenScenes", "7-Scenes, indoor images with depth")


def load_dataset(name: str, split: str, root: str | Path | None = None) -> DenseDataset:
    """Return one split of a named dataset, or of one described by FILE.toml or FILE.py:Class.

    >>> load_dataset("scenes", "val").sample(0).mask.shape
    (160, 160)
    """
    from densebench.datasets.dataset import data_root

    return DATASETS[resolve_dataset(name)](data_root(root), split)


def resolve_dataset(spec: str) -> str:
    """Return the registered name of a dataset; one of the user's own (FILE.toml, FILE.py:Class) is registered first.

    Raises UsageError for a file that describes no dataset; other texts are returned as they are.
    """
    if ".toml" in spec or ".py" in spec:
        from densebench.datasets.user import adopt

        return adopt(spec)
    return spec


__all__ = ["DATASETS", "load_dataset", "resolve_dataset"]
