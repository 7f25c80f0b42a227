"""HOG: from a recoloured crop, a student predicts for each patch how edges lie around it in the clean crop.

The targets are histograms of oriented gradients (Dalal and Triggs, CVPR 2005), which no colour changes, as in MaskFeat
(Wei et al., CVPR 2022). That hides patches and asks for their own histograms; here nothing is hidden, and the targets
cover windows several patches wide. A tiny ViT learns shape from them in minutes on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.errors import UsageError
from densebench.methods.crops import Range, Views
from densebench.methods.method import Branch, Method, TrainConfig
from densebench.model_zoo.backbone import Backbone


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
        guess = self.student.head(features.permute(0, 2, 3, 1)).float()
        spread = (target - target.flatten(0, 2).mean(0)).square().mean().clamp_min(1e-6)
        loss = (guess - target).square().mean() / spread
        return loss, {"explained": 1 - loss.detach()}


@torch.no_grad()
def edge_layout(images: Tensor, patch: int, windows: tuple[int, ...], orientations: int, floor: float) -> Tensor:
    """Return the layout of edges around each patch: HOG (Dalal and Triggs, CVPR 2005) of windows in a 3 x 3 layout.

    Gradients are those of the channel where they are strongest; signs are dropped. For each width in `windows`, the
    histograms of the window at the patch and of its eight neighbours (a window's width apart) are joined, scaled to
    length one, clipped at 0.25 and scaled again; images are continued at their rims.

    Args:
        images: (N, 3, H, W) in [0, 1], sides multiples of `patch`.
        patch: side of a patch in pixels.
        windows: odd widths in patches.
        orientations: bins over half a turn; a gradient is shared by the two nearest.
        floor: gradient magnitude taken off everywhere.

    Returns:
        (N, len(windows) * 9 * orientations, H / patch, W / patch), mean square near one where there are edges.
    """
    across = F.pad(images[..., 2:] - images[..., :-2], (1, 1, 0, 0))
    down = F.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1))
    strongest = (across.square() + down.square()).argmax(1, keepdim=True)
    across, down = across.gather(1, strongest), down.gather(1, strongest)
    strength = (torch.hypot(across, down) - floor).clamp_min(0)
    angle = torch.atan2(down, across).remainder(math.pi) * (orientations / math.pi)
    low = angle.floor()
    share = angle - low
    low = low.long() % orientations
    votes = images.new_zeros(len(images), orientations, *images.shape[2:])
    votes.scatter_(1, low, strength * (1 - share))
    votes.scatter_add_(1, (low + 1) % orientations, strength * share)
    cells = F.avg_pool2d(votes, patch)  # (N, orientations, h, w)
    h, w = cells.shape[2:]
    layouts = []
    for width in windows:
        blurred = F.avg_pool2d(F.pad(cells, (width // 2,) * 4, mode="replicate"), width, stride=1)
        padded = F.pad(blurred, (width,) * 4, mode="replicate")
        steps = (0, width, 2 * width)
        layout = torch.cat([padded[:, :, y : y + h, x : x + w] for y in steps for x in steps], dim=1)
        layouts.append(_unit(_unit(layout).clamp(max=0.25)) * math.sqrt(9 * orientations))
    return torch.cat(layouts, dim=1)


def _unit(x: Tensor) -> Tensor:
    """Scale (N, C, h, w) to length one over C; what is nearly zero stays so."""
    return x / (x.norm(dim=1, keepdim=True) + 0.02)
