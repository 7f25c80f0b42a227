"""The images of any folder, whatever it is called and however it is nested."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from PIL import Image

from densebench.core.errors import DatasetError
from densebench.datasets.dataset import DatasetInfo, DenseDataset, Transforms
from densebench.datasets.io.decode import read_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of image files, in any case."""
PICTURES = (".heic", ".heif", ".avif", ".gif", ".jfif", ".jp2", ".ppm", ".psd", ".dng", ".cr2", ".nef", ".arw", ".raw")
"""Endings of pictures that are not read, in any case."""


class ImageFolder(DenseDataset):
    """All images below a folder, without ground truth; an id is the path from the folder on.

    Hidden files and folders are left out, links to folders are not followed (they can run in circles), links to files
    are.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        name="folder",
        title="images of a folder",
        classes=(),
        palette=(),
        splits={"all": 0},
        targets=frozenset(),
        how_to_get="any folder of images",
    )

    def __init__(self, root: str | Path, split: str = "all", transforms: Transforms = None) -> None:
        """Raises DatasetError for a folder that is missing, unreadable or without images, and for links to nothing."""
        super().__init__(root, split, transforms)
        self.folder = Path(os.path.expanduser(root))
        if not self.folder.is_dir():
            found = "is a file" if self.folder.exists() else "does not exist"
            raise DatasetError(f"{root} {found}; expected a folder of images, FILE.toml or FILE.py:Class.")
        self.ids, self._others = _list(self.folder)

    def left_out(self) -> list[str]:
        """Return in a sentence each which pictures are not read for their format, and which folders."""
        pictures = [name for name in self._others if name.lower().endswith(PICTURES)]
        folders = [name for name in self._others if name.endswith("/")]
        said = []
        if pictures:
            said.append(
                f"{len(pictures)} pictures below {self.folder} are not read (first: {min(pictures)}); endings that are "
                f"read: {', '.join(SUFFIXES)}."
            )
        if folders:
            said.append(
                f"{len(folders)} links to folders below {self.folder} are not followed (first: {min(folders)})."
            )
        return said

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB; raises CorruptFileError also for pixels that 8 bits per channel cannot hold."""
        return read_image(self.files(index)[0], index)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the file of one image."""
        return (self.folder / self.ids[index],)


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths of all images below a folder, sorted, from it on and with slashes, and of all else.

    Of the latter, links to folders end in a slash.
    """
    found: list[str] = []
    dangling: list[str] = []
    others: list[str] = []
    todo = [""]
    while todo:
        place = todo.pop()
        try:
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(f"{place}{entry.name}/")
                    elif not entry.name.lower().endswith(SUFFIXES) or entry.is_dir():
                        others.append(place + entry.name + ("/" if entry.is_dir() else ""))
                    else:
                        (found if entry.is_file() else dangling).append(place + entry.name)
        except OSError as error:
            raise DatasetError(f"the folder {folder / place} cannot be read ({error.strerror}).") from error
    if dangling:
        raise DatasetError(
            f"{len(dangling)} of {len(dangling) + len(found)} images below {folder} are links to nothing or no files "
            f"(first: {min(dangling)}). Fix or remove them."
        )
    if not found:
        raise DatasetError(
            f"{folder} holds no images: looked for {', '.join(SUFFIXES)} in it and its folders, found "
            f"{len(others) or 'no'} other files. Links to folders are not followed."
        )
    found.sort()
    check_names(found, folder)
    return found, others


def check_names(names: Iterable[str], folder: Path) -> None:
    """Raise DatasetError for names of files that are not UTF-8: they cannot stand in a digest or a list."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 20) : error.end]
        raise DatasetError(f"a file name below {folder} is not UTF-8 (it has {name!r} in it); rename it.") from None
