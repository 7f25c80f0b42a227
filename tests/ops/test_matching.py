from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops.confusion import counts, mean_iou
from densebench.ops.matching import greedy_hungarian, hungarian, many_to_one, scores


def random_table(seed: int, n_classes: int, n_clusters: int) -> torch.Tensor:
    return torch.randint(1, 1000, (n_classes, n_clusters), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.permutations(range(5)))
@settings(max_examples=30)
def test_renaming_clusters_changes_nothing(seed, order):
    table = random_table(seed, 5, 5)
    renamed = table[:, list(order)]
    for match in (hungarian, many_to_one, greedy_hungarian):
        assert torch.equal(match(table)[list(order)], match(renamed))
        assert mean_iou(*counts(table, match(table))) == mean_iou(*counts(renamed, match(renamed)))


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_hungarian_finds_the_best_sum_of_iou(seed):
    table = random_table(seed, 4, 4)
    reached = scores(table, "iou")[hungarian(table), torch.arange(4)].sum()
    best = max(sum(scores(table, "iou")[c, k] for k, c in enumerate(order)) for order in permutations(range(4)))
    torch.testing.assert_close(reached, best)


def test_perfect_clusters_score_one():
    table = torch.diag(torch.tensor([5, 7, 9]))[:, [2, 0, 1]]
    assert hungarian(table).tolist() == [2, 0, 1]
    assert float(mean_iou(*counts(table, hungarian(table)))) == 1


def test_leftover_clusters_become_class_zero():
    table = torch.tensor([[0, 9, 0, 1], [9, 0, 0, 0]])
    assert hungarian(table).tolist() == [1, 0, 0, 0]


def test_ties_and_empty_clusters_go_to_the_lowest_class():
    table = torch.tensor([[0, 0, 3], [4, 0, 1], [4, 0, 3]])
    assert many_to_one(table, "precision").tolist() == [1, 0, 0]


def test_precision_and_iou_can_disagree():
    table = torch.tensor([[60, 1000], [50, 0]])
    assert many_to_one(table, "precision").tolist() == [0, 0]
    assert many_to_one(table, "iou").tolist() == [1, 0]


def merged(table: torch.Tensor) -> torch.Tensor:
    """Return the (C, C) table of pixels by class and by the best class of their cluster, one pixel class at a time."""
    groups = torch.zeros(len(table), len(table), dtype=torch.int64)
    for k, best in enumerate(many_to_one(table, "precision").tolist()):
        for c in range(len(table)):
            groups[c, best] += table[c, k]
    return groups


@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=30)
def test_greedy_then_hungarian_is_the_best_permutation_of_the_groups(seed, n_clusters):
    table = random_table(seed, 4, n_clusters)
    greedy, found = many_to_one(table, "precision"), greedy_hungarian(table)
    groups = scores(merged(table), "iou")
    tried = {order: sum(float(groups[c, g]) for g, c in enumerate(order)) for order in permutations(range(4))}
    reached = sum(float(groups[c, g]) for g, c in set(zip(greedy.tolist(), found.tolist(), strict=True)))
    assert reached == pytest.approx(max(tried.values()), abs=1e-6)
    assert len(set(found.tolist())) == len(set(greedy.tolist())), "groups stay whole and apart"
    mean = [float(mean_iou(*counts(table, mapping))) for mapping in (greedy, found)]
    assert mean[1] >= mean[0] - 1e-6


def test_greedy_then_hungarian_moves_a_group_to_the_class_that_it_covers():
    # most of cluster 0 is class 0, but little of class 0 lies in it, and all of class 1
    table = torch.tensor([[60, 940], [50, 0], [0, 1000]])
    assert many_to_one(table, "precision").tolist() == [0, 2]
    assert greedy_hungarian(table).tolist() == [1, 2]
    assert hungarian(table).tolist() == [1, 2], "one cluster a group: the same as without the first step"


def test_greedy_then_hungarian_merges_before_it_matches():
    # either half of class 0 alone has less of it than cluster 2 has of class 1
    table = torch.tensor([[5, 5, 1], [0, 0, 9]])
    assert greedy_hungarian(table).tolist() == [0, 0, 1]
    assert greedy_hungarian(torch.zeros(2, 3, dtype=torch.int64)).tolist() == [0, 0, 0]


def test_unknown_rule():
    with pytest.raises(ValueError, match="recall"):
        many_to_one(torch.ones(2, 2), "recall")
