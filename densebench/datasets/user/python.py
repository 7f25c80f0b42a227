"""A dataset class in a user's own file, FILE.py:Class: checked when it is loaded, and whenever it gives something.

What the class raises becomes an error in a line, with the line of the file; what it returns is what the contract asks
for, or an error says what it is instead. The digest covers the file, so that a fixed class makes new results.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.config import as_dict
from densebench.core.errors import CorruptFileError, DatasetError, DensebenchError, UsageError
from densebench.core.paths import file_digest
from densebench.core.user_files import import_file, raised
from densebench.datasets.dataset import VOID, DatasetInfo, DenseDataset, Keypoints, Sample, check_labels
from densebench.datasets.user.folder import check_names

TARGETS = frozenset({"mask", "depth", "keypoints"})


def from_file(spec: str) -> type[DenseDataset]:
    """Return the class of FILE.py:Class, checked from then on.

    Raises UsageError for a file that is missing or raises, and for a class that is not a dataset or lacks something.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"{file} does not exist; expected a dataset's name, FILE.toml or FILE.py:Class.")
    try:
        module = import_file(path)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise UsageError(f"{file} {raised(error, path)}; --debug shows the traceback.") from error
    found = getattr(module, name, None)
    if found is None:
        known = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise UsageError(f"{file} has no class {name!r}; its classes are {', '.join(known) or 'none'}.")
    if not (isinstance(found, type) and issubclass(found, DenseDataset) and hasattr(found, "info")):
        raise UsageError(f"{spec} is not a subclass of densebench.DenseDataset with an `info` (docs/datasets.md).")
    info, wrong = _checked_info(found.info)
    wrong = wrong or _lacking(found, info)
    if wrong:
        raise UsageError(f"{spec}: {'; '.join(wrong)}. See docs/datasets.md for an example.")
    path = path.absolute()
    code = file_digest(path)
    where = {"spec": f"{path}:{name}", "shown": spec, "file": path, "code": code}
    return type(name, (_Checked, found), {**where, "info": info})


