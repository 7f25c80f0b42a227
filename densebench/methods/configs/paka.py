"""Settings of PaKA: see `densebench.methods.paka`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densebench.core.bounds import Chance, Count, NonNegative
from densebench.core.config import Preset
from densebench.methods.configs.aligned import EMBEDDED, FOR_EMBEDDED, AlignedConfig


@dataclass(frozen=True, kw_only=True)
class PakaConfig(AlignedConfig):
    """Appendix A.1 of the paper: ViT-S/14 on COCO train2017, one GPU.

    ViT-B and bases other than DINOv2 take lr=1e-6 (B.3, B.4). Table 5 is a matter of kernel, min_intersection and
    clean_teacher; its runs have epochs=10 and batch=40.
    """

    presets = {
        "paper": Preset(source="PaKA A.1"),
        "embedded": Preset(source=FOR_EMBEDDED, settings=EMBEDDED),
    }
    epochs: Count = 25
    batch: Count = 55
    lr: NonNegative = 5e-6
    momentum: Chance = 0.99
    min_intersection: Chance = 0.9
    clean_teacher: bool = True
    # the method's own
    kernel: Literal["cka", "gram", "hsic", "mmd_linear", "mmd_rbf"] = "cka"
    """What is compared: kernel alignment, or the ablations of table 5a."""
