"""What a run will need, known before it starts: images, cache, memory, time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from densebench.environment import available_memory
from densebench.errors import UsageError
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import BackboneInfo
from densebench.protocols.protocol import Estimate, Protocol


@dataclass
class Cell:
    """One measurement to make, with what is known of it before it runs."""

    spec: ModelSpec
    protocol: Protocol[Any]
    dataset: str
    preset: str
    config: Any = None
    train_dataset: str = ""
    """Where the training images come from, if not from `dataset` (domain shift)."""
    estimate: Estimate | None = None
    score_hash: str = ""
    path: Path = Path()
    seconds: float = 0.0
    """Rough estimate, filled in by a dry run; so is what follows."""
    cache_bytes: int = 0
    model: str = ""
    """What the model is called: by its spec, and once it is built, by itself."""

    def __post_init__(self) -> None:
        self.model = self.model or self.spec.shown

    @property
    def data_name(self) -> str:
        """The dataset, with the one trained on before it where that is another."""
        return f"{self.train_dataset}->{self.dataset}" if self.train_dataset else self.dataset

    def __str__(self) -> str:
        return f"{self.model} / {self.protocol.name} / {self.data_name}"


def check_fits(cell: Cell) -> None:
    """Raise UsageError for a cell whose bank will not fit into memory, with what to change."""
    assert cell.estimate is not None
    available = available_memory()
    if available is not None and cell.estimate.bank_bytes > available:
        raise UsageError(
            f"{cell} needs {cell.estimate.bank_bytes / 1e9:.1f} GB of memory for its bank and {available / 1e9:.1f} GB "
            f"are free. {cell.protocol.shrink_hint}"
        )


def estimated_seconds(estimate: Estimate, backbone: BackboneInfo, flops_per_second: float) -> float:
    """Return a rough time for a cell: the arithmetic of backbone and search at the machine's measured rate."""
    flops = estimate.search_flops
    for spec, n_images in estimate.features.values():
        height, width = spec.grid(backbone)
        tokens = height * width + backbone.prefix
        block = 24 * backbone.width**2 + 4 * tokens * backbone.width  # projections and MLP, then attention
        flops += n_images * tokens * backbone.depth * block
    return flops / flops_per_second


def measured_flops(device: str) -> float:
    """Return what this machine does in float32, in operations per second: a third of a large product's rate."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        (a @ a).sum().item()
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates) / 3


def plan_line(cell: Cell) -> str:
    """Return one line of a plan: what a cell will read, hold and take."""
    assert cell.estimate is not None
    reads = ", ".join(
        f"{n} {split} images at {spec.size[0]}x{spec.size[1]}" for split, (spec, n) in cell.estimate.features.items()
    )
    return (
        f"  {cell} ({cell.preset}): {reads}; cache {cell.cache_bytes / 1e9:.2f} GB, "
        f"memory {cell.estimate.bank_bytes / 1e9:.2f} GB, about {_duration(cell.seconds)}"
    )


def _duration(seconds: float) -> str:
    """Return a time in the unit that a reader would choose."""
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.0f} days"