class _Checked(DenseDataset):
    """Goes before the user's class, whose methods it calls and checks."""

    spec: ClassVar[str]
    """Absolute path and class, for loader workers."""
    shown: ClassVar[str]
    """The same as the user wrote it."""
    file: ClassVar[Path]
    code: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._made_from = args, kwargs
        self._points: dict[str, tuple[int, str]] = {}  # of a category, and the image that had them first
        given = {**dict(zip(("root", "split", "transforms"), args, strict=False)), **kwargs}
        with self._guard(f"({', '.join(f'{name}={value}' for name, value in given.items())})"):
            super().__init__(*args, **kwargs)
            wrong = _wrong_ids(getattr(self, "ids", None))
            if not wrong and len(self) != len(self.ids):
                wrong = f"len() is {len(self)} and there are {len(self.ids)} ids; expected the same"
        if not hasattr(self, "split"):
            raise UsageError(f"{self.shown}: __init__ has to call super().__init__(root, split, transforms).")
        if wrong:
            raise DatasetError(f"{self.shown}, split {self.split}: {wrong}.")
        check_names(self.ids, self.file)

    def image(self, index: int) -> Image.Image:
        image: Image.Image = self._checked("image", index)
        with self._guard(f".image({index})", index):
            image.load()  # PIL reads pixels when they are asked for
        return image

    def mask(self, index: int) -> NDArray[np.uint8]:
        labels = self._checked("mask", index)
        where = f"{self.shown}, mask of {self.ids[index]!r},"
        return check_labels(labels, self.info.n_classes, where) if "mask" in self.info.targets else labels

    def depth(self, index: int) -> NDArray[np.float32]:
        return self._checked("depth", index)

    def keypoints(self, index: int) -> Sequence[Keypoints]:
        things: Sequence[Keypoints] = self._checked("keypoints", index)
        for thing in things:
            n, first = self._points.setdefault(thing.category, (len(thing.visible), self.ids[index]))
            if n != len(thing.visible):
                raise DatasetError(
                    f"{self.shown}: {thing.category!r} has {len(thing.visible)} keypoints in {self.ids[index]!r} and "
                    f"{n} in {first!r}; expected as many in every image, visible=False for those that are not seen."
                )
        return things

    def sample(self, index: int) -> Sample:
        return self._checked("sample", index)

    def files(self, index: int) -> tuple[Path, ...]:
        return tuple(Path(file) for file in self._checked("files", index))

    def digest(self) -> str:
        """Return a digest of what the class says and of its file."""
        with self._guard(".digest()"):
            data: Any = super().digest()
        if not isinstance(data, str):
            raise DatasetError(f"{self.shown}: digest() returned {_in_words(data)}; expected a text.")
        return hashlib.sha256(f"{data};code={self.code}".encode()).hexdigest()

    def __reduce__(self) -> tuple[object, ...]:  # a worker imports the file anew, and opens its own files
        return _again, (self.spec, *self._made_from)

    def _checked(self, name: str, index: int) -> Any:
        """Return what the user's method gives for a sample; raises DatasetError where that is not what it should be."""
        with self._guard(f".{name}({index})", index):
            value = getattr(super(), name)(index)
        fits, expected = EXPECTED[name]
        if not fits(value):
            raise DatasetError(
                f"{self.shown}: {name}({index}), id {self.ids[index]!r}, returned {_in_words(value)}; "
                f"expected {expected}."
            )
        return value

    @contextmanager
    def _guard(self, call: str, index: int = -1) -> Iterator[None]:
        """Turn what the user's code raises into DatasetError, or CorruptFileError where a file cannot be decoded."""
        try:
            yield
        except DensebenchError:
            raise
        except (Exception, SystemExit) as error:
            said = f"{self.shown}{call} {raised(error, self.file)}; --debug shows the traceback."
            undecodable = isinstance(error, (OSError, SyntaxError, Image.DecompressionBombError))
            if index >= 0 and undecodable and not isinstance(error, FileNotFoundError):
                raise CorruptFileError(said, self.ids[index], index) from error
            raise DatasetError(said) from error


def _again(spec: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenseDataset:
    return from_file(spec)(*args, **kwargs)


def _is_array(value: Any, kind: type) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype == kind


def _is_object(value: Any) -> bool:
    return (
        isinstance(value, Keypoints)
        and isinstance(value.category, str)
        and isinstance(value.xy, np.ndarray)
        and isinstance(value.visible, np.ndarray)
        and value.xy.dtype.kind == "f"
        and value.visible.dtype == bool
        and value.xy.shape == (*value.visible.shape, 2)
        and bool(np.isfinite(value.xy[value.visible]).all())
        and len(value.bbox) == 4
        and value.bbox[0] < value.bbox[2]
        and value.bbox[1] < value.bbox[3]
    )


EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "image": (
        lambda v: isinstance(v, Image.Image) and v.mode == "RGB",
        "a picture of PIL in RGB, as Image.open(path).convert('RGB') is",
    ),
    "mask": (
        lambda v: _is_array(v, np.uint8),
        "class numbers, an array (H, W) of uint8 with 255 where there is no class",
    ),
    "depth": (
        lambda v: _is_array(v, np.float32) and bool((np.isfinite(v) & (v >= 0)).all()),
        "metres, an array (H, W) of float32, finite and not negative, with 0 where nothing was measured",
    ),
    "keypoints": (
        lambda v: isinstance(v, (list, tuple)) and all(map(_is_object, v)),
        "a list of densebench.datasets.dataset.Keypoints: category a text, xy (K, 2) of finite floats, visible (K,) "
        "of bool, bbox (x1, y1, x2, y2) with x1 < x2 and y1 < y2",
    ),
    "sample": (lambda v: isinstance(v, Sample), "a densebench.datasets.dataset.Sample"),
    "files": (
        lambda v: isinstance(v, (list, tuple)) and all(isinstance(file, (str, Path)) for file in v),
        "a tuple of paths: the files that the sample is read from",
    ),
}


