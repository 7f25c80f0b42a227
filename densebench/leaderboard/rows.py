"""From records to rows: one per metric and record, in one order, the same for the same records.

Records that are equal in everything but the seed are one row, their mean, with the rows of each behind it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densebench.core.errors import StorageError
from densebench.core.text import plain
from densebench.leaderboard.row import Row, Table, table_name
from densebench.results.frame import SHORT, record_lines
from densebench.results.schema import Key, Record
from densebench.results.store import ResultStore

if TYPE_CHECKING:
    import pandas as pd

TAG = 8
"""Characters kept of a data digest."""

NAMED, COMPARED = ["data", "protocol", "setting"], ["images", "trained", "version"]
"""What a table is called, and what else its records have to share."""


@dataclass(frozen=True)
class Selection:
    """What a results folder holds: complete records, and what stays off the leaderboard."""

    records: tuple[Record, ...] = ()
    limited: tuple[Record, ...] = ()
    """Records of --limit runs."""
    unreadable: tuple[str, ...] = ()
    """Why each file that is not a record could not be read."""


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
    counted = [record for record in sorted(records, key=_age) if record.complete or limited]
    newest = {(*_named(record), record.model.name, record.score_hash, record.data.limit): record for record in counted}
    if not newest:
        return []
    rows = [_mean(runs) for runs in _over_seeds(sorted(newest.values(), key=_age))]

    position: dict[tuple[Table, Key], int] = {}  # of a metric within its protocol
    for members in rows:
        for index, row in enumerate(members):
            position[row.table, row.key] = min(index, position.get((row.table, row.key), index))

    def order(row: Row) -> tuple[Any, ...]:
        worst_last = -row.value if row.higher_is_better else row.value
        number = (True, 0.0) if math.isnan(row.value) else (False, worst_last)
        place = position[row.table, row.key]
        return row.table, not row.main, place, row.metric, bool(row.withdrawn), *number, row.model

    return sorted((row for members in reversed(rows) for row in members), key=order)


def tables_apart(records: Sequence[Record]) -> list[str]:
    """Return what sets each record apart from others that are called the same: "images 1f0c77aa", "version 1".

    Records of one data name and setting that saw other images, or are of another version of the protocol, cannot be
    compared; where all agree there is nothing to say.
    """
    cells = _cells(records)
    differ = cells.groupby(NAMED)[COMPARED].transform("nunique") > 1
    said = cells[COMPARED].where(differ, "")
    return [", ".join(filter(None, texts)) for texts in said.itertuples(index=False)]


def tables_of(records: Sequence[Record]) -> list[Table]:
    """Return the table of each record: that of its rows."""
    return [
        table_name(*map(plain, (*_named(record), apart)))
        for record, apart in zip(records, tables_apart(records), strict=True)
    ]


def _over_seeds(records: Sequence[Record]) -> list[list[list[Row]]]:
    """Return the rows of records, those that differ in the seed alone together; records and groups the oldest first.

    Of several records of one seed the newest takes part, and the others stand alone.
    """
    variants, settings = _variants(records)
    runs = _cells(records).assign(seed=[record.seed for record in records])
    runs["alike"] = [
        json.dumps(
            [{k: v for k, v in own.items() if k != "examples"}, record.model.mean, record.model.std], sort_keys=True
        )
        for own, record in zip(settings, records, strict=True)
    ]
    rows = [
        [Row(**line, records=1, apart=plain(apart), variant=plain(variant)) for line in record_lines(record)]
        for record, apart, variant in zip(records, tables_apart(records), variants, strict=True)
    ]
    runs, alike = runs[::-1], [*NAMED, *COMPARED, "model", "alike"]
    turns = runs.groupby([*alike, "seed"]).cumcount().rename("turn")  # 0 of the newest of a seed
    groups = [members.sort_values("seed").index for _, members in runs.groupby([*alike, turns], sort=False)]
    return [[rows[at] for at in group] for group in reversed(groups)]


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


def _named(record: Record) -> Table:
    return record.data.label, record.protocol.name, record.protocol.label


def _cells(records: Sequence[Record]) -> pd.DataFrame:
    """Return a line per record: what its table is called, what records of one table have to share, and the model."""
    import pandas as pd

    lines = [
        (
            *_named(record),
            f"images {record.data.val.digest[:TAG]}",
            f"trained on {record.data.train.digest[:TAG]}" if record.data.train else "",
            f"version {record.protocol.version}",
            record.model.name,
        )
        for record in records
    ]
    return pd.DataFrame(lines, columns=[*NAMED, *COMPARED, "model"])


def _age(record: Record) -> tuple[str, str]:
    return record.created, record.model_dump_json()  # the second decides between equal times, in any reading order


def _variants(records: Sequence[Record]) -> tuple[list[str], list[dict[str, str]]]:
    """Say for each record in what it differs from others of its model in its table, and return its settings.

    As in "weights=ab01"; the seed is not a difference. A record without others has no settings to be told from theirs.
    """
    import pandas as pd

    cells = _cells(records)
    group = cells.groupby(list(cells)).ngroup()
    several = group.duplicated(keep=False)
    settings = [_settings(record) if told else {} for record, told in zip(records, several, strict=True)]
    every = pd.DataFrame(settings, index=cells.index).fillna("-").sort_index(axis=1)
    differ = every.groupby(group).transform("nunique") > 1
    texts = []
    for own, differs in zip(every.to_dict("records"), differ.to_dict("records"), strict=True):
        names = [str(name) for name, other in differs.items() if other]
        # what a split's features were asked for follows from the config, so it is named only where nothing else is
        names = [name for name in names if not name.startswith("features.")] or names
        names = [name for name in names if name != "examples"] or names  # pictures, not scores
        texts.append(", ".join(f"{name}={own[name]}" for name in names))
    return texts, settings


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
