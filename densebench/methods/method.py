"""The method contract: what a post-training method declares, and what the trainer does with it.

A method is a config (a frozen dataclass on top of `TrainConfig`), a student and a teacher made from a base, and a
`loss` of one batch of views. Everything else (schedules, EMA, precision, checkpoints, logs) is the trainer's.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from densebench.core.errors import UsageError
from densebench.methods.configs.train import TrainConfig
from densebench.methods.crops import CropViews
from densebench.model_zoo.backbone import Backbone, BackboneInfo

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset
    from densebench.methods.data import Samples, TrainingImages


class Branch(nn.Module):
    """A backbone and the head on top of it."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


class Method(nn.Module, ABC):
    """A student, its EMA teacher and the loss between them. Subclasses build `student` and `teacher` and fill `loss`.

    All state that training changes lives in modules and buffers, so that a checkpoint holds it. Randomness may come
    from torch's global generator: the trainer seeds it at every step.
    """

    Config: ClassVar[type[TrainConfig]]
    citation: ClassVar[str] = ""
    teacher_first: ClassVar[bool] = False
    """Does the teacher follow the student before the optimiser's step, as in NeCo's published code, or after it?"""
    student: Branch
    teacher: Branch

    def __init__(self, base: Backbone, config: TrainConfig) -> None:
        """Subclasses build their student on `base`, which is theirs to change, and call `adopt`."""
        super().__init__()
        self.base_info = base.info
        self.config = config

    @classmethod
    def inputs(cls, config: Any, base: BackboneInfo, dataset: DenseDataset) -> dict[str, str]:
        """Return digests of what a run reads besides base and images, by name; they are part of its origin.

        Called before anything is written or decoded: what is missing raises UsageError here.
        """
        return {}

    def samples(self, images: TrainingImages) -> Samples:
        """Return what an epoch goes through; by default each image is a sample, cut by `crop`."""
        return images

    @abstractmethod
    def loss(self, views: CropViews) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar with gradient to the student only) and scalars for the log."""

    def before_update(self, progress: float) -> None:
        """Change gradients before the optimiser reads them; `progress` is the share of the training that is over."""

    def adopt(self, student: Branch) -> None:
        """Take a student and make the teacher as its frozen copy."""
        self.student = student.requires_grad_(True).train()
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        if self.config.drop_path:
            drop_paths(student.backbone, self.config.drop_path)
        nets: list[Any] = [branch.backbone.net for branch in (self.student, self.teacher)]
        if self.config.checkpointing:
            nets[0].set_grad_checkpointing(True)
        if self.config.compile:
            for block in (*nets[0].blocks, *nets[1].blocks):
                block.compile()
        self._settled = [
            m for m in student.backbone.modules() if isinstance(m, nn.BatchNorm2d) and int(m.num_batches_tracked or 0)
        ]

    def training_mode(self) -> None:
        """Set student and teacher up for a step; batch statistics that came with a trained base stay as they are."""
        self.teacher.eval()
        self.student.train()  # last: a method without a teacher has its student in both places
        for norm in self._settled:
            norm.eval()


def drop_paths(backbone: Backbone, rate: float) -> None:
    """Let every block skip its two branches at random while training, at rates from 0 (first) to `rate` (last)."""
    blocks: Any = getattr(backbone.net, "blocks", ())
    for share, block in zip(torch.linspace(0, rate, len(blocks)).tolist(), blocks, strict=True):
        for name in ("drop_path1", "drop_path2"):
            if not hasattr(block, name):
                raise UsageError(f"{backbone.info.name} has no {name} in its blocks; set drop_path=0.")
            setattr(block, name, DropPath(share))


@torch.no_grad()
def unit_gain(backbone: Backbone) -> None:
    """Scale every matrix of the blocks to a deviation of 1 / sqrt(its inputs): outputs as large as inputs.

    ViTs start at 0.02, which suits a width of some 2500: in a net 128 wide the blocks then add next to nothing to
    their input for thousands of images.
    """
    for name, weight in backbone.named_parameters():
        if weight.ndim == 2 and ".blocks." in f".{name}":
            weight.mul_(weight.shape[1] ** -0.5 / weight.std())


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move each weight of the teacher to `momentum` * teacher + (1 - `momentum`) * student."""
    for weight, target in zip(teacher.parameters(), student.parameters(), strict=True):
        weight.lerp_(target, 1 - momentum)
    for buffer, other in zip(teacher.buffers(), student.buffers(), strict=True):
        buffer.copy_(other)
