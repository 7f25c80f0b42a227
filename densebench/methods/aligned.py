"""What PaKA and NeCo share: patches of two crops at the same places, projected by a head, compared pair by pair.

The teacher sees the global crops, the student all crops. For each global crop g and each other crop v, ROI align reads
the teacher's tokens of g and the student's of v inside their intersection on a grid of `roi_size` cells a side, so that
cells correspond; a method says what the loss of such pairs is. Source: NeCo `src/neco.py` and the settings of its
configs, on which PaKA builds.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densebench.methods.configs.aligned import AlignedConfig
from densebench.methods.crops import CropViews
from densebench.methods.method import Branch, Method, TrainConfig
from densebench.model_zoo.backbone import Backbone
from densebench.ops.roi import PairBoxes, align_pairs, crop_pairs, pair_boxes


def projector(width: int, hidden: int, out: int) -> nn.Module:
    """Return the head for tokens (..., width): three linear layers with GELU between them, or nothing."""
    if not hidden:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
    )


class Aligned(Method):
    """A student whose patches, in any crop, are held against its EMA teacher's at the same places of global crops."""

    Config: ClassVar[type[TrainConfig]] = AlignedConfig
    teacher_first = True
    config: AlignedConfig

    def __init__(self, base: Backbone, config: AlignedConfig) -> None:
        super().__init__(base, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            heads = [projector(base.info.width, config.hidden, config.out) for _ in range(2)]
        self.adopt(Branch(base, heads[0]))
        # The two heads start apart, as in NeCo's code; the EMA draws the teacher's to the student's.
        self.teacher.head = copy.deepcopy(heads[1]).requires_grad_(False)
        pairs = crop_pairs(config.global_crops, config.global_crops + config.local_crops)
        self.used = [i for i, (_, v) in enumerate(pairs) if config.pairs == "all" or v >= config.global_crops]

    def loss(self, views: CropViews) -> tuple[Tensor, dict[str, Tensor]]:
        """Project all crops, align the pairs, and compare them."""
        wide = views.clean_globals if self.config.clean_teacher else views.globals
        with torch.no_grad():
            teacher = self.project(self.teacher, wide)
        student = self.project(self.student, views.globals)
        near = self.project(self.student, views.locals) if len(views.locals) else None
        seen, predicted = align_pairs(
            teacher, student, near, self.boxes(views), self.config.roi_size, views.flips if self.config.flip else None
        )
        return self.compare(predicted[self.used], seen[self.used], teacher)

    def project(self, branch: Branch, crops: Tensor) -> Tensor:
        """Return projected token maps (V, B, out, h, w) of crops (V, B, 3, S, S), all in one pass."""
        maps = branch.backbone.dense(crops.flatten(0, 1)).maps[0]
        tokens = branch.head(maps.permute(0, 2, 3, 1))
        if self.config.normalise:
            tokens = F.normalize(tokens, dim=-1)
        return tokens.permute(0, 3, 1, 2).unflatten(0, crops.shape[:2])

    def boxes(self, views: CropViews) -> PairBoxes:
        """Return the intersections of all pairs in tokens."""
        patch, config = self.base_info.patch, self.config
        wide, near = config.global_size // patch, config.local_size // patch
        return pair_boxes(views.boxes, config.global_crops, (wide, wide), (near, near))

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and what is logged.

        Args:
            student: aligned tokens of all pairs (P, B, out, k, k), with gradient.
            teacher: the teacher's tokens at the same places.
            maps: the teacher's token maps (G, B, out, h, w), not aligned.
        """
