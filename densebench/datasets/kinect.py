"""Depth maps of the Kinect as grey images of 16 bits, read as metres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densebench.datasets.dataset import decoding
from densebench.errors import DatasetError

PLAUSIBLE = (0.3, 15.0)
"""Metres that the farthest pixel of a Kinect image lies within; the sensor measures 0.5 to 10."""


def read_metres(
    path: Path, index: int, per_metre: float, layout: str, how_to_get: str, void: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Decode a depth map, (H, W) in metres, 0 = not measured.

    Args:
        path: a grey image of 16 or 32 bits.
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
            raise DatasetError(
                f"{path} is a {image.mode} image; expected a 16-bit grey PNG of depth. A depth map saved with "
                "8 bits has lost its metres: get the original file."
            )
        values = np.array(image)
    values[np.isin(values, void)] = 0
    metres = (values.astype(np.float32) / per_metre).astype(np.float32)
    farthest = float(metres.max(initial=0))
    if farthest and not PLAUSIBLE[0] <= farthest <= PLAUSIBLE[1]:
        raise DatasetError(
            f"{path} reaches {farthest:.2f} m if {per_metre:.0f} is a metre, as in {layout}; expected {PLAUSIBLE[0]} "
            f"to {PLAUSIBLE[1]} m. Its values end at {int(values.max())}: it is of another scale. {how_to_get}"
        )
    return metres
