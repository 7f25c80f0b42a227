"""Intervals of the delete-a-group jackknife: by hand, whatever the order, and on drawn data whose truth is known."""

import math

import numpy as np
import pytest
import torch

from densebench.ops.confusion import Counts, iou, mean_iou, mean_iou_left_out
from densebench.ops.jackknife import GROUPS, GroupSums, group_of, jackknife_interval


def grouped(tables, n_groups=GROUPS, order=None):
    sums = GroupSums(tuple(tables.shape[1:]), n_groups, tables.dtype)
    for image in order if order is not None else range(len(tables)):
        sums.update(image, tables[image])
    return sums


def test_groups_are_of_the_image_alone_and_about_equal():
    groups = np.array([group_of(i, 20) for i in range(4000)])
    assert (groups == [group_of(i, 20) for i in range(4000)]).all()
    sizes = np.bincount(groups, minlength=20)
    assert len(sizes) == 20
    assert sizes.min() > 140
    assert sizes.max() < 260
    for period in (2, 20):  # what recurs in the order of a data set is not a group
        assert (np.bincount(groups[::period], minlength=20) > 0).all()


def test_sums_leave_out_each_group_that_has_images():
    tables = torch.arange(30).view(15, 2)
    found = grouped(tables, 4)
    groups = [group_of(i, 4) for i in range(15)]
    expected = [tables[[g != group for g in groups]].sum(0) for group in sorted(set(groups))]
    assert found.left_out().tolist() == torch.stack(expected).tolist()
    assert found.total().tolist() == tables.sum(0).tolist()
    assert len(grouped(tables[:1], 4).left_out()) == 1
    assert GroupSums((2,)).left_out().shape == (0, 2)


def test_the_order_of_images_does_not_matter():
    tables = torch.randint(0, 9, (12, 3, 3), generator=torch.Generator().manual_seed(0))
    forward, backward = grouped(tables), grouped(tables, order=list(reversed(range(12))))
    assert torch.equal(backward.left_out(), forward.left_out())
    assert torch.equal(backward.images, forward.images)


def test_sums_keep_fractions_and_counts_refuse_them():
    half = torch.tensor([0.5, -0.25])
    assert torch.equal(grouped(half[None].double()).total(), half.double())
    with pytest.raises(ValueError, match="floating"):
        GroupSums((2,)).update(0, half)
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        GroupSums((2,)).update(0, torch.ones(1, dtype=torch.int64))


def test_jackknife_of_a_mean_is_the_t_interval():
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, 40))
    left_out = (x.sum() - x) / 39
    low, high = jackknife_interval(float(x.mean()), left_out).tolist()
    half = 2.0226909 * float(x.std()) / 40**0.5  # Student's t with 39 degrees of freedom at 97.5 %
    assert (low, high) == pytest.approx((float(x.mean()) - half, float(x.mean()) + half), rel=1e-6)


def test_groups_without_a_value_do_not_count_and_one_alone_makes_no_interval():
    left_out = torch.tensor([[1.0, 1.0, math.nan], [3.0, math.nan, math.nan], [math.nan, math.nan, math.nan]])
    low, high = jackknife_interval(torch.tensor([2.0, 1.0, math.nan]), left_out)
    assert (float(low[0]), float(high[0])) == pytest.approx(
        (2 - 12.7062047, 2 + 12.7062047)
    )  # t with 1 degree, error 1
    assert low[1:].isnan().all()
    assert high[1:].isnan().all()
    assert jackknife_interval(1.0, torch.zeros(0)).isnan().all()


def test_an_interval_ends_where_values_end():
    assert jackknife_interval(0.9, torch.tensor([0.8, 1.0]), bounds=(0.0, 1.0)).tolist() == [0.0, 1.0]


