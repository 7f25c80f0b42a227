"""The labelled frames of NYU Depth v2 as they are published, nyu_depth_v2_labeled.mat, read where it lies.

It is HDF5 (MATLAB 7.3, 2.8 GB, 1449 frames) with MATLAB's axes in reverse, and needs h5py:

    images (N, 3, W, H) uint8   rawDepths (N, W, H) metres, 0 = not measured   depths, the same with the holes filled
    sceneTypes (1, N), references to names

splits.mat (MATLAB 5) has trainNdxs and testNdxs, 795 and 654 numbers of frames from 1 on; the 654 are those of Eigen et
al. What codes evaluate on was made of this file by BTS (`utils/extract_official_train_test_set_from_mat.py`): rawDepths
cut to whole millimetres, and the white frame black. `LabelledFrames` gives the same, under the same names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import CorruptFileError, DatasetError
from densebench.core.memo import remembered
from densebench.core.paths import file_digest, file_state
from densebench.datasets.dataset import DatasetInfo, json_digest
from densebench.datasets.io.archives import opened
from densebench.datasets.io.decode import read_mat
from densebench.datasets.kinect import checked_metres

NAME, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
NUMBERS = {"train": "trainNdxs", "test": "testNdxs"}
INSIDE = np.s_[7:474, 7:632]
"""Rows and columns that BTS leaves of an image; the rest is black."""
LONGEST = {"N": 1 << 20, "H": 1 << 12, "W": 1 << 12}
"""Bounds of what is read at once, far above what any file has."""
_ORIGINAL = "Get the original file."


class LabelledFrames:
    """Frames of the official file, in the order of their names. No handle is kept: each read opens the file."""

    def __init__(self, info: DatasetInfo, path: Path, part: str = "", depths: str = "rawDepths") -> None:
        """Choose the frames of a `part` of splits.mat (train or test; "" = all), and the kind of depth.

        Raises DatasetError for a file that is not the official one, and where splits.mat is missing.
        """
        self.info, self.path, self.depths = info, path, depths
        self.exported = bool(part) and depths == "rawDepths"
        with hdf5(path) as file:
            n, _, *size = array(file, path, "images", "u1", "N3WH").shape
            scenes = array(file, path, "sceneTypes", "O", "1N")[0]
            if array(file, path, depths, "f4", "NWH").shape != (n, *size) or len(scenes) != n:
                raise DatasetError(f"{path}: images, {depths} and sceneTypes differ in size. {_ORIGINAL}")
            types = [_text(file[scene]) for scene in scenes]
        wrong = [text for text in types if not re.fullmatch(r"\w+", text)]
        if wrong:
            raise DatasetError(f"{path}: {wrong[0]!r} is not a scene type. {_ORIGINAL}")
        named = sorted((f"{types[i]}/rgb_{i:05d}", i) for i in self._chosen(part, n))
        self.ids, self._numbers = [name for name, _ in named], [i for _, i in named]

    def image(self, index: int) -> Image.Image:
        """Decode one image as RGB."""
        with hdf5(self.path, index) as file:
            stored = file["images"][self._numbers[index]]
        pixels = np.ascontiguousarray(stored.transpose(2, 1, 0))
        if self.exported:
            black = np.zeros_like(pixels)
            black[INSIDE] = pixels[INSIDE]
            pixels = black
        return Image.fromarray(pixels)

    def depth(self, index: int) -> NDArray[np.float32]:
        """Decode one depth map, (H, W) in metres, 0 = not measured; other values than metres raise DatasetError."""
        with hdf5(self.path, index) as file:
            stored = file[self.depths][self._numbers[index]]
        where = f"{self.path}: {self.depths} of frame {self._numbers[index] + 1}"
        metres = checked_metres(np.ascontiguousarray(stored.T, dtype=np.float32), where, _ORIGINAL)
        if self.exported:
            metres = (metres * np.float32(1000)).astype(np.uint16).astype(np.float32) / np.float32(1000)
        return metres

    def digest(self) -> str:
        """Return the SHA-256 of the file, and of which frames and depth are read; remembered by its state."""
        key = json_digest(file_state(self.path))
        whole = remembered(f"digests/{key}.txt", lambda: file_digest(self.path))
        return json_digest([self.ids, self.depths, self.exported, whole])

    def _chosen(self, part: str, n: int) -> list[int]:
        """Return the numbers of the frames of a part, from 0 on."""
        if not part:
            return list(range(n))
        path = self.path.with_name(SPLITS)
        if not path.exists():
            raise DatasetError(f"{self.info.name}: {path} is missing, the official split. {self.info.how_to_get}")
        numbers = np.ravel(read_mat(path, -1).get(NUMBERS[part], ()))
        chosen = np.unique(numbers) if numbers.dtype.kind in "iuf" else numbers[:0]
        if not numbers.size or chosen.size < numbers.size or not np.isin(chosen, np.arange(1, n + 1)).all():
            raise DatasetError(
                f"{path}: {NUMBERS[part]} is not a list of different frames 1 to {n} of {self.path}. {_ORIGINAL}"
            )
        return [int(number) - 1 for number in chosen]


@contextmanager
def hdf5(path: Path, index: int = -1) -> Iterator[Any]:
    """Open an HDF5 file to be read in the block, so that no handle crosses a fork or is shared by threads.

    Raises DatasetError where h5py or the file is missing, CorruptFileError for one that cannot be read.
    """
    try:
        import h5py
    except ImportError:
        raise DatasetError(f"{path} is HDF5; reading it needs h5py: pip install 'densebench[nyu]'") from None
    try:
        with h5py.File(opened(path, sys.maxsize), "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        said = getattr(error, "strerror", None) or (error.args[0] if error.args else error)
        raise CorruptFileError(
            f"{path} cannot be read as HDF5 ({said}). {_ORIGINAL}",
            str(path),
            index,
        ) from error


def array(file: Any, path: Path, name: str, dtype: str, axes: str) -> Any:
    """Return an array of an open file, of which nothing is read yet; raises DatasetError for one of another kind.

    `axes` has a letter of `LONGEST` for each axis, or a digit for its length.
    """
    found = file.get(name)
    shape = getattr(found, "shape", None) or ()
    known = len(shape) == len(axes) and found.dtype.str[1:] == dtype
    if not known or not all(
        size == int(axis) if axis.isdigit() else 0 < size <= LONGEST[axis]
        for axis, size in zip(axes, shape, strict=True)
    ):
        has = f"{found.dtype} {shape} as" if shape else "no array"
        raise DatasetError(f"{path} has {has} {name}; expected {np.dtype(dtype)} ({', '.join(axes)}). {_ORIGINAL}")
    return found


def _text(characters: Any) -> str:
    return "".join(map(chr, np.ravel(characters).tolist()))