def _in_words(value: Any) -> str:
    if isinstance(value, np.ndarray):
        span = f" from {value.min()} to {value.max()}" if value.size and value.dtype.kind in "iufb" else ""
        return f"an array {value.shape} of {value.dtype}{span}"
    if isinstance(value, Image.Image):
        return f"a picture of PIL in {value.mode}"
    if isinstance(value, Keypoints):
        fields = (f"{name} {_in_words(getattr(value, name))}" for name in ("category", "xy", "visible"))
        return f"Keypoints with {', '.join(fields)}, bbox {value.bbox}"
    if isinstance(value, (list, tuple)) and value:
        return f"a {type(value).__name__} of {'; '.join(list(dict.fromkeys(map(_in_words, value)))[:2])}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _wrong_ids(ids: Any) -> str:
    """Return what is wrong with the ids of a dataset, "" for nothing."""
    if not isinstance(ids, (list, tuple)) or not all(isinstance(id_, str) and id_ for id_ in ids):
        return f"`ids` is {_in_words(ids)}; expected a list of texts, one per image"
    if not ids:
        return "`ids` is empty; expected one per image, of files that are where it looks for them"
    repeated = {a for a, b in itertools.pairwise(sorted(ids)) if a == b}
    if repeated:
        return f"{len(repeated)} ids occur twice (first: {min(repeated)}); expected one per image"
    late = next((pair for pair in itertools.pairwise(ids) if pair[0] > pair[1]), None)
    if late:
        return (
            f"`ids` are not sorted ({late[0]!r} is before {late[1]!r}); expected the order of sorted(ids), the same on "
            "every machine: sort the names first"
        )
    return ""


def _checked_info(info: Any) -> tuple[DatasetInfo, list[str]]:
    """Return the `info` of a class with values of the types that it declares, and what is wrong with it."""
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(info, DatasetInfo):
        return info, [f"`info` is {_in_words(info)}; expected a densebench.datasets.dataset.DatasetInfo"]
    try:
        info = TypeAdapter(DatasetInfo).validate_python(as_dict(info))
    except ValidationError as error:
        first = error.errors()[0]
        return info, [f"info.{first['loc'][0]}: {first['msg'].lower()}, got {reprlib.repr(first['input'])}"]
    n, masks = info.n_classes, "mask" in info.targets
    colors = [color for color in info.palette if all(0 <= v <= 255 for v in color)]
    rules = (
        (re.fullmatch(r"[\w-]+", info.name), f"name={info.name!r}: expected letters, digits, _ and -"),
        (info.targets <= TARGETS, f"targets={sorted(info.targets)}: expected some of {', '.join(sorted(TARGETS))}"),
        (
            len(set(info.classes)) == n < VOID and (n or not masks),
            "classes: expected different names, 1 to 254 of them where there are masks",
        ),
        (
            n <= len(info.palette) == len(colors),
            f"palette: expected {n} colours, (red, green, blue) of 0 to 255, got {reprlib.repr(info.palette)}",
        ),
        (
            {info.train, info.val} <= set(info.splits),
            f"train={info.train!r}, val={info.val!r}: expected splits, {', '.join(info.splits)}",
        ),
        (
            not masks or all(0 <= label < n for label in info.background),
            f"background={info.background}: expected numbers of classes",
        ),
        (
            all(0 <= label <= VOID for label in info.ignored),
            f"ignored={info.ignored}: expected labels of a mask, 0 to {VOID}",
        ),
    )
    return info, [message for kept, message in rules if not kept]


def _lacking(found: type[DenseDataset], info: DatasetInfo) -> list[str]:
    """Return which methods a class needs and does not have."""

    def own(name: str) -> bool:
        return getattr(found, name) is not getattr(DenseDataset, name)

    lacking = [f"it has no method {name}(index)" for name in ("image", *sorted(info.targets)) if not own(name)]
    if not own("files") and not own("digest"):
        lacking.append(
            "it has no method files(index): expected the paths that a sample is read from, so that results are made "
            "anew when they change (or a digest() of your own)"
        )
    return lacking
