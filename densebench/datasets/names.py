"""The names of datasets: a new one is a file in `sets` and a line below."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.core.errors import UsageError
from densebench.core.registry import Registry

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset

DATASETS: Registry[type[DenseDataset]] = Registry("dataset", "densebench.datasets", needs=("info", "image"))
for _name, _place, _summary in (
    ("scenes", "scenes.dataset:Scenes", "rendered scenes, built in, nothing to download"),
    ("scenes_large", "scenes.dataset:ScenesLarge", "scenes with 1440 validation images"),
    ("voc", "sets.voc:VOC", "PASCAL VOC 2012 segmentation, VOCdevkit layout"),
    ("ade20k", "sets.ade20k:ADE20K", "ADE20K, 150 classes and other, which is not evaluated"),
    ("ade20k_150", "sets.ade20k:ADE20K150", "ADE20K, 150 classes, other is void"),
    ("coco_things", "sets.coco.masks:CocoThings", "COCO-things, 12 classes, panoptic masks"),
    ("coco_stuff", "sets.coco.masks:CocoStuff", "COCO-stuff, 15 classes, stuff pixel maps"),
    ("coco_stuff27", "sets.coco.masks:CocoStuff27", "COCO-Stuff-27, things and stuff"),
    ("coco_stuff164k", "sets.coco.masks:CocoStuff164K", "COCO-Stuff-164K, 171 classes"),
    ("coco_things80", "sets.coco.masks:CocoThings80", "COCO, 80 things, panoptic masks"),
    (
        "coco_things_instances",
        "sets.coco.instances:CocoThingsInstances",
        "COCO-things, 12 classes, drawn from the instances JSON",
    ),
    (
        "coco_things80_instances",
        "sets.coco.instances:CocoThings80Instances",
        "COCO, 80 things, drawn from the instances JSON",
    ),
    ("cityscapes", "sets.cityscapes.cityscapes:Cityscapes", "Cityscapes, 19 classes"),
    ("cityscapes27", "sets.cityscapes.cityscapes:Cityscapes27", "Cityscapes, 27 classes"),
    ("acdc", "sets.cityscapes.acdc:ACDC", "ACDC, the 19 classes of Cityscapes in bad conditions"),
    ("pascal_context", "sets.pascal_context:PascalContext", "Pascal Context, 60 classes"),
    ("pascal_context59", "sets.pascal_context:PascalContext59", "Pascal Context, 59 classes"),
    ("pascal_part", "sets.pascal_part:PascalPart", "Pascal-Part, six parts of animals"),
    ("camvid", "sets.camvid:CamVid", "CamVid, 11 classes"),
    ("coco", "sets.coco.images:COCO", "COCO 2017 images to train on, no masks"),
    ("spair", "sets.spair:SPair", "SPair-71k, pairs of images with keypoints"),
    ("pf_willow", "sets.pf_willow:PFWillow", "PF-WILLOW, groups of images with ten keypoints"),
    ("nyu", "sets.nyu.nyu:NYU", "NYU Depth v2, indoor images with metric depth"),
    ("nyu_labeled", "sets.nyu.nyu:NYULabeled", "NYU Depth v2, the official file alone, 795 / 654"),
    ("nyu_filled", "sets.nyu.nyu:NYUFilled", "NYU Depth v2, the official file, depth filled in"),
    ("nyu_h5", "sets.nyu.nyu:NYUFrames", "NYU Depth v2, frames of sparse-to-dense, filled in"),
    ("seven_scenes", "sets.seven_scenes:SevenScenes", "7-Scenes, indoor images with depth"),
):
    DATASETS.add(_name, f"densebench.datasets.{_place}", _summary)


def register_own(found: type[DenseDataset], spec: str) -> str:
    """Register a dataset of the user's own, described by the file of `spec`, and return its name.

    Raises UsageError for the name of another dataset.
    """
    name, source = found.info.name, str(Path(spec).expanduser().absolute())
    if name in DATASETS and os.path.realpath(DATASETS[name].source) != os.path.realpath(source):
        raise UsageError(f"{spec} is called {name!r}, which is another dataset's name; give it a name of its own.")
    found.source = source
    DATASETS.add(name, found, f"from {spec}", replace=True)  # its file may have changed
    return name
