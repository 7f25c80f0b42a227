"""How many images a backbone takes per second: what the leaderboard sets beside a score."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from densebench.features.source import FeatureSource

BATCH = 8
"""Images of a timed pass, at most."""
LONG_ENOUGH = 0.25
"""Seconds of a timed pass, about; a model that needs more for one image is timed on one."""
PASSES = 3
"""Of which the fastest counts: the others waited for something else on the machine."""


def images_per_second(source: FeatureSource, size: tuple[int, int]) -> float:
    """Return how many images of (height, width) pixels go through the model per second, on its device.

    The forward pass alone, in the source's precision: no files, no cache, nothing of the protocol. A second is spent on
    it at most, or two passes of one image. The state of random numbers stays as it is.
    """
    backbone, device = source.backbone, source.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(), source.autocast():
        images = torch.full((min(BATCH, source.batch_size), 3, *size), 0.5, device=device)
        backbone.dense(images[:1])  # the first pass of a process allocates and chooses kernels
        one = _seconds(source, images[:1])
        if one > LONG_ENOUGH:
            return 1 / one
        images = images[: max(1, int(LONG_ENOUGH / one))]
        return len(images) / min(_seconds(source, images) for _ in range(PASSES))


def _seconds(source: FeatureSource, images: torch.Tensor) -> float:
    start = time.perf_counter()
    found = source.backbone.dense(images)
    found.maps[0].flatten()[0].item()  # waits for the device
    return time.perf_counter() - start
