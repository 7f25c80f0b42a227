"""Depth of the Kinect in metres: read from grey images of 16 bits, and what of it can be true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import DatasetError
from densebench.datasets.io.decode import decoding

PLAUSIBLE = (0.3, 15.0)
"""Metres that the farthest pixel of a Kinect image lies within; the sensor measures 0.5 to 10."""


def read_metres(
    path: Path, index: int, per_metre: float, layout: str, how_to_get: str, void: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Decode a depth map, (H, W) in metres, 0 = not measured.

    Args:
        path: a grey image of 16 or 32 bits; it may lead through an archive.
        index: of the sample, for errors.
        per_metre: values that make a metre.
        layout: what an error says has this scale, such as "split train".
        how_to_get: ends an error of scale.
        void: values that mean "not measured" beside 0.

    Raises DatasetError for another kind of image and for values that are no metres at this scale, CorruptFileError for
    a broken file.
    """
    with decoding(path, "a depth map", index) as image:
        if image.mode not in ("I;16", "I;16B", "I"):
            why = "A depth map saved with 8 bits, or as colours, has lost its metres: get the original file."
            if image.mode == "F":
                why = f"Save metres times {per_metre:.0f} as uint16."
            raise DatasetError(f"{path} is a {image.mode} image; expected a 16-bit grey PNG of depth. {why}")
        values = np.array(image)
    values[np.isin(values, void)] = 0
    metres = (values.astype(np.float32) / per_metre).astype(np.float32)
    scale = f" if {per_metre:.0f} is a metre, as in {layout}"
    return checked_metres(metres, str(path), how_to_get, scale, f"Its values end at {int(values.max())}: it")


def checked_metres(
    metres: NDArray[np.float32], where: str, how_to_get: str, scale: str = "", it: str = "It"
) -> NDArray[np.float32]:
    """Return a depth map that may be one of the Kinect; raises DatasetError, with `where` it is, for any other.

    `scale` says what was taken for a metre, `it` begins the sentence that the scale is another one.
    """
    nearest, farthest = float(metres.min(initial=0)), float(metres.max(initial=0))
    if farthest == nearest == 0 or (nearest == 0 and PLAUSIBLE[0] <= farthest <= PLAUSIBLE[1]):
        return metres
    below = f" and {nearest:.2f} m" if nearest < 0 else ""
    raise DatasetError(
        f"{where} reaches {farthest:.2f} m{below}{scale}; expected {PLAUSIBLE[0]} to {PLAUSIBLE[1]} m. "
        f"{it} is of another scale. {how_to_get}"
    )
