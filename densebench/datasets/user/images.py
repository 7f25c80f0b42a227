"""Images to train on: named datasets, the user's own, any folder, or several of them as one. Labels are never read.

    voc    voc:train    coco:train,coco:val    ./photos    ~/photos,/data/frames,voc
    ./cells.toml    ./cells.toml:train    my_file.py:Mine,my_file.py:Mine:val

Commas separate parts. A part is a folder if it is there as one and no dataset's name. Else it is a dataset of the
user's own if it ends in .toml or .py:Class, with :SPLIT behind that or without; a folder if it has a slash, begins with
`~`, is `.` or `..`; and NAME or NAME:SPLIT otherwise. A text that is as a whole an existing folder, or names an
existing file of the user's, is one part.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from densebench.core.errors import DatasetError, UsageError
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.user.folder import ImageFolder
from densebench.datasets.user.toml import is_there, split_spec


def load_images(spec: str, split: str | None = None, root: str | Path | None = None) -> DenseDataset:
    """Return the images that `spec` asks for: the dataset itself where that is one name, else a `Joined`.

    Args:
        spec: what `--data` takes, see above.
        split: of a single dataset without one; None = `unlabelled` where the dataset has one, else its train split.
        root: where named datasets live; folders are taken as they are.

    Raises UsageError for names nobody registered, a part given twice, and a `split` beside anything but one name;
    DatasetError for folders and datasets that are missing or empty.

    >>> load_images("scenes:val,scenes:train").ids[0]
    'scenes-val/val_000000'
    """
    whole = is_folder(spec, whole=True) or is_there(spec)
    texts = [spec] if whole else [text.strip() for text in spec.split(",")]
    if not all(texts):
        raise UsageError(f"--data {spec!r} has an empty part; expected names, folders and files, as in voc,./photos.")
    folders = [is_folder(text) for text in texts]  # before any dataset of the user's takes a name
    asked = [_SpecPart(text, None, "") if yes else _named(text) for text, yes in zip(texts, folders, strict=True)]
    if split is not None and (len(asked) > 1 or not asked[0].name or asked[0].split is not None):
        raise UsageError(
            f"the split {split!r} goes with a single name; got --data {spec}. Leave it out: a dataset has its split "
            "behind a colon, as in voc:train, and a folder has none."
        )
    asked = [one if not one.name or one.split is not None else _usual(one, split) for one in asked]
    twice = next((str(one) for i, one in enumerate(asked) if one.same in {other.same for other in asked[:i]}), None)
    if twice:
        raise UsageError(f"--data {spec} asks for {twice} twice; give each part once.")
    parts = [load_dataset(one.name, one.split or "", root) if one.name else ImageFolder(one.text) for one in asked]
    return Joined(",".join(map(str, asked)), parts) if len(parts) > 1 or not asked[0].name else parts[0]


class _SpecPart(NamedTuple):
    """A part of a spec: a folder, or a dataset with its split."""

    text: str
    """As it is written, without the split."""
    split: str | None
    name: str
    """Of the dataset in the registry; empty for a folder."""

    def __str__(self) -> str:
        return f"{self.text}:{self.split}" if self.name else self.text

    @property
    def same(self) -> str:
        """What is equal for parts that are the same images."""
        return f"{self.name}:{self.split}" if self.name else os.path.realpath(os.path.expanduser(self.text))


def is_folder(text: str, whole: bool = False) -> bool:
    """Tell whether a part of a spec, or a `whole` one, asks for a folder rather than for a dataset."""
    if text in DATASETS or not text:
        return False
    if os.path.isdir(os.path.expanduser(text)):
        return True
    if whole or split_spec(text):
        return False
    return text in (".", "..") or text.startswith("~") or "/" in text


def digest(data: DenseDataset) -> str:
    """Return `data.digest()`; a file that may not be opened raises DatasetError with its name."""
    try:
        return data.digest()
    except OSError as error:
        raise DatasetError(
            f"{error.filename} cannot be read ({error.strerror}), and every file enters the digest of the images; "
            "make it readable, or remove it."
        ) from error


class Joined(DenseDataset):
    """The images of several datasets, or of a folder, under the name that asks for them; no ground truth.

    With several parts, ids begin with the part's name (`voc-train/`, a folder's last name), so that they stay unique.
    """

    def __init__(self, name: str, parts: Sequence[DenseDataset]) -> None:
        self.info = DatasetInfo(  # type: ignore[misc]  # each has its own
            name=name,
            title=name,
            classes=(),
            palette=(),
            splits={"all": sum(map(len, parts))},
            targets=frozenset(),
            licence="; ".join(dict.fromkeys(part.info.licence for part in parts if part.info.licence)),
            citation="; ".join(dict.fromkeys(part.info.citation for part in parts if part.info.citation)),
        )
        super().__init__(None, "all")
        self.parts = parts
        self.starts = [0, *itertools.accumulate(map(len, parts))]
        prefixes = _unlike(map(_name, parts)) if len(parts) > 1 else [""]
        self.ids = [prefix + id_ for prefix, part in zip(prefixes, parts, strict=True) for id_ in part.ids]

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        part, i = self._at(index)
        return part.image(i)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files of the part's sample; the first is the image."""
        part, i = self._at(index)
        return part.files(i)

    def left_out(self) -> list[str]:
        """Return which files the parts do not read."""
        return [said for part in self.parts for said in part.left_out()]

    def digest(self) -> str:
        """Return a digest of the parts' digests; one part keeps its own, wherever it lies."""
        digests = [part.digest() for part in self.parts]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def _at(self, index: int) -> tuple[DenseDataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.info.name}: index {index} of {len(self)}")
        part = bisect.bisect_right(self.starts, index) - 1
        return self.parts[part], index - self.starts[part]


def _named(text: str) -> _SpecPart:
    """Return the dataset that a part asks for; raises UsageError for a name that nobody registered."""
    own = split_spec(text)
    if own is not None:
        return _SpecPart(*own, resolve_dataset(own[0]))
    name, colon, split = text.partition(":")
    try:
        DATASETS[name]
    except UsageError as error:
        raise UsageError(f"{error} A folder of that name would be ./{name}") from None
    return _SpecPart(name, split if colon else None, name)


def _usual(asked: _SpecPart, split: str | None) -> _SpecPart:
    """Return what is asked for with a split: the one given, else the one to train on."""
    info = DATASETS[asked.name].info
    usual = "unlabelled" if "unlabelled" in info.splits else info.train
    if usual == info.val and not split:
        raise UsageError(
            f"{asked.text} has no split to train on apart from the one that is measured, {usual}; name one of "
            f"{', '.join(info.splits)}, as in {asked.text}:{usual}, if that is meant."
        )
    return asked._replace(split=split or usual)


def _name(part: DenseDataset) -> str:
    """Return a part's name as ids can begin with it."""
    if isinstance(part, ImageFolder):
        return part.folder.resolve().name or "root"
    return f"{part.info.name}-{part.split}"


def _unlike(names: Iterable[str]) -> list[str]:
    """Return the names with a slash behind each, those that repeat numbered."""
    found: list[str] = []
    for name in names:
        numbered = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        found.append(next(f"{text}/" for text in numbered if f"{text}/" not in found))
    return found
