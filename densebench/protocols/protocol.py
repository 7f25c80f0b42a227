"""The protocol contract: a frozen config, named presets with their source, and `run` from features to numbers.

A protocol is one file of about two screens: pure functions from `ops/` inside, a thin shell around them. To add one,
write the file and add a line to `densebench/protocols/__init__.py`; `docs/your_protocol.md` walks through it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from densebench.core.bounds import PICTURES
from densebench.core.config import Preset as Preset
from densebench.core.config import apply_overrides, default_preset, find_preset
from densebench.core.errors import UsageError
from densebench.results.counts import ImageStatistics
from densebench.results.schema import Metric, metric_label

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from densebench.core.bounds import Auto
    from densebench.core.progress import Progress
    from densebench.datasets.dataset import DatasetInfo, DenseDataset
    from densebench.features.source import FeatureSource
    from densebench.features.spec import FeatureSpec
    from densebench.model_zoo.backbone import Backbone, BackboneInfo

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True)
class MetricInfo:
    """What a metric of the protocol means."""

    name: str
    unit: str
    higher_is_better: bool
    meaning: str
    at: tuple[str, ...] = ()
    """Its coordinates: what of the protocol varies between metrics of this name."""

    @property
    def label(self) -> str:
        """What tables call it, coordinates in capitals: "pck@ALPHA/FACET"."""
        return metric_label(self.name, {name: name.upper() for name in self.at})

    def describes(self, metric: Metric) -> bool:
        """Whether a metric is one of these."""
        return metric.name == self.name and set(metric.at) == set(self.at)


@dataclass(frozen=True)
class Data:
    """The two splits a protocol reads."""

    train: DenseDataset
    val: DenseDataset

    @property
    def info(self) -> DatasetInfo:
        """Classes, palette, ignored labels."""
        return self.val.info


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a cell will need, known before it runs."""

    features: Mapping[str, tuple[FeatureSpec, int]] = field(default_factory=dict)
    """Feature passes by split: the request, and the number of images."""
    uncached: frozenset[str] = frozenset()
    """Passes whose features are not kept: of views drawn anew, or too many."""
    bank_bytes: int = 0
    """The largest structure held in memory beside the model."""
    picture_bytes: int = 0
    """Beside it, for each example picture (`run --pictures`)."""
    search_flops: float = 0.0
    """Arithmetic beyond the backbone's."""


@dataclass
class Context:
    """What the runner hands to a protocol beside the data: features of the backbone, progress, the seed, a folder."""

    features: FeatureSource
    progress: Progress
    seed: int = 0
    workspace: Path | None = None
    """Folder for what the cell needs to go on after a kill, not yet made; gone once there is a record. None: nothing is
    kept."""
    pictures: int = PICTURES
    """Examples in each picture; 0 draws none."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def backbone(self) -> Backbone:
        """The backbone that is measured."""
        return self.features.backbone

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the cell; stages of one name add up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def timed(self, stream: Iterable[T], name: str) -> Iterator[T]:
        """Yield from `stream`, booking the time spent inside it to a stage."""
        iterator = iter(stream)
        while True:
            with self.stage(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a protocol returns: metrics, facts worth keeping, pictures."""

    metrics: tuple[Metric, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    """File name to content, such as {"aggregate.png": ...}."""
    statistics: tuple[ImageStatistics, ...] = ()
    """What each image adds to the metrics, one entry per metric and seed; kept beside the record."""


class Protocol(ABC, Generic[C]):
    """One way to measure dense features. Stateless: everything that varies is in the config."""

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when a change of code can change a score."""
    config: ClassVar[type]
    presets: ClassVar[Mapping[str, Preset]]
    metrics: ClassVar[tuple[MetricInfo, ...]]
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    """Ground truth a dataset must have."""
    reads_train: ClassVar[bool] = True
    """Whether training images are read; where not, a dataset may lack them, and `Data.train` is as `Data.val`."""
    seeded: ClassVar[bool] = True
    """Whether `--seed` changes anything; where not, a cell is run once however many seeds are given."""
    shrink_hint: ClassVar[str] = "Try a smaller input size or --limit."
    """What to change when a cell does not fit into memory."""

    def missing_targets(self, data: DatasetInfo) -> str:
        """Return in words which ground truth a dataset lacks, "" where it has all."""
        missing = ", ".join(sorted(self.needs - data.targets))
        return missing and f"{self.name} needs {missing}, which {data.name} does not have"

    def unsupported_reason(self, config: C, backbone: BackboneInfo) -> str:
        """Return in words what this backbone or this machine lacks for the protocol, "" where nothing."""
        return ""

    def default_preset(self, data: DatasetInfo) -> str:
        """Return the preset of a dataset where none is asked for: the paper's, cut down for embedded data."""
        return default_preset(self.presets, data.embedded)

    def configure(self, preset: str = "paper", overrides: Mapping[str, Any] | None = None) -> C:
        """Return the config of a preset with overrides applied."""
        settings = find_preset(self.name, self.presets, preset).settings
        return apply_overrides(self.config(), {**settings, **(overrides or {})}, self.name)

    @abstractmethod
    def resolve(self, config: C, backbone: BackboneInfo, data: DatasetInfo) -> C:
        """Return the config with a value for every "auto", which depends on model, data or machine.

        Raises UsageError for settings that cannot work together.
        """

    @abstractmethod
    def estimate(self, config: C, backbone: BackboneInfo, data: Data) -> Estimate:
        """Return what a run of the resolved config will need."""

    @abstractmethod
    def run(self, config: C, data: Data, context: Context) -> Measurement:
        """Measure."""


def check_depths(protocol: str, least: float, most: float) -> None:
    """Raise UsageError for bounds of depth, in metres, that leave nothing between them."""
    if least >= most:
        raise UsageError(f"{protocol}.max_depth={most}: expected more than {protocol}.min_depth={least}.")


def by_class(info: DatasetInfo, scores: Tensor) -> dict[str, float | None]:
    """Return scores per class (C,) in [0, 1] as percent by class name, None where there is no score (NaN)."""
    return {
        name: None if math.isnan(score) else round(100 * score, 4)
        for name, score in zip(info.classes, scores.tolist(), strict=True)
    }


def input_size(asked: int | Auto, published: int, backbone: BackboneInfo, data: DatasetInfo) -> int:
    """Return the input side in pixels: as asked; for "auto" the dataset's own, else the published one.

    These two are rounded down to a multiple of the patch (512 becomes 504 for patches of 14, as published);
    a size that was asked for must be one already.
    """
    if asked == "auto":
        return max(1, (data.input_size or published) // backbone.patch) * backbone.patch
    if asked % backbone.patch:
        below = asked // backbone.patch * backbone.patch
        raise UsageError(
            f"input_size={asked} is not a multiple of the patch size of {backbone.name} ({backbone.patch}); "
            f"nearest are {below} and {below + backbone.patch}."
        )
    return asked
