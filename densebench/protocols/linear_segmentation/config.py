"""Settings of linear segmentation heads: see `densebench.protocols.linear_segmentation.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import Auto, BelowOne, Chance, Count, NonNegative, Positive, Share
from densebench.core.config import Preset
from densebench.ops.choices import AbsentRule
from densebench.protocols.common.feature_config import FeatureConfig

EPOCHS, BATCH = 20, 128
"""As published."""
EMBEDDED = Preset(
    source="preset paper with few epochs and a larger rate: the embedded images are few, and every epoch of crops runs "
    "the backbone",
    settings={"epochs": 3, "batch": 8, "learning_rate": 0.3, "drop_at": 2},
)


@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig(FeatureConfig):
    """Settings of a linear segmentation head; NeCo code and LEO are the codes that `linear_segmentation.py` names."""

    mask_size: Count = 100
    """Side of the logits and masks that are compared, in training and for `miou` (NeCo A.2, NeCo code, LEO)."""
    epochs: Count = EPOCHS
    """20 in PaKA A.2 and NeCo A.2; NeCo's and LEO's configs say 25."""
    batch: Count = BATCH
    """Images per step (NeCo code)."""
    learning_rate: Positive = 0.01
    """Of SGD (PaKA A.2, NeCo code; LEO has 0.1 or 1 for some models)."""
    momentum: BelowOne = 0.9
    """Of SGD."""
    weight_decay: NonNegative = 1e-4
    """Of SGD."""
    drop_at: Count = 20
    """Epochs after which the learning rate falls to `drop_factor` of itself (NeCo code, LEO): never reached in 20
    epochs."""
    drop_factor: Positive = 0.1
    """What the learning rate is multiplied by after `drop_at` epochs."""
    train_share: Share | Auto = "auto"
    """Share of the training images, drawn at random; "auto": 0.1 of COCO (NeCo 4.1, NeCo code, LEO), else all."""
    loaders: Literal["shuffled", "neco"] = "shuffled"
    """What "auto" is for `shuffle` and `drop_last`. "shuffled": yes and no. "neco": VOC is not shuffled and
    loses its last incomplete batch, ADE20K is not shuffled and keeps it, COCO is shuffled and loses it."""
    shuffle: bool | Auto = "auto"
    """A new order of the training images in every epoch, or the listed one; "auto": as `loaders` says."""
    drop_last: bool | Auto = "auto"
    """Leave out the images of an incomplete last batch; "auto": as `loaders` says."""
    evaluations: Count | Literal["epochs"] = "epochs"
    """Times that the validation images are scored in a training, evenly spaced, the last at the end; "epochs": after
    every epoch (NeCo code, LEO)."""
    absent: AbsentRule = "zero"
    """IoU of a class that is neither in the ground truth nor predicted: 0, or left out of the mean."""

    @property
    def n_evaluations(self) -> int:
        """`evaluations` as a number."""
        return self.epochs if self.evaluations == "epochs" else self.evaluations


@dataclass(frozen=True, kw_only=True)
class LinearSegmentationConfig(LinearHeadConfig):
    """Settings of training on random crops."""

    presets = {
        "paper": Preset(source="PaKA A.2 and NeCo A.2 (20 epochs), with the rest as NeCo's code; training shuffled"),
        "embedded": EMBEDDED,
        "neco": Preset(
            source="NeCo experiments/linear_segmentation: 25 epochs, VOC and ADE20K in listed order",
            settings={"epochs": 25, "loaders": "neco"},
        ),
        "neco-text": Preset(
            source="NeCo A.2: 20 epochs; loaders, which it leaves open, as NeCo experiments/linear_segmentation",
            settings={"loaders": "neco"},
        ),
        "leopart": Preset(
            source="Leopart experiments/linear_probing: 25 epochs, batches of 60 on each of 2 GPUs",
            settings={"epochs": 25, "batch": 120, "drop_last": True},
        ),
    }
    scale: tuple[Share, Share] = (0.8, 1.0)
    """Share of the image's area that is cut out (NeCo code, LEO)."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of the cut."""
    flip: Chance = 0.5
    """Chance that a training view is mirrored."""


@dataclass(frozen=True, kw_only=True)
class LinearSegmentationCachedConfig(LinearHeadConfig):
    """Settings of training on cached features."""

    presets = {
        "paper": Preset(source="no paper: linear_segmentation's settings on squashed images instead of crops"),
        "embedded": EMBEDDED,
    }
    mirror: bool = False
    """Show the mirror images in every second epoch: two passes of the backbone instead of one."""
