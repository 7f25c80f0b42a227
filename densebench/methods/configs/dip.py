"""Settings of DIP: see `densebench.methods.dip`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import BelowOne, Chance, Count, Natural, NonNegative, Positive
from densebench.core.config import Preset
from densebench.core.errors import UsageError
from densebench.methods.configs.train import CropConfig, TrainConfig

UNREAD = {f.name for f in dataclasses.fields(CropConfig)} - {"global_size"} | {"momentum", "momentum_end"}
"""Settings that have no meaning here: nothing is random in the crops, and there is no teacher."""


@dataclass(frozen=True, kw_only=True)
class DipConfig(TrainConfig):
    """The published settings; `global_size` is the side of the centre crop."""

    presets = {
        "paper": Preset(source="DIP's published code and configs"),
        "embedded": Preset(
            source="preset paper with one epoch of small batches at a larger rate and a smaller head, for the embedded "
            "images",
            settings={
                "images": 600,
                "cache": 160,
                "epochs": 1,
                "batch": 8,
                "accumulate": 1,
                "global_size": 160,
                "resize": 160,
                "expansion": 4,
                "out": 256,
                "distractors": 3,
                "lr": 1e-3,
                "seed": 0,
            },
        ),
    }
    global_crops: Count = 2
    local_crops: Natural = 0
    flip: Chance = 0.0
    jitter: Chance = 0.0
    grayscale: Chance = 0.0
    blur: Chance = 0.0
    epochs: Count = 5
    batch: Count = 384
    accumulate: Count = 96
    lr: NonNegative = 2.25e-7
    """Peak learning rate of the backbone: 1.5e-7 * 384 / 256."""
    weight_decay: NonNegative = 0.05
    weight_decay_end: NonNegative = 0.05
    beta2: BelowOne = 0.95
    export: Literal["teacher", "student"] = "student"
    # the method's own
    labels: str | None = None
    """Folder of pseudo-labels."""
    pairs: str | None = None
    """List of queries and positives; None = `pairs.txt` in that folder."""
    cover: Literal["image", "crop"] = "image"
    """What a label map shows: its whole image, or as in the published archives the centre crop."""
    classes: Count | None = None
    """Number of pseudo-classes; None = as the folder says, else the 1000 of the published archives."""
    resize: Count = 256
    """Shorter side in pixels that images are brought to before the centre is cut out."""
    blocks: Natural = 3
    """Last blocks of the backbone that are trained, with the final norm and the head."""
    expansion: Count = 7
    """Width of the head's hidden layer in widths of the backbone."""
    out: Count = 6144
    """Width of the head's output."""
    distractors: Natural = 7
    """Positives of other tasks in a task's support."""
    temperature: Positive = 0.07
    """Of the softmax over a patch's similarities to its support."""
    form: Literal["published", "corrected"] = "published"
    """The published code takes probabilities for logits; "corrected" is their cross-entropy, as in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name in UNREAD and getattr(self, field.name) != field.default:
                raise UsageError(f"{field.name} has no meaning for DIP; leave it at {field.default}.")
        if self.resize < self.global_size:
            raise UsageError(f"resize={self.resize}: expected global_size={self.global_size} or more.")
