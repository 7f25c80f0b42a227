import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from densebench.ops import correspondence as ops
from densebench.ops.jackknife import group_of


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_corners_and_centres_survive_a_change_of_size():
    corners = torch.tensor([[-0.5, -0.5], [99.5, 49.5], [49.5, 24.5]])  # of an image of 50 rows and 100 columns
    expected = torch.tensor([[-0.5, -0.5], [9.5, 19.5], [4.5, 9.5]])
    torch.testing.assert_close(ops.rescale(corners, (50, 100), (20, 10)), expected)


def test_the_first_pixel_of_a_patch_is_left_of_its_cell():
    # patches of 16: pixels 0..15 are cell 0, whose centre is at 7.5
    points = ops.rescale(torch.tensor([[0.0, 7.5], [15.5, 31.5]]), (32, 32), (2, 2))
    torch.testing.assert_close(points, torch.tensor([[-15 / 32, 0.0], [0.5, 1.5]]))


@given(st.integers(1, 400), st.integers(1, 400), st.floats(-0.5, 399.5))
def test_there_and_back_is_the_same_point(old, new, x):
    point = torch.tensor([[x, x / 2]], dtype=torch.float64)
    back = ops.rescale(ops.rescale(point, (old, old), (new, new)), (new, new), (old, old))
    torch.testing.assert_close(back, point)


def test_a_descriptor_between_cells_is_their_mean():
    features = torch.arange(6.0).view(1, 2, 3)
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [2.0, 0.5], [0.25, 1.0], [-3.0, 9.0]])
    assert ops.descriptors(features, points).flatten().tolist() == [0.0, 0.5, 3.5, 3.25, 3.0]


