import math
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from densebench.ops import cbfe


def test_class_attention_drops_class_token_and_registers_and_averages_heads():
    attention = torch.zeros(1, 2, 6, 6)
    attention[0, 0, 0] = torch.tensor([0.5, 0.1, 0.0, 0.1, 0.2, 0.1])
    attention[0, 1, 0] = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.2, 0.1])
    torch.testing.assert_close(cbfe.class_attention(attention, 3), torch.tensor([[0.2, 0.2, 0.1]]))


def test_attention_mask_keeps_the_strongest_patches_and_drops_specks():
    attention = torch.full((1, 8, 10), 1e-4)
    attention[0, 2:5, 3:7] = 1.0
    attention[0, 7, 0] = 0.6
    mask = cbfe.attention_mask(attention, 0.8)
    assert mask.shape == (1, 8, 10)
    assert mask[0, 2:5, 3:7].all()
    assert mask.sum() == 12  # the lone patch is a component of one
    assert cbfe.attention_mask(attention, 0.9, min_component=1)[0, 7, 0]
    assert cbfe.attention_mask(attention, 1.0, min_component=1).all()


def test_attention_mask_does_not_depend_on_the_unit_or_on_the_batch():
    maps = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0))
    mask = cbfe.attention_mask(maps, 0.6)
    assert torch.equal(cbfe.attention_mask(maps * 63, 0.6), mask)
    assert torch.equal(torch.cat([cbfe.attention_mask(m[None], 0.6) for m in maps]), mask)


@pytest.mark.parametrize(("shape", "mass", "message"), [((1, 3, 9), 0.5, "3x9"), ((1, 9, 9), 1.5, "mass is in")])
def test_attention_masks_that_cannot_be_made(shape, mass, message):
    with pytest.raises(ValueError, match=message):
        cbfe.attention_mask(torch.ones(shape), mass)


def test_components_touch_across_corners():
    mask = torch.tensor([[[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]], dtype=torch.bool)
    assert torch.equal(cbfe.drop_small_components(mask, 4), mask)
    assert not cbfe.drop_small_components(mask, 5).any()


def test_precision_is_a_mean_over_images_not_over_pixels():
    precision = cbfe.ClusterPrecision(4)
    precision.update(torch.tensor([[0, 0, 0, 1]]), torch.tensor([[True, True, True, False]]))
    precision.update(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[False, True, False, True]]))
    assert precision.compute().tolist() == [0.5, 0.25, 1.0, 0.0]  # pooled, cluster 0 would have 0.75
    assert precision.images.tolist() == [2, 2, 1, 0]
    assert precision.pixels.tolist() == [4, 3, 1, 0]


def test_threshold_search_tries_55_to_75_percent_background():
    precisions = torch.linspace(0, 0.95, 20, dtype=torch.float64)
    search = cbfe.ThresholdSearch(precisions)
    assert search.starts.tolist() == [11, 12, 13, 14]
    clusters = torch.arange(20).view(4, 5)
    search.update(clusters, clusters >= 13)
    search.update(clusters, clusters >= 13)
    threshold, iou = search.compute()
    assert threshold == pytest.approx(0.65)
    assert iou == 1.0
    assert (precisions >= threshold - 1e-9).sum() == 7


def test_threshold_search_follows_the_precisions_not_the_ids():
    precisions = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3])
    search = cbfe.ThresholdSearch(precisions)
    assert search.starts.tolist() == [2]
    search.update(torch.tensor([[0, 1, 2, 3, 4]]), torch.tensor([[True, False, True, False, False]]))
    assert search.compute() == (pytest.approx(0.3), pytest.approx(2 / 3))


def test_a_threshold_that_no_cluster_reaches_is_not_rounded():
    search = cbfe.ThresholdSearch(torch.tensor([0.28, 0.28, 0.28, 0.28]))
    search.update(torch.tensor([[0, 1]]), torch.tensor([[True, False]]))
    assert search.compute()[0] == pytest.approx(0.28)


def test_images_without_foreground_are_left_out_of_both_means():
    empty = torch.zeros(1, 2, 2, dtype=torch.bool)
    assert cbfe.foreground_iou(empty, empty).isnan().all()
    search = cbfe.ThresholdSearch(torch.tensor([0.1, 0.2, 0.3, 0.9]))
    search.update(torch.tensor([[0, 1]]), torch.tensor([[False, False]]))
    search.update(torch.tensor([[0, 3]]), torch.tensor([[False, True]]))
    assert search.compute()[1] == 1.0


