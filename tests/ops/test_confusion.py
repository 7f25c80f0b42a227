import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from densebench.ops.confusion import (
    ConfusionMatrix,
    confusion,
    counts,
    iou,
    mean_iou,
)

labels = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 2, 3, 9, -1, 255])), max_size=60)


def both(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    return table[:, 0], table[:, 1]


@given(labels)
def test_table_counts_every_evaluated_pixel_once(pairs):
    expected = torch.zeros(4, 5, dtype=torch.int64)
    for pred, target in pairs:
        if 0 <= target < 4 and target != 2:
            expected[target, pred] += 1
    assert torch.equal(confusion(*both(pairs), n_pred=5, n_target=4, ignore=(255, 2)), expected)


@given(labels, st.permutations(range(3)))
def test_batches_and_their_order_do_not_matter(pairs, order):
    pred, target = both(pairs)
    whole, parts = ConfusionMatrix(5, 4), ConfusionMatrix(5, 4)
    whole.update(pred, target)
    for part in order:
        parts.update(pred[part::3], target[part::3])
    assert torch.equal(whole.table, parts.table)


def test_small_integer_dtypes_do_not_overflow():
    pred = torch.full((300,), 150, dtype=torch.uint8)
    assert int(confusion(pred, pred, 151, 151)[150, 150]) == 300


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ([0, 5], [0, 0], r"0\.\.5"),
        ([-1, 0], [0, 0], r"-1\.\.0"),
        ([0], [0, 0], "shape"),
        ([0.0], [0], "integer"),
    ],
)
def test_bad_labels_are_refused(pred, target, message):
    with pytest.raises(ValueError, match=message):
        confusion(torch.tensor(pred), torch.tensor(target), 5, 4)


def test_absent_classes():
    table = torch.tensor([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    scored = counts(table)
    assert iou(*scored).tolist() == [6 / 8, 4 / 6, 0]
    assert float(mean_iou(*scored)) == pytest.approx((6 / 8 + 4 / 6) / 3)
    assert float(mean_iou(*scored, absent="skip")) == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert float(mean_iou(*scored, exclude=[0, 2])) == pytest.approx(4 / 6)
    assert bool(mean_iou(*counts(torch.zeros(3, 3)), absent="skip").isnan())


def test_absent_but_predicted_class_is_not_skipped():
    scored = counts(torch.tensor([[6, 2], [0, 0]]))
    assert iou(*scored, absent="skip").tolist() == [6 / 8, 0]


@pytest.mark.parametrize("n_classes", [2, 21])
def test_streamed_scores_are_those_of_torchmetrics(n_classes):
    generator = torch.Generator().manual_seed(n_classes)
    ours = ConfusionMatrix(n_classes, n_classes)
    theirs = MulticlassJaccardIndex(n_classes, average=None, ignore_index=255)
    table = MulticlassConfusionMatrix(n_classes, ignore_index=255)
    for size in ((2, 30, 40), (1, 7, 9)):
        target = torch.randint(0, n_classes, size, generator=generator)
        pred = torch.where(torch.rand(size, generator=generator) < 0.6, target, n_classes - 1 - target)
        target[torch.rand(size, generator=generator) < 0.1] = 255
        for metric in (ours, theirs, table):
            metric.update(pred, target)
    assert torch.equal(ours.table, table.compute())
    torch.testing.assert_close(iou(*ours.compute()).float(), theirs.compute())


def test_surplus_ids_are_false_negatives_only():
    scored = counts(torch.tensor([[5, 0, 3], [1, 4, 2]]))
    assert (scored.tp.tolist(), scored.fp.tolist(), scored.fn.tolist()) == ([5, 4], [1, 0], [3, 3])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_stacked_tables_score_like_single_ones(seed):
    generator = torch.Generator().manual_seed(seed)
    tables = torch.randint(0, 9, (3, 2, 4, 6), generator=generator)
    mapping = torch.randint(0, 4, (6,), generator=generator)
    stacked = mean_iou(*counts(tables, mapping))
    single = [[mean_iou(*counts(table, mapping)) for table in row] for row in tables]
    torch.testing.assert_close(stacked, torch.tensor(single, dtype=torch.float64))
