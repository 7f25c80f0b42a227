"""Where datasets begin: the data root, with errors that say what is missing and what to do."""

from __future__ import annotations

from pathlib import Path

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, Root


class MissingError(DatasetError):
    """A folder or list of a dataset is in none of the places that it is looked for in."""


def existing_root(info: DatasetInfo, root: Root) -> Path:
    """Return the data root; raises MissingError where none is given or it does not exist."""
    if root is None:
        raise MissingError(
            f"{info.name}: no data root given. Use --data-root DIR or set DENSEBENCH_DATA. {info.how_to_get}"
        )
    if not Path(root).is_dir():
        found = "is a file" if Path(root).exists() else "does not exist"
        raise MissingError(f"{info.name}: the data root {root} {found}. Give the folder that datasets are in.")
    return Path(root)
