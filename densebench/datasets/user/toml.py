"""A dataset of one's own, without touching this package: `--dataset ./mine.toml`, or `--dataset my_file.py:Mine`.

The TOML file lies beside the data; six lines are enough:

    name = "cells"
    classes = ["ground", "nucleus", "membrane"]
    images = "{split}/images/*.png"
    masks = "{split}/masks/*_labels.png"
    splits = ["train", "val"]
    ignore = [255]

Paths begin at the file's folder, unless they are absolute. What `*` stands for is the image's id, and its mask is the
file with the same id. `splits` names the one to train on, then the one to evaluate on; without `{split}` in the
patterns, `lists` says where their ids are listed, as in `lists = "{split}.txt"`. Values in `ignore` belong to no class,
as 255 never does; a stored value is otherwise the number of a class. `background` names the classes that are not
things. `palette` has a colour per class, as in `[[0, 0, 0], [220, 60, 40], [40, 90, 200]]`, for pictures; masks with
these colours in another order are refused, as editors sort them and the numbers with them. `licence` and `citation` may
be added. A file with `base` is a subset of another dataset: `subset.py`. What a class in a file must be is checked in
`user_class.py`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from densebench.core.config import read_toml
from densebench.core.errors import DatasetError, UsageError
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset, Root, Transforms, json_digest
from densebench.datasets.files import FileDataset, Tree, table
from densebench.datasets.io.id_lists import read_ids
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.names import register_own
from densebench.datasets.user.folder import check_names
from densebench.datasets.user.python import from_file
from densebench.datasets.user.subset import schema_errors, subset

KEYS: Mapping[str, type] = {
    "name": str, "classes": list, "images": str, "masks": str, "splits": list, "ignore": list, "background": list,
    "palette": list, "lists": str, "licence": str, "citation": str,
}  # fmt: skip
NEEDED = ("name", "classes", "images", "masks")
SPEC = re.compile(r"(.+\.toml|.+\.py:\w+)(?::([^:/,]*))?")
"""FILE.toml or FILE.py:Class, either with :SPLIT behind it or without."""


class UserDataset(FileDataset):
    """What a TOML file describes; `from_toml` makes the class, with the file's `info`."""

    file: ClassVar[Path]
    state: ClassVar[Mapping[str, Any]]

    def __init__(self, root: Root, split: str | None = None, transforms: Transforms = None) -> None:
        """`root` is not used: paths begin at the TOML file's folder."""
        super().__init__(root, self.info.val if split is None else split, transforms)
        folder = self.file.parent
        image, mask = (self.state[key].replace("{split}", self.split) for key in ("images", "masks"))
        (images, image), (masks, mask) = _below(folder, image), _below(folder, mask)
        if "lists" in self.state:
            path = folder / self.state["lists"].replace("{split}", self.split)
            ids = read_ids(path, f"the list {path}", lambda id_: images.holds(image.replace("*", id_)))
        else:
            labels = {masks.path(mask.replace("*", id_)) for id_ in _found(masks, mask)}
            ids = [id_ for id_ in _found(images, image) if images.path(image.replace("*", id_)) not in labels]
        if not ids:
            raise DatasetError(
                f"{self.info.name}: there is no file {images.path(image)}, split {self.split}. {self.info.how_to_get}"
            )
        check_names(ids, images.folder)
        samples = ((id_, image.replace("*", id_), mask.replace("*", id_)) for id_ in ids)
        endings = ("", "") if "lists" in self.state else (image.partition("*")[2], mask.partition("*")[2])
        self._patterns = {images: image, masks: mask}
        self.pair(images, masks, samples, endings)

    def beside(self, tree: Tree) -> list[str]:
        """Return the names of all files where those of a pattern are, as the pattern begins."""
        before = self._patterns[tree].partition("*")[0]
        return [before + name for name in _found(tree, f"{before}*")]

    def digest(self) -> str:
        """Return a digest of contents, classes and ignored labels, and of what else the file says of them."""
        files, background = super().digest(), self.info.background
        if not background and np.array_equal(self.labels, table(self.info.n_classes)):
            return files
        return json_digest([files, self.labels.tolist(), background])

    def __reduce__(self) -> tuple[object, ...]:  # a class made on the fly has no name that a worker could import
        return _again, (self.source, self.split), {"transforms": self.transforms}


def _again(source: str, split: str) -> DenseDataset:
    """Return a split of what the file at `source` describes, in a worker process."""
    return from_toml(Path(source))(None, split)


def _below(folder: Path, pattern: str) -> tuple[Tree, str]:
    """Return the folder that a pattern's fixed part leads to, and the rest of the pattern."""
    fixed, slash, _ = pattern.partition("*")[0].rpartition("/")
    return Tree(folder / fixed), pattern[len(fixed + slash) :]


def _found(tree: Tree, pattern: str) -> list[str]:
    """Return what the `*` of a pattern stands for, file by file; hidden files are left out."""
    before, after = pattern.split("*")
    paths = tree.folder.glob(f"{glob.escape(before)}*{glob.escape(after)}")
    names = [path.relative_to(tree.folder).as_posix() for path in paths]
    return [name[len(before) : len(name) - len(after)] for name in names if before or not name.startswith(".")]


