"""The numbers of a label file as its maker meant them: one look at how they are stored, wherever a mask is decoded.

What the header tells is the format, the bits per pixel and the palette. Codecs that change pixels are refused, grey of
2 or 4 bits, which Pillow scales to 8, is scaled back, and a palette is held against the published one where there is
one: colours in another order mean that the numbers were given anew when the file was saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densebench.core.errors import DatasetError

Color = tuple[int, int, int]
LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")
"""Formats, by Pillow's names, that keep every number; who writes GIF leaves out colours and counts anew."""
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
SCALES: Mapping[str, int] = {"L;2": 85, "L;2R": 85, "L;4": 17, "L;4R": 17}
"""What Pillow multiplies grey of fewer bits by, per raw mode."""


class Stored(NamedTuple):
    """What a label file holds."""

    numbers: NDArray[np.uint8]  # (H, W)
    palette: bytes
    """Red, green and blue of each number in turn; empty for grey."""


def read_stored(image: Image.Image, path: Path) -> Stored:
    """Return the numbers of an image that was opened and not decoded yet.

    Raises DatasetError for pixels that are not numbers of 8 bits, and for files whose codec changes them.
    """
    packing = image.info.get("compression")
    kind = f"TIFF of {packing}" if packing in LOSSY_TIFF else str(image.format)
    if kind not in LOSSLESS:
        raise DatasetError(
            f"{path} is stored as {kind}, whatever it is called, and that changes numbers; expected PNG. Get the "
            "original file: saving this one as PNG does not bring them back."
        )
    if image.mode not in ("P", "L", "1"):
        why = "Save the numbers with 8 bits" if image.mode[0] in "IF" else "Colours are not numbers: save these"
        raise DatasetError(
            f"{path} has pixels of mode {image.mode}; expected a grey or palette PNG of class numbers, 8 bits (P or "
            f"L). Get the original file. {why}, as Image.fromarray(numbers.astype('uint8')).save(...) does."
        )
    codec, _, _, raw = (getattr(image, "tile", None) or [("", None, 0, "")])[0]  # what is to be decoded, and how
    layout = raw if isinstance(raw, str) else next((part for part in raw or () if isinstance(part, str)), "")
    if codec == "ppm" or (image.format == "TIFF" and "I" in layout):
        how = "white as 0" if "I" in layout else "numbers of its own largest value"
        raise DatasetError(f"{path} stores {how}, which is read as other numbers; expected a grey or palette PNG.")
    palette = read_palette(image)
    numbers = np.array(image, dtype=np.uint8)
    if layout in SCALES:
        numbers //= SCALES[layout]
    return Stored(numbers, palette)


def read_palette(image: Image.Image) -> bytes:
    """Return the palette of an open image as `Stored` has it, without decoding pixels where the header tells it."""
    if image.mode != "P":
        return b""
    raw = image.palette
    return bytes(raw.palette) if raw is not None and raw.rawmode == "RGB" else bytes(image.getpalette("RGB") or ())


Published = tuple[tuple[int, Color], ...]
"""Numbers with their colours."""


def check_order(stored: Stored, published: Published, n_void: int, path: Path, how_to_get: str) -> None:
    """Raise DatasetError where a palette has the `published` colours in another order.

    `n_void` numbers mean no class and may have any colour. A palette with colours of its own tells nothing of the
    numbers.
    """
    meant, unknown = _moved(stored.palette, published)
    if not meant:
        return
    used = np.flatnonzero(np.bincount(stored.numbers.ravel(), minlength=256)).tolist()
    moved = [number for number in used if number in meant]
    if moved and len(unknown.intersection(used)) <= n_void:
        raise DatasetError(
            f"{path} has the published colours in another order: {moved[0]} has the colour of {meant[moved[0]]}, so "
            f"that {len(moved)} of its {len(used)} numbers mean other classes. It was saved through an editor or a "
            f"conversion that sorts colours. {how_to_get}"
        )


@lru_cache(maxsize=64)  # all files of a dataset have the same
def _moved(palette: bytes, published: Published) -> tuple[Mapping[int, int], frozenset[int]]:
    """Return which numbers of a palette have the colours of others, each with that one, and which have none of them."""
    known = dict(published)
    first = {color: number for number, color in reversed(published)}
    shown = {number: color_of(palette, number) for number in range(len(palette) // 3)}
    moved = {
        number: first[color]
        for number, color in shown.items()
        if color in first and known.get(number) != color  # two numbers may have one
    }
    return moved, frozenset(number for number, color in shown.items() if color not in first)


def color_of(palette: bytes, number: int) -> Color:
    """Return the colour of a number in the palette of a `Stored` that has one for it."""
    red, green, blue = palette[3 * number : 3 * number + 3]
    return red, green, blue