def test_borders_are_foreground_unless_told_otherwise():
    labels = torch.tensor([0, 3, 255])
    assert cbfe.label_foreground(labels).tolist() == [False, True, True]
    assert cbfe.label_foreground(labels, with_boundary=False).tolist() == [False, True, False]


def slow_co_occurrence(clusters, k):
    """The definition, pixel by pixel."""
    counts = torch.zeros(k, k, dtype=torch.float64)
    height, width = clusters.shape
    steps = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]  # distance 1: all eight neighbours
    far = [(0, 2), (1, 1), (2, 0), (1, -1), (0, -2), (-2, -1), (-2, 0), (-1, 1)]  # 2: diagonals round down, one is odd
    for dy, dx in steps + far:
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    counts[clusters[y, x], clusters[y + dy, x + dx]] += 1
    counts.fill_diagonal_(0)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def test_co_occurrence_of_one_image_is_its_definition():
    clusters = torch.randint(0, 4, (6, 9), generator=torch.Generator().manual_seed(1))
    stream = cbfe.CoOccurrence(5)
    stream.update(clusters)
    torch.testing.assert_close(stream.compute(), slow_co_occurrence(clusters, 5))


def test_co_occurrence_averages_over_the_images_with_neighbours():
    stream = cbfe.CoOccurrence(3, distances=(1,))
    stream.update(torch.zeros(4, 4, dtype=torch.int64))  # nothing but cluster 0: no neighbours, not an image of it
    stream.update(torch.tensor([[0, 0], [1, 1]]))
    stream.update(torch.tensor([[0, 0], [2, 2]]))
    expected = torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(stream.compute(), expected)


def test_an_edge_needs_both_shares_and_weighs_the_smaller():
    matrix = torch.tensor([[0, 0.6, 0.4], [0.3, 0, 0.05], [0.9, 0.1, 0]], dtype=torch.float64)
    edges = cbfe.strong_edges(matrix, 0.2)
    assert edges.nodes.tolist() == [[0, 1], [0, 2]]
    assert edges.weights.tolist() == [0.3, 0.4]
    assert cbfe.strong_edges(matrix, 0.95).nodes.shape == (0, 2)
    assert len(cbfe.strong_edges(torch.zeros(3, 3), 0.0).nodes) == 0


def test_without_edges_nothing_is_searched():
    alone = cbfe.strong_edges(torch.zeros(4, 4), 0.1)
    assert cbfe.communities(alone, 4, seed=1, markov_time=1.0).tolist() == [0, 0, 0, 0]


def test_infomap_finds_two_cliques():
    if not cbfe.has_infomap():  # importing it before faiss ends in a segmentation fault
        pytest.skip("needs infomap")
    matrix = torch.zeros(8, 8, dtype=torch.float64)
    matrix[:3, :3] = matrix[3:6, 3:6] = 0.4
    matrix[2, 3] = matrix[3, 2] = 0.1
    edges = cbfe.strong_edges(matrix.fill_diagonal_(0), 0.05)
    found = cbfe.communities(edges, 8, seed=1, markov_time=1.0)
    assert sorted([found[:3].unique().tolist(), found[3:6].unique().tolist()]) == [[1], [2]]
    assert found[6:].tolist() == [0, 0]
    assert torch.equal(cbfe.communities(edges, 8, seed=1, markov_time=1.0, preferred=2), found)


def test_angles_are_those_of_the_published_code():
    degrees = [round(math.degrees(angle)) for angle in cbfe.ANGLES]
    assert degrees == [0, 45, 90, 135, 180, 240, 270, 315]


@pytest.mark.skipif(not (cbfe.has_infomap() and find_spec("faiss")), reason="needs infomap and faiss")
def test_infomap_works_where_faiss_comes_later():
    code = (
        "from densebench.ops import cbfe; infomap = cbfe.load_infomap(); import faiss; "
        "net = infomap.Infomap('--two-level --silent'); net.add_link(0, 1); print(len(net.run().modules()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, "2\n")
