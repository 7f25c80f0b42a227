"""What a run will need, known before it starts: images, cache, memory, time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench.core.environment import available_memory
from densebench.core.errors import UsageError
from densebench.core.progress import duration
from densebench.model_zoo import ModelSpec
from densebench.model_zoo.backbone import BackboneInfo
from densebench.protocols.protocol import Estimate, Protocol
from densebench.results.schema import Metric, Record, setting_label

ASK_ABOVE = 3600.0
"""Seconds of a plan that nobody gave datasets for, above which it is not begun unasked."""
SMALL = 1e12
"""Operations of a plan that the machine's speed is not measured for: a minute or two even on a slow one."""
SCORES = 6
"""Scores that the line of a finished cell names."""
SLOW = 1e10
"""Operations per second of a slow machine."""


@dataclass
class Cell:
    """One measurement to make, with what is known of it before it runs."""

    spec: ModelSpec
    protocol: Protocol[Any]
    dataset: str
    preset: str = ""
    config: Any = None
    train_dataset: str = ""
    """Where the training images come from, if not from `dataset` (domain shift)."""
    estimate: Estimate | None = None
    score_hash: str = ""
    path: Path = Path()
    flops: float = 0.0
    """Arithmetic of the backbone and of the search, less what cells before it have done for it: rough."""
    seconds: float = 0.0
    """The time that takes on this machine."""
    cache_bytes: int = 0
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What departs from the preset."""
    model: str = ""
    """What the model is called: by its spec, and once it is built, by itself."""

    def __post_init__(self) -> None:
        self.model = self.model or self.spec.shown

    @property
    def data_name(self) -> str:
        """The dataset, with the one trained on before it where that is another."""
        return f"{self.train_dataset}->{self.dataset}" if self.train_dataset else self.dataset

    @property
    def setting(self) -> str:
        """The preset with what departs from it."""
        return setting_label(self.preset, self.settings)

    def __str__(self) -> str:
        seed = f" / seed {self.seed}" if self.seed else ""
        return f"{self.model} / {self.protocol.name} / {self.data_name}{seed}"


def check_fits(cell: Cell) -> None:
    """Raise UsageError for a cell whose bank will not fit into memory, with what to change."""
    assert cell.estimate is not None
    available = available_memory()
    if available is not None and cell.estimate.bank_bytes > available:
        raise UsageError(
            f"{cell} needs {cell.estimate.bank_bytes / 1e9:.1f} GB of memory for its bank and {available / 1e9:.1f} GB "
            f"are free. {cell.protocol.shrink_hint}"
        )


def count_flops(cell: Cell, backbone: BackboneInfo, done: set[Any]) -> None:
    """Fill in what a cell takes; feature passes that are kept and `done` by earlier cells are not counted again."""
    assert cell.estimate is not None
    cell.flops = cell.estimate.search_flops
    for split, (spec, n_images) in cell.estimate.features.items():
        height, width = spec.grid(backbone)
        once = (cell.model, (cell.train_dataset if split == "train" else "") or cell.dataset, split, spec, n_images)
        if split not in cell.estimate.uncached:
            if once in done:
                continue
            done.add(once)
        cell.flops += n_images * backbone.token_flops(height * width + backbone.prefix)


def estimate_seconds(cells: Sequence[Cell], device: str) -> None:
    """Fill in the seconds of a plan, from this machine's measured speed where it is more than small."""
    rate = SLOW if sum(cell.flops for cell in cells) < SMALL else measured_flops(device)
    for cell in cells:
        cell.seconds = cell.flops / rate


def measured_flops(device: str) -> float:
    """Return what this machine does in float32, in operations per second: a third of a large product's rate."""
    import torch

    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        (a @ a).sum().item()
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates) / 3


def plan_lines(cells: Sequence[Cell]) -> list[str]:
    """Return a plan as text: a line per cell, and the total."""
    models, datasets = ({getattr(cell, name) for cell in cells} for name in ("model", "data_name"))
    total = f"{_count(len(models), 'model')}, {_count(len(datasets), 'dataset')}"
    lines = [plan_line(cell) for cell in cells]
    return [*lines, f"total: {_count(len(cells), 'cell')} ({total}), about {duration(sum(c.seconds for c in cells))}"]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def plan_line(cell: Cell) -> str:
    """Return one line of a plan: what a cell will read, hold and take."""
    assert cell.estimate is not None
    reads = ", ".join(
        f"{n} {split} images at {spec.size[0]}x{spec.size[1]}" for split, (spec, n) in cell.estimate.features.items()
    )
    return (
        f"  {cell} ({cell.setting}): {reads}; cache {cell.cache_bytes / 1e9:.2f} GB, "
        f"memory {cell.estimate.bank_bytes / 1e9:.2f} GB, about {duration(cell.seconds)}"
    )


def finished_line(cell: Cell, record: Record) -> str:
    """Return one line on a cell that is done: its scores with 95 % intervals, seconds, record and pictures."""
    scores = [_score(metric) for metric in record.metrics if metric.main]
    if len(scores) > SCORES:
        scores[SCORES:] = [f"and {len(scores) - SCORES} more"]
    pictures = sum(name.endswith(".png") for name in record.artifacts)
    beside = f", {_count(pictures, 'picture')} in {cell.path.with_suffix('')}" if pictures else ""
    return f"{record.title}: {', '.join(scores)}; {duration(record.cost.seconds['total'])}; {cell.path}{beside}"


def _score(metric: Metric) -> str:
    decimals = 1 if metric.unit in ("%", "px") else 3
    text = f"{metric.label} {metric.value:.{decimals}f}" + f" {metric.unit}" * (metric.unit != "1")
    if metric.ci95 is None:
        return text
    return f"{text} [{metric.ci95[0]:.{decimals}f}, {metric.ci95[1]:.{decimals}f}]"
