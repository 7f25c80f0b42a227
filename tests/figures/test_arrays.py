"""Maps as colours, enlarged, framed and laid over images."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from densebench.figures import kit
from densebench.figures import png as png_module
from densebench.figures.arrays import UNKNOWN, Scale, dotted, edged, enlarge, framed, overlay, scale_of


def test_one_scale_is_for_all_maps_and_leaves_unknown_values_grey():
    one, other = np.array([[0.0, 1.0]]), np.array([[0.5, np.nan]])
    scale = scale_of("m", [one, other])
    assert (scale.low, scale.high) == (0.0, 1.0)
    first, second = scale.paint(one), scale.paint(other)
    assert tuple(second[0, 1]) == UNKNOWN
    assert not np.array_equal(first[0, 0], first[0, 1])
    assert np.array_equal(scale.paint(np.array([[-7.0, 9.0]])), first)  # beyond the ends
    assert scale_of("m", [np.full((2, 2), np.nan)])[1:3] == (0.0, 1.0)
    flat = Scale("m", 2.0, 2.0).paint(np.full((2, 3), 2.0))
    assert flat.shape == (2, 3, 3)


def test_enlarged_patches_are_squares_the_right_way_round():
    grid = np.arange(6).reshape(2, 3)
    large = enlarge(grid, (4, 9))
    assert large.shape == (4, 9)
    assert np.array_equal(large, np.repeat(np.repeat(grid, 2, 0), 3, 1))
    assert np.array_equal(enlarge(np.full((1, 1, 3), 5), (2, 7)), np.full((2, 7, 3), 5))


@pytest.mark.parametrize("box", [(4, 10, 6, 8), (0, 0, 20, 30), (0, 0, 1, 1), (19, 29, 1, 1)])
def test_a_frame_leaves_its_box_and_the_rest_of_the_picture(box):
    picture = np.full((20, 30, 3), 100, np.uint8)
    top, left, height, width = box
    drawn = framed(picture, box, (255, 0, 0))
    assert (picture == 100).all()
    assert (drawn[top : top + height, left : left + width] == 100).all()
    changed = (drawn != 100).any(-1)
    rows, columns = changed.nonzero()
    if len(rows):
        assert rows.min() >= top - 2
        assert rows.max() < top + height + 2
        assert columns.min() >= left - 2
        assert columns.max() < left + width + 2
        assert (drawn[changed] == [255, 0, 0]).all(-1).any()
    else:
        assert (height, width) == (20, 30)


def test_dots_overlays_and_edges():
    picture = np.full((40, 60, 3), 100, np.uint8)
    assert tuple(dotted(picture, (50, 10), (0, 255, 0))[10, 50]) == (0, 255, 0)
    colors = np.zeros((40, 60, 3), np.uint8)
    assert (overlay(picture, colors, 1.0) == 0).all()
    assert (overlay(picture, colors, 0.0) == 100).all()
    regions = np.zeros((40, 60), int)
    regions[:, 30:] = 300
    lines = (edged(picture, regions) == 255).all(-1)
    assert lines[:, 30].all()
    assert lines.sum() == 40


def test_names_are_drawn_as_they_are(recwarn):
    picture = np.zeros((8, 8, 3), np.uint8)
    for name in ("$\\frac{", "a$b$c", "\x1b[31mred", "名前" * 40, "<script>" * 9, "=1+1"):
        png = kit.picture_grid({name: [picture]}, [name], scale=Scale(name, 0, 1))
        assert png[:4] == b"\x89PNG"
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    assert kit._shortened("a" * 99 + "\nb", 9) == "aaaa…aaaa\nb"


def test_a_figure_that_is_too_long_is_drawn_coarser(monkeypatch):
    monkeypatch.setattr(png_module, "LONGEST", 300)
    drawn = Image.open(io.BytesIO(png_module.png(Figure(figsize=(10, 2)))))
    assert drawn.size == (300, 60)
