"""Datasets of image files and label files in folders or archives: what they share, so that each says only its own.

A subclass finds its folders with `find_tree`, pairs the names, and states by a table which values of a label file mean
which class.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import CorruptFileError, DatasetError
from densebench.core.memo import remembered
from densebench.core.paths import file_state
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset, Root, Transforms, json_digest
from densebench.datasets.io import archives as packing
from densebench.datasets.io.archive_index import COMPRESSED, SUFFIXES, unpacking
from densebench.datasets.io.archives import read_bytes, split
from densebench.datasets.io.decode import decoding, read_image, read_labels, read_size
from densebench.datasets.io.id_lists import read_ids
from densebench.datasets.io.label_files import Color, Published, check_order, color_of, read_palette
from densebench.datasets.io.left_out import GENERATED, unread, without_image
from densebench.datasets.layout import MissingError, existing_root

WRONG = 254
"""In a table: a value that a label file must not hold."""


class Tree:
    """The files below one folder, which is on disk or inside an archive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inside = packing.names(folder) if packing.is_folder(folder) else None

    def path(self, name: str) -> Path:
        """Return the path of a file, which may lead through an archive."""
        return self.folder / name

    def holds(self, name: str) -> bool:
        """Tell whether there is a file of this name."""
        return self.path(name).is_file() if self._inside is None else name in self._inside

    def names(self, suffix: str) -> list[str]:
        """Return the sorted names, with slashes, of all files below the folder, if any, that end in `suffix`."""
        if self._inside is None and not self.folder.is_dir():
            return []
        names = _walk(self.folder) if self._inside is None else self._inside
        return sorted(name for name in names if name.endswith(suffix) and not name.rpartition("/")[2].startswith("."))

    def some(self, info: DatasetInfo, suffix: str) -> list[str]:
        """Return `names(suffix)`; raises DatasetError, with how to get the dataset, where there are none."""
        names = self.names(suffix)
        if not names:
            raise DatasetError(
                f"{info.name}: {self.folder} holds no {suffix} file. {info.how_to_get} Then run `densebench data check "
                f"{info.name}`."
            )
        return names

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return which of these files are not there; only the folders that they should lie in are looked into."""
        folders = {name.rpartition("/")[0] for name in names} if self._inside is None else ()
        have = {*(self._inside or ()), *(name for folder in folders for name in _listed(self.folder, folder))}
        return [name for name in names if name not in have]

    def require(self, info: DatasetInfo, split: str, names: Sequence[str], spec: str = "") -> None:
        """Raise DatasetError where files are missing, with how many, of how many, and the first.

        `spec` is what the command line calls the dataset, if not by its name.
        """
        missing = self.missing(names)
        if missing:
            lower = {name.lower(): name for name in self.names("")}
            alike = next((lower[name.lower()] for name in missing if name.lower() in lower), "")
            made = next((name for name in lower.values() if name.endswith(GENERATED)), "")
            also = f", but there is {made}: train ids, which mean other classes" if made else ""
            also = f", but there is {alike}: letters must be of the same case" if alike else also
            raise DatasetError(
                f"{info.name}: {len(missing)} of {len(names)} files of split {split} are missing below {self.folder} "
                f"(first: {missing[0]}{also}). {info.how_to_get} Then run `densebench data check {spec or info.name}`."
            )


def trees(base: Path, below: str = ".") -> Iterator[Tree]:
    """Yield the folder `below` a folder or archive, wherever it is there; folders on disk come first.

    Every part of the way may lie in a zip or a tar of its name, NAME.zip for NAME, and where more of the way follows,
    be it `/.`, such an archive may begin with what is in NAME. Raises DatasetError for one that cannot be read.
    """
    if not (base.is_dir() or packing.is_folder(base)):
        return
    name, _, rest = below.partition("/")
    if name in (".", ""):
        yield from trees(base, rest) if rest else (Tree(base),)
        return
    for place in (base, *(base / f"{name}{suffix}" for suffix in SUFFIXES)):
        yield from trees(place / name, rest)
        if rest and place != base:
            yield from trees(place, rest)


def find_tree(
    info: DatasetInfo,
    root: Root,
    places: Sequence[str],
    needed: str | Sequence[str],
    archives: Sequence[str] = (),
    holding: str = "",
) -> Tree:
    """Return the first folder that is there, as `trees` finds it: one of `needed` in one of `places` below `root`.

    Archives with other names than the folders' are looked for in the places and in the root; inside, a folder may lie
    in any of the places too. With `holding`, a file of that name must be in it. Raises MissingError with all that was
    tried and how to get the dataset, DatasetError with how to unpack a compressed tar.
    """
    base = existing_root(info, root)
    wanted = [needed] if isinstance(needed, str) else list(needed)
    packed = [base / place / name for place in (*places, ".") for name in archives]
    ways = [(base, f"{place}/{folder}") for place in places for folder in wanted]
    ways += [(p, inner) for p in dict.fromkeys(packed) if p.is_file() for inner in _prefixes(places, wanted)]
    for start, below in ways:
        for tree in trees(start, below):
            if not holding or tree.holds(holding):
                return tree
    check = f"Then run `densebench data check {info.name} --data-root {base}`."
    named = [base / place / folder for place in places for folder in wanted] + [p.with_suffix("") for p in packed]
    for stem in dict.fromkeys(part for path in named for part in (path, *path.parents) if base in part.parents):
        for suffix in COMPRESSED:
            if (found := stem.with_name(stem.name + suffix)).is_file():
                raise DatasetError(f"{info.name}: {found} is compressed as a whole. {unpacking(found)} {check}")
    tried = ", ".join(f"{place}/" if place != "." else "itself" for place in places)
    also = f", and in {', '.join(archives)}" if archives else ""
    what = holding or f"folder {'/ or '.join(wanted)}/"
    what += f" in {wanted[0]}/" if holding and wanted[0] != "." else ""
    raise MissingError(f"{info.name}: no {what} below {base} (looked in {tried}{also}). {info.how_to_get} {check}")


def find_trees(info: DatasetInfo, root: Root, places: Sequence[str], wanted: Sequence[str]) -> dict[str, Tree]:
    """Return which of the folders `wanted` lie in the first of `places` that has one; raises as `find_tree` does."""
    base = existing_root(info, root)
    for place in places:
        found = {name: tree for name in wanted if (tree := next(trees(base, f"{place}/{name}/."), None))}
        if found:
            return found
    return {wanted[0]: find_tree(info, root, places, wanted)}


def table(
    n_classes: int, values: Mapping[int, int] | None = None, void: Iterable[int] = (), *, stores_255: bool = True
) -> NDArray[np.uint8]:
    """Return the (256,) table from stored values to classes: `values`, by default 0..n-1 as they are; others are wrong.

    Stored values in `void` belong to no class, and neither does 255, which is wrong where no published file holds it
    (`stores_255`): one that does is numbered in another way.
    """
    found = np.full(256, WRONG, dtype=np.uint8)
    found[[*void, *([VOID] if stores_255 else ())]] = VOID
    for stored, label in (values or {i: i for i in range(n_classes)}).items():
        found[stored] = label
    return found


class Archived(DenseDataset):
    """A dataset whose `files` may lie in archives: the digest is that of the same files in folders."""

    def image(self, index: int) -> Image.Image:
        """Decode one image, the first file of a sample, as RGB."""
        return read_image(self.files(index)[0], index)

    def image_size(self, index: int) -> tuple[int, int]:
        """Return width and height of one image in pixels, from its header where that is what is decoded."""
        if type(self).image is not Archived.image:  # cut, or of another kind of file
            return super().image_size(index)
        return read_size(self.files(index)[0], index)

    def digest(self) -> str:
        """Return a digest of ids, contents, classes and ignored labels."""
        folders = {path.parent for i in range(len(self)) for path in self.files(i)}
        holders = {folder: split(folder)[0] for folder in folders if not folder.is_dir()}
        if not holders:
            return super().digest()
        state = {"info": [self.info.name, self.info.classes, self.info.ignored], "split": self.split}
        return json_digest({**state, "files": self._archived_contents(holders)})

    def _archived_contents(self, holders: Mapping[Path, Path]) -> str:
        """Hash all files once, as the contract does; remembered by the archives, `holders` of the folders in them."""
        files = [self.files(i) for i in range(len(self))]
        loose = [path for paths in files for path in paths if path.parent not in holders]
        archives = sorted({*holders.values()})
        stats = [file_state(path) for path in (*archives, *loose)]

        def find() -> str:
            whole = hashlib.sha256()
            for id_, paths in zip(self.ids, files, strict=True):
                for path in paths:
                    try:
                        found = hashlib.sha256(read_bytes(path)).hexdigest()
                    except CorruptFileError:  # for --skip-corrupt to leave out
                        found = "corrupt"
                    whole.update(f"{id_}:{found}\n".encode())
            return whole.hexdigest()

        return remembered(f"digests/{json_digest([list(self.ids), [str(p) for p in files[0]], stats])}.txt", find)


class FileDataset(Archived):
    """Pairs of an image file and a label file; subclasses set `info` and `labels` and call `pair`."""

    labels: ClassVar[NDArray[np.uint8]]
    """From the values in a label file to classes, (256,); see `table`."""
    renumbered: ClassVar[str] = ""
    """A sentence on label files with other values: which are known, and what the right ones are called."""

    def __init__(self, root: Root, split: str, transforms: Transforms = None) -> None:
        super().__init__(root, split, transforms)
        self._trees: tuple[Tree, ...] = ()
        self._endings = ("", "")
        self._names: list[tuple[str, ...]] = []  # no paths: COCO has 118,287 samples, and every worker a copy

    def pair(
        self, images: Tree, masks: Tree, samples: Iterable[tuple[str, str, str]], endings: tuple[str, str] = ("", "")
    ) -> None:
        """Take the samples (id, image name, mask name), sorted by id.

        `endings` of images and masks are given where the samples are what the folders hold: what lies there beside them
        is told by `left_out` then. "" is for a folder that may hold more.

        Raises DatasetError for no samples at all, ids given twice, and files that are not there.
        """
        found = sorted(samples)
        if not found:
            raise DatasetError(f"{self.info.name}: {images.folder} holds no images. {self.info.how_to_get}")
        self.ids, *names = (list(column) for column in zip(*found, strict=True))
        self._trees, self._names, self._endings = (images, masks), list(zip(*names, strict=True)), endings
        repeated = [a for a, b in itertools.pairwise(self.ids) if a == b]
        if repeated:
            raise DatasetError(
                f"{self.info.name}: {len(repeated)} ids occur twice below {images.folder} (first: {repeated[0]}); "
                "an image must be there once. Remove the copies."
            )
        for tree, wanted in zip(self._trees, names, strict=True):
            tree.require(self.info, self.split, wanted, self.cli_name)

    def keep(self, indices: Sequence[int]) -> None:
        """Leave out all other samples, as a list says."""
        self._endings = ("", "")
        self.ids = [self.ids[i] for i in indices]
        self._names = [self._names[i] for i in indices]

    def left_out(self) -> list[str]:
        """Return in a sentence each which images and label files are not read, where a split is what a folder holds."""
        said: list[str] = []
        used = {name for names in self._names for name in names}
        for tree, ending, what in zip(self._trees, self._endings, ("images", "label files"), strict=False):
            said += unread(what, tree.folder, self.beside(tree), ending, used) if ending else ()
        if all(self._endings) and not said:
            masks = self._trees[1]
            said += without_image(masks.folder, self.beside(masks), self._endings[1], used)
        return said

    def beside(self, tree: Tree) -> list[str]:
        """Return the names of all files that `left_out` shall account for."""
        return tree.names("")

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode one label map, (H, W) with class ids and 255 = ignore; other stored values raise DatasetError."""
        path = self.files(index)[1]
        stored = read_labels(path, index)
        if stored.palette and self.info.palette_stored:
            check_order(stored, *self._published, path, self.info.how_to_get)
        return self._as_classes(stored.numbers, path)

    def class_colors(self, index: int, labels: Sequence[int]) -> Mapping[int, Color]:
        """Return the colours that one label file shows these classes in, from its header; empty where it is grey."""
        path = self.files(index)[1]
        if path.suffix == ".mat":
            return {}
        with decoding(path, "a label image", index) as image:
            palette = read_palette(image)
        values = {label: self._values[label] for label in labels if label in self._values}
        return {label: color_of(palette, value) for label, value in values.items() if 3 * value < len(palette)}

    @cached_property
    def _published(self) -> tuple[Published, int]:
        """The values that label files hold with their colours, and the number of those that mean no class."""
        colors = ((value, self.info.palette[label]) for label, value in self._values.items())
        return tuple(colors), int((self.labels == VOID).sum())

    @cached_property
    def _values(self) -> Mapping[int, int]:
        """The value that a label file holds for each class, of classes that have one alone."""
        values = {label: np.flatnonzero(self.labels == label).tolist() for label in range(self.info.n_classes)}
        return {label: found[0] for label, found in values.items() if len(found) == 1}

    def _as_classes(self, stored: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        labels = self.labels[stored]
        wrong = labels == WRONG
        if wrong.any():
            values = ", ".join(str(v) for v in np.unique(stored[wrong])[:5])
            raise DatasetError(
                f"{path} holds label {values} in {int(wrong.sum())} pixels; expected {_ranges(self.labels != WRONG)}. "
                f"{self.renumbered or 'Wrong file, or a mask of another class map?'} Run `densebench data check "
                f"{self.cli_name}`."
            )
        return labels

    def files(self, index: int) -> tuple[Path, ...]:
        """Return image and mask of one sample; a path may lead through an archive."""
        return tuple(tree.path(name) for tree, name in zip(self._trees, self._names[index], strict=True))


def read_split(
    info: DatasetInfo,
    root: Root,
    places: Sequence[str],
    folders: str | Sequence[str],
    name: str,
    archives: Sequence[str] = (),
) -> list[str]:
    """Return the sorted ids of a split file, on disk or in an archive; raises as `find_tree` and `read_ids` do."""
    path = find_tree(info, root, places, folders, archives, holding=name).path(name)
    return read_ids(path, f"{info.name}: the split list {path}")


def _ranges(known: NDArray[np.bool_]) -> str:
    """Return which of 256 values are known, in words such as 0..20 or 255 (ignore)."""
    edges = np.flatnonzero(np.diff(known[:VOID], prepend=False, append=False)).reshape(-1, 2)
    runs = [f"{start}..{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in edges.tolist()]
    return ", ".join(runs) + (f" or {VOID} (ignore)" if known[VOID] else "")


def _walk(folder: Path) -> list[str]:
    """Return the names of all files below a folder; links to folders are followed once, as a dataset may be linked."""
    found, todo = [], [""]
    while todo:
        place = todo.pop()
        with os.scandir(folder / place) as entries:
            for entry in entries:
                if entry.is_dir():
                    todo.append(f"{place}{entry.name}/")
                else:
                    found.append(place + entry.name)
        if place.count("/") > 8:
            raise DatasetError(f"{folder / place} is nested too deep for a dataset; does a link lead into itself?")
    return found


def _prefixes(places: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return where in an archive the folders may lie: below any end of a place, or the last parts of their path."""
    tops = [end + "/" for place in places if place != "." for end in _ends(place)]
    deep = [top + folder for folder in wanted for top in ("", *tops)]
    return list(dict.fromkeys([*deep, *(end for folder in wanted for end in _ends(folder))]))


def _ends(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _listed(folder: Path, inner: str) -> list[str]:
    """Return what lies in the folder `inner` of another, as names below the latter."""
    return [os.path.join(inner, name) for name in os.listdir(folder / inner)] if (folder / inner).is_dir() else []
