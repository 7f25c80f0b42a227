"""Records as rows: one per metric and record, in one order, the same bytes for the same records.

A row is flat, so tables, plots and the CSV file read nothing else. Records that are equal in everything but the seed
are one row, their mean, with the rows of each behind it. `docs/results.md` explains each column.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from densebench.core.errors import StorageError
from densebench.core.text import plain
from densebench.results.schema import Coordinate, Key, Record, metric_key, settings_text
from densebench.results.store import ResultStore

SHORT = 12
"""Characters kept of a weights digest."""
TAG = 8
"""Characters kept of a data digest."""
FORMULA = ("=", "+", "-", "@")
"""How a text begins that a spreadsheet would compute."""

Table = tuple[str, str, str]
"""What rows of one table share: data, protocol, setting."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one record, or its mean over seeds; the fields are the columns of `leaderboard.csv`, in order."""

    model: str
    protocol: str
    dataset: str
    data: str
    """The dataset, with how its splits are not whole: "voc (120 of 1449)"."""
    preset: str
    settings: str
    """What departs from the preset: "input_size=224, neighbours=1"; mostly empty."""
    metric: str
    """What tables call it: "miou@1/8"."""
    quantity: str
    """Its name alone: "miou"."""
    at: Mapping[str, Coordinate]
    """Its coordinates, {"fraction": "1/8"}; each is a column of its own, `at_fraction`."""
    value: float
    unit: str
    ci95_low: float | None
    ci95_high: float | None
    n_images: int
    n_published: int | None
    n_train: int | None
    n_train_published: int | None
    seed_count: int
    seed_sd: float | None
    """Standard deviation over the seeds: of the run where there are several, else of what the protocol repeats."""
    score_hash: str
    """Of all records where there are several, separated by commas."""
    date: str
    """Day the cell finished, UTC."""
    main: bool
    higher_is_better: bool
    variant: str
    """What else sets records of one model in one table apart: "weights=ab01"; mostly empty."""
    limit: int | None
    """Empty on a leaderboard but for --limited; a number in what `run` shows of a --limit run."""
    seed: int | str
    """Several, separated by commas, where the row is a mean."""
    records: int
    """How many records the row is of; those of a mean follow it."""
    weights_sha256: str
    protocol_version: int
    densebench: str
    apart: str = field(default="", metadata={"column": False})
    """What sets the table apart from another of the same name: other images, another version of the protocol."""
    members: tuple[Row, ...] = field(default=(), metadata={"column": False}, repr=False)
    """The rows that this one is the mean of."""

    @property
    def key(self) -> Key:
        """Which metric it is."""
        return metric_key(self.quantity, self.at)

    @property
    def label(self) -> str:
        """The model, with what sets it apart from its other records."""
        return f"{self.model} ({self.variant})" if self.variant else self.model

    @property
    def setting(self) -> str:
        """The preset and what departs from it: "paper + neighbours=1"."""
        return f"{self.preset} + {self.settings}" if self.settings else self.preset

    @property
    def table(self) -> Table:
        """Rows of the same images, protocol and setting belong in one table, and no others."""
        return _table(self.data, self.protocol, self.setting, self.apart)

    @property
    def each(self) -> tuple[Row, ...]:
        """The row of each record: this one, or those that it is the mean of."""
        return self.members or (self,)


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

    Sorted by data, protocol, setting, metric (main ones first, then as the protocol lists them), value in the
    metric's direction, model, and the newest first. A score hash that occurs twice for a model counts once, the
    newest; records that differ in the seed alone are one row with their mean, those that differ otherwise stay apart
    and say in `variant` in what. Records of --limit runs stay off unless `limited`.
    """
    kept: dict[tuple[str, ...], Record] = {}
    for record in records:
        if not (record.complete or limited):
            continue
        key = (*_cell(record), record.score_hash, str(record.data.limit))
        if key not in kept or _age(kept[key]) < _age(record):
            kept[key] = record
    chosen = sorted(kept.values(), key=_age)
    details = _details(chosen)
    rows = _over_seeds(chosen, details, zip(tables_apart(chosen), _variants(chosen, details), strict=True))

    position: dict[tuple[Any, ...], int] = {}  # of a metric within its protocol
    for members in rows:
        for index, row in enumerate(members):
            place = (*row.table, row.key)
            position[place] = min(index, position.get(place, index))

    ordered: list[tuple[Any, ...]] = []
    for members in rows:
        for row in members:
            worst_last = -row.value if row.higher_is_better else row.value
            ordered.append(
                (
                    row.table,
                    (not row.main, position[*row.table, row.key], row.metric),
                    (math.isnan(row.value), 0.0 if math.isnan(row.value) else worst_last),
                    row.model,
                    -len(ordered),  # the newest first
                    row,
                )
            )
    return [entry[-1] for entry in sorted(ordered, key=lambda entry: entry[:-1])]


def tables_apart(records: Sequence[Record]) -> list[str]:
    """Return what sets each record apart from others that are called the same: "images 1f0c77aa", "version 1".

    Records of one data name and setting that saw other images, or are of another version of the protocol, cannot be
    compared; where all agree there is nothing to say.
    """
    groups: dict[Table, list[list[str]]] = defaultdict(list)
    for record in records:
        groups[_named(record)].append(_compared(record))
    texts = []
    for record in records:
        columns = zip(*groups[_named(record)], strict=True)
        said = [text for text, column in zip(_compared(record), columns, strict=True) if len(set(column)) > 1]
        texts.append(", ".join(said))
    return texts


def tables_of(records: Sequence[Record]) -> list[Table]:
    """Return the table of each record: that of its rows."""
    return [
        _table(*map(plain, (*_named(record), apart)))
        for record, apart in zip(records, tables_apart(records), strict=True)
    ]


def to_csv(rows: Iterable[Any]) -> str:
    """Return rows (dataclasses of one type) as CSV text; numbers with six significant digits, None empty.

    Rows behind a mean follow it. A coordinate is a column, there where any row has it. A text that a spreadsheet would
    compute begins with an apostrophe.
    """
    listed = list(_with_members(rows))
    coordinates = dict.fromkeys(f"at_{name}" for row in listed for name in getattr(row, "at", ()))
    names = _columns(listed[0] if listed else Row)
    if "at" in names:
        names[names.index("at") : names.index("at") + 1] = coordinates
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in listed:
        values = vars(row) | {f"at_{name}": value for name, value in getattr(row, "at", {}).items()}
        writer.writerow([_text(values.get(name)) for name in names])
    return out.getvalue()


def to_json(rows: Iterable[Row]) -> str:
    """Return rows as a JSON list of objects; a value that is not finite becomes null."""
    listed = [{name: _finite(getattr(row, name)) for name in _columns(row)} for row in _with_members(rows)]
    return json.dumps(listed, indent=1) + "\n"


def tables(rows: Iterable[Row]) -> dict[Table, list[Row]]:
    """Return rows grouped by (data, protocol, setting), in order of appearance."""
    grouped: dict[Table, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.table, []).append(row)
    return grouped


def by_entry(rows: Iterable[Row]) -> list[dict[Key, Row]]:
    """Return the rows of one table as one {metric: row} per model and variant, best first by the first metric."""
    entries: dict[tuple[str, str], dict[Key, Row]] = defaultdict(dict)
    for row in rows:
        entries[row.label, row.score_hash][row.key] = row
    return list(entries.values())


def _over_seeds(
    records: Sequence[Record], details: Sequence[Mapping[str, str]], said: Iterable[tuple[str, str]]
) -> list[list[Row]]:
    """Return the rows of each record, the oldest first; of those that differ in the seed alone their mean.

    Of several records of one seed the newest takes part, and the others stand alone.
    """
    groups: dict[str, dict[int, list[Row]]] = defaultdict(dict)
    for record, settings, (apart, variant) in reversed(list(zip(records, details, said, strict=True))):
        scored = {name: text for name, text in settings.items() if name != "examples"}
        alike = [*_side_by_side(record), scored, record.model.mean, record.model.std]
        key = json.dumps(alike, sort_keys=True)
        while record.seed in groups[key]:
            key += "'"
        groups[key][record.seed] = _rows(record, apart, variant)
    return [_mean([found[seed] for seed in sorted(found)]) for found in groups.values()][::-1]


def _mean(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the mean over seeds of each metric; of one seed its rows.

    Its interval is that of the images, the mean of those of the runs: all saw the same images, so the interval of the
    mean is at most as wide. What the seed changes is `seed_sd`.
    """
    if len(runs) == 1:
        return list(runs[0])
    by_metric: dict[Key, list[Row]] = {}
    for row in (row for run in runs for row in run):
        by_metric.setdefault(row.key, []).append(row)
    rows = []
    for members in by_metric.values():
        low = [row.ci95_low for row in members if row.ci95_low is not None]
        high = [row.ci95_high for row in members if row.ci95_high is not None]
        newest = max(members, key=lambda row: row.date)
        rows.append(
            replace(
                newest,
                value=statistics.fmean(row.value for row in members),
                ci95_low=statistics.fmean(low) if len(low) == len(members) else None,
                ci95_high=statistics.fmean(high) if len(high) == len(members) else None,
                seed_count=sum(row.seed_count for row in members),
                seed_sd=statistics.stdev(row.value for row in members) if len(members) > 1 else newest.seed_sd,
                score_hash=",".join(row.score_hash for row in members),
                seed=",".join(str(row.seed) for row in members),
                records=len(members),
                members=tuple(members),
            )
        )
    return rows


