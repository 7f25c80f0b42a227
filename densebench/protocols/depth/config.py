"""Settings of linear depth heads: see `densebench.protocols.depth.protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge

from densebench.core.bounds import AtLeastOne, Auto, BelowOne, Chance, Count, NonNegative, Positive
from densebench.core.config import Preset, known, later, no_score
from densebench.ops.choices import BinNorm, Schedule

STEPS, BATCH = 38_400, 16
"""As published."""


class Resolved(NamedTuple):
    """The settings that depend on backbone and dataset, as `Depth.resolve` fills them in."""

    heads: tuple[int, ...]
    norm: bool
    class_token: bool
    crop: tuple[int, int]
    nyu_crops: bool


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Settings of linear depth heads; DINOv2, DINOv3, DVT and MDE are the codes that the protocol names."""

    presets = {
        "paper": Preset(source="PaKA B.1 and Tab. 7, with the head and losses of DINOv2; learning rate searched"),
        "text": Preset(
            source="PaKA B.1 as written: Linear 4 is a 4-layer linear head. Paper is DINOv2's code, whose name it is: "
            "a linear layer on four blocks",
            settings={"four": "linear_layers"},
        ),
        "embedded": Preset(
            source="preset paper with few steps at one rate, and depth up to the 20 m of the embedded scenes",
            settings={"steps": 100, "batch": 8, "max_depth": 20.0, "learning_rates": (5e-3,)},
        ),
        "dinov2": Preset(
            source="dinov2 hub/depthers.py and eval/depth; schedule of Denoising-ViT vitb_nyu_linear_config.py",
            settings={"learning_rates": (5e-3,)},
        ),
        "dinov3": Preset(
            source="dinov3 eval/depth/configs/config-nyu.yaml",
            settings={
                "heads": (1,),
                "norm": True,
                "class_token": False,
                "batch_norm": True,
                "upsample": 1,
                "init_std": 0.01,
                "learning_rates": (3e-4,),
                "beta2": 0.99,
                "weight_decay": 1e-4,
                "schedule": "one_cycle",
            },
        ),
    }
    heads: Auto | Annotated[tuple[Literal[1, 4], ...], AtLeastOne] = "auto"
    """Numbers of layers to read, one head each; "auto": 1 and 4 as PaKA Tab. 7, 1 alone for backbones that give only
    their last layer. Four layers end the four quarters of the depth; of 24 blocks they are 4, 11, 17, 23 as DINOv2 has
    them."""
    four: Literal["blocks", "linear_layers"] = later("blocks")
    """What the four layers of a head of 4 are. "blocks": one linear layer reads four blocks together (DINOv2).
    "linear_layers": four linear layers, with nothing between, read the last block (PaKA B.1)."""
    norm: bool | Auto = "auto"
    """Take the last layer after its final norm (others are always raw); "auto": no, as DINOv2's hub, where the backbone
    can leave it out. DVT and DINOv3 say yes."""
    class_token: bool | Auto = "auto"
    """Concatenate the class token to every patch (DINOv2 yes, DINOv3 no); "auto": where the backbone has one."""
    batch_norm: bool = False
    """Batch normalisation before the linear layer (DINOv3 yes; DINOv2's head is called BNHead and has none)."""
    upsample: Count = 4
    """Bilinear factor on the head's input (DINOv2 4, DINOv3 1)."""
    init_std: Positive | None = None
    """Deviation of the initial weights, biases 0 (DINOv3 0.01); none: torch's default for convolutions (DINOv2)."""
    bins: Annotated[int, Ge(2)] = 256
    """Depths between which a pixel's distance is weighed, evenly spaced (DINOv2, DINOv3)."""
    bin_norm: BinNorm = "linear"
    """How logits become weights of bins that sum to 1: relu + 0.1, exp, or the logistic function, over their sum."""
    min_depth: Positive = 1e-3
    """Metres: first bin, and the exclusive lower bound of what is evaluated (MDE)."""
    max_depth: Positive = 10.0
    """Metres: last bin and exclusive upper bound; 10 as for NYU (DINOv2's hub writes 80)."""
    steps: Count = STEPS
    """Optimiser steps (DVT, DINOv3). Warm-ups are shares of it."""
    batch: Count = BATCH
    """Images per step (DVT, DINOv3: 8 GPUs with 2 each)."""
    images_per_loss: Count = 2
    """The loss is taken over so many images at a time, and averaged (DVT, DINOv3: 2 on each GPU)."""
    learning_rates: Annotated[tuple[Positive, ...], AtLeastOne] = (1e-3, 2e-3, 5e-3)
    """Of AdamW. Of several, each head keeps the one with the lowest RMSE on training images held out. DINOv2's own is
    not public, DVT has 5e-3, PaKA says nothing."""
    held_out: Count = 256
    """Training images that choose among several learning rates, at most a fifth of all; a single rate needs none."""
    beta2: BelowOne = 0.999
    """Second beta of AdamW; the first cycles between 0.95 and 0.85 with the schedule (DVT, DINOv3)."""
    weight_decay: NonNegative = 0.01
    """Of AdamW."""
    schedule: Schedule = "cosine"
    """"cosine": linear warm-up times cosine (DVT). "one_cycle": DINOv3's WarmupOneCycleLR, first beta 0 in the
    warm-up."""
    warmup: BelowOne = 1 / 3
    """Share of the steps (DVT, DINOv3: 12,800)."""
    loss_warmup: Chance = 1 / 384
    """Share of the steps in which the loss is the mean log error alone (DINOv2, DINOv3: 100)."""
    gradient_loss: NonNegative = 0.0
    """Weight of the gradient loss along image rows and columns. DINOv2's code takes differences along batch and
    channel, so the published 0.5 multiplies an exact 0 for 2 images per GPU; 0 is what was run."""
    clip: Positive = 35.0
    """Largest norm of a head's gradient (DVT, DINOv3)."""
    augment: bool = True
    """Rotation, flip, random crop and colour as MDE; without it, the central crop."""
    crop: tuple[Count, Count] | Auto = "auto"
    """Height and width of training crops; "auto": 416x544 (MDE), nine tenths of datasets with a fixed size."""
    nyu_crops: bool | Auto = "auto"
    """Cut NYU's white frame off training images, and evaluate inside the Eigen crop (MDE); "auto": on NYU."""
    flip_test: bool = True
    """Average the predictions of image and mirror image (MDE, DINOv3)."""
    checkpoint_seconds: NonNegative = no_score(60.0)
    """Seconds between checkpoints that a killed run goes on from; one is written at the end, too."""

    @property
    def resolved(self) -> Resolved:
        """What was "auto"; raises ValueError for a config that was not resolved."""
        return Resolved(
            known(self.heads, "heads"),
            known(self.norm, "norm"),
            known(self.class_token, "class_token"),
            known(self.crop, "crop"),
            known(self.nyu_crops, "nyu_crops"),
        )
