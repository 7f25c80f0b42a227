"""The dataset contract: images with dense ground truth, by index, without surprises.

A dataset is a class with torchvision's call shape, `Dataset(root, split, transforms=None)`. It lists sorted `ids`,
decodes one `image(i)` or one target at a time, and carries an `info` with all that a result has to state. Masks are
integers, 255 = ignore, and are never resampled with anything but nearest. `docs/datasets.md` says how to add one.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from densebench.core.config import user_settings
from densebench.core.errors import DatasetError, UsageError
from densebench.core.memo import remembered
from densebench.core.paths import config_file, file_digest, file_state
from densebench.datasets.io.label_files import Color

VOID = 255
"""The label that belongs to no class: borders, unlabelled pixels."""
SIDEWAYS = (5, 6, 7, 8)
"""Values of EXIF's orientation tag that exchange width and height."""

Root = str | Path | None
"""The data root; None where none is given, or nothing is read from it."""
Transforms = Callable[[Any, Any], Any] | None
"""As torchvision's datasets take them: from (image, mask) to (image, mask)."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a dataset before a file is opened."""

    name: str
    title: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    """A colour per class, for pictures."""
    splits: Mapping[str, int]
    """Published number of images per split; a copy on disk may hold fewer."""
    family: str = ""
    """Whose published recipes hold for it, such as "coco" for all sets of COCO's images; "" = nobody's."""
    train: str = "train"
    """The split that memory banks and heads are made from."""
    val: str = "val"
    ignored: tuple[int, ...] = (VOID,)
    """Labels that evaluation leaves out."""
    background: tuple[int, ...] = (0,)
    """Classes that do not count as labels when balanced image subsets are drawn."""
    stuff: tuple[int, ...] = ()
    """Classes that are not objects, such as sky and floor, where the dataset tells them apart; not its background."""
    targets: frozenset[str] = frozenset({"mask"})
    """Ground truth it has: "mask", "depth", "keypoints"."""
    palette_stored: bool = False
    """Do published label files show the classes in these colours? Files with the same ones in another order, as some
    programs save them, have other numbers."""
    usual: tuple[str, ...] = ()
    """Classes of which a dozen images hold one for certain; masks without any are numbered in another way."""
    reach: float = 0.0
    """Metres that a pixel of any few images is farther away than; depth of another scale ends before. 0 = unknown."""
    input_size: int | None = None
    """Side in pixels that images are evaluated at where the dataset fixes it; None = the protocol's own size."""
    variant_of: str = ""
    """The dataset whose files it reads with other classes: it is run when asked for by name only."""
    embedded: bool = False
    """Does the package make it? Always ready then, and run when asked for, or `scenes` where nothing else is ready."""
    licence: str = ""
    citation: str = ""
    how_to_get: str = ""

    @property
    def n_classes(self) -> int:
        """Number of classes, background included, void not."""
        return len(self.classes)


@dataclass(frozen=True)
class Keypoints:
    """Named points of one object that correspond across images of its class."""

    category: str
    xy: NDArray[np.float32]  # (K, 2) pixels, x then y
    visible: NDArray[np.bool_]  # (K,)
    bbox: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


@dataclass(frozen=True)
class Sample:
    """One image with the ground truth its dataset has."""

    id: str
    image: Image.Image
    mask: NDArray[np.uint8] | None = None  # (H, W), class ids, 255 = ignore
    depth: NDArray[np.float32] | None = None  # (H, W) metres, 0 = not measured
    keypoints: Sequence[Keypoints] = field(default=())


class DenseDataset(ABC):
    """Images with dense ground truth. Subclasses fill `info`, `ids`, `files` and the decoders they have."""

    info: ClassVar[DatasetInfo]
    ids: Sequence[str]
    source: str = ""
    """The file of the user's that describes it, if one does."""

    def __init__(self, root: Root, split: str, transforms: Transforms = None) -> None:
        if split not in self.info.splits:
            raise UsageError(f"{self.info.name}: unknown split {split!r}; it has {', '.join(self.info.splits)}.")
        self.root = None if root is None else Path(root)
        self.split = split
        self.transforms = transforms

    @property
    def cli_name(self) -> str:
        """What the command line calls it: the file that describes it, or its name."""
        return self.source or self.info.name

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""

    def image_size(self, index: int) -> tuple[int, int]:
        """Return width and height of one image in pixels; a dataset that can tell without decoding overrides it."""
        return self.image(index).size

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode one label map, (H, W) with class ids and 255 = ignore; values outside raise DatasetError."""
        raise UsageError(f"{self.info.name} has no masks; run `densebench list datasets` to see which have.")

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured."""
        raise UsageError(f"{self.info.name} has no depth; run `densebench list datasets` to see which have.")

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        """Return the annotated objects of one image."""
        raise UsageError(f"{self.info.name} has no keypoints; run `densebench list datasets` to see which have.")

    def class_colors(self, index: int, labels: Sequence[int]) -> Mapping[int, Color]:
        """Return the colours that one label file shows these classes in; empty where it is grey, or there is none."""
        return {}

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files that sample `index` is read from; empty where nothing is on disk."""
        return ()

    def left_out(self) -> Sequence[str]:
        """Return in a sentence each which files beside its own are not read, such as masks without images."""
        return ()

    def digest(self) -> str:
        """Return a digest of all that can change a score: ids, contents, classes and ignored labels."""
        state = {"info": [self.info.name, self.info.classes, self.info.ignored], "split": self.split}
        return json_digest({**state, "files": _contents(self)})

    def sample(self, index: int) -> Sample:
        """Decode everything the dataset has on one image."""
        has = self.info.targets
        return Sample(
            self.ids[index],
            self.image(index),
            self.mask(index) if "mask" in has else None,
            self.depth(index) if "depth" in has else None,
            self.keypoints(index) if "keypoints" in has else (),
        )

    def select(self, indices: Iterable[int]) -> DenseDataset:
        """Return a view on some of the samples, with a digest of its own."""
        return DatasetView(self, tuple(indices))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return (image, mask) as tv_tensors, after `transforms` if there are any: torchvision's call shape."""
        from torchvision import tv_tensors

        image = tv_tensors.Image(self.image(index))
        mask = tv_tensors.Mask(self.mask(index)) if "mask" in self.info.targets else None
        return self.transforms(image, mask) if self.transforms else (image, mask)


