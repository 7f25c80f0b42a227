"""Files that lie where a dataset's files are and are not read: counted and said, so that none is missed in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable

ALIKE = ((".jpg", ".jpeg"), (".tif", ".tiff"))
"""Endings of one format."""
GENERATED = ("TrainIds.png",)
"""Label files that other tools write beside the published ones."""


def spelled_otherwise(names: Iterable[str], ending: str) -> list[str]:
    """Return the names that end as `ending` but for its case or its spelling: .JPG and .jpeg beside .jpg.

    >>> spelled_otherwise(["a.jpg", "b.JPG", "c.jpeg", "d.png"], ".jpg")
    ['b.JPG', 'c.jpeg']
    """
    before, dot, last = ending.lower().rpartition(".")
    same = next((group for group in ALIKE if dot + last in group), (dot + last,))
    tails = tuple(before + tail for tail in same)
    return [name for name in names if name.lower().endswith(tails) and not name.endswith(ending)]


def unread(what: str, folder: object, names: Iterable[str], ending: str, used: Collection[str]) -> list[str]:
    """Return a sentence, or none, on the files of a folder that would be read if they ended in `ending`."""
    found = [name for name in spelled_otherwise(names, ending) if name not in used]
    return [
        f"{len(found)} {what} below {folder} are not read, because they do not end in {ending} (first: {found[0]}). "
        "Rename them so."
        for _ in found[:1]
    ]


def without_image(folder: object, names: Iterable[str], ending: str, used: Collection[str]) -> list[str]:
    """Return a sentence, or none, on the label files of a folder that no image goes with."""
    found = [n for n in names if n.endswith(ending) and n not in used and not n.endswith(GENERATED)]
    return [
        f"{len(found)} label files below {folder} have no image and are not read (first: {found[0]}). Was copying or "
        "unpacking the images interrupted? Get the rest, or remove the labels."
        for _ in found[:1]
    ]
