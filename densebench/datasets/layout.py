"""Where datasets begin: the data root and the lists of ids, with errors that say what is missing and what to do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from densebench.datasets.dataset import DatasetInfo, Root
from densebench.errors import DatasetError


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


def parse_list(info: DatasetInfo, path: Path, text: str) -> list[str]:
    """Return the sorted ids that the lines of a split file begin with; raises as `listed` does.

    `path` is what errors call the file.
    """
    first_words = (line.split()[0] for line in text.splitlines() if line.strip())
    return listed(first_words, f"{info.name}: the split list {path}")


def listed(ids: Iterable[str], where: str) -> list[str]:
    """Return the ids of a list, sorted; raises DatasetError, which begins with `where`, for none and for one twice."""
    found = sorted(ids)
    if not found:
        raise DatasetError(f"{where} is empty; expected one image id per line.")
    twice = sorted({a for a, b in itertools.pairwise(found) if a == b})
    if twice:
        raise DatasetError(f"{where} lists {len(twice)} ids twice (first: {twice[0]}); list each once.")
    return found
