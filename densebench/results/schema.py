"""The result record: everything a mismatch between two tables was ever traced to, versioned, validated when read.

`docs/results.md` explains each field; `store.py` keeps records in a folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from densebench.core.text import plain

SCHEMA: Literal[2] = 2

Coordinate = bool | int | float | str
Key = tuple[str, tuple[tuple[str, Coordinate], ...]]
"""What a metric is within its record: its name, and its coordinates in alphabetical order."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Metric(_Strict):
    """One number of a measurement, with its uncertainty."""

    name: str
    """The quantity, such as "miou"."""
    at: dict[str, Coordinate] = Field(default_factory=dict)
    """What varies within the protocol, such as {"fraction": "1/8"}: its coordinates, by name."""
    value: float
    unit: Literal["%", "nat", "1", "m", "px"] = "%"
    higher_is_better: bool = True
    main: bool = False
    """Whether tables and plots show it by default."""
    ci95: tuple[float, float] | None = None
    """95 % interval over validation images; None where the protocol has none."""
    ci_method: str = ""
    seeds: dict[str, float] = Field(default_factory=dict)
    """Values per seed where the protocol repeats; `value` is their mean."""
    per_class: dict[str, float | None] = Field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Which metric it is: no two of a record share it."""
        return metric_key(self.name, self.at)

    @property
    def label(self) -> str:
        """What tables call it: "miou@1/8"."""
        return metric_label(self.name, self.at)


class SplitRecord(_Strict):
    """Which images a split held."""

    split: str
    n_images: int
    digest: str
    n_published: int = 0
    """Images of the split as it is published; 0 where nobody says."""

    def missing(self, limit: int | None) -> str:
        """Return in words how it is not the whole split, "" where it is: "120 of 1449", "first 32 of 1449"."""
        first = "first " if limit is not None and self.n_images == limit else ""
        if self.n_published not in (0, self.n_images):
            return f"{first}{self.n_images} of {self.n_published}"
        return f"{first}{self.n_images}" if first else ""


class DataRecord(_Strict):
    """Which data was measured on, and how its labels were read."""

    name: str
    n_classes: int
    ignored: tuple[int, ...]
    train: SplitRecord | None
    """None where the protocol reads no training images."""
    val: SplitRecord
    limit: int | None = None
    skipped: tuple[str, ...] = ()
    """Ids of images left out because their files are corrupt (--skip-corrupt)."""

    @property
    def label(self) -> str:
        """The dataset, with how its splits are not whole: "voc (120 of 1449, trained on 260 of 10582)"."""
        val, train = self.val.missing(self.limit), self.train.missing(self.limit) if self.train else ""
        parts = [val, f"trained on {train}" if train else ""]
        if self.skipped and not any(parts):  # of a dataset that is not published
            parts.append(f"{len(self.skipped)} left out")
        if self.limit is not None and "first" not in val + train:  # which corrupt images have made fewer
            parts.append(f"limit {self.limit}")
        said = ", ".join(filter(None, parts))
        return f"{self.name} ({said})" if said else self.name


class ModelRecord(_Strict):
    """Which weights were measured."""

    name: str
    weights_sha256: str
    patch: int
    prefix: int
    width: int
    depth: int
    heads: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str = ""
    citation: str = ""
    parameters: int | None = None
    """How many numbers its parameters hold; None in records of before."""


class ProtocolRecord(_Strict):
    """Which protocol in which setting."""

    name: str
    version: int
    preset: str
    source: str
    config: dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict)
    """What departs from the preset, as it was asked for; precision and type of features but for the defaults."""

    @property
    def label(self) -> str:
        """The preset and what departs from it: "paper + input_size=224, neighbours=1"."""
        return setting_label(self.preset, self.settings)


class StatisticsRecord(_Strict):
    """What is kept of each image, so that records of the same images can be compared: see `counts.py`."""

    file: str
    """Path relative to the record's folder."""
    n_bytes: int
    sha256: str


