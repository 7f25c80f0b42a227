"""Settings of HOG: see `densebench.methods.hog`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from densebench.core.bounds import AtLeastOne, Chance, Count, Natural, NonNegative, Positive
from densebench.core.config import Preset
from densebench.core.errors import UsageError
from densebench.methods.configs.train import Scale, TrainConfig


@dataclass(frozen=True, kw_only=True)
class HogConfig(TrainConfig):
    """Prediction of gradient histograms; the defaults pretrain `pico`."""

    presets = {
        "default": Preset(source="pretrains `pico` in minutes"),
        "embedded": Preset(source="preset default, which the embedded data needs no other setting than"),
    }
    images: Count | None = 20_000
    cache: Count | None = 160
    global_crops: Count = 1
    global_size: Count = 112
    global_scale: Scale = (0.35, 0.95)
    local_crops: Natural = 0
    jitter: Chance = 1.0
    jitter_range: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.5, 0.5, 0.8, 0.5)
    blur: Chance = 0.0
    solarise: Chance = 0.2
    epochs: Count = 8
    batch: Count = 8
    lr: NonNegative = 3e-3
    lr_end: NonNegative = 3e-5
    warmup: Chance = 0.01
    weight_decay: NonNegative = 0.05
    weight_decay_end: NonNegative = 0.05
    momentum: Chance = 0.99
    clip: Positive | None = 3.0
    # the method's own
    windows: Annotated[tuple[Count, ...], AtLeastOne] = (1, 3, 5)
    """Odd widths, in patches, of the windows whose histograms are laid out 3 x 3 around each patch."""
    orientations: Count = 9
    """Bins of a histogram, over half a turn."""
    floor: Chance = 0.04
    """Gradients below, per pixel in [0, 1], are noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(w % 2 == 0 for w in self.windows):
            raise UsageError(f"windows={list(self.windows)}: expected odd numbers of patches, such as [1, 3, 5].")
