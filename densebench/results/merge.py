"""The records of several folders in one: nothing that is there is changed, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from densebench.core.errors import StorageError
from densebench.results.schema import Record
from densebench.results.store import ResultStore


@dataclass(frozen=True)
class Merge:
    """What became of the records that were brought in."""

    copied: int
    present: int
    """Those that were there already, the same to the last number."""
    again: int
    """Of the copied, second measurements of a cell that was there: both are kept, and the newest counts."""
    left: tuple[str, ...]
    """Why each other one stays where it is."""

    @property
    def line(self) -> str:
        """The numbers in words."""
        said = f"{self.copied} records copied, {self.present} were there already"
        said += f"; {self.again} are second measurements of a cell" if self.again else ""
        return said + (f"; {len(self.left)} left where they are" if self.left else "")


def merge(sources: Iterable[str | Path], results: str | Path) -> Merge:
    """Copy every record of other folders, with its pictures and statistics, into a results folder.

    A record is put where it belongs by what it says, not by where it lay. Raises StorageError for a folder without
    records, before anything is copied, and where the results cannot be written.
    """
    stores, store = [ResultStore(source) for source in sources], ResultStore(results)
    for each in stores:
        each.check()
    copied, present, again, left = 0, 0, 0, []
    for path in [path for each in stores for path in each.paths()]:
        try:
            record = store.read(path)
            place = _place(store, record)
            if place is None:
                present += 1
                continue
            again += place != store.place(record)
            store.copy(path, record, place)
            copied += 1
        except (StorageError, OSError) as error:
            left.append(str(error) if isinstance(error, StorageError) else f"{path}: {error.strerror or error}")
    return Merge(copied, present, again, tuple(left))


def _place(store: ResultStore, record: Record) -> Path | None:
    """Return where a record is to be written, None where the folder has it; beside another of the same cell."""
    own = store.place(record)
    for path in (own, *(own.with_name(f"{own.stem}.{number}.json") for number in range(2, 1000))):
        if not path.exists():
            return path
        try:
            found = store.read(path)
        except StorageError:  # which stays as it is
            continue
        if _content(found) == _content(record):
            return None
    raise StorageError(f"{own} is there a thousand times; `densebench results validate` says what is wrong.")


def _content(record: Record) -> str:
    """Return what two copies of one record have in common: all but the names of the files beside them."""
    statistics = record.statistics and record.statistics.sha256
    return record.model_copy(update={"artifacts": (), "statistics": None}).model_dump_json() + str(statistics)