@pytest.mark.parametrize("size", [(17, 30), (4, 6), (5, 4)])
def test_descriptors_and_lengths_are_those_of_the_upsampled_map(size):
    features = noise(5, 4, 6)
    upsampled = F.interpolate(features[None], size, mode="bilinear", align_corners=False)[0]
    pixels = torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1])).flip(1).float()
    found = ops.descriptors(features, ops.rescale(pixels, size, (4, 6)))
    torch.testing.assert_close(found, upsampled.flatten(1).T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ops.upsampled_lengths(features, size), upsampled.norm(dim=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_the_match_is_the_argmax_of_the_cosine_over_upsampled_features(chunk):
    features, queries, size = noise(5, 4, 6, seed=1), noise(7, 5, seed=2), (17, 30)
    upsampled = F.interpolate(features[None], size, mode="bilinear", align_corners=False)[0]
    cosines = F.cosine_similarity(queries[:, :, None, None], upsampled[None], dim=1)
    expected = [divmod(int(i), 30)[::-1] for i in cosines.flatten(1).argmax(1)]
    assert [tuple(p) for p in ops.match(queries, features, size, chunk).tolist()] == expected


def test_on_the_grid_a_query_finds_its_own_cell_whatever_its_length():
    features = torch.eye(6).view(6, 2, 3)
    assert ops.match(3.0 * torch.eye(6)[[4, 2]], features, (2, 3)).tolist() == [[1, 1], [2, 0]]


def test_a_long_vector_does_not_win_by_its_length():
    features = torch.tensor([[[1.0, 100.0]], [[0.0, 100.0]]])  # D=2, 1 x 2 cells: (1, 0) and (100, 100)
    assert ops.match(torch.tensor([[1.0, 0.1]]), features, (1, 2)).tolist() == [[0, 0]]


def test_ties_go_to_the_first_pixel():
    assert ops.match(torch.ones(1, 2), torch.ones(2, 3, 3), (3, 3)).tolist() == [[0, 0]]


def test_correct_by_hand_the_rim_counts():
    predicted, truth = torch.tensor([[3, 4], [0, 0], [10, 0]]), torch.zeros(3, 2)
    assert ops.correct(predicted, truth, 50, (0.1, 0.2)).tolist() == [[True, True, False], [True, True, True]]
    assert ops.correct(predicted, truth, 49, (0.1,)).tolist() == [[False, True, False]]


def scores():
    """Two categories and an empty one: 1 of 1, 1 of 3 (cat), 0 of 2 (dog) at the first alpha, all at the second."""
    found = ops.PCK(3, 2)
    found.update(0, 0, 1, torch.tensor([[1], [1]]).bool())
    found.update(0, 1, 0, torch.tensor([[1, 0, 0], [1, 1, 1]]).bool())
    found.update(1, 2, 3, torch.tensor([[0, 0], [1, 1]]).bool())
    return found


def test_per_point_pools_and_per_image_averages():
    found = scores()
    torch.testing.assert_close(
        found.overall(), torch.tensor([[2 / 6, 1.0], [(1 + 1 / 3 + 0) / 3, 1.0]], dtype=torch.float64)
    )
    by_category = found.by_category()
    assert by_category[0].tolist() == [[0.5, 1.0], [pytest.approx(2 / 3), 1.0]]
    assert by_category[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert by_category[2].isnan().all()
    assert found.counted().tolist() == [[4, 2], [2, 1], [0, 0]]


def left_out(pairs, n_categories):
    """PCK per point and per image by (category, source, target): hits, without each of the images 0, 1, 2 in turn."""
    assert len({group_of(i) for i in range(3)}) == 3
    found = ops.PCK(n_categories, 1)
    for (category, source, target), row in pairs.items():
        found.update(category, source, target, torch.tensor([row]).bool())
    rows = dict(zip(sorted(range(3), key=group_of), found.left_out()[..., 0].tolist(), strict=True))
    return [rows[i] for i in range(3)]


def test_where_images_are_left_out_their_pairs_go_as_source_and_as_target():
    found = left_out({(0, 0, 1): [1, 1, 0], (0, 1, 2): [0, 1], (0, 2, 0): [0]}, 1)
    np.testing.assert_allclose(found, [[1 / 2, 1 / 2], [0, 0], [2 / 3, 2 / 3]])


def test_categories_weigh_as_in_all_pairs_and_one_without_pairs_is_left_out():
    found = left_out({(0, 0, 1): [1, 1, 0], (0, 1, 2): [0, 1], (1, 2, 0): [0], (1, 2, 1): [1, 1, 1]}, 2)
    one, two = np.array([5, 2]), np.array([4, 2])  # keypoints and pairs of each category
    without_0 = (np.array([1 / 2, 1 / 2]) * one + np.array([1, 1]) * two) / (one + two)
    without_2 = np.array([2 / 3, 2 / 3])
    np.testing.assert_allclose(found, [without_0, [0, 0], without_2])


def test_nothing_is_left_of_a_single_pair():
    pck = ops.PCK(1, 1)
    pck.update(0, 0, 1, torch.tensor([[1, 0]]).bool())
    assert pck.left_out().isnan().all()


def test_the_order_of_pairs_does_not_matter():
    first, second = ops.PCK(1, 1), ops.PCK(1, 1)
    pairs = [(i, i + 1, torch.rand(1, 4, generator=torch.Generator().manual_seed(i)) > 0.5) for i in range(6)]
    for pck, order in ((first, pairs), (second, pairs[::-1])):
        for source, target, hits in order:
            pck.update(0, source, target, hits)
    torch.testing.assert_close(first.left_out(), second.left_out(), equal_nan=True)


def test_a_pair_without_key_points_is_refused():
    with pytest.raises(ValueError, match="images 4 and 7 has no keypoint in common"):
        ops.PCK(1, 1).update(0, 4, 7, torch.zeros(1, 0, dtype=torch.bool))


def objects(n_images=6, seed=0):
    """Two objects per image: categories, images, visibility of five points."""
    rng = np.random.default_rng(seed)
    n = 2 * n_images
    return rng.integers(0, 3, n).tolist(), (np.arange(n) // 2).tolist(), list(rng.random((n, 5)) < 0.3)


def brute_force(categories, images, visible):
    n = len(images)
    return [
        (a, b)
        for a in range(n)
        for b in range(n)
        if categories[a] == categories[b] and images[a] != images[b] and (visible[a] & visible[b]).any()
    ]


@pytest.mark.parametrize("seed", range(4))
def test_all_pairs_are_those_of_brute_force(seed):
    given = objects(seed=seed)
    assert ops.draw_pairs(*given, None, 0) == brute_force(*given)
    assert ops.draw_pairs(*given, 10_000, seed) == brute_force(*given)


def test_drawn_pairs_are_usable_distinct_and_a_function_of_the_seed():
    given = objects(40)
    drawn = ops.draw_pairs(*given, 25, 1)
    assert len(set(drawn)) == 25
    assert set(drawn) <= set(brute_force(*given))
    assert drawn == sorted(drawn) == ops.draw_pairs(*given, 25, 1) != ops.draw_pairs(*given, 25, 2)


def test_all_usable_pairs_are_found_where_they_are_rare():
    visible = [np.arange(200) == (i if i < 198 else 198) for i in range(200)]  # only the last two share a point
    assert ops.draw_pairs([0] * 200, range(200), visible, 5, 0) == [(198, 199), (199, 198)]
    assert ops.draw_pairs([], [], [], 5, 0) == []


def test_pairs_are_drawn_evenly():
    given = [0] * 10, list(range(10)), [np.ones(1, dtype=bool)] * 10
    tally = np.zeros((10, 10))
    for seed in range(400):
        for a, b in ops.draw_pairs(*given, 9, seed):
            tally[a, b] += 1
    assert (tally.diagonal() == 0).all()
    off = tally[~np.eye(10, dtype=bool)]
    assert off.mean() == pytest.approx(40)
    assert off.std() < 2 * math.sqrt(40)
