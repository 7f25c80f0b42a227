"""Which kind of golden vectors a file holds.

The arrays decide, so that a file may have any name: a file that holds all arrays of a kind is of that kind, and where
that fits several, of the one its name begins like, then of the one with most arrays. A file that is complete for none
is of the kind that its name begins like (``a_hbird...``), else of the kind that more than half of the arrays are there
of; it will be told what is missing. Sizes, seeds and numbers of classes are never taken from a name. Three settings of
group c are, because its files do not store them, see `settings.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from densebench.verify import (
    cbfe,
    coco,
    depth,
    dip,
    hummingbird,
    information,
    kernels,
    matching,
    resize,
    roi,
    schedule,
    sorting,
)
from densebench.verify.golden import GoldenKind

KINDS: tuple[GoldenKind, ...] = (
    *hummingbird.KINDS,
    *matching.KINDS,
    *sorting.KINDS,
    *kernels.KINDS,
    *roi.KINDS,
    *depth.KINDS,
    *information.KINDS,
    *schedule.KINDS,
    *cbfe.KINDS,
    *coco.KINDS,
    *resize.KINDS,
    *dip.KINDS,
)


def missing_arrays(kind: GoldenKind, names: Collection[str]) -> list[str]:
    """Return the names or patterns of a kind that no array of a file meets."""
    return [
        wanted
        for wanted in kind.arrays.split()
        if wanted not in names and not ("*" in wanted and any(fnmatchcase(name, wanted) for name in names))
    ]


def find_kind(name: str, names: Collection[str]) -> GoldenKind | None:
    """Return the kind of a file from its name and the names of its arrays, or None if it resembles none."""

    def likeness(kind: GoldenKind) -> tuple[int, int]:
        return len(kind.prefix) if name.startswith(kind.prefix) else 0, len(kind.arrays.split())

    def share(kind: GoldenKind) -> float:
        return 1 - len(missing_arrays(kind, names)) / len(kind.arrays.split())

    complete = [kind for kind in KINDS if not missing_arrays(kind, names)]
    if complete:
        return max(complete, key=likeness)
    like = max(KINDS, key=likeness)
    if likeness(like)[0]:
        return like
    near = max(KINDS, key=share)
    return near if share(near) > 0.5 else None
