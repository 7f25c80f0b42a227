"""Records in a folder: one JSON per cell, validated when read, written whole or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from densebench.core.errors import StorageError
from densebench.core.leases import Lease
from densebench.core.paths import write_atomically
from densebench.core.regular import parse_json, read
from densebench.results import schema1
from densebench.results.schema import SCHEMA, Record, nonsense

LONGEST_SLUG = 100
"""Characters; file systems take names of 255, and that of a record holds model, preset and a hash."""


MOST_RECORD = 32 << 20
"""Bytes of a record; the sweep of a network over all layers and facets has a hundredth of that."""


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
        """Read and validate one record, of schema 1 too; raises StorageError for one that is torn or holds nonsense."""
        try:
            record = Record.model_validate(schema1.upgrade(parse_json(read(path, MOST_RECORD))))
            wrong = nonsense(record)
        except OSError as error:
            wrong = error.strerror or str(error)
        except ValueError as error:  # of the text, or of the model
            wrong = " ".join(str(error).splitlines()[:3])
        if wrong:
            raise StorageError(
                f"{path} is not a record of schema {SCHEMA} ({wrong}). "
                "Remove it and run the cell again, or read it with the densebench version that wrote it."
            )
        return record

    def write(self, path: Path, record: Record, artifacts: Mapping[str, bytes] | None = None) -> None:
        """Write artifacts, then the record: a record that exists has all its artifacts."""
        for name, content in (artifacts or {}).items():
            write_atomically(path.parent / name, content)
        write_atomically(path, record.model_dump_json(indent=1))

    def lease(self, path: Path) -> Lease:
        """Return the lease that a process holds while it computes the cell of `path`."""
        folder = self.root / ".leases"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write to {self.root} ({error.strerror}); choose another with --out.") from None
        return Lease(folder / path.stem)

    def records(self) -> Iterator[Record | StorageError]:
        """Yield every record in path order; what cannot be read is yielded as its error."""
        for path in self.paths():
            try:
                yield self.read(path)
            except StorageError as error:
                yield error

    def paths(self) -> list[Path]:
        """Return the file of every record, readable or not, in order."""
        return sorted((self.root / "records").glob("*/*/*.json"))

    def check(self) -> None:
        """Raise StorageError where there is no folder of records."""
        if not (self.root / "records").is_dir():
            raise StorageError(f"{self.root} holds no records; `densebench run --out {self.root}` makes some.")

    def copy(self, path: Path, record: Record, place: Path) -> None:
        """Write the record of `path`, with what lies beside it, at another place; that at `path` stays.

        Raises StorageError for a record that names files of other folders, OSError where one of its own is not there.
        """
        contents, names = dict[str, bytes](), dict[str, str]()
        for name in record.artifacts:
            parts = PurePosixPath(name).parts
            names[name] = PurePosixPath(place.stem, *(parts[1:] or parts)).as_posix()
            contents[names[name]] = read(beside(path, name))
        statistics = record.statistics
        if statistics is not None:
            statistics = statistics.model_copy(update={"file": names.get(statistics.file, statistics.file)})
        moved = record.model_copy(update={"artifacts": tuple(names.values()), "statistics": statistics})
        self.write(place, moved, contents)


def beside(path: Path, name: str) -> Path:
    """Return the file that the record at `path` names; raises StorageError for one that is not in its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:  # of a record that somebody made
        raise StorageError(f"{path} names a file that is not in its folder: {name!r}.")
    return path.parent / name


def hash_of(path: Path) -> str:
    """Return the score hash in the name of a record; a second one of a cell, as ".2", has the same."""
    return path.stem.rpartition("--")[2].partition(".")[0]


def slug(text: str) -> str:
    """Return `text` with everything that is awkward in a file name replaced by '-', and cut where it is long.

    A cut one ends in a digest of the whole, so that two texts that begin alike keep two names.
    """
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")
    if len(plain) <= LONGEST_SLUG:
        return plain
    return f"{plain[: LONGEST_SLUG - 9]}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
