"""Clusters in the colours of their classes."""

import numpy as np

from densebench.figures.clusters import cluster_colors, cluster_overlay
from densebench.pictures.retrieval import shares_of

PALETTE = [(0, 0, 0), (200, 40, 40), (40, 200, 40)]


def test_a_lone_cluster_has_the_color_of_its_class_and_many_have_shades_of_it():
    colors = cluster_colors(np.array([1, 2, 2, 2]), PALETTE)
    assert tuple(colors[0]) == PALETTE[1]
    dark, own, light = colors[1:].astype(int)
    assert tuple(own) == PALETTE[2]
    assert (dark <= own).all()
    assert (own <= light).all()
    assert (colors[1:].argmax(1) == 1).all()  # all of them green


def test_more_clusters_than_a_byte_holds():
    mapping = np.arange(700) % 3
    colors = cluster_colors(mapping, PALETTE)
    assert colors.shape == (700, 3)
    assert np.array_equal(colors, cluster_colors(mapping, PALETTE))
    greens = colors[mapping == 2].astype(int).sum(1)
    assert (np.diff(greens) >= 0).all()
    clusters = np.array([[0, 699], [698, 697]])
    image = np.zeros((20, 40, 3), np.uint8)
    drawn = cluster_overlay(image, clusters, mapping, PALETTE)
    assert drawn.shape == image.shape
    strength = 0.65
    expected = (strength * colors[clusters[1, 0]].astype(float)).round()
    assert np.array_equal(drawn[15, 5], expected)  # the lower left patch


def test_a_line_is_where_the_class_changes_not_the_cluster():
    image, mapping = np.zeros((10, 30, 3), np.uint8), np.array([1, 1, 2])
    white = (cluster_overlay(image, np.array([[0, 1, 2]]), mapping, PALETTE) == 255).all(-1)
    assert white.any(0).nonzero()[0].tolist() == [20]


def test_shares_of_masks_leave_void_out():
    class Masks(list):
        info = type("Info", (), {"n_classes": 3})

        def mask(self, index):
            return self[index]

    shares = shares_of(Masks([np.array([[0, 0], [1, 255]], np.uint8), np.full((2, 2), 255, np.uint8)]))
    assert shares == [2 / 8, 1 / 8, 0.0]
