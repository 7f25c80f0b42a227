"""HOG: from a recoloured crop, a student predicts for each patch how edges lie around it in the clean crop.

The targets are histograms of oriented gradients (Dalal and Triggs, CVPR 2005), which no colour changes, as in MaskFeat
(Wei et al., CVPR 2022). That hides patches and asks for their own histograms; here nothing is hidden, and the targets
cover windows several patches wide.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from densebench.methods.configs.hog import HogConfig
from densebench.methods.crops import CropViews
from densebench.methods.method import Branch, Method
from densebench.model_zoo.backbone import Backbone
from densebench.ops.gradients import edge_layout
from densebench.ops.precision import widen


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

    def loss(self, views: CropViews) -> tuple[Tensor, dict[str, Tensor]]:
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
