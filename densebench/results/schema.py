"""The result record and its store: one JSON per cell, versioned, validated when read, written whole or not at all.

A record states everything a mismatch between two tables was ever traced to. `docs/results.md` explains each field.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import filelock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from densebench.core.errors import StorageError
from densebench.core.locks import lock
from densebench.core.paths import write_atomically
from densebench.core.regular import read
from densebench.core.text import plain

SCHEMA: Literal[1] = 1
LONGEST_SLUG = 100
"""Characters; file systems take names of 255, and that of a record holds model, preset and a hash."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Metric(_Strict):
    """One number of a measurement, with its uncertainty."""

    name: str
    """Such as "miou@1/8": the quantity, then the setting that varies within the protocol."""
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


class Cost(_Strict):
    """What the cell took."""

    seconds: dict[str, float]
    """Per stage; "total" is the whole cell."""
    peak_memory_bytes: int
    peak_gpu_bytes: int = 0
    bank_bytes: int = 0
    """The largest structure beside the model, as estimated before the run: the bound that `run` checks."""


class Record(_Strict):
    """One finished cell: model x protocol x dataset x preset."""

    schema_version: Literal[1] = SCHEMA
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
    environment: dict[str, str] = Field(default_factory=dict)
    cost: Cost

    @property
    def title(self) -> str:
        """The cell in words: "pico / hummingbird / voc (paper + neighbours=1), seed 1"."""
        seed = f", seed {self.seed}" if self.seed else ""
        return plain(f"{self.model.name} / {self.protocol.name} / {self.data.label} ({self.protocol.label}){seed}")

    @property
    def complete(self) -> bool:
        """Whether all images entered: only such records belong on a leaderboard."""
        return self.data.limit is None


class ResultStore:
    """Records in a folder: `records/DATASET/PROTOCOL/MODEL--PRESET--HASH.json`, artifacts in a folder beside each."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, *, dataset: str, protocol: str, model: str, preset: str, score_hash: str) -> Path:
        """Return where the record of a cell is, or would be."""
        name = f"{slug(model)}--{slug(preset)}--{score_hash}.json"
        return self.root / "records" / slug(dataset) / slug(protocol) / name

    def has(self, *, dataset: str, protocol: str, model: str, preset: str) -> bool:
        """Return whether there is a record that may be that of a cell, of any hash."""
        every = self.path(dataset=dataset, protocol=protocol, model=model, preset=preset, score_hash="*")
        return any(every.parent.glob(every.name))

    def place(self, record: Record) -> Path:
        """Return where a record belongs."""
        return self.path(
            dataset=record.data.name,
            protocol=record.protocol.name,
            model=record.model.name,
            preset=record.protocol.preset,
            score_hash=record.score_hash,
        )

    def read(self, path: Path) -> Record:
        """Read and validate one record; raises StorageError for one that is torn, another schema, or holds nonsense."""
        try:
            record = Record.model_validate_json(read(path))
            wrong = _nonsense(record)
        except OSError as error:
            wrong = error.strerror or str(error)
        except ValidationError as error:
            wrong = " ".join(str(error).splitlines()[:3])
        if wrong:
            raise StorageError(
                f"{path} is no record of schema {SCHEMA} ({wrong}). "
                "Remove it and run the cell again, or read it with the densebench version that wrote it."
            )
        return record

    def write(self, path: Path, record: Record, artifacts: Mapping[str, bytes] | None = None) -> None:
        """Write artifacts, then the record: a record that exists has all its artifacts."""
        for name, content in (artifacts or {}).items():
            write_atomically(path.parent / name, content)
        write_atomically(path, record.model_dump_json(indent=1))

    def lock(self, path: Path) -> filelock.BaseFileLock:
        """Return the lock that a process holds while it computes the cell of `path`."""
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write to {self.root} ({error.strerror}); choose another with --out.") from None
        return lock(folder / f"{path.stem}.lock")

    def records(self) -> Iterator[Record | StorageError]:
        """Yield every record in path order; what cannot be read is yielded as its error."""
        for path in sorted((self.root / "records").glob("*/*/*.json")):
            try:
                yield self.read(path)
            except StorageError as error:
                yield error


def slug(text: str) -> str:
    """Return `text` with everything that is awkward in a file name replaced by '-', and cut where it is long.

    A cut one ends in a digest of the whole, so that two texts that begin alike keep two names.
    """
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")
    if len(plain) <= LONGEST_SLUG:
        return plain
    return f"{plain[: LONGEST_SLUG - 9]}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


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


def _nonsense(record: Record) -> str:
    """Return in words what cannot be true of a record's numbers, "" where nothing."""
    names = [metric.name for metric in record.metrics]
    for metric in record.metrics:
        numbers = [metric.value, *(metric.ci95 or ()), *metric.seeds.values()]
        numbers += [value for value in metric.per_class.values() if value is not None]
        if not all(map(math.isfinite, numbers)):
            return f"a value of metric {metric.name} is no finite number"
        if metric.ci95 and metric.ci95[0] > metric.ci95[1]:
            return f"the interval of metric {metric.name} ends before it begins: {list(metric.ci95)}"
        if names.count(metric.name) > 1:
            return f"metric {metric.name} is there {names.count(metric.name)} times"
    return ""
