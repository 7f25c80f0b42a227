"""Settings that every method has: what is cut from images, and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from densebench.core.bounds import BelowOne, Chance, Count, Natural, NonNegative, Positive, Seed, Share
from densebench.core.config import Preset
from densebench.core.errors import UsageError

Range = tuple[Positive, Positive]
Scale = tuple[Share, Share]
"""Shares of an image's area."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What is cut from an image and how it is coloured; chances are per crop."""

    global_crops: Count = 2
    """Large crops of each image."""
    global_size: Count = 224
    """Side in pixels, a multiple of the patch."""
    global_scale: Scale = (0.25, 1.0)
    """Share of the image's area."""
    local_crops: Natural = 4
    """Small crops of each image."""
    local_size: Count = 98
    """Side in pixels, a multiple of the patch."""
    local_scale: Scale = (0.05, 0.25)
    """Share of the image's area."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width over height of a crop before it is resized to a square."""
    min_shared: Chance = 0.0
    """Share of the image's area that each local crop has in common with each global one; global ones, twice that with
    each other."""
    min_intersection: Chance = 0.0
    """Share of a local crop's own area that lies in each global crop."""
    draws: Count = 200
    """Boxes drawn for a crop before the one that comes nearest to these two rules is taken."""
    flip: Chance = 0.5
    """Chance to be mirrored."""
    jitter: Chance = 0.8
    """Chance to be recoloured within `jitter_range`."""
    jitter_range: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.8, 0.8, 0.8, 0.2)
    """Half-widths of brightness, contrast and saturation around 1, and of hue in turns (0.5 = any hue)."""
    grayscale: Chance = 0.2
    """Chance to lose all colour."""
    blur: Chance = 0.5
    """Chance to be blurred by a Gaussian of `blur_sigma`."""
    blur_sigma: Range = (0.1, 2.0)
    """Pixels of the resized crop."""
    solarise: Chance = 0.0
    """Chance that bright values are inverted."""

    def __post_init__(self) -> None:
        for name in ("global_scale", "local_scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise UsageError(f"{name}={[low, high]}: expected a range from low to high.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CropConfig):
    """Settings that every method has; a method's config adds its own and other defaults."""

    presets: ClassVar[Mapping[str, Preset]] = {"default": Preset(source="the defaults")}
    """The first is what the defaults are; `embedded` is taken on embedded data where nothing is asked for."""

    # data
    split: str | None = None
    """Split to train on; None = `unlabelled` where the dataset has one, else its train split."""
    images: Count | None = None
    """Train on the first so many images; None = all."""
    cache: Count | None = None
    """Longer side in pixels of a decode-once cache on disk (smaller images stay as they are); None = no cache."""
    skip_corrupt: bool = False
    """Let the next image stand in for one that cannot be read, and name it in the card; else the run stops."""
    # optimisation
    epochs: Count = 10
    """Passes over the images."""
    batch: Count = 64
    """Images per update, over all accumulated parts; a last incomplete batch of an epoch is left out."""
    accumulate: Count = 1
    """Parts that a batch is computed in; what a loss does across a batch then stays within a part."""
    lr: NonNegative = 1e-5
    """Peak learning rate of the backbone."""
    head_lr: NonNegative | None = None
    """Peak learning rate of everything else; None = `lr`."""
    lr_end: NonNegative = 0.0
    """Learning rate at the last step."""
    warmup: Chance = 0.0
    """Share of the steps in which the learning rate rises linearly; a cosine to `lr_end` follows."""
    weight_decay: NonNegative = 0.04
    """A cosine leads from here to `weight_decay_end`; biases, norms and other vectors have none."""
    weight_decay_end: NonNegative = 0.4
    """Weight decay at the last step."""
    beta2: BelowOne = 0.999
    """Of AdamW; the first beta is 0.9."""
    momentum: Chance = 0.996
    """EMA momentum of the teacher at the first step; a cosine leads to `momentum_end`."""
    momentum_end: Chance = 1.0
    """EMA momentum at the last step."""
    clip: Positive | None = None
    """Largest gradient norm, over all parameters."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward pass; weights are float32 in both."""
    drop_path: BelowOne = 0.0
    """Rate at which the student's last block is skipped, per sample; it rises linearly over the blocks."""
    checkpointing: bool = False
    """Recompute the student's blocks in the backward pass: less memory, more time."""
    compile: bool = False
    """torch.compile the blocks of student and teacher: faster after minutes of preparation, on a GPU."""
    unit_gain: bool = True
    """Start a base with random weights at unit gain (see `unit_gain`); trained bases are never touched."""
    seed: Seed = 0
    """Of crops, order, and everything that is drawn in training."""
    # outcome
    export: Literal["teacher", "student"] = "teacher"
    """Whose backbone becomes the zoo checkpoint."""
    weights: Literal["fp16", "fp32"] = "fp16"
    """Number format of the zoo checkpoint."""
    checkpoint_every: Count = field(default=100, metadata={"free": True})
    """Steps between checkpoints; this and `keep` may change on resume."""
    keep: Count = field(default=1, metadata={"free": True})
    """How many checkpoints of the running training stay; the end of the run removes them."""
    log_every: Count = 10
    """Steps between log lines; each holds means over its steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch % self.accumulate:
            raise UsageError(f"batch={self.batch} cannot be computed in accumulate={self.accumulate} equal parts.")
