"""Records as rows: one per metric and record, in one order, the same bytes for the same records.

A row is flat, so tables, plots and the CSV file read nothing else. `docs/results.md` explains each column.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from densebench.errors import StorageError
from densebench.results import Record, ResultStore

SHORT = 12
"""Characters kept of a weights digest."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one record; the fields are the columns of `leaderboard.csv`, in its order."""

    model: str
    protocol: str
    dataset: str
    preset: str
    metric: str
    value: float
    unit: str
    ci95_low: float | None
    ci95_high: float | None
    n_images: int
    seed_count: int
    score_hash: str
    date: str
    """Day the cell finished, UTC."""
    main: bool
    higher_is_better: bool
    variant: str
    """Settings in which records of one model, protocol, dataset and preset differ: "neighbours=50"; mostly empty."""
    limit: int | None
    """Always empty on a leaderboard; a number in what `run` shows of a --limit run."""
    seed: int
    weights_sha256: str
    protocol_version: int
    densebench: str

    @property
    def label(self) -> str:
        """The model, with what sets it apart from its other records."""
        return f"{self.model} ({self.variant})" if self.variant else self.model

    @property
    def table(self) -> tuple[str, str, str]:
        """Rows of one dataset, protocol and preset belong in one table."""
        return self.dataset, self.protocol, self.preset


@dataclass(frozen=True)
class Selection:
    """What a results folder holds: complete records, and what stays off the leaderboard."""

    records: tuple[Record, ...] = ()
    limited: tuple[Record, ...] = ()
    """Records of --limit runs."""
    unreadable: tuple[str, ...] = ()
    """Why each file that is no record could not be read."""


def select(
    results: str | Path, protocols: Iterable[str] | None = None, datasets: Iterable[str] | None = None
) -> Selection:
    """Read the records of a results folder, keeping those of the given protocols and datasets (None: all)."""
    complete: list[Record] = []
    limited: list[Record] = []
    unreadable: list[str] = []
    wanted_protocols, wanted_datasets = _names(protocols), _names(datasets)
    for record in ResultStore(results).records():
        if isinstance(record, StorageError):
            unreadable.append(str(record))
        elif (wanted_protocols is None or record.protocol.name in wanted_protocols) and (
            wanted_datasets is None or record.data.name in wanted_datasets
        ):
            (complete if record.complete else limited).append(record)
    return Selection(tuple(complete), tuple(limited), tuple(unreadable))


def leaderboard_rows(records: Iterable[Record], *, limited: bool = False) -> list[Row]:
    """Return one row per metric of each complete record, best first within a metric.

    Sorted by dataset, protocol, preset, metric (main ones first, then as the protocol lists them), value in the
    metric's direction, model, and the newest first. A score hash that occurs twice for a model counts once, the
    newest; records that differ in settings stay apart and say in `variant` in which. Records of --limit runs stay
    off unless `limited`.
    """
    kept: dict[tuple[str, ...], Record] = {}
    for record in records:
        if not (record.complete or limited):
            continue
        key = (*_cell(record), record.score_hash, str(record.data.limit))
        if key not in kept or _age(kept[key]) < _age(record):
            kept[key] = record
    chosen = list(kept.values())

    position: dict[tuple[str, ...], int] = {}  # of a metric within its protocol
    for record in chosen:
        for index, metric in enumerate(record.metrics):
            place = (record.data.name, record.protocol.name, record.protocol.preset, metric.name)
            position[place] = min(index, position.get(place, index))

    variants = _variants(chosen)
    ordered = []
    for record, variant in zip(chosen, variants, strict=True):
        for row in _rows(record, variant):
            worst_last = -row.value if row.higher_is_better else row.value
            ordered.append(
                (
                    row.table,
                    (not row.main, position[*row.table, row.metric], row.metric),
                    (math.isnan(row.value), 0.0 if math.isnan(row.value) else worst_last),
                    row.model,
                    _newest_first(record.created),
                    row.score_hash,
                    row,
                )
            )
    return [entry[-1] for entry in sorted(ordered, key=lambda entry: entry[:-1])]