FOUND = Counts(torch.tensor([6, 2, 0, 0]), torch.tensor([2, 0, 0, 4]), torch.tensor([0, 2, 0, 0]))
"""IoU 6/8 and 2/4; class 2 does not occur, class 3 is predicted only."""
REST = Counts(
    torch.tensor([[6, 0, 0, 0], [3, 1, 0, 0]]),
    torch.tensor([[2, 1, 0, 4], [1, 0, 0, 0]]),
    torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]]),
)
"""The first part lacks class 1, which is predicted there by mistake; the second has none of class 3's mistakes."""


@pytest.mark.parametrize(
    ("absent", "exclude", "expected"),
    [
        ("zero", (), [(6 / 8 + 0 + 0) / 3, (3 / 4 + 1 / 2 + 0 + 0) / 4]),
        ("skip", (), [(6 / 8 + 0) / 2, (3 / 4 + 1 / 2 + 0) / 3]),
        ("zero", (2, 3), [6 / 8, (3 / 4 + 1 / 2) / 2]),
    ],
)
def test_a_class_that_a_part_lacks_is_left_out_of_that_part(absent, exclude, expected):
    assert mean_iou_left_out(FOUND, REST, absent, exclude).tolist() == pytest.approx(expected)
    whole = Counts(*(some[None] for some in FOUND))
    assert mean_iou_left_out(FOUND, whole, absent, exclude) == mean_iou(*FOUND, absent, exclude)


def test_a_part_without_any_class_has_no_mean():
    empty = Counts(*(torch.zeros(1, 4, dtype=torch.int64) for _ in range(3)))
    assert mean_iou_left_out(FOUND, empty, exclude=(2, 3)).isnan().all()


def rare_classes(n: int, rng: np.random.Generator, n_classes: int = 21) -> torch.Tensor:
    """Return counts (n, 3, C) of images: class c is in about one of c + 1, and images differ in difficulty.

    An image's pixels are not independent: its classes share its difficulty, and what is lost of one is found in
    another, present or not.
    """
    present = rng.random((n, n_classes)) < 1 / (1 + np.arange(n_classes)) ** 1.2
    area = np.where(present, rng.lognormal(0, 1, present.shape), 0) * 1000
    ease = np.linspace(2, -1, n_classes)[np.arange(n_classes) * 8 % n_classes]
    right = 1 / (1 + np.exp(-ease - rng.normal(0, 0.7, (n, 1)) - rng.normal(0, 1.2, present.shape)))
    hit = area * right
    goes = (np.arange(n_classes) + rng.choice([1, 2, 5], present.shape)) % n_classes
    wrong = np.zeros_like(area)
    np.add.at(wrong, (np.arange(n)[:, None], goes), area - hit)
    return torch.from_numpy(np.stack([hit, wrong, area - hit], 1).round().astype(np.int64))


@pytest.mark.parametrize("n", [30, 150])
def test_intervals_of_rare_classes_hold_the_truth(n):
    rng = np.random.default_rng(0)
    source = rare_classes(20_000, rng)
    truth = iou(*source.sum(0))
    groups = torch.tensor([group_of(i) for i in range(n)])
    covered, places, rare = [], [], []
    for _ in range(400):
        tables = source[rng.integers(len(source), size=n)]
        sums = tables.new_zeros(GROUPS, 3, 21).index_add_(0, groups, tables)
        found, rest = Counts(*tables.sum(0)), Counts(*(tables.sum(0) - sums).unbind(1))
        seen = found.tp + found.fn > 0
        missing = torch.nonzero(~seen).flatten().tolist()
        value = float(mean_iou(*found, exclude=missing))
        low, high = jackknife_interval(value, mean_iou_left_out(found, rest, exclude=missing)).tolist()
        covered.append(low <= float(truth[seen].mean()) <= high)
        places.append((value - low) / (high - low))
        rare.append(float(((tables[:, 0] + tables[:, 2] > 0).sum(0)[seen] <= 5).double().mean()))
    assert np.mean(rare) > 0.2, "classes of at most five images are what is tested"
    assert 0.92 <= np.mean(covered) <= 0.98
    assert (min(places), max(places)) == (pytest.approx(0.5), pytest.approx(0.5))
