from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops.confusion import counts, mean_iou
from densebench.ops.matching import hungarian, many_to_one, scores


def random_table(seed: int, n_classes: int, n_clusters: int) -> torch.Tensor:
    return torch.randint(1, 1000, (n_classes, n_clusters), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.permutations(range(5)))
@settings(max_examples=30)
def test_renaming_clusters_changes_nothing(seed, order):
    table = random_table(seed, 5, 5)
    renamed = table[:, list(order)]
    for match in (hungarian, many_to_one):
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


def test_unknown_rule():
    with pytest.raises(ValueError, match="recall"):
        many_to_one(torch.ones(2, 2), "recall")
