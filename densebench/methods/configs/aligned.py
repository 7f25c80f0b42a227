"""Settings of methods that compare aligned patches: see `densebench.methods.aligned`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from densebench.core.bounds import BelowOne, Chance, Count, Natural, NonNegative, Seed, Share
from densebench.core.errors import UsageError
from densebench.methods.configs.train import TrainConfig

EMBEDDED: dict[str, Any] = {
    "images": 1600,
    "cache": 160,
    "epochs": 1,
    "batch": 8,
    "global_size": 112,
    "global_scale": (0.35, 1.0),
    "local_size": 40,
    "hidden": 0,
    "roi_size": 5,
    "lr": 1e-4,
    "drop_path": 0.0,
    "weight_decay_end": 0.04,
    "seed": 0,
}
"""Minutes on two cores. Images are 160 pixels wide, so crops are small; a net of 1.2 M parameters takes a larger rate
than a ViT-S; a few hundred steps are too few to train a head first, so tokens are compared as they are."""
FOR_EMBEDDED = "preset paper with one epoch of small crops at a larger rate and no head, for the embedded images"


@dataclass(frozen=True, kw_only=True)
class AlignedConfig(TrainConfig):
    """Settings of methods that compare aligned patches; defaults are those of NeCo's code unless said otherwise."""

    global_size: Count = 518
    local_size: Count = 98
    flip: Chance = 0.0
    min_shared: Share = 0.01
    """Share of the image's area that each local crop has in common with each global one; global ones, twice that with
    each other. Crops that have nothing in common cannot be compared."""
    lr: NonNegative = 1e-5
    head_lr: NonNegative | None = 1e-4
    weight_decay: NonNegative = 0.04
    weight_decay_end: NonNegative = 0.5
    momentum: Chance = 0.9995
    drop_path: BelowOne = 0.1
    seed: Seed = 400
    # shared by the methods
    hidden: Natural = 2048
    """Width of the two hidden layers of the projection head, which is dropped after training; 0 = no head."""
    out: Count = 256
    """Width of its output; without a head, tokens are compared as they are."""
    normalise: bool = True
    """Scale projected tokens to unit length before they are aligned."""
    clean_teacher: bool = False
    """Show the teacher the same cuts without colour operations."""
    pairs: Literal["all", "global_local"] = "all"
    """Student crops that a global crop is compared with: all others, or local ones only."""
    roi_size: Annotated[int, Ge(2)] = 7
    """Cells a side that an intersection is read on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs == "global_local" and not self.local_crops:
            raise UsageError("pairs=global_local needs local_crops of 1 or more.")
        if self.global_crops + self.local_crops < 2:
            raise UsageError("a single crop has no other to be compared with; set global_crops=2.")
