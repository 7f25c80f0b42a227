"""What is compared, by the names that people give: models, records, folders of results, rows of papers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from densebench.core.errors import StorageError, UsageError
from densebench.core.registry import unknown_name
from densebench.core.text import plain
from densebench.leaderboard.published import PublishedRow, published_rows
from densebench.leaderboard.record import find_records
from densebench.leaderboard.row import Row
from densebench.leaderboard.rows import leaderboard_rows
from densebench.results.schema import Key, Record
from densebench.results.store import ResultStore, hash_of

Found = tuple[Path, Record]
CELLS = 4
"""That are named of a source."""
HASH = 4
"""Characters of the beginning of a hash that may stand for a record."""


@dataclass(frozen=True)
class Filter:
    """Which cells are compared; None: all."""

    protocols: frozenset[str] | None = None
    datasets: frozenset[str] | None = None
    presets: frozenset[str] | None = None

    def takes(self, protocol: str, dataset: str, preset: str) -> bool:
        """Whether a cell is one of these."""
        asked = ((self.protocols, protocol), (self.datasets, dataset), (self.presets, preset))
        return all(names is None or name in names for names, name in asked)


@dataclass(frozen=True, eq=False)
class Entry:
    """One line of a table: a model in one cell, over its seeds."""

    name: str
    records: tuple[Found, ...]
    rows: dict[Key, Row] = field(repr=False)

    @property
    def record(self) -> Record:
        """The first of its records: all are alike but for the seed."""
        return self.records[0][1]

    @property
    def cell(self) -> tuple[str, str]:
        """Protocol and dataset."""
        return self.record.protocol.name, self.record.data.name

    @property
    def like(self) -> tuple[object, ...]:
        """What two entries have to share to stand in one table."""
        record = self.record
        train = record.data.train.digest if record.data.train else ""
        label = record.data.label, record.protocol.label
        return *self.cell, *label, record.data.val.digest, train, record.protocol.version


@dataclass(frozen=True, eq=False)
class Source:
    """What one argument stands for."""

    name: str
    """As tables call it."""
    entries: tuple[Entry, ...] = ()
    printed: tuple[PublishedRow, ...] = ()
    """Of a paper, where it is one."""
    single: bool = False
    """Whether one record was asked for, which is compared whatever it differs in."""

    @property
    def text(self) -> str:
        """What it has, in words: "hummingbird on voc (paper)"."""
        cells = [f"{row.protocol} on {row.dataset} ({row.preset})" for row in self.printed]
        for entry in self.entries:
            row = next(iter(entry.rows.values()))
            cells.append(f"{row.protocol} on {row.data} ({row.setting})")
        every = list(dict.fromkeys(cells))
        more = f" and {len(every) - CELLS} more" if len(every) > CELLS else ""
        return ", ".join(every[:CELLS]) + more if every else "nothing of what was asked for"


def read_folder(results: str | Path, unreadable: list[str]) -> list[Found]:
    """Return the records of a folder with their paths; what cannot be read is added to `unreadable`."""
    store, found = ResultStore(results), []
    for path in store.paths():
        try:
            found.append((path, store.read(path)))
        except StorageError as error:
            unreadable.append(str(error))
    return found


def entries_of(found: Sequence[Found], wanted: Filter, name: str = "") -> tuple[Entry, ...]:
    """Return records as lines of tables: means over seeds, what differs otherwise apart, the newest of the same."""
    kept = [(p, r) for p, r in found if wanted.takes(r.protocol.name, r.data.name, r.protocol.preset)]
    by_hash = {(record.score_hash, record.data.name, record.model.name): (path, record) for path, record in kept}
    made: dict[tuple[object, ...], Entry] = {}
    for row in leaderboard_rows([record for _, record in kept], limited=True):
        own = row.table, row.label, row.score_hash
        if own not in made:
            records = [
                each
                for (digest, dataset, model), each in by_hash.items()
                if digest in row.score_hash.split(",") and plain(dataset) == row.dataset and plain(model) == row.model
            ]
            if not records:  # a model without a name
                records = [each for (digest, _, _), each in by_hash.items() if digest in row.score_hash.split(",")]
            label = name or row.model
            made[own] = Entry(f"{label} ({row.variant})" if row.variant else label, tuple(records), {})
        made[own].rows[row.key] = row
    return tuple(made.values())


def find_sources(
    names: Sequence[str], results: str | Path, wanted: Filter, unreadable: list[str]
) -> list[list[Source]]:
    """Return what each name stands for: a list of sources for each comparison to be made.

    A name is a record (a path, or the beginning of its hash), FOLDER:MODEL, a model in `results`, what a paper prints
    ("PaKA ViT-S/14", or a name of the catalogue), or a folder of results. Folders are compared model by model.
    Raises UsageError for a name that is none of these.
    """
    reader = _Reader(Path(results), wanted, unreadable)
    folders = {name: reader.models(Path(name)) for name in names if _is_folder(name)}
    if len(names) > 1 and folders.keys() == set(names) and (shared := _shared([folders[name] for name in names])):
        return [[reader.of_folder(name, model) for name in names] for model in shared]
    for name, models in folders.items():
        if len(models) != 1:
            some = f"as in {name}:{next(iter(models))}" if models else "it holds no records"
            raise UsageError(f"{name} holds {len(models)} models; name one of them: {some}.")
    return [[reader.of_folder(n, next(iter(folders[n]))) if n in folders else reader.source(n) for n in names]]


def printed_of(source: Source, wanted: Filter) -> Source | None:
    """Return what papers print of the very model that a source is, None where nothing."""
    names = {entry.record.model.name for entry in source.entries}
    rows = tuple(row for row in published_rows() if row.zoo_name and row.zoo_name in names)
    return _printed(f"{source.name} as printed", rows, wanted)


class _Reader:
    """Reads folders of results once each."""

    def __init__(self, results: Path, wanted: Filter, unreadable: list[str]) -> None:
        self.results, self.wanted, self.unreadable = results, wanted, unreadable
        self._folders: dict[Path, dict[str, list[Found]]] = {}

    def models(self, folder: Path) -> dict[str, list[Found]]:
        """Return the records of a folder by model."""
        if folder not in self._folders:
            models = self._folders[folder] = {}
            for path, record in read_folder(folder, self.unreadable):
                models.setdefault(record.model.name, []).append((path, record))
        return self._folders[folder]

    def of_folder(self, folder: str, model: str) -> Source:
        """Return one model of a folder."""
        name = plain(f"{folder}:{model}")
        return Source(name, entries_of(self.models(Path(folder))[model], self.wanted, name))

    def source(self, name: str) -> Source:
        """Return what a name that is not a folder stands for."""
        if os.path.isfile(name):
            return self._records(name, name)
        if (models := self.models(self.results)) and name in models:
            return Source(plain(name), entries_of(models[name], self.wanted))
        folder, _, model = name.rpartition(":")
        if folder and _is_folder(folder):
            if model not in self.models(Path(folder)):
                raise UsageError(f"{unknown_name('model', model, self.models(Path(folder)))} in {folder}")
            return self.of_folder(folder, model)
        if printed := _printed(
            name, tuple(r for r in published_rows() if name in (r.label, r.zoo_name or None)), self.wanted
        ):
            return printed
        if len(name) >= HASH and any(hash_of(path).startswith(name) for path in ResultStore(self.results).paths()):
            return self._records(self.results, name)
        said = str(unknown_name("model", name, [*models, *sorted({row.label for row in published_rows()})]))
        raise UsageError(
            f"{said.split(' Run ')[0]} {self.results} holds {', '.join(map(plain, models)) or 'no records'}; a name "
            "may also be a record's hash or path, FOLDER:MODEL, or a model as papers print it: 'PaKA ViT-S/14'."
        )

    def _records(self, results: str | Path, name: str) -> Source:
        """Return one record, found by a path or the beginning of its hash."""
        found = find_records(results, name)[:1]
        _, record = found[0]
        label = plain(f"{record.model.name} {record.score_hash[:8]}")
        return Source(label, entries_of(found, self.wanted, label), single=True)


def _shared(folders: Sequence[dict[str, list[Found]]]) -> list[str]:
    return [model for model in folders[0] if all(model in models for models in folders)]


def _printed(name: str, rows: Sequence[PublishedRow], wanted: Filter) -> Source | None:
    kept = tuple(
        row
        for row in rows
        if wanted.takes(row.protocol, row.dataset, row.preset) and (row.label == name or not row.variant)
    )
    return Source(name, printed=kept) if rows else None


def _is_folder(name: str) -> bool:
    return os.path.isdir(os.path.join(name, "records"))
