"""The method contract: what a post-training method declares, and what the trainer does with it.

A method is a config (a frozen dataclass on top of `TrainConfig`), a student and a teacher made from a base, and a
`loss` of one batch of views. Everything else (schedules, EMA, precision, checkpoints, logs) is the trainer's.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from densebench.errors import UsageError
from densebench.methods.crops import CropConfig, Views
from densebench.model_zoo.backbone import Backbone

if TYPE_CHECKING:
    from densebench.methods.data import Images


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CropConfig):
    """Settings that every method has; a method's config adds its own and other defaults."""

    # data
    split: str | None = None
    """Split to train on; None = `unlabelled` where the dataset has one, else its train split."""
    images: int | None = None
    """Train on the first so many images; None = all."""
    cache: int | None = None
    """Longer side in pixels of a decode-once cache on disk (smaller images stay as they are); None = no cache."""
    # optimisation
    epochs: int = 10
    batch: int = 64
    """Images per update, over all accumulated parts; a last incomplete batch of an epoch is left out."""
    accumulate: int = 1
    """Parts that a batch is computed in; what a loss does across a batch then stays within a part."""
    lr: float = 1e-5
    """Peak learning rate of the backbone."""
    head_lr: float | None = None
    """Peak learning rate of everything else; None = `lr`."""
    lr_end: float = 0.0
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises linearly; a cosine to `lr_end` follows."""
    weight_decay: float = 0.04
    """A cosine leads from here to `weight_decay_end`; biases, norms and other vectors have none."""
    weight_decay_end: float = 0.4
    beta2: float = 0.999
    momentum: float = 0.996
    """EMA momentum of the teacher at the first step; a cosine leads to `momentum_end`."""
    momentum_end: float = 1.0
    clip: float | None = None
    """Largest gradient norm, over all parameters."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    # outcome
    export: Literal["teacher", "student"] = "teacher"
    """Whose backbone becomes the zoo checkpoint."""
    weights: Literal["fp16", "fp32"] = "fp16"
    """Number format of the zoo checkpoint."""
    checkpoint_every: int = field(default=100, metadata={"free": True})
    """Steps between checkpoints; the one setting that may change on resume."""
    log_every: int = 10
    """Steps between log lines; each holds means over its steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: expected 1 or more.")
        if self.batch % self.accumulate:
            raise UsageError(f"batch={self.batch} cannot be computed in accumulate={self.accumulate} equal parts.")


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
    student: Branch
    teacher: Branch

    def __init__(self, base: Backbone, config: TrainConfig) -> None:
        """Subclasses build their student on `base`, which is theirs to change, and call `adopt`."""
        super().__init__()
        self.base_info = base.info
        self.config = config

    def prepare(self, images: Images, fresh: bool) -> None:
        """Look at the images before the first step of a new run; a resumed one finds the outcome in its checkpoint.

        `fresh` says that the base has random weights.
        """

    @abstractmethod
    def loss(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (a scalar with gradient to the student only) and scalars for the log."""

    def before_update(self, progress: float) -> None:
        """Change gradients before the optimiser reads them; `progress` is the share of the training that is over."""

    def adopt(self, student: Branch) -> None:
        """Take a student and make the teacher as its frozen copy."""
        self.student = student.requires_grad_(True).train()
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move each weight of the teacher to `momentum` * teacher + (1 - `momentum`) * student."""
    for weight, target in zip(teacher.parameters(), student.parameters(), strict=True):
        weight.lerp_(target, 1 - momentum)
    for buffer, other in zip(teacher.buffers(), student.buffers(), strict=True):
        buffer.copy_(other)
