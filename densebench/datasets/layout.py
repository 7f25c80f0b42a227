"""Finding a dataset's files on disk, with errors that say what is missing and what to do."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from densebench.datasets.dataset import DatasetInfo
from densebench.errors import DatasetError


def existing_root(info: DatasetInfo, root: str | Path | None) -> Path:
    """Return the data root; raises DatasetError where none is given or it does not exist."""
    if root is None:
        raise DatasetError(
            f"{info.name}: no data root given. Use --data-root DIR or set DENSEBENCH_DATA. {info.how_to_get}"
        )
    if not Path(root).exists():
        raise DatasetError(f"{info.name}: the data root {root} does not exist. Give another with --data-root.")
    return Path(root)


def find_root(info: DatasetInfo, root: str | Path | None, places: Sequence[str], needed: str) -> Path:
    """Return the first of `places` below `root` that holds a folder `needed`; raises DatasetError with instructions."""
    base = existing_root(info, root)
    for place in places:
        if (base / place / needed).is_dir():
            return base / place
    tried = ", ".join(f"{base / place / needed}" for place in places)
    raise DatasetError(
        f"{info.name}: no folder {needed}/ below {base} (looked at {tried}). {info.how_to_get} "
        f"Then run `densebench data check {info.name} --data-root {base}`."
    )


def read_list(info: DatasetInfo, path: Path) -> list[str]:
    """Return the sorted ids of a split file; raises DatasetError for one that is missing, empty or repeats an id."""
    if not path.exists():
        raise DatasetError(f"{info.name}: the split list {path} is missing. {info.how_to_get}")
    return parse_list(info, path, path.read_text())


def parse_list(info: DatasetInfo, path: Path, text: str) -> list[str]:
    """Return the sorted ids that the lines of a split file begin with; raises as `read_list` does."""
    ids = sorted(line.split()[0] for line in text.splitlines() if line.strip())
    if not ids:
        raise DatasetError(f"{info.name}: the split list {path} is empty; expected one image id per line.")
    repeated = {a for a, b in itertools.pairwise(ids) if a == b}
    if repeated:
        raise DatasetError(f"{info.name}: {path} lists {len(repeated)} ids twice (first: {min(repeated)}).")
    return ids


def list_stems(info: DatasetInfo, folder: Path, suffix: str) -> list[str]:
    """Return the sorted names, without `suffix`, of the files that end in it; raises DatasetError where none does."""
    with os.scandir(folder) as entries:  # no stat per file: COCO has 118,287
        stems = sorted(e.name.removesuffix(suffix) for e in entries if e.name.endswith(suffix) and e.name[0] != ".")
    if not stems:
        raise DatasetError(
            f"{info.name}: {folder} holds no {suffix} file. {info.how_to_get} "
            f"Then run `densebench data check {info.name}`."
        )
    return stems


def require_files(info: DatasetInfo, split: str, folders: Mapping[Path, Sequence[str]]) -> None:
    """Raise DatasetError when files are missing, with how many, of how many, and the first."""
    for folder, names in folders.items():
        have = set(os.listdir(folder)) if folder.is_dir() else set()
        missing = [name for name in names if name not in have]
        if missing:
            raise DatasetError(
                f"{info.name}: {len(missing)} of {len(names)} files of split {split} are missing below {folder} "
                f"(first: {missing[0]}). {info.how_to_get} "
                f"Then run `densebench data check {info.name}`."
            )
