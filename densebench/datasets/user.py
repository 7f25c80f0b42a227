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
as 255 never does; a stored value is otherwise the number of a class. `licence` and `citation` may be added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from densebench.config import read_toml
from densebench.datasets import DATASETS
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset
from densebench.datasets.files import FileDataset, Tree, table
from densebench.datasets.layout import read_list
from densebench.datasets.voc import voc_palette
from densebench.errors import DatasetError, UsageError
from densebench.registry import import_file, unknown_name

KEYS: Mapping[str, type] = {
    "name": str, "classes": list, "images": str, "masks": str, "splits": list, "ignore": list, "lists": str,
    "licence": str, "citation": str,
}  # fmt: skip
NEEDED = ("name", "classes", "images", "masks")


class UserDataset(FileDataset):
    """What a TOML file describes; `from_toml` makes the class, with the file's `info`."""

    file: ClassVar[Path]
    state: ClassVar[Mapping[str, Any]]

    def __init__(
        self, root: str | Path | None, split: str = "", transforms: Callable[[Any, Any], Any] | None = None
    ) -> None:
        """`root` is not used: paths begin at the TOML file's folder."""
        super().__init__(root, split or self.info.val, transforms)
        folder = self.file.parent
        image, mask = (self.state[key].replace("{split}", self.split) for key in ("images", "masks"))
        (images, image), (masks, mask) = _below(folder, image), _below(folder, mask)
        if "lists" in self.state:
            ids = read_list(self.info, folder / self.state["lists"].replace("{split}", self.split))
        else:
            before, after = image.split("*")
            found = [path.relative_to(images.folder).as_posix() for path in images.folder.glob(image)]
            ids = [name[len(before) : len(name) - len(after)] for name in found]
        if not ids:
            raise DatasetError(f"{self.info.name}: there is no file {images.folder / image}. {self.info.how_to_get}")
        self.pair(images, masks, ((id_, image.replace("*", id_), mask.replace("*", id_)) for id_ in ids))

    def __reduce__(self) -> tuple[object, ...]:  # a class made on the fly has no name that a worker could import
        return _again, (str(self.file), self.split, self.transforms)


def _below(folder: Path, pattern: str) -> tuple[Tree, str]:
    """Return the folder that a pattern's fixed part leads to, and the rest of the pattern."""
    fixed, slash, _ = pattern.partition("*")[0].rpartition("/")
    return Tree(folder / fixed), pattern[len(fixed + slash) :]


def _again(file: str, split: str, transforms: Callable[[Any, Any], Any] | None) -> UserDataset:
    return from_toml(Path(file))(None, split, transforms)


def adopt(spec: str) -> str:
    """Register what `spec` describes, PATH.toml or FILE.py:Class, and return its name; other specs are names already.

    Raises UsageError for files that are not there, that say nonsense, or that take the name of another dataset.
    """
    if spec.endswith(".toml"):
        found: type[DenseDataset] = from_toml(Path(spec).expanduser())
    elif re.search(r"\.py:\w+$", spec):
        found = from_file(spec)
    else:
        return spec
    name = found.info.name
    source = str(Path(spec).expanduser().absolute())
    if name in DATASETS and getattr(DATASETS[name], "source", None) != source:
        raise UsageError(f"{spec} is called {name!r}, which is another dataset's name; give it a name of its own.")
    found.source = source  # type: ignore[attr-defined]
    DATASETS.add(name, found, f"from {spec}")
    return name


def from_toml(path: Path) -> type[UserDataset]:
    """Return the dataset that a TOML file describes."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist; --dataset takes a name, FILE.toml or FILE.py:Class.")
    state = read_toml(path)
    wrong = [
        f"{key} = {value!r} (it knows {', '.join(KEYS)})"
        if key not in KEYS
        else f"{key} = {value!r} is no {KEYS[key].__name__}"
        for key, value in state.items()
        if key not in KEYS or not isinstance(value, KEYS[key])
    ] + [f"{key} is missing" for key in NEEDED if key not in state]
    classes, ignore = state.get("classes", []), state.get("ignore", [])
    if not wrong:
        splits = state.get("splits", ["train", "val"])
        checks = {
            f"name = {state['name']!r}: expected letters, digits, _ and -": re.fullmatch(r"[\w-]+", state["name"]),
            "classes: expected 1 to 254 different names": 0 < len(set(classes)) == len(classes) < VOID
            and all(isinstance(c, str) for c in classes),
            "ignore: expected integers from 0 to 255": all(type(v) is int and 0 <= v <= VOID for v in ignore),
            "splits: expected one or two names": len(splits) in (1, 2) and all(isinstance(s, str) for s in splits),
            "images and masks: expected exactly one * in each": all(
                state[k].count("*") == 1 for k in ("images", "masks")
            ),
            "images: expected {split} in it, or `lists`": "{split}" in state["images"] or "lists" in state,
        }
        wrong = [message for message, fine in checks.items() if not fine]
    if wrong:
        raise UsageError(f"{path} describes no dataset: {'; '.join(wrong)}. See docs/datasets.md for an example.")
    kept = [i for i in range(len(classes)) if i not in ignore]
    info = DatasetInfo(
        name=state["name"],
        title=state["name"],
        classes=tuple(classes[i] for i in kept),
        palette=voc_palette(len(classes) + 1)[1:][: len(kept)],
        splits=dict.fromkeys(splits, 0),
        train=splits[0],
        val=splits[-1],
        background=(),
        licence=state.get("licence", ""),
        citation=state.get("citation", ""),
        how_to_get=f"It is described by {path}.",
    )
    labels = table(len(kept), {stored: label for label, stored in enumerate(kept)}, ignore)
    where = {"file": path.absolute(), "source": str(path.absolute())}
    return type(state["name"], (UserDataset,), {**where, "info": info, "labels": labels, "state": state})


def from_file(spec: str) -> type[DenseDataset]:
    """Return the class of FILE.py:Class."""
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"{file} does not exist; --dataset takes a name, FILE.toml or FILE.py:Class.")
    try:
        module = import_file(path)
    except Exception as error:  # whatever the user's own code raises
        said = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{file} raised {type(error).__name__}: {said}; --debug shows the traceback.") from error
    found = getattr(module, name, None)
    if found is None:
        raise unknown_name("dataset", spec, [f"{file}:{n}" for n in vars(module) if not n.startswith("_")])
    if not (isinstance(found, type) and issubclass(found, DenseDataset) and hasattr(found, "info")):
        raise UsageError(f"{spec} is no subclass of densebench.DenseDataset with an `info` (docs/datasets.md).")
    return found
