"""What a folder of results can do without: found first, removed when asked to."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from densebench.core.errors import StorageError
from densebench.core.leases import LeaseTaken
from densebench.results.schema import Record
from densebench.results.store import ResultStore
from densebench.results.withdrawn import withdrawal


@dataclass(frozen=True)
class Surplus:
    """A record, or a folder of files without one, and why nobody needs it."""

    path: Path
    why: str

    @property
    def n_bytes(self) -> int:
        """Its size on disk, with the files beside it."""
        files = [self.path, *self.path.with_suffix("").rglob("*")] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


def surplus(results: str | Path, limited: bool = False) -> list[Surplus]:
    """Return what can go: records that were withdrawn, alone or with their protocol's version; all but the newest of a
    cell; files whose record is gone; and with `limited` records of --limit runs.

    What cannot be read stays: `validate` lists it. Raises StorageError where there are no records.
    """
    store = ResultStore(results)
    store.check()
    paths = store.paths()
    records: dict[Path, Record] = {}
    for path in paths:
        try:
            records[path] = store.read(path)
        except StorageError:
            continue
    newest: dict[Path, Path] = {}
    for path, record in sorted(records.items(), key=lambda pair: pair[1].created):
        newest[store.place(record)] = path
    found = [
        Surplus(path, why)
        for path, record in records.items()
        if (why := _why(record, newest[store.place(record)] == path, limited))
    ]
    return [*found, *_orphans(store, paths)]


def _why(record: Record, is_newest: bool, limited: bool) -> str:
    if reason := withdrawal(record):
        return f"withdrawn: {reason}"
    if not is_newest:
        return "a newer measurement of the same cell is there"
    return "a --limit run" if limited and not record.complete else ""


def _orphans(store: ResultStore, paths: list[Path]) -> Iterator[Surplus]:
    """Yield folders of pictures and statistics whose record is not there and that nobody is making now."""
    having = {path.with_suffix("") for path in paths}
    for folder in sorted((store.root / "records").glob("*/*/*--*")):
        if folder.is_dir() and folder not in having:
            try:
                with store.lease(folder.with_name(f"{folder.name}.json")).acquire(blocking=False):
                    yield Surplus(folder, "its record is not there")
            except LeaseTaken:
                continue


def remove(results: str | Path, items: list[Surplus]) -> None:
    """Remove records, each before the files beside it, and folders.

    A second measurement of a cell whose first is gone takes its place, where `run` looks for it. Raises StorageError
    where something cannot be removed.
    """
    store = ResultStore(results)
    for item in items:
        _remove(item.path)
    for path in store.paths():
        with contextlib.suppress(StorageError):  # which cannot be read, and stays
            record = store.read(path)
            if not (place := store.place(record)).exists():
                store.copy(path, record, place)
                _remove(path)


def _remove(path: Path) -> None:
    try:
        if path.is_file():
            path.unlink()
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be removed ({error.strerror}).") from None