def split_spec(spec: str) -> tuple[str, str | None] | None:
    """Return (FILE.toml or FILE.py:Class, its split or None) of a spec that is one of these, else None."""
    found = SPEC.fullmatch(spec)
    return (found[1], found[2]) if found else None


def register_user_dataset(spec: str) -> str:
    """Register the dataset that FILE.toml or FILE.py:Class describes, and return its name.

    Raises UsageError for another `spec`, for files that are not there or describe no dataset, and for the name of
    another dataset.
    """
    own = split_spec(spec)
    if own is None or own[1] is not None:
        raise UsageError(
            f"{spec} is not a dataset: expected a name, FILE.toml or FILE.py:Class, with no split behind it."
        )
    found = from_toml(Path(spec).expanduser()) if spec.endswith(".toml") else from_file(spec)
    return register_own(found, spec)


def is_there(spec: str) -> bool:
    """Tell whether the file of FILE.toml, FILE.py:Class or either with :SPLIT is there."""
    own = split_spec(spec)
    return own is not None and Path(re.sub(r"(\.py):\w+$", r"\1", own[0])).expanduser().is_file()


def is_whole(spec: str) -> bool:
    """Tell whether `spec` is one FILE.toml or FILE.py:Class, without a split and not one of several."""
    own = split_spec(spec)
    return own is not None and own[1] is None and ("," not in spec or is_there(spec))


def from_toml(path: Path) -> type[DenseDataset]:
    """Return the dataset that a TOML file describes; raises UsageError where it describes none."""
    if not path.is_file():
        found = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {found}; expected a dataset's name, FILE.toml or FILE.py:Class.")
    state = read_toml(path)
    if "base" in state:
        return subset(path, state)
    wrong = schema_errors(state, KEYS, NEEDED) or [message for message, kept in _rules(**state).items() if not kept]
    if wrong:
        raise UsageError(f"{path} describes no dataset: {'; '.join(wrong)}. See docs/datasets.md for an example.")
    classes, ignore, splits = state["classes"], state.get("ignore", []), state.get("splits", ["train", "val"])
    kept = [i for i in range(len(classes)) if i not in ignore]
    colors = tuple(map(tuple, state.get("palette", ())))
    info = DatasetInfo(
        name=state["name"],
        title=state["name"],
        classes=tuple(classes[i] for i in kept),
        palette=tuple(colors[i] for i in kept) if colors else voc_palette(len(kept) + 1)[1:],
        palette_stored=bool(colors),
        splits=dict.fromkeys(splits, 0),
        train=splits[0],
        val=splits[-1],
        background=tuple(label for label, i in enumerate(kept) if classes[i] in state.get("background", ())),
        licence=state.get("licence", ""),
        citation=state.get("citation", ""),
        how_to_get=f"It is described by {path}: fix its patterns, or add the files.",
    )
    labels = table(len(kept), {stored: label for label, stored in enumerate(kept)}, ignore)
    where = {"file": path.absolute(), "source": str(path.absolute())}
    hint = f"A number that is meant to be there belongs into `classes` or `ignore` of {path.name}."
    told = {"info": info, "labels": labels, "renumbered": hint, "state": state}
    return type(state["name"], (UserDataset,), {**where, **told})


def _rules(
    *,
    name: str,
    classes: Sequence[Any],
    images: str,
    masks: str,
    splits: Sequence[Any] = ("train", "val"),
    ignore: Sequence[Any] = (),
    background: Sequence[Any] = (),
    palette: Sequence[Any] = (),
    lists: str | None = None,
    licence: str = "",
    citation: str = "",
) -> dict[str, bool]:
    """Return the rules for the values of a TOML file, and which of them are kept."""
    return {
        f"name = {name!r}: expected letters, digits, _ and -": bool(re.fullmatch(r"[\w-]+", name)),
        "classes: expected 1 to 254 different names": _texts(classes) and 0 < len(set(classes)) == len(classes) < VOID,
        "ignore: expected integers from 0 to 255": all(type(v) is int and 0 <= v <= VOID for v in ignore),
        "ignore: it leaves no class": any(i not in ignore for i in range(len(classes))),
        "background: expected names out of `classes`": all(name in classes for name in background),
        f"palette: expected {len(classes)} colours, [red, green, blue] of 0 to 255, one per class": (
            not palette or (len(palette) == len(classes) and all(map(_is_color, palette)))
        ),
        "splits: expected one or two names": len(splits) in (1, 2) and _texts(splits) and all(splits),
        "images and masks: expected exactly one * in each": images.count("*") == masks.count("*") == 1,
        "masks: JPEG changes class numbers, expected PNG": not masks.lower().endswith((".jpg", ".jpeg")),
        "images: expected {split} in it, or `lists`": "{split}" in images or lists is not None,
        "lists: expected {split} in it, or one split": lists is None or "{split}" in images + lists or len(splits) == 1,
    }


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
