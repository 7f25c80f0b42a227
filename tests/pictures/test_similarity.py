"""Correlation maps, and where the patch asked about lies."""

import pytest
import torch

from densebench.pictures.similarity import correlate, next_of
from densebench.pictures.view import box_of, patch_at


def test_a_patch_is_like_itself_and_unlike_its_opposite():
    maps = torch.zeros(2, 4, 2, 3)
    maps[:, 0] = 2.0
    maps[1, :, 1, 2] = torch.tensor([-1.0, 0, 0, 0])
    maps[1, :, 0, 1] = 0.0
    found = correlate(maps[0, :, 0, 0], maps)
    assert found.shape == (2, 2, 3)
    assert (found[0] == 1).all()
    assert found[1, 1, 2] == -1
    assert found[1, 0, 1] == 0  # of no length
    assert (correlate(torch.zeros(4), maps) == 0).all()


def test_the_other_image_is_the_next():
    assert [next_of(i, 3) for i in range(3)] == [1, 2, 0]
    assert next_of(0, 1) == 0


@pytest.mark.parametrize(("point", "grid", "patch"), [
    ((0.0, 0.0), (4, 6), (0, 0)), ((1.0, 1.0), (4, 6), (3, 5)), ((0.9, 0.1), (4, 6), (0, 5)),
    ((0.5, 0.5), (1, 1), (0, 0)),
])  # fmt: skip
def test_a_place_is_a_patch_of_every_grid(point, grid, patch):
    assert patch_at(point, grid) == patch
    top, left, height, width = box_of(patch, grid, (40, 60))
    assert top <= point[1] * 40 <= top + height
    assert left <= point[0] * 60 <= left + width
    assert height >= 1
    assert width >= 1
