"""Feature maps as colours."""

import numpy as np
import pytest
import torch

from densebench.pictures.pca import pca_rgb


def test_colors_follow_the_features_and_the_grid():
    maps = torch.zeros(2, 8, 2, 3)
    maps[0, 0, 0, 2] = 9.0  # one patch of one image stands out: row 0, column 2
    maps += torch.randn(maps.shape, generator=torch.Generator().manual_seed(0)) / 100
    colors = pca_rgb(maps)
    assert colors.shape == (2, 2, 3, 3)
    red = colors[..., 0].astype(int)
    assert red[0, 0, 2] == 255
    assert (np.delete(red.ravel(), 2) < 128).all()


def test_colors_are_shared_by_images_and_the_same_again():
    maps = torch.randn(3, 16, 4, 5, generator=torch.Generator().manual_seed(1))
    maps[2] = maps[0]
    colors = pca_rgb(maps)
    assert np.array_equal(colors[0], colors[2])
    assert np.array_equal(colors, pca_rgb(maps.clone()))
    order = torch.tensor([2, 1, 0])
    assert np.array_equal(pca_rgb(maps[order]), colors[order.numpy()])
    moved = pca_rgb(maps + 100)  # the mean is no colour
    assert np.abs(moved.astype(int) - colors.astype(int)).max() <= 1


@pytest.mark.parametrize("maps", [torch.zeros(1, 8, 1, 1), torch.ones(2, 1, 3, 3), torch.randn(1, 8, 1, 1)])
def test_what_does_not_vary_is_grey(maps):
    assert (pca_rgb(maps) == 128).all()


def test_two_channels_leave_the_third_color_grey():
    colors = pca_rgb(torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(2)))
    assert (colors[..., 2] == 128).all()
    assert np.ptp(colors[..., :2]) == 255