def _rows(record: Record, apart: str, variant: str) -> list[Row]:
    train = record.data.train
    shared: dict[str, Any] = {
        "model": record.model.name or "(no name)",
        "protocol": record.protocol.name,
        "dataset": record.data.name,
        "data": record.data.label,
        "preset": record.protocol.preset,
        "settings": settings_text(record.protocol.settings),
        "n_images": record.data.val.n_images,
        "n_published": record.data.val.n_published or None,
        "n_train": train.n_images if train else None,
        "n_train_published": (train.n_published or None) if train else None,
        "score_hash": record.score_hash,
        "date": record.created[:10],
        "variant": variant,
        "limit": record.data.limit,
        "seed": record.seed,
        "records": 1,
        "weights_sha256": record.model.weights_sha256[:SHORT],
        "protocol_version": record.protocol.version,
        "densebench": record.environment.get("densebench", ""),
        "apart": apart,
    }
    shared = {name: plain(value) if isinstance(value, str) else value for name, value in shared.items()}
    return [
        Row(
            metric=plain(metric.label),
            quantity=plain(metric.name),
            at={plain(name): plain(at) if isinstance(at, str) else at for name, at in metric.at.items()},
            value=metric.value,
            unit=metric.unit,
            ci95_low=metric.ci95[0] if metric.ci95 else None,
            ci95_high=metric.ci95[1] if metric.ci95 else None,
            seed_count=len(metric.seeds) or 1,
            seed_sd=statistics.stdev(metric.seeds.values()) if len(metric.seeds) > 1 else None,
            main=metric.main,
            higher_is_better=metric.higher_is_better,
            **shared,
        )
        for metric in record.metrics
    ]


