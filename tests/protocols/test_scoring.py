"""mIoU of counted pixels against values worked out by hand, and what training protocols share."""

import pytest
import torch

from densebench.datasets.sets.voc import VOC
from densebench.ops.confusion import counts
from densebench.protocols.common import scoring
from densebench.protocols.common.examples import spread
from densebench.views.order import batches, draw_share, evenly

TABLE = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
"""Rows are the truth; class 2 does not occur. IoU: 6/9, 3/6, 0."""


def of(table, **options):
    return scoring.miou(counts(table), counts(table[None].repeat(4, 1, 1)), **options)


def test_variants_by_hand():
    assert of(TABLE, absent="zero").value == pytest.approx((6 / 9 + 3 / 6) / 3)
    assert of(TABLE, absent="zero", present=True).value == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert of(TABLE, absent="skip").value == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert of(TABLE, absent="zero").per_class.tolist() == pytest.approx([6 / 9, 3 / 6, 0.0])
    assert of(TABLE, absent="zero").left_out.shape == (4,)


def test_matching_turns_swapped_classes_around():
    tally = scoring.PixelTally(3, (255,))
    truth = torch.tensor([[[0, 0, 1, 1, 255]], [[1, 0, 0, 1, 255]]])
    tally.update([0, 1], (1 - truth).clamp(0), truth)
    found = tally.variants("skip")
    assert found["miou"].value == 0.0
    assert found["miou_hungarian"].value == 1.0
    assert found["miou_hungarian"].left_out.nanmean() == 1.0
    assert tally.miou("skip").value == 0.0


def test_a_metric_is_the_mean_of_its_seeds():
    info = VOC.info.__class__(name="three", title="", classes=("a", "b", "c"), palette=((0, 0, 0),) * 3, splits={})
    one, two = of(TABLE, absent="zero"), of(TABLE.T, absent="zero")
    metric = scoring.metric("miou", {"3": one, "8": two}, "clusters", main=True, info=info).metric
    assert metric.seeds == {"3": 100 * one.value, "8": 100 * two.value}
    assert metric.value == pytest.approx(50 * (one.value + two.value))
    assert metric.ci95 == pytest.approx((metric.value, metric.value))
    assert metric.ci_method == "jackknife over 4 groups of validation images, clusters held fixed"
    assert metric.per_class == {"a": pytest.approx(66.6667), "b": 50.0, "c": 0.0}
    alone = scoring.metric("miou", {"": one}, "head").metric
    assert (alone.seeds, alone.per_class, alone.main) == ({}, {}, False)


def test_looks_and_examples_are_evenly_spread():
    assert evenly(20, 20) == list(range(1, 21))
    assert evenly(5, 3) == [2, 3, 5]
    assert evenly(3, 10) == [1, 2, 3]
    assert spread(3, 9) == {0, 4, 8}
    assert spread(6, 2) == {0, 1}
    assert spread(0, 9) == set()


def test_every_epoch_shows_every_image_once_and_a_later_start_goes_on():
    keys = list(batches(5, 4, 7, range(10)))
    flat = [key for step in keys for key in step]
    assert [epoch for epoch, _ in flat] == [i // 5 for i in range(40)]
    for epoch in range(8):
        assert sorted(image for e, image in flat if e == epoch) == [0, 1, 2, 3, 4]
    assert list(batches(5, 4, 7, range(6, 10))) == keys[6:]
    assert list(batches(5, 4, 8, range(10))) != keys


def test_a_share_of_the_images_is_never_empty():
    assert draw_share(40, 0.25, 1) == tuple(sorted(set(draw_share(40, 0.25, 1))))
    assert len(draw_share(40, 0.25, 1)) == 10
    assert len(draw_share(3, 0.1, 0)) == 1
    assert draw_share(4, 1.0, 0) == (0, 1, 2, 3)
