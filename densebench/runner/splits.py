"""The images that a run reads: each split loaded once, cut to a limit, without corrupt files where asked."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

from densebench.core.errors import DatasetError, DensebenchError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import load_dataset
from densebench.datasets.dataset import DenseDataset
from densebench.datasets.tools.checks import without_corrupt
from densebench.datasets.tools.ground_truth import check_ground_truth
from densebench.protocols.protocol import Data
from densebench.runner.failures import FOREIGN, to_user_error

Split = tuple[str, str]
"""(dataset, split)."""


class Splits:
    """The splits of one request, or why they cannot be read."""

    def __init__(self, root: str | Path | None, limit: int | None, skip_corrupt: bool, progress: Progress) -> None:
        self.root, self.limit, self.skip_corrupt, self.progress = root, limit, skip_corrupt, progress
        self._found: dict[Split, DenseDataset | DensebenchError] = {}
        self._left_out: dict[Split, tuple[str, ...]] = {}
        self._unread: dict[Split, tuple[str, ...]] = {}
        self._cut: set[Split] = set()

    def data(self, splits: Sequence[Split]) -> Data | DensebenchError:
        """Return training and validation images, or why there are none; a single split is both."""
        found = []
        for split in splits:
            one = self._find(*split)
            if isinstance(one, DensebenchError):
                return one
            found.append(one)
        return Data(found[0], found[-1])

    def check_ground_truth(self, data: Data, needs: Collection[str], reads_train: bool) -> tuple[str, ...]:
        """Return what may be wrong with the ground truth that is needed of a cell; raises as the check does."""
        parts = (data.train, data.val) if reads_train else (data.val,)
        limited = self.limit is not None
        found = [note for part in parts for note in check_ground_truth(part, needs, limited, self.progress)]
        return tuple(dict.fromkeys(found))

    def left_out(self, splits: Sequence[Split]) -> tuple[str, ...]:
        """Return the ids of corrupt images that were left out."""
        return tuple(id_ for split in splits for id_ in self._left_out.get(split, ()))

    def notes(self, splits: Sequence[Split]) -> tuple[str, ...]:
        """Return in a sentence each which files that lie beside those of the splits were not read."""
        return tuple(sentence for split in dict.fromkeys(splits) for sentence in self._unread.get(split, ()))

    def cut_to(self, splits: Sequence[Split]) -> int | None:
        """Return the limit, if it cut any of these splits."""
        return self.limit if self._cut.intersection(splits) else None

    def _find(self, name: str, split: str) -> DenseDataset | DensebenchError:
        if (name, split) not in self._found:
            try:
                self._found[name, split] = self._load(name, split)
            except FOREIGN as error:
                self._found[name, split] = to_user_error(error)
        return self._found[name, split]

    def _load(self, name: str, split: str) -> DenseDataset:
        data = load_dataset(name, split, self.root)
        self._unread[name, split] = tuple(data.left_out())
        for sentence in self._unread[name, split]:
            self.progress.say(f"{name} {split}: {sentence}")
        if self.limit is not None and self.limit < len(data):
            data = data.select(range(self.limit))
            self._cut.add((name, split))
        if self.skip_corrupt:
            data, left_out = without_corrupt(data, self.progress)
            self._left_out[name, split] = left_out
            if not len(data):
                raise DatasetError(
                    f"{name}: all {len(left_out)} images of split {split} are corrupt. Get the original files, then "
                    f"run `densebench data check {data.cli_name}`."
                )
        return data


def check_same_classes(data: Data) -> None:
    """Raise UsageError where training and validation labels do not mean the same classes."""
    train, val = data.train.info, data.val.info
    for index, names in enumerate(itertools.zip_longest(train.classes, val.classes, fillvalue="nothing")):
        if names[0] != names[1]:
            raise UsageError(
                f"{train.name} and {val.name} have different classes (class {index} is {names[0]} in one, {names[1]} "
                "in the other); training on one and evaluating on the other needs the same list."
            )
