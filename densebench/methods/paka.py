"""PaKA: patches of the student should be similar to each other exactly as those of its clean teacher are.

"Patch-level Kernel Alignment for Dense Self-Supervised Learning": the loss is one minus the centred kernel alignment
(CKA) of the two sides' patches inside the intersection of two crops, per image and pair of crops; local crops overlap
with the global ones by 0.9, and the teacher sees no colour operations. What the paper leaves open is a setting here,
with the default of the code it builds on (NeCo): the head's learning rate, both cosine schedules, the ROI size, unit
length before CKA, and which pairs count. The 0.9 is read as intersection over the local crop's area: a local crop of
5 to 25 % of the image cannot reach an IoU of 0.9 with a global one.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from densebench.methods.aligned import Aligned
from densebench.methods.configs.paka import PakaConfig
from densebench.methods.method import TrainConfig
from densebench.ops.kernels import KERNELS


class Paka(Aligned):
    """Kernel alignment of student and teacher patches."""

    Config: ClassVar[type[TrainConfig]] = PakaConfig
    citation = "Juan Yeo, Ijun Jang and Taesup Kim, Patch-level Kernel Alignment for Dense Self-Supervised Learning"
    config: PakaConfig

    def compare(self, student: Tensor, teacher: Tensor, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over images and pairs of crops."""
        rows = (side.flatten(3).transpose(2, 3) for side in (student, teacher))  # (P, B, k * k, out)
        return KERNELS[self.config.kernel](*rows).mean(), {}
