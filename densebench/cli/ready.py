"""Whether models and datasets are on this machine, in a word or two."""

from __future__ import annotations

from pathlib import Path

from densebench.core.errors import DensebenchError
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.layout import MissingError
from densebench.datasets.tools.fetch import REMOTES


def model_status(name: str) -> str:
    """Return whether a model of a suite is ready, fetchable, to be made, or to be fetched by hand."""
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.catalog.pages import status
    from densebench.model_zoo.zoo import zoo_folders

    if name in zoo_folders():
        return "ready"
    return status(ENTRIES[name]) if name in ENTRIES else "as --model takes it"


def dataset_status(name: str, root: Path | None) -> str:
    """Return whether a dataset is ready, broken, fetchable, or to be fetched by hand."""
    try:
        info = DATASETS[name].info
    except DensebenchError as error:
        return f"broken: {error}"
    wrong: dict[str, Exception] = {}
    for split in dict.fromkeys((info.val, info.train)):
        try:
            load_dataset(name, split, root)
        except Exception as error:  # a plugin's own, or what a file that nobody foresaw leads to
            wrong[split] = error
    if info.val not in wrong:
        return f"ready, but for split {info.train}" if wrong else "ready"
    if not isinstance(wrong[info.val], MissingError):
        return f"not as expected, see `densebench data where {name}`"
    return "fetchable" if name in REMOTES else "by hand"
