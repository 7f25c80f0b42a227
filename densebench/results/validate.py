"""Whether the records of a folder hold together: each is read, its files are there, its numbers follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from densebench.core.errors import StorageError
from densebench.results import counts
from densebench.results.kept import read_statistics
from densebench.results.schema import Record
from densebench.results.store import ResultStore, beside
from densebench.results.withdrawn import withdrawal

CLOSE = 1e-6
"""Relative; statistics are whole numbers or float64, and a value is computed from them in another order."""


@dataclass(frozen=True)
class RecordFinding:
    """One thing about one record."""

    path: Path
    said: str
    wrong: bool = True
    """False: a remark, such as on a version that was withdrawn."""

    def __str__(self) -> str:
        return f"{'' if self.wrong else 'note: '}{self.path}: {self.said}"


def validate(results: str | Path) -> Iterator[tuple[Path, list[RecordFinding]]]:
    """Yield the path of each record with what was found. Raises StorageError where there are no records."""
    store = ResultStore(results)
    store.check()
    for path in store.paths():
        yield path, list(_findings(store, path))


def _findings(store: ResultStore, path: Path) -> Iterator[RecordFinding]:
    try:
        record = store.read(path)
    except StorageError as error:
        yield RecordFinding(path, str(error).removeprefix(f"{path} "))
        return
    place = store.place(record)
    # a second measurement of a cell has a number before the suffix
    if path != place and not (path.parent == place.parent and path.stem.startswith(f"{place.stem}.")):
        yield RecordFinding(path, f"it says that it is {record.title}, whose place is {place}")
    for name in record.artifacts:
        try:
            if not beside(path, name).is_file():
                yield RecordFinding(path, f"{name} is not there")
        except StorageError as error:
            yield RecordFinding(path, str(error))
    yield from _statistics(path, record)
    if reason := withdrawal(record):
        yield RecordFinding(path, f"withdrawn: {reason}", wrong=False)


def _statistics(path: Path, record: Record) -> Iterator[RecordFinding]:
    """Yield what is wrong with the statistics of a record, and where its values do not follow from them."""
    if record.statistics is None:
        return
    try:
        found = read_statistics(path, record)
    except StorageError as error:
        yield RecordFinding(path, str(error))
        return
    for metric in record.metrics:
        entries = found.of(metric.name, metric.at)
        if entries and not math.isclose(value := counts.value(entries), metric.value, rel_tol=CLOSE, abs_tol=CLOSE):
            yield RecordFinding(
                path, f"{metric.label} is {metric.value:.6g} in the record and {value:.6g} by its statistics"
            )
