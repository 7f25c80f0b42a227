"""Pictures with many classes: the legend has room, and the pictures keep theirs."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from densebench.figures import kit as figures


@pytest.mark.parametrize("n", [3, 254])
def test_a_legend_takes_no_room_from_the_pictures(n):
    classes = [f"class number {i}" for i in range(n)]
    palette = [(0, 0, 255)] * n
    red = np.zeros((30, 40, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout in which nothing is left for a picture
        drawn = np.array(Image.open(io.BytesIO(figures.aggregate({"one": red}, classes, palette))).convert("RGB"))
        small = np.array(
            Image.open(io.BytesIO(figures.picture_grid({"one": [red]}, (), (classes, palette, range(n))))).convert(
                "RGB"
            )
        )
    for picture, least in ((drawn, 250), (small, 100)):
        assert (picture == [255, 0, 0]).all(-1).any(0).sum() > least  # columns of pixels that show the image
        boxes = (picture == [0, 0, 255]).all(-1)
        rows = boxes.any(1)
        assert not rows[[0, -1]].any()  # no name is cut off
        assert boxes.any(0).sum() >= 10 * -(-n // 26)
