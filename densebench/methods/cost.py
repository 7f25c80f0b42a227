"""What a training run will need: memory and arithmetic per image, the largest batch that fits, speed, hours.

Memory is counted, not sampled: the tensors that autograd keeps for the backward pass of a real step, each storage once.
It is the same on every device, as far as kernels keep the same things (a fused attention keeps no N x N scores).
Arithmetic is counted too: matrix products, convolutions and attention, forward and backward, as torch counts them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densebench.core.environment import available_memory
from densebench.methods.crops import Crops, CropViews, make_views
from densebench.methods.data import batches
from densebench.methods.method import Method, TrainConfig
from densebench.methods.trainer import Trainer, parts
from densebench.model_zoo.backbone import BackboneInfo

GIB = 2**30


@dataclass(frozen=True)
class TrainingCost:
    """Needs of one run."""

    images: int
    """Samples in an epoch: images, or pairs of them."""
    steps: int
    part: int
    """Images per forward pass, per process."""
    fixed: int
    """Bytes whatever the batch: weights of student and teacher, gradients, both moments of AdamW."""
    per_image: int
    """Bytes kept for the backward pass, per image."""
    flops: int
    """Floating-point operations per image, forward and backward; a product and its sum are two."""
    flops_outside: float
    """Share of these outside the backbone: head and loss."""
    available: int | None
    """Bytes of memory on the device, None where the system does not say."""
    images_per_second: float | None = None
    """Measured over whole steps on crops that lie ready; None = not measured."""
    loading: float | None = None
    """Images per second that one loader process decodes and cuts."""
    outside: float | None = None
    """Share of a step's time outside the backbone: head, alignment, loss, optimiser, EMA."""

    @property
    def largest(self) -> int | None:
        """The largest part of a batch that fits, with a tenth of the memory left alone."""
        if self.available is None:
            return None
        return max(0, int((0.9 * self.available - self.fixed) // max(1, self.per_image)))

    def lines(self, config: TrainConfig) -> list[str]:
        """Return a table of name and value, for people."""
        total = self.steps * config.batch
        rows = [
            ("images", f"{self.images:,} per epoch, {config.epochs} epochs, {self.steps:,} steps of {config.batch}"),
            ("memory per image", f"{self.per_image / GIB:.3f} GiB for the backward pass"),
            ("memory whatever the batch", f"{self.fixed / GIB:.2f} GiB"),
            ("memory of a step", f"{(self.fixed + self.part * self.per_image) / GIB:.2f} GiB with {self.part} images"),
            (
                "arithmetic per image",
                f"{self.flops / 1e9:.1f} GFLOP, {100 * self.flops_outside:.0f} % outside the backbone",
            ),
        ]
        if self.available is not None and self.largest is not None:
            fits = f"{self.largest} images of {self.available / GIB:.1f} GiB"
            if self.largest < self.part:
                fits += f"; too few: set accumulate={math.ceil(self.part / max(1, self.largest)) * config.accumulate}"
            rows.append(("largest part that fits", fits))
        if self.images_per_second is not None:
            rows.append(("images per second", f"{self.images_per_second:.2f}"))
            rows.append(("hours", f"{total / self.images_per_second / 3600:.2f}"))
        if self.outside is not None:
            rows.append(("time outside the backbone", f"{100 * self.outside:.0f} %"))
        if self.loading is not None:
            rows.append(("images per second and loader", f"{self.loading:.1f}"))
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}" for name, value in rows]


def estimate(trainer: Trainer) -> TrainingCost:
    """Return what is counted, from passes of one and of two images; weights do not change.

    The second image says what an image takes beside what is kept once, such as weights rounded to bfloat16.
    """
    trainer.method.training_mode()
    config, device = trainer.config, trainer.device
    one, two = (next(batches(trainer.samples, replace(config, batch=n, accumulate=1), 0, 0, pin=False)) for n in (1, 2))
    one_views, two_views = (make_views(batch, config, (config.seed, 0, 0), device) for batch in (one, two))
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        first, flops = count(trainer.method, one_views)
        per_image = count(trainer.method, two_views, backward=False)[0] - first
    with FlopCounterMode(display=False) as inner:
        _backbone_alone(trainer.method, one, trainer)
    trained = sum(p.numel() for p in trainer.method.student.parameters() if p.requires_grad)
    everything = sum(_bytes(t) for t in (*trainer.method.parameters(), *trainer.method.buffers()))
    return TrainingCost(
        images=len(trainer.samples),
        steps=trainer.steps,
        part=config.batch // (config.accumulate * trainer.group.size),
        fixed=everything + 3 * 4 * trained + max(0, first - per_image),
        per_image=per_image,
        flops=flops,
        flops_outside=max(0.0, 1 - inner.get_total_flops() / flops),
        available=_device_memory(device),
    )


def measure(trainer: Trainer, steps: int = 3) -> TrainingCost:
    """Return memory needs and speed, from a few whole steps on images that are cut beforehand; weights change."""
    config = trainer.config
    cost = estimate(trainer)
    began = time.perf_counter()
    batch = next(batches(trainer.samples, config, 0, 0, pin=False))
    loading = config.batch / (time.perf_counter() - began)
    whole = _seconds(lambda: trainer.update(batch), steps, trainer.device)
    inner = _seconds(lambda: _backbone_alone(trainer.method, batch, trainer), steps, trainer.device)
    return replace(
        cost,
        images_per_second=config.batch / whole,
        loading=loading,
        outside=max(0.0, 1 - inner / whole),
    )


def rough_flops(config: TrainConfig, backbone: BackboneInfo) -> float:
    """Return the operations of one image from the sizes of its crops alone: nothing is built, heads are left out.

    Three passes of the student over every crop (the way back is two), one of the teacher over the global ones.
    """
    wide = config.global_crops * backbone.pass_flops(config.global_size)
    return 4 * wide + 3 * config.local_crops * backbone.pass_flops(config.local_size)


def count(method: Method, views: CropViews, backward: bool = True) -> tuple[int, int]:
    """Return the bytes that autograd keeps for the backward pass of a loss, weights not counted, and the FLOPs.

    These are of both passes, or of the forward pass alone.
    """
    weights = {t.untyped_storage().data_ptr() for t in (*method.parameters(), *method.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = method.loss(views)  # holds what is kept, so that no address is used twice
        kept = sum(seen.values())
        if backward:
            loss.backward()
    method.zero_grad(set_to_none=True)
    return kept, counter.get_total_flops()


def _backbone_alone(method: Method, batch: Crops, trainer: Trainer) -> None:
    """Pass all crops through the student's backbone, forward and backward, and global ones through the teacher's."""
    config, device = trainer.config, trainer.device
    for part in parts(batch, config.accumulate):
        wide, near = (crops.to(device).flatten(0, 1).float() / 255 for crops in (part.globals, part.locals))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            if method.teacher is not method.student:
                with torch.no_grad():
                    method.teacher.backbone.dense(wide)
            total = torch.zeros((), device=device)
            for pixels in (wide, near):
                if len(pixels):
                    total = total + method.student.backbone.dense(pixels).maps[0].float().sum()
        total.backward()
    method.student.zero_grad(set_to_none=True)


def _seconds(run: Callable[[], Any], times: int, device: torch.device) -> float:
    """Return the median seconds of a call, after one to warm up."""
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began)
    return sorted(found[1:])[times // 2]


def _bytes(tensor: Tensor | nn.Parameter) -> int:
    return tensor.numel() * tensor.element_size()


def _device_memory(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