def _table(data: str, protocol: str, setting: str, apart: str) -> Table:
    return data, protocol, f"{setting} ({apart})" if apart else setting


def _named(record: Record) -> Table:
    return record.data.label, record.protocol.name, record.protocol.label


def _compared(record: Record) -> list[str]:
    """Return in words what records of one table have to share."""
    trained = f"trained on {record.data.train.digest[:TAG]}" if record.data.train else ""
    return [f"images {record.data.val.digest[:TAG]}", trained, f"version {record.protocol.version}"]


def _cell(record: Record) -> tuple[str, str, str, str]:
    return (*_named(record), record.model.name)


def _age(record: Record) -> tuple[str, str]:
    return record.created, record.model_dump_json()  # the second decides between equal times, in any reading order


def _side_by_side(record: Record) -> tuple[str, ...]:
    """Return what records of one model in one table share."""
    return (*_cell(record), *_compared(record))


def _details(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return the settings of each record; none of one that has no other of its model in its table to be told from."""
    counts = Counter(_side_by_side(record) for record in records)
    return [_settings(record) if counts[_side_by_side(record)] > 1 else {} for record in records]


def _variants(records: Sequence[Record], details: Sequence[Mapping[str, str]]) -> list[str]:
    """Say for each record in what it differs from others of its model in its table: "weights=ab01"; not in the seed."""
    cells = defaultdict(list)
    for record, settings in zip(records, details, strict=True):
        cells[_side_by_side(record)].append(settings)
    texts = []
    for record, settings in zip(records, details, strict=True):
        others = cells[_side_by_side(record)]
        names = sorted({name for other in others for name in other})
        differing = [name for name in names if len({other.get(name, "-") for other in others}) > 1]
        # what a split's features were asked for follows from the config, so it is named only where nothing else is
        differing = [name for name in differing if not name.startswith("features.")] or differing
        differing = [name for name in differing if name != "examples"] or differing  # pictures, not scores
        texts.append(", ".join(f"{name}={settings.get(name, '-')}" for name in differing))
    return texts


def _settings(record: Record) -> dict[str, str]:
    """Return everything that can change a score but the seed of the run, flat and as text."""
    return _flatten(
        {
            **record.protocol.config,
            "version": record.protocol.version,
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


def _names(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _columns(row: Any) -> list[str]:
    return [each.name for each in fields(row) if each.metadata.get("column", True)]


def _with_members(rows: Iterable[Any]) -> Iterator[Any]:
    for row in rows:
        yield row
        yield from getattr(row, "members", ())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
