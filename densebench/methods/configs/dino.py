"""Settings of DINO: see `densebench.methods.dino`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import Chance, Count, NonNegative, Positive
from densebench.core.config import Preset
from densebench.methods.configs.train import Range, Scale, TrainConfig


@dataclass(frozen=True, kw_only=True)
class DinoConfig(TrainConfig):
    """Self-distillation without labels (Caron et al. 2021; centring by Sinkhorn-Knopp as in DINOv2, Oquab et al. 2023).

    The paper's own form: centring=mean scale=false teacher_temperature=0.04 pool=class head_norm=false prototypes=65536
    hidden=2048 bottleneck=256 momentum=0.996. In runs of a few hundred steps it ends in its uniform solution (the
    logged `teacher_entropy` reaches log(prototypes)), hence `scale`, `head_norm` and `centring` as they are here.
    """

    presets = {
        "default": Preset(source="small, for a tiny ViT on a CPU"),
        "embedded": Preset(source="preset default, which the embedded data needs no other setting than"),
    }
    images: Count | None = 10_000
    cache: Count | None = 160
    global_size: Count = 64
    global_scale: Scale = (0.2, 0.8)
    local_size: Count = 32
    local_scale: Scale = (0.04, 0.2)
    jitter_range: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.4, 0.4, 0.4, 0.25)
    blur: Chance = 0.2
    blur_sigma: Range = (0.1, 1.0)
    epochs: Count = 10
    batch: Count = 32
    lr: NonNegative = 1e-3
    lr_end: NonNegative = 1e-5
    warmup: Chance = 0.05
    weight_decay: NonNegative = 0.04
    weight_decay_end: NonNegative = 0.2
    momentum: Chance = 0.9
    """Low at the start: in a short run the teacher has to follow."""
    clip: Positive | None = 3.0
    # the method's own
    pool: Literal["class", "mean"] = "mean"
    """What stands for a crop: the class token, or the mean of the patch tokens, which trains these directly."""
    hidden: Count = 512
    """Width of the head's hidden layers."""
    bottleneck: Count = 128
    """Width of what prototypes are compared with."""
    prototypes: Count = 512
    """Number of prototypes."""
    head_norm: bool = True
    """Batch norm in the head, over the crops of one size in one part of a batch (their appendix, use of BN)."""
    centring: Literal["sinkhorn", "mean"] = "sinkhorn"
    """How the teacher's prototypes are kept in equal use: three Sinkhorn-Knopp rounds, or minus a running mean."""
    centre_momentum: Chance = 0.9
    """Of the running mean."""
    scale: bool = True
    """Divide the teacher's cosines by their deviation in the batch: a sharpness that cannot fade away."""
    student_temperature: Positive = 0.1
    """Of the student's softmax over prototypes."""
    teacher_temperature: Positive = 0.15
    """In units of that deviation where `scale` is on."""
    freeze_prototypes: Chance = 0.01
    """Share of the steps, from the start, in which the prototypes do not move (one of 100 epochs in the paper)."""