def to_csv(rows: Iterable[Any], columns: Sequence[str] | None = None) -> str:
    """Return rows (dataclasses of one type) as CSV text; numbers with six significant digits, None empty."""
    listed = list(rows)
    names = list(columns or [field.name for field in fields(listed[0] if listed else Row)])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in listed:
        writer.writerow([_text(getattr(row, name)) for name in names])
    return out.getvalue()


def to_json(rows: Iterable[Row]) -> str:
    """Return rows as a JSON list of objects; a value that is not finite becomes null."""
    return json.dumps([{k: _finite(v) for k, v in asdict(row).items()} for row in rows], indent=1) + "\n"


def tables(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return rows grouped by (dataset, protocol, preset), in order of appearance."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.table, []).append(row)
    return grouped


def by_entry(rows: Iterable[Row]) -> list[dict[str, Row]]:
    """Return the rows of one table as one {metric: row} per model and variant, best first by the first metric."""
    entries: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        entries[row.label, row.score_hash][row.metric] = row
    return list(entries.values())


def _rows(record: Record, variant: str) -> list[Row]:
    shared: dict[str, Any] = {
        "model": record.model.name,
        "protocol": record.protocol.name,
        "dataset": record.data.name,
        "preset": record.protocol.preset,
        "n_images": record.data.val.n_images,
        "score_hash": record.score_hash,
        "date": record.created[:10],
        "variant": variant,
        "limit": record.data.limit,
        "seed": record.seed,
        "weights_sha256": record.model.weights_sha256[:SHORT],
        "protocol_version": record.protocol.version,
        "densebench": record.environment.get("densebench", ""),
    }
    return [
        Row(
            metric=metric.name,
            value=metric.value,
            unit=metric.unit,
            ci95_low=metric.ci95[0] if metric.ci95 else None,
            ci95_high=metric.ci95[1] if metric.ci95 else None,
            seed_count=len(metric.seeds) or 1,
            main=metric.main,
            higher_is_better=metric.higher_is_better,
            **shared,
        )
        for metric in record.metrics
    ]


def _cell(record: Record) -> tuple[str, str, str, str]:
    return record.data.name, record.protocol.name, record.protocol.preset, record.model.name


def _age(record: Record) -> tuple[str, str]:
    return record.created, record.model_dump_json()  # the second decides between equal times, in any reading order


def _variants(records: Sequence[Record]) -> list[str]:
    """Say for each record in which settings it differs from others of its cell: "neighbours=50, seed=1"."""
    cells = defaultdict(list)
    for record in records:
        cells[_cell(record)].append(_settings(record))
    texts = []
    for record in records:
        settings, others = _settings(record), cells[_cell(record)]
        names = sorted({name for other in others for name in other})
        differing = [name for name in names if len({other.get(name, "-") for other in others}) > 1]
        # what a split's features were asked for follows from the config, so it is named only where nothing else is
        differing = [name for name in differing if not name.startswith("features.")] or differing
        differing = [name for name in differing if name != "examples"] or differing  # pictures, not scores
        texts.append(", ".join(f"{name}={settings.get(name, '-')}" for name in differing))
    return texts


def _settings(record: Record) -> dict[str, str]:
    """Return everything that can change a score, flat and as text."""
    return _flatten(
        {
            **record.protocol.config,
            "version": record.protocol.version,
            "seed": record.seed,
            "limit": record.data.limit,
            "weights": record.model.weights_sha256[:SHORT],
            "train": record.data.train.digest[:SHORT] if record.data.train else "",
            "val": record.data.val.digest[:SHORT],
            "skipped": len(record.data.skipped),
            **{name: value for name, value in record.features.items() if not isinstance(value, Mapping)},
            "features": {name: value for name, value in record.features.items() if isinstance(value, Mapping)},
        }
    )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _newest_first(created: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in created)


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
