"""Records of an older schema, rewritten in place as the present one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densebench.core.errors import StorageError
from densebench.core.leases import LeaseTaken
from densebench.core.regular import parse_json, read
from densebench.results import schema1
from densebench.results.schema import SCHEMA
from densebench.results.store import ResultStore


@dataclass(frozen=True)
class Migration:
    """What became of the records of a folder."""

    rewritten: int
    current: int
    """Those that had the present schema already."""
    left: tuple[str, ...]
    """Why each other one stays as it is."""

    @property
    def line(self) -> str:
        """The numbers in words."""
        said = f"{self.rewritten} records rewritten as schema {SCHEMA}, {self.current} had it already"
        return said + (f", {len(self.left)} left as they are" if self.left else "")


def migrate(results: str | Path) -> Migration:
    """Rewrite every record of schema 1 below a results folder; a second time there is nothing to do.

    Raises StorageError where there are no records, or they cannot be written.
    """
    store = ResultStore(results)
    store.check()
    rewritten, current, left = 0, 0, []
    for path in store.paths():
        try:
            record = store.read(path)
            if not schema1.is_old(parse_json(read(path))):
                current += 1
                continue
            with store.lease(path).acquire(blocking=False):
                store.write(path, record)
            rewritten += 1
        except LeaseTaken:
            left.append(f"{path}: another process is at it; run this again when it is done.")
        except StorageError as error:
            left.append(str(error))
    return Migration(rewritten, current, tuple(left))
