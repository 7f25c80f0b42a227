import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.ops.confusion import (
    ConfusionMatrix,
    PoissonBootstrap,
    confusion,
    counts,
    iou,
    jackknife_interval,
    mean_iou,
    percentile_interval,
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
def test_order_of_batches_and_merging_do_not_matter(pairs, order):
    pred, target = both(pairs)
    whole, merged = ConfusionMatrix(5, 4), ConfusionMatrix(5, 4)
    whole.update(pred, target)
    for part in order:
        worker = ConfusionMatrix(5, 4)
        worker.update(pred[part::3], target[part::3])
        merged.merge(worker)
    assert torch.equal(whole.table, merged.table)


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


def test_tables_of_different_things_do_not_merge():
    with pytest.raises(ValueError, match="count different things"):
        ConfusionMatrix(5, 4).merge(ConfusionMatrix(5, 4, ignore=0))


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


def image_tables(n: int, seed: int = 0) -> torch.Tensor:
    """Return (n, 3, 3) tables of images that differ much in difficulty."""
    rng = np.random.default_rng(seed)
    tables = np.zeros((n, 3, 3), np.int64)
    for table, skill in zip(tables, rng.beta(3, 1, n), strict=True):
        for c in rng.choice(3, 2, replace=False):
            right = int(100 * skill)
            table[c, c], table[c, (c + 1) % 3] = right, 100 - right
    return torch.from_numpy(tables)


def test_bootstrap_depends_on_neither_order_nor_workers():
    tables = image_tables(12)
    forward, left, right = (PoissonBootstrap((3, 3), 50, seed=3) for _ in range(3))
    for image in range(12):
        forward.update(image, tables[image])
    for image in reversed(range(12)):
        (left if image % 3 else right).update(image, tables[image])
    assert torch.equal(left.merge(right).replicates(), forward.replicates())
    expected = sum(forward.weights(i).view(-1, 1, 1) * tables[i] for i in range(12))
    assert torch.equal(forward.replicates().long(), expected)


def test_bootstrap_seeds_and_images_draw_apart():
    one, two = PoissonBootstrap((1,), 1000, seed=0), PoissonBootstrap((1,), 1000, seed=1)
    assert not torch.equal(one.weights(0), two.weights(0))
    assert not torch.equal(one.weights(0), one.weights(1))
    assert torch.equal(one.weights(7), PoissonBootstrap((5, 5), 1000, seed=0).weights(7))
    assert float(one.weights(0).double().mean()) == pytest.approx(1, abs=0.15)


def test_bootstrap_widens_before_it_overflows():
    bootstrap = PoissonBootstrap((2,), 20)
    before = bootstrap.nbytes
    for image in range(6):
        bootstrap.update(image, torch.tensor([10**9, 0]))
    expected = sum(bootstrap.weights(i) for i in range(6)) * 10**9
    assert int(expected.max()) > 2**31
    assert torch.equal(bootstrap.replicates()[:, 0].long(), expected)
    assert bootstrap.nbytes == 2 * before


def test_bootstrap_of_sums_keeps_fractions_and_counts_refuse_them():
    bootstrap = PoissonBootstrap((2,), 8, dtype=torch.float64)
    bootstrap.update(0, torch.tensor([0.5, -0.25]))
    assert torch.equal(bootstrap.replicates()[:, 1], bootstrap.weights(0) * -0.25)
    with pytest.raises(ValueError, match="floating"):
        PoissonBootstrap((2,), 8).update(0, torch.tensor([0.5, 1.0]))


def test_poisson_interval_agrees_with_the_ordinary_bootstrap():
    tables = image_tables(150)
    poisson = PoissonBootstrap((3, 3), 2000, seed=0)
    for image, table in enumerate(tables):
        poisson.update(image, table)
    ours = percentile_interval(mean_iou(*counts(poisson.replicates())))
    drawn = torch.from_numpy(np.random.default_rng(1).integers(0, 150, (2000, 150)))
    ordinary = percentile_interval(mean_iou(*counts(torch.stack([tables[row].sum(0) for row in drawn]))))
    width = float(ordinary[1] - ordinary[0])
    assert width > 0.02
    torch.testing.assert_close(ours, ordinary, rtol=0, atol=0.15 * width)


def test_percentile_interval_passes_over_nan():
    values = torch.arange(101.0)[:, None].repeat(1, 3)
    values[::2, 1] = torch.nan
    values[:, 2] = torch.nan
    bounds = percentile_interval(values, level=0.9)
    assert bounds[:, 0].tolist() == pytest.approx([5, 95])
    assert bounds[:, 1].tolist() == pytest.approx([5.9, 94.1], abs=1.0)
    assert bool(bounds[:, 2].isnan().all())


def test_jackknife_of_a_mean_is_the_t_interval():
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, 40))
    left_out = (x.sum() - x) / 39
    low, high = jackknife_interval(float(x.mean()), left_out).tolist()
    half = 2.0226909 * float(x.std()) / 40**0.5  # Student's t with 39 degrees of freedom at 97.5 %
    assert (low, high) == pytest.approx((float(x.mean()) - half, float(x.mean()) + half), rel=1e-6)
    with pytest.raises(ValueError, match="2 groups"):
        jackknife_interval(0.0, torch.zeros(1))
