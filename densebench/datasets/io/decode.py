"""Files of images, labels and arrays, on disk or in an archive, decoded within bounds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from densebench.core.errors import CorruptFileError, DensebenchError
from densebench.datasets.io.archives import opened
from densebench.datasets.io.label_files import Stored, read_stored

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""Formats of image files that are decoded, by Pillow's names, whatever a file is called; of several pictures in a file,
the first."""
MOST_IMAGE_BYTES = 1 << 28
"""Of an image file, which is as much as all its pixels take, uncompressed."""
MOST_PIXELS = 80_000_000
"""Of an image that is decoded, which takes 0.6 GB in each process then; larger ones are to be cut or scaled down."""


@contextmanager
def decoding(path: Path, what: str, index: int = -1) -> Iterator[Image.Image]:
    """Open an image file, on disk or in an archive, to be decoded in the block as `what` ("an image").

    Raises DatasetError for a file that is missing, CorruptFileError with its path for one that cannot be decoded.
    """
    try:
        with Image.open(opened(path, MOST_IMAGE_BYTES), formats=_formats()) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{width} x {height}")
            yield image
    except DensebenchError:
        raise
    except Exception as error:  # Pillow and its decoders let out whatever a damaged file leads them to
        raise CorruptFileError(
            f"{path} cannot be decoded as {what} ({_undecodable(error)}). Replace the file, or leave such images out "
            "with --skip-corrupt.",
            str(path),
            index,
        ) from error


@cache
def _formats() -> list[str]:
    """Return which of `FORMATS` the installed Pillow reads; others, such as EPS, would start other programs.

    What Pillow bounds differently is set once: pixels have a bound of their own here, and an editor's history in a PNG
    may be as large as all texts in it together. A broken orientation tag turns nothing, and is nothing to warn of.
    """
    Image.init()
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", message="(Corrupt|Possibly corrupt) EXIF data", category=UserWarning)
    return [name for name in FORMATS if name in Image.OPEN]


def _undecodable(error: Exception) -> str:
    """Return in words why an image file cannot be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is empty or torn, or none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+( x \d+)?", str(error))
        pixels = found[0] if found else "too many"
        return f"it has {pixels} pixels; at most {MOST_PIXELS / 1e6:.0f} million are decoded: scale it down"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_image(path: Path, index: int = -1) -> Image.Image:
    """Decode an image file as RGB; raises as `decoding`, and for pixels that 8 bits per channel cannot hold.

    Pixels are as they are stored: an orientation tag (EXIF) turns nothing, here and in published code
    (but in TIFF, where Pillow applies it).
    """
    with decoding(path, "an image", index) as image:
        if image.mode[0] in "IF":  # as RGB all that is above 255 would be white
            raise CorruptFileError(
                f"{path} has pixels of mode {image.mode}; expected 8 bits per channel. Scale it as it should be seen, "
                "and save it so.",
                str(path),
                index,
            )
        return image.convert("RGB")


def read_size(path: Path, index: int = -1) -> tuple[int, int]:
    """Return width and height in pixels of what `read_image` returns, from the file's header; raises as `decoding`."""
    with decoding(path, "an image", index) as image:
        if image.format == "TIFF":  # turned by its orientation tag, but not before it is decoded
            image.load()
        return image.size


def read_labels(path: Path, index: int = -1) -> Stored:
    """Decode a label image (palette or grey PNG), on disk or in an archive; raises as `decoding`, `read_stored` do."""
    with decoding(path, "a label image", index) as image:
        return read_stored(image, path)


def read_mat(path: Path, index: int, **options: Any) -> dict[str, Any]:
    """Return the variables of a MATLAB file, on disk or in an archive; raises CorruptFileError for a broken one."""
    from scipy.io import loadmat

    try:
        return loadmat(opened(path), **options)  # type: ignore[arg-type]  # its stubs do not know open files
    except DensebenchError:
        raise
    except Exception as error:  # scipy lets out whatever a broken file leads it to
        said = getattr(error, "strerror", None) or error
        raise CorruptFileError(
            f"{path} cannot be read as a MATLAB file ({said}). Replace it, or leave such images out with "
            "--skip-corrupt.",
            str(path),
            index,
        ) from error
