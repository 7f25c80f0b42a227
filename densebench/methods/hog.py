"""HOG: from a recoloured crop, a student predicts for each patch how edges lie around it in the clean crop.

The targets are histograms of oriented gradients (Dalal and Triggs, CVPR 2005), which no colour changes, as in MaskFeat
(Wei et al., CVPR 2022). That hides patches and asks for their own histograms; here nothing is hidden, and the targets
cover windows several patches wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densebench.errors import UsageError
from densebench.methods.crops import Range, Views
from densebench.methods.method import Branch, Method, TrainConfig
from densebench.model_zoo.backbone import Backbone
from densebench.ops.gradients import edge_layout
from densebench.ops.precision import widen


@dataclass(frozen=True, kw_only=True)
class HogConfig(TrainConfig):
    """Prediction of gradient histograms; the defaults pretrain `pico`."""

    images: int | None = 20_000
    cache: int | None = 160
    global_crops: int = 1
    global_size: int = 112
    global_scale: Range = (0.35, 0.95)
    local_crops: int = 0
    jitter: float = 1.0
    jitter_range: tuple[float, float, float, float] = (0.5, 0.5, 0.8, 0.5)
    blur: float = 0.0
    solarise: float = 0.2
    epochs: int = 8
    batch: int = 8
    lr: float = 3e-3
    lr_end: float = 3e-5
    warmup: float = 0.01
    weight_decay: float = 0.05
    weight_decay_end: float = 0.05
    momentum: float = 0.99
    clip: float | None = 3.0
    # the method's own
    windows: tuple[int, ...] = (1, 3, 5)
    """Odd widths, in patches, of the windows whose histograms are laid out 3 x 3 around each patch."""
    orientations: int = 9
    floor: float = 0.04
    """Gradients below, per pixel in [0, 1], are noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.windows or any(w < 1 or w % 2 == 0 for w in self.windows):
            raise UsageError(f"windows={self.windows}: expected odd numbers of patches, such as 1,3,5.")


class Hog(Method):
    """Regression of the layout of edges around each patch."""

    Config = HogConfig
    citation = "Wei et al., Masked Feature Prediction for Self-Supervised Visual Pre-Training, CVPR 2022"
    config: HogConfig

    def __init__(self, base: Backbone, config: HogConfig) -> None:
        super().__init__(base, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            head = nn.Linear(base.info.width, 9 * config.orientations * len(config.windows))
        self.adopt(Branch(base, head))

    def loss(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the share of the targets' variance in this batch that the student does not explain."""
        config = self.config
        target = edge_layout(
            views.clean_globals.flatten(0, 1), self.base_info.patch, config.windows, config.orientations, config.floor
        ).permute(0, 2, 3, 1)  # (N, h, w, C)
        features = self.student.backbone.dense(views.globals.flatten(0, 1)).maps[0]
        guess = widen(self.student.head(features.permute(0, 2, 3, 1)))
        spread = (target - target.flatten(0, 2).mean(0)).square().mean().clamp_min(1e-6)
        loss = (guess - target).square().mean() / spread
        return loss, {"explained": 1 - loss.detach()}
