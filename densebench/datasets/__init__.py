"""Datasets with dense ground truth. A new one is a file in `sets` and a line in `names.py`; see `docs/datasets.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densebench.datasets.names import DATASETS

if TYPE_CHECKING:
    from densebench.datasets.dataset import DenseDataset


def load_dataset(name: str, split: str, root: str | Path | None = None) -> DenseDataset:
    """Return one split of a named dataset, or of one described by FILE.toml or FILE.py:Class.

    Examples:
        >>> load_dataset("scenes", "val").sample(0).mask.shape
        (160, 160)
    """
    from densebench.datasets.dataset import data_root

    return DATASETS[resolve_dataset(name)](data_root(root), split)


def register_dataset(name: str, dataset: type[DenseDataset] | str, summary: str = "") -> None:
    """Make a dataset class (or "module:Class") known under a name; raises UsageError for one that is taken."""
    DATASETS.add(name, dataset, summary)


def resolve_dataset(spec: str) -> str:
    """Return the registered name of a dataset; one of the user's own (FILE.toml, FILE.py:Class) is registered first.

    Raises UsageError for a file that describes no dataset; other texts are returned as they are.
    """
    if ".toml" in spec or ".py" in spec:
        from densebench.datasets.user.toml import register_user_dataset

        return register_user_dataset(spec)
    return spec


__all__ = ["DATASETS", "load_dataset", "register_dataset", "resolve_dataset"]
