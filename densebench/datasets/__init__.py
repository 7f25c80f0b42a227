"""Datasets with dense ground truth. A new one is a file here and a line below; see `docs/datasets.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densebench.registry import Registry

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset

DATASETS: Registry[type[DenseDataset]] = Registry("dataset", group="densebench.datasets")
DATASETS.add("scenes", "densebench.datasets.scenes.dataset:Scenes", "rendered scenes, built in, nothing to download")
DATASETS.add("scenes_large", "densebench.datasets.scenes.dataset:ScenesLarge", "the same with 1440 validation images")
DATASETS.add("voc", "densebench.datasets.voc:VOC", "PASCAL VOC 2012 segmentation, VOCdevkit layout")
DATASETS.add("coco", "densebench.datasets.coco:COCO", "COCO 2017 images to train on, no masks")
DATASETS.add("spair", "densebench.datasets.spair:SPair", "SPair-71k, pairs of images with key points")
DATASETS.add("pf_willow", "densebench.datasets.pf_willow:PFWillow", "PF-WILLOW, groups of images with ten key points")
DATASETS.add("nyu", "densebench.datasets.nyu:NYU", "NYU Depth v2, indoor images with metric depth")


def load_dataset(name: str, split: str, root: str | Path | None = None) -> DenseDataset:
    """Return one split of a named dataset.

    >>> load_dataset("scenes", "val").sample(0).mask.shape
    (160, 160)
    """
    from densebench.datasets.dataset import data_root

    return DATASETS[name](data_root(root), split)


__all__ = ["DATASETS", "load_dataset"]
