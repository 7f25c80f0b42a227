"""Post-training methods: from images without labels to a zoo checkpoint. A new one is a file here and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densebench.core.registry import Registry

if TYPE_CHECKING:
    from densebench.methods.card import TrainResult
    from densebench.methods.method import Method
    from densebench.methods.pseudolabels import Segmenter

METHODS: Registry[type[Method]] = Registry("method", group="densebench.methods")
METHODS.add(
    "paka",
    "densebench.methods.paka:Paka",
    "patch-level kernel alignment by CKA, clean teacher",
    config="densebench.methods.configs.paka:PakaConfig",
)
METHODS.add(
    "neco",
    "densebench.methods.neco:Neco",
    "patch ordering by differentiable sorting",
    config="densebench.methods.configs.neco:NecoConfig",
)
METHODS.add(
    "dip",
    "densebench.methods.dip:Dip",
    "in-context segmentation tasks from pseudo-labels",
    config="densebench.methods.configs.dip:DipConfig",
)
METHODS.add(
    "hog",
    "densebench.methods.hog:Hog",
    "regression of gradient histograms, as in MaskFeat (Wei et al. 2022)",
    config="densebench.methods.configs.hog:HogConfig",
)
METHODS.add(
    "dino",
    "densebench.methods.dino:Dino",
    "self-distillation of image-level prototypes (Caron et al. 2021)",
    config="densebench.methods.configs.dino:DinoConfig",
)

SEGMENTERS: Registry[Segmenter] = Registry("segmenter", group="densebench.segmenters")
SEGMENTERS.add("features", "densebench.ops.segments:merge_patches", "merges alike neighbours in the patch grid")


def train(**kwargs: Any) -> TrainResult:
    """Train a method on a base and write a zoo checkpoint; see `densebench.methods.launch.train`.

    >>> train(method="dino", base="pico?random", data="scenes", name="mine", overrides={"epochs": 1})
    """
    from densebench.methods.launch import train as run

    return run(**kwargs)


__all__ = ["METHODS", "SEGMENTERS", "train"]