class DatasetView(DenseDataset):
    """Some samples of another dataset, in the order given."""

    def __init__(self, base: DenseDataset, indices: tuple[int, ...]) -> None:
        self.info = base.info  # type: ignore[misc]  # a view has the info of what it shows
        super().__init__(base.root, base.split, base.transforms)
        self.source = base.source
        self.base = base
        self.indices = indices
        self.ids = [base.ids[i] for i in indices]

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        return self.base.image(self.indices[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Return width and height of one image in pixels."""
        return self.base.image_size(self.indices[index])

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode one label map, (H, W)."""
        return self.base.mask(self.indices[index])

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres."""
        return self.base.depth(self.indices[index])

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        """Return the annotated objects of one image."""
        return self.base.keypoints(self.indices[index])

    def class_colors(self, index: int, labels: Sequence[int]) -> Mapping[int, Color]:
        """Return the colours that one label file shows these classes in."""
        return self.base.class_colors(self.indices[index], labels)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the files of one sample."""
        return self.base.files(self.indices[index])

    def left_out(self) -> Sequence[str]:
        """Return which files the whole dataset does not read."""
        return self.base.left_out()

    def digest(self) -> str:
        """Return a digest of the whole dataset's and of which samples these are."""
        return json_digest({"base": self.base.digest(), "ids": self.ids})


def check_labels(labels: NDArray[np.uint8], n_classes: int, where: Path | str) -> NDArray[np.uint8]:
    """Return `labels` if all are below `n_classes` or 255; else raise DatasetError with file and value."""
    wrong = labels[(labels >= n_classes) & (labels != VOID)]
    if wrong.size:
        values = ", ".join(str(v) for v in np.unique(wrong)[:5])
        raise DatasetError(
            f"{where} holds label {values} in {wrong.size} pixels; expected 0..{n_classes - 1} or 255 (ignore). "
            "Wrong file, or a mask of another class map? Run `densebench data check` on its dataset."
        )
    return labels


def check_same_size(data: DenseDataset, index: int, image: Image.Image, truth: NDArray[Any], what: str) -> None:
    """Raise DatasetError where the ground truth (H, W) has not the size of its image."""
    if truth.shape == image.size[::-1]:
        return
    fix = "Get the original files."
    if truth.shape == image.size and _is_sideways(image):
        fix = "The image has an orientation tag, which is not applied: save it turned, without the tag."
    raise DatasetError(
        f"{data.info.name} image {data.ids[index]} is {image.size[0]}x{image.size[1]} px but its "
        f"{what} {truth.shape[1]}x{truth.shape[0]}; expected the same. {fix}"
    )


def _is_sideways(image: Image.Image) -> bool:
    """Tell whether an image has an orientation tag that exchanges width and height."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
    except Exception:  # Pillow lets out whatever a broken tag leads it to, and no tag is told by it then
        return False


def json_digest(state: object) -> str:
    """Return the SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=list).encode()).hexdigest()


def _contents(dataset: DenseDataset) -> str:
    """Hash the bytes of all files once; remembered by their states."""
    files = [(id_, path) for i, id_ in enumerate(dataset.ids) for path in dataset.files(i)]
    stats = [[id_, *file_state(path)] for id_, path in files]

    def find() -> str:
        whole = hashlib.sha256()
        for id_, path in files:
            whole.update(f"{id_}:{file_digest(path)}\n".encode())
        return whole.hexdigest()

    return remembered(f"digests/{json_digest(stats)}.txt", find)


def data_root(given: str | Path | None = None) -> Path | None:
    """Return where datasets live: `--data-root`, else DENSEBENCH_DATA, else the config file's `data_root`."""
    found = given or os.environ.get("DENSEBENCH_DATA") or user_settings().get("data_root")
    if found is not None and not isinstance(found, (str, Path)):
        raise UsageError(f"{config_file()}: data_root = {found!r}; expected the path of a folder, in quotes.")
    return Path(found).expanduser() if found else None
