"""Where datasets begin: the data root and the lists of ids, with errors that say what is missing and what to do."""

from __future__ import annotations

import itertools
from pathlib import Path

from densebench.datasets.dataset import DatasetInfo
from densebench.errors import DatasetError


def existing_root(info: DatasetInfo, root: str | Path | None) -> Path:
    """Return the data root; raises DatasetError where none is given or it does not exist."""
    if root is None:
        raise DatasetError(
            f"{info.name}: no data root given. Use --data-root DIR or set DENSEBENCH_DATA. {info.how_to_get}"
        )
    if not Path(root).is_dir():
        found = "is a file" if Path(root).exists() else "does not exist"
        raise DatasetError(f"{info.name}: the data root {root} {found}. Give the folder that datasets are in.")
    return Path(root)


def parse_list(info: DatasetInfo, path: Path, text: str) -> list[str]:
    """Return the sorted ids that the lines of a split file begin with; raises DatasetError for none and for one twice.

    `path` is what errors call the file.
    """
    ids = sorted(line.split()[0] for line in text.splitlines() if line.strip())
    if not ids:
        raise DatasetError(f"{info.name}: the split list {path} is empty; expected one image id per line.")
    repeated = {a for a, b in itertools.pairwise(ids) if a == b}
    if repeated:
        raise DatasetError(f"{info.name}: {path} lists {len(repeated)} ids twice (first: {min(repeated)}).")
    return ids
