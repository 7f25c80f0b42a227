"""Records as a pandas DataFrame: for notebooks, and what the leaderboard is made from."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densebench.core.errors import StorageError
from densebench.core.text import plain
from densebench.results.schema import Metric, Record, settings_text
from densebench.results.store import ResultStore
from densebench.results.withdrawn import withdrawal

if TYPE_CHECKING:
    import pandas as pd

SHORT = 12
"""Characters kept of a weights digest."""
CELL = ("model", "protocol", "dataset", "data", "preset", "settings", "seed", "limit", "n_images", "score_hash")
"""What a row of a wide frame begins with."""


def frame(results: str | Path | Iterable[Record] = "results", wide: bool = False) -> pd.DataFrame:
    """Return the records of a results folder as a DataFrame.

    Long, it has a row per metric of each record: `model`, `protocol`, `dataset`, `data` (which says what of it is
    missing), `preset`, `settings` (what departs from the preset), `seed`, `limit`, `metric` (as tables call it),
    `quantity` and its coordinates (`at_fraction`, `at_clusters`, ...), `value`, `unit`, `ci95_low`, `ci95_high` and
    more; docs/results.md explains each. Wide, it has a row per record and a column per metric, called as in tables.
    Nothing is averaged and nothing left out: records of --limit runs have their `limit`. Records that cannot be read
    are logged.

        long = densebench.frame("results")
        long[(long.quantity == "miou") & (long.at_fraction == "1/8")].pivot_table("value", "model", "data")

    Args:
        results: the folder, or records.
        wide: a row per record instead of one per metric.
    """
    import pandas as pd

    records = list(_records(results) if isinstance(results, str | Path) else results)
    if wide:
        lines = [_wide(record) for record in records]
        names = list(dict.fromkeys([*CELL, *(name for line in lines for name in line)]))
    else:
        lines = [line for record in records for line in record_lines(record)]
        at = dict.fromkeys(f"at_{name}" for line in lines for name in line["at"])
        for line in lines:
            line |= {f"at_{name}": value for name, value in line.pop("at").items()}
        names = [name for column in LONG for name in (at if column == "at" else (column,))]
    made = pd.DataFrame(lines, columns=names, dtype=object)
    numbers = {name: "Int64" for name, column in made.items() if column.isna().any() and _are_whole(column.dropna())}
    return made.astype(numbers).infer_objects()  # an integer that is not there makes no others floats


def record_lines(record: Record) -> list[dict[str, Any]]:
    """Return a record as flat rows, one per metric; the coordinates are one mapping, "at"."""
    return [_shared(record) | _of(metric) for metric in record.metrics]


def _records(results: str | Path) -> Iterator[Record]:
    for record in ResultStore(results).records():
        if isinstance(record, StorageError):
            logging.getLogger(__name__).warning(str(record))
        else:
            yield record


def _shared(record: Record) -> dict[str, Any]:
    """Return what all metrics of a record have in common."""
    data, protocol, train = record.data, record.protocol, record.data.train
    found: dict[str, Any] = {
        "model": record.model.name or "(no name)",
        "protocol": protocol.name,
        "dataset": data.name,
        "data": data.label,
        "preset": protocol.preset,
        "settings": settings_text(protocol.settings),
        "seed": record.seed,
        "limit": data.limit,
        "n_images": data.val.n_images,
        "n_published": data.val.n_published or None,
        "n_train": train.n_images if train else None,
        "n_train_published": (train.n_published or None) if train else None,
        "score_hash": record.score_hash,
        "date": record.created[:10],
        "weights_sha256": record.model.weights_sha256[:SHORT],
        "protocol_version": protocol.version,
        "densebench": record.environment.get("densebench", ""),
        "withdrawn": withdrawal(record),
    }
    return {name: _plain(value) for name, value in found.items()}


def _of(metric: Metric) -> dict[str, Any]:
    low, high = metric.ci95 or (None, None)
    return {
        "metric": plain(metric.label),
        "quantity": plain(metric.name),
        "at": {plain(name): _plain(value) for name, value in metric.at.items()},
        "value": metric.value,
        "unit": metric.unit,
        "ci95_low": low,
        "ci95_high": high,
        "seed_count": len(metric.seeds) or 1,
        "seed_sd": statistics.stdev(metric.seeds.values()) if len(metric.seeds) > 1 else None,
        "main": metric.main,
        "higher_is_better": metric.higher_is_better,
    }


LONG = (
    *("model", "protocol", "dataset", "data", "preset", "settings", "seed", "limit"),
    *("metric", "quantity", "at", "value", "unit", "ci95_low", "ci95_high", "seed_count", "seed_sd"),
    *("main", "higher_is_better", "n_images", "n_published", "n_train", "n_train_published"),
    *("score_hash", "date", "weights_sha256", "protocol_version", "densebench", "withdrawn"),
)
"""Columns of a long frame; "at" stands for those of the coordinates."""


def _wide(record: Record) -> dict[str, Any]:
    shared = _shared(record)
    return {name: shared[name] for name in CELL} | {plain(metric.label): metric.value for metric in record.metrics}


def _plain(value: Any) -> Any:
    return plain(value) if isinstance(value, str) else value


def _are_whole(column: pd.Series[Any]) -> bool:
    return len(column) > 0 and all(type(value) is int for value in column)