class Cost(_Strict):
    """What the cell took."""

    seconds: dict[str, float]
    """Per stage; "total" is the whole cell."""
    peak_memory_bytes: int
    peak_gpu_bytes: int = 0
    bank_bytes: int = 0
    """The largest structure beside the model, as estimated before the run: the bound that `run` checks."""
    images_per_second: float | None = None
    """Of the model's forward pass alone, at the size of the validation images; None where the protocol has no such
    pass, and in records of before."""


class Record(_Strict):
    """One finished cell: model x protocol x dataset x preset."""

    schema_version: Literal[2] = SCHEMA
    score_hash: str
    created: str
    """ISO 8601, UTC."""
    seed: int
    model: ModelRecord
    data: DataRecord
    protocol: ProtocolRecord
    features: dict[str, Any]
    metrics: tuple[Metric, ...]
    facts: dict[str, Any] = Field(default_factory=dict)
    """What the protocol has to say beside its metrics: backends used, bank rows, recall, biases."""
    notes: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    """Pictures and tables, as paths relative to the record's folder."""
    statistics: StatisticsRecord | None = None
    """None where the protocol keeps nothing of single images, and in records of before."""
    environment: dict[str, str] = Field(default_factory=dict)
    cost: Cost
    withdrawn: str = ""
    """Why somebody took the result back; such a record stays, and is ranked against nothing."""

    @property
    def title(self) -> str:
        """The cell in words: "pico / hummingbird / voc (paper + neighbours=1), seed 1"."""
        seed = f", seed {self.seed}" if self.seed else ""
        return plain(f"{self.model.name} / {self.protocol.name} / {self.data.label} ({self.protocol.label}){seed}")

    @property
    def complete(self) -> bool:
        """Whether all images entered: only such records belong on a leaderboard."""
        return self.data.limit is None


def metric_key(name: str, at: Mapping[str, Coordinate]) -> Key:
    """Return what tells metrics apart; the order of coordinates does not."""
    return name, tuple(sorted(at.items()))


def metric_label(name: str, at: Mapping[str, Coordinate]) -> str:
    """Return what tables, plots and lines call a metric.

    >>> metric_label("miou", {"fraction": "1/8"}), metric_label("miou", {"clusters": 300})
    ('miou@1/8', 'miou@K=300')
    >>> metric_label("pck", {"alpha": 0.1, "facet": "key"}), metric_label("pck", {"threshold": 3})
    ('pck@0.10/key', 'pck@threshold=3')
    """
    texts = "/".join(coordinate_text(*pair) for pair in at.items())
    return f"{name}@{texts}" if texts else name


def coordinate_text(name: str, value: Coordinate) -> str:
    """Return a coordinate as labels have it: bare where everybody knows what it is, of alpha two decimals or more."""
    if name == "alpha" and isinstance(value, float):
        return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
    if name in ("fraction", "head", "facet", "alpha"):
        return str(value)
    return f"{'K' if name == 'clusters' else name}={value}"


def setting_label(preset: str, settings: Mapping[str, Any]) -> str:
    """Return a preset with what departs from it.

    >>> setting_label("paper", {"input_size": 224, "fractions": [1, 8]})
    'paper + input_size=224, fractions=[1, 8]'
    """
    return f"{preset} + {settings_text(settings)}" if settings else preset


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as `--set` takes them, separated by commas."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return ", ".join(f"{name}={'none' if text == 'null' else text}" for name, text in texts.items())


def nonsense(record: Record) -> str:
    """Return in words what cannot be true of a record's numbers, "" where nothing."""
    keys = [metric.key for metric in record.metrics]
    for metric in record.metrics:
        numbers = [metric.value, *(metric.ci95 or ()), *metric.seeds.values()]
        numbers += [value for value in metric.per_class.values() if value is not None]
        if not all(map(math.isfinite, numbers)):
            return f"a value of metric {metric.label} is not a finite number"
        if metric.ci95 and metric.ci95[0] > metric.ci95[1]:
            return f"the interval of metric {metric.label} ends before it begins: {list(metric.ci95)}"
        if keys.count(metric.key) > 1:
            return f"metric {metric.label} is there {keys.count(metric.key)} times"
    return ""
