"""Datasets that state which images are to be matched with which, beside the key points of each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from densebench.datasets.dataset import DenseDataset, json_digest
from densebench.datasets.files import Archived


class PairedDataset(Archived):
    """Images of one annotated object each, and a list of pairs of them whose key points correspond."""

    @abstractmethod
    def pairs(self) -> Sequence[tuple[int, int]]:
        """Return (source, target) as positions in `ids`, in a fixed order; both show one category."""

    def digest(self) -> str:
        """Return a digest of images, annotations and pairs."""
        return json_digest([super().digest(), [(self.ids[a], self.ids[b]) for a, b in self.pairs()]])


def listed_pairs(data: DenseDataset) -> list[tuple[int, int]] | None:
    """Return the pairs of a dataset or of a view on one, None where it lists none.

    A view (`select`, --limit, --skip-corrupt) keeps the pairs whose two images it shows.
    """
    base = getattr(data, "base", None)
    if base is None:
        return list(data.pairs()) if isinstance(data, PairedDataset) else None
    pairs = listed_pairs(base)
    if pairs is None:
        return None
    where = {id_: i for i, id_ in enumerate(data.ids)}
    shown = [(where.get(base.ids[a]), where.get(base.ids[b])) for a, b in pairs]
    return [(a, b) for a, b in shown if a is not None and b is not None]
