"""Arrays from `.npz` files of other people: numbers alone, within bounds of size."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densebench.core.regular import read

MOST_BYTES = 1 << 30
"""Of all arrays of a file, once decompressed."""
MOST_FILE = 256 << 20


def read_numbers(file: Path | bytes, most_bytes: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file; raises ValueError for what is none, too large, or not of numbers alone."""
    try:
        content = file if isinstance(file, bytes) else read(file, MOST_FILE)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > most_bytes:
                raise ValueError(f"more than {most_bytes / 1e6:,.0f} MB of arrays")
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in archive.infolist()}
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise ValueError(f"torn, or no .npz file: {error}") from None


def _array(content: bytes) -> NDArray[Any]:
    """Return the array of a `.npy` file, whose header is checked before memory is taken for what it promises."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of an unknown format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in "buif" or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError("an array that is torn, or of other than numbers")
    return np.load(io.BytesIO(content), allow_pickle=False)
