"""Contingency tables of single images, held sparsely while a protocol counts, for what is kept beside a record.

How clusters and classes are matched is known at the end only, so tables are held until then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from densebench.results.counts import Arrays, as_small

MAX_TABLE_BYTES = 256 << 20
"""What all tables of a measurement may take; 2000 images of ADE20K need about 2 MB, of 500 clusters 3 MB."""
OVERHEAD = 400
"""Bytes of an image beside its numbers: two arrays and their list."""


class ImageTables:
    """Holds the contingency table (C, K) of every image as its non-zero cells, up to a bound.

    Args:
        max_bytes: above it, nothing is kept.
    """

    def __init__(self, max_bytes: int = MAX_TABLE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._shape = (0, 0)
        self._images: list[int] = []
        self._cells: list[tuple[NDArray[Any], NDArray[Any]]] = []

    @property
    def too_large(self) -> bool:
        """Whether the bound was passed."""
        return self.n_bytes > self.max_bytes

    def update(self, image: int, table: Tensor) -> None:
        """Add the table (C, K) of image number `image`, integers on the CPU; rows are classes, columns predictions."""
        if self.too_large:
            return
        flat = table.numpy().ravel()
        places = np.flatnonzero(flat)
        cells = places.astype(np.uint32), as_small(flat[places])
        self._shape = (int(table.shape[0]), int(table.shape[1]))
        self.n_bytes += OVERHEAD + sum(array.nbytes for array in cells)
        self._images.append(image)
        self._cells.append(cells)
        if self.too_large:
            self._images, self._cells = [], []

    def arrays(self, mapping: Tensor | None = None, merge: bool = False) -> Arrays | None:
        """Return what `results/counts.py` keeps of a segmentation, by image in order; None above the bound.

        Args:
            mapping: (K,) class of each prediction. Without it an id is its own class, and ids >= C are none.
            merge: count predictions by class, which is less than by cluster where those are many. Otherwise the counts
                by cluster are the same for every mapping, and stored once.
        """
        if self.too_large:
            return None
        n_classes, n_predicted = self._shape
        image, place = np.unique(np.asarray(self._images, np.int64), return_inverse=True)
        row = np.repeat(place, [len(cells) for cells, _ in self._cells])
        cell, pixels = (
            np.concatenate([cells[part].astype(np.int64) for cells in self._cells] or [np.zeros(0, np.int64)])
            for part in (0, 1)
        )
        truth, predicted = cell // max(n_predicted, 1), cell % max(n_predicted, 1)
        found = np.arange(n_predicted) if mapping is None else mapping.cpu().numpy().astype(np.int64)
        of_class = found[predicted]
        kept: dict[str, NDArray[Any]] = {"image": image}
        counted = of_class if merge or mapping is None else predicted
        for what, column, valid in (
            ("truth", truth, np.ones(len(cell), bool)),
            ("predicted", counted, of_class < n_classes),
            ("correct", truth, of_class == truth),
        ):
            kept |= _rows(what, row[valid], column[valid], pixels[valid], len(image))
        return kept if merge or mapping is None else {**kept, "mapping": found}


def _rows(what: str, row: NDArray[Any], column: NDArray[Any], pixels: NDArray[Any], n: int) -> dict[str, NDArray[Any]]:
    """Return sums of pixels by image and column, as rows in order."""
    wide = int(column.max(initial=0)) + 1
    place, group = np.unique(row * wide + column, return_inverse=True)
    total = np.zeros(len(place), np.int64)
    np.add.at(total, group, pixels)
    return {
        f"{what}_rows": np.bincount(place // wide, minlength=n),
        f"{what}_class": place % wide,
        f"{what}_pixels": total,
    }
