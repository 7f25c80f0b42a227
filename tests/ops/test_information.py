import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from densebench.ops.information import (
    LocalityBias,
    PositionCounts,
    aggregate_map,
    attention_mutual_information,
    coarse_positions,
    correlation,
    mi_bias,
    mutual_information,
)
from densebench.ops.jackknife import group_of


def random_maps(n: int, n_classes: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(-1, n_classes + 1, (n, 5, 6), generator=torch.Generator().manual_seed(seed))


@given(st.permutations(range(9)), st.integers(1, 4))
@settings(max_examples=20)
def test_counts_depend_on_neither_order_nor_groups(order, n_groups):
    maps = random_maps(9)
    stream = PositionCounts(30, 4, n_groups)
    for image in order:
        stream.update(image, maps[image])
    expected = torch.stack([(maps == c).sum(0).flatten() for c in range(4)], 1)
    assert torch.equal(stream.total(), expected)
    groups = [group_of(image, n_groups) for image in range(9)]
    for group, rest in zip(sorted(set(groups)), stream.left_out(), strict=True):
        others = PositionCounts(30, 4)
        for image in [i for i in range(9) if groups[i] != group]:
            others.update(image, maps[image])
        assert torch.equal(rest, others.total())


def test_counts_widen_before_they_overflow():
    stream = PositionCounts(1, 2)
    stream._cells[0, 1], stream.images[0] = 2**15 - 2, 2**15 - 2
    for image in range(3):
        stream.update(image, torch.tensor([[1]]))
    assert stream.total().tolist() == [[0, 2**15 + 1]]


def test_position_that_decides_the_class_and_one_that_does_not():
    decided = torch.eye(4, dtype=torch.int64) * 7
    found = mutual_information(decided)
    assert found.nmi == pytest.approx(1)
    assert found.total == pytest.approx(math.log(4))
    assert found.classwise.tolist() == pytest.approx([math.log(4) / 4] * 4)
    assert mutual_information(torch.ones(6, 3) * torch.tensor([1, 2, 5])).nmi == pytest.approx(0, abs=1e-12)
    assert mutual_information(torch.tensor([[3, 0], [4, 0]])).nmi == 0
    assert mutual_information(torch.zeros(2, 2)).nmi == 0
    assert mutual_information(torch.tensor([[1], [4], [1]])).nmi == 0  # shares whose sum misses 1 by 1e-16


@pytest.mark.parametrize(("n_positions", "n_classes"), [(1, 3), (9, 2), (30, 27), (400, 5)])
@pytest.mark.parametrize("high", [2, 50])  # with cells and whole classes that hold nothing, and without
def test_information_of_counts_is_that_of_scikit_learn(n_positions, n_classes, high):
    counts = torch.randint(0, high, (n_positions, n_classes), generator=torch.Generator().manual_seed(0))
    counts[0, 1], counts[:, 0] = 40, 0
    cells = counts.nonzero().repeat_interleave(counts[counts > 0], dim=0)  # one row per counted pixel
    position, of_class = cells.T.numpy()
    found = mutual_information(counts)
    expected = metrics.mutual_info_score(None, None, contingency=counts.numpy())
    assert found.total == pytest.approx(expected, abs=1e-9)
    assert found.total == pytest.approx(metrics.mutual_info_score(position, of_class), abs=1e-9)
    # divided by the entropy of the labels, it is called homogeneity there; of a single label that is 1, here 0
    homogeneity = metrics.homogeneity_score(of_class, position) if n_classes > 2 else 0
    assert found.nmi == pytest.approx(homogeneity, abs=1e-9)
    of_position = mutual_information(counts.T).entropy
    for method, both in (("min", min), ("max", max), ("arithmetic", lambda a, b: (a + b) / 2)):
        mean = both(found.entropy, of_position)
        expected = metrics.normalized_mutual_info_score(position, of_class, average_method=method)
        assert found.total == pytest.approx(expected * mean, abs=1e-9)


def test_locality_of_integer_attention_is_that_of_scikit_learn():
    attention = torch.randint(0, 9, (3, 7, 7), generator=torch.Generator().manual_seed(0))
    expected = [metrics.mutual_info_score(None, None, contingency=table.numpy()) for table in attention]
    assert attention_mutual_information(attention).tolist() == pytest.approx(expected, abs=1e-9)


def test_independent_counts_show_the_bias():
    n_images, n_positions, n_classes = 200, 300, 5
    drawn = torch.randint(0, n_classes, (n_images, n_positions), generator=torch.Generator().manual_seed(0))
    counts = torch.stack([(drawn == c).sum(0) for c in range(n_classes)], 1)
    bias = mi_bias(n_positions, n_classes, int(counts.sum()))
    assert mutual_information(counts).total == pytest.approx(bias, rel=0.1)


def test_average_colors():
    palette = torch.tensor([[0, 0, 255], [255, 0, 0]])
    found = aggregate_map(torch.tensor([[1, 3], [0, 0]]), palette, (1, 2))
    assert found.tolist() == [[[191.25, 0, 63.75], [0, 0, 0]]]


def test_locality_of_attention():
    uniform, local = torch.full((5, 5), 0.2), torch.eye(5)
    found = attention_mutual_information(torch.stack([uniform, local, 9 * local]))
    assert found.tolist() == pytest.approx([0, math.log(5), math.log(5)], abs=1e-12)


def test_wrong_grid():
    with pytest.raises(ValueError, match="30 positions"):
        PositionCounts(30, 4).update(0, torch.zeros(5, 5, dtype=torch.int64))


def test_coarse_positions_count_all_their_pixels():
    positions, grid = coarse_positions((5, 6), 4)
    assert grid == (2, 2)
    assert positions.view(5, 6).tolist() == [[0] * 4 + [1] * 2] * 4 + [[2] * 4 + [3] * 2]
    maps = random_maps(7)
    stream = PositionCounts(4, 4, 2, positions)
    for image, labels in enumerate(maps):
        stream.update(image, labels)
    expected = torch.stack([(maps == c).sum(0).flatten() for c in range(4)], 1)
    assert torch.equal(stream.total(), torch.zeros(4, 4, dtype=torch.int64).index_add_(0, positions, expected))
    stream.images[:] = 2000  # with up to 16 pixels a position, 2048 images are too many for two bytes
    for image in range(100):
        stream.update(image, maps[0])
    assert stream._cells.dtype == torch.int32


def test_locality_bias_by_both_orders_of_averaging():
    generator = torch.Generator().manual_seed(0)
    attention = torch.randn(3, 2, 6, 6, generator=generator).mul(3).softmax(-1)
    found = LocalityBias(2, 2, prefix=1)
    found.update(1, attention[:2])
    found.update(1, attention[2:])
    patches = attention[..., 1:, 1:].double()
    joint = patches / patches.sum((-2, -1), keepdim=True)
    product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    by_hand = (joint * (joint / product).log()).sum((-2, -1)).mean(0)
    assert found.of_heads[1].tolist() == pytest.approx(by_hand.tolist())
    assert found.of_mean[1] == pytest.approx(float(attention_mutual_information(patches.mean(1)).mean()))
    assert found.of_heads[0].isnan().all()
    whole = LocalityBias(1, 2)
    whole.update(0, attention)
    assert whole.of_mean[0] < whole.of_heads.mean()  # convex where all queries weigh the same


def test_correlation_is_that_of_scipy():
    x = torch.tensor([1.0, 2, 2, 5, math.nan, 9, 3, -1])
    y = torch.tensor([2.0, 1, 4, 4, 1, 100, math.inf, 0])
    found = correlation(x, y)
    kept = [0, 1, 2, 3, 5, 7]
    assert found.n == 6
    assert found.pearson == pytest.approx(stats.pearsonr(x[kept], y[kept]).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(x[kept], y[kept]).statistic)
    assert math.isnan(correlation(torch.ones(4), torch.arange(4)).pearson)
    assert math.isnan(correlation(torch.arange(2), torch.arange(2)).spearman)
