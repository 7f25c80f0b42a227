"""NeCo: a student patch should rank reference patches by similarity as its teacher does.

"Near, far: Patch-ordering enhances vision foundation models' scene understanding"; settings of the published code and
configs where these and the paper differ (Cauchy comparisons, one-sided loss, references from a queue of teacher
tokens). See `ops/neco.py` for the loss.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from densebench.methods.aligned import Aligned
from densebench.methods.configs.neco import NecoConfig
from densebench.methods.method import TrainConfig
from densebench.model_zoo.backbone import Backbone
from densebench.ops.neco import neco_pair_loss
from densebench.ops.roi import crop_pairs


class Neco(Aligned):
    """Agreement of patch orders."""

    Config: ClassVar[type[TrainConfig]] = NecoConfig
    citation = "Near, far: Patch-ordering enhances vision foundation models' scene understanding (NeCo)"
    config: NecoConfig
    queue: Tensor  # (G, queue, width of the head's output), newest first
    filled: Tensor  # () rows that count as filled

    def __init__(self, base: Backbone, config: NecoConfig) -> None:
        super().__init__(base, config)
        width = config.out if config.hidden else base.info.width
        self.register_buffer("queue", torch.zeros(config.global_crops, config.queue, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        pairs = crop_pairs(config.global_crops, config.global_crops + config.local_crops)
        self.sources = [pairs[i][0] for i in self.used]
        """The global crop of each pair that counts."""

    def compare(self, student: Tensor, teacher: Tensor, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Push teacher tokens into the queue, draw references, and return the mean over pairs."""
        if self.config.queue:
            self.push(maps)
        loss = neco_pair_loss(student, teacher, self.sources, self.config, queue=self.queue, filled=int(self.filled))
        return loss, {}

    @torch.no_grad()
    def push(self, maps: Tensor) -> None:
        """Put min(10 * batch, queue) random teacher tokens per global crop in front of the queue.

        As in the published code the count of filled rows grows with every crop, so twice as fast as a queue does with
        two global crops: in the first steps about half of the rows drawn are still zero.
        """
        n = min(10 * maps.shape[1], self.config.queue)
        for g, tokens in enumerate(maps.permute(0, 1, 3, 4, 2).flatten(1, 3)):
            new = tokens[torch.randperm(len(tokens), device=tokens.device)[:n]].to(self.queue.dtype)
            self.queue[g] = torch.cat([new, self.queue[g, : self.config.queue - len(new)]])
            self.filled.add_(len(new)).clamp_(max=self.config.queue)
