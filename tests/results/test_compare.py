"""Two models on the same images: values by hand, by slow loops, in simulation, and at the edges."""

import time
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from densebench.core.errors import UsageError
from densebench.results import counts
from densebench.results.compare import holm, paired
from densebench.results.counts import ImageStatistics
from densebench.results.resample import draw_weights
from densebench.results.sums import Side, align

QUICK = {"draws": 300, "swaps": 199}


def segmentation(tables, *, absent="zero", present=False, seed="", name="miou"):
    """Return the statistics of confusion tables (n, C, C): rows are classes, columns predictions."""
    arrays = {"image": np.arange(len(tables))}
    found = {"truth": tables.sum(2), "predicted": tables.sum(1), "correct": np.diagonal(tables, axis1=1, axis2=2)}
    for what, table in found.items():
        row, column = np.nonzero(table)
        arrays |= {f"{what}_rows": np.bincount(row, minlength=len(tables)), f"{what}_class": column}
        arrays[f"{what}_pixels"] = table[row, column]
    settings = {"n_classes": tables.shape[1], "absent": absent, "present": present}
    return ImageStatistics(kind="segmentation", name=name, seed=seed, settings=settings, arrays=arrays)


def means(values, seed=""):
    arrays = {"image": np.arange(len(values)), "value": np.asarray(values, float)}
    return ImageStatistics(kind="mean", name="rmse", seed=seed, arrays=arrays)


def keypoints(source, target, category, points, hits, per="point", categories=("cat", "dog")):
    arrays = {"source": source, "target": target, "category": category, "points": points, "hits": hits}
    settings = {"per": per, "categories": list(categories)}
    arrays = {what: np.asarray(array) for what, array in arrays.items()}
    return ImageStatistics(kind="keypoints", name="pck", settings=settings, arrays=arrays)


def side(*entries, ids=None):
    n = max(int(entry.arrays.get("image", entry.arrays.get("target")).max()) for entry in entries) + 1
    return Side(tuple(ids or map(str, range(n))), entries)


def confusions(n, n_classes, rng, ease=0.0, rare=1.2, truth=None):
    """Return confusion tables (n, C, C) of images that show class c with chance 1 / (c + 1)^rare, and the truth."""
    if truth is None:
        present = rng.random((n, n_classes)) < 1 / (1 + np.arange(n_classes)) ** rare
        truth = np.where(present, rng.lognormal(5, 1, present.shape), 0).astype(int)
    share = 1 / (1 + np.exp(-ease - rng.normal(0, 1, truth.shape)))
    right = np.floor(truth * share).astype(int)
    tables = np.zeros((n, n_classes, n_classes), int)
    tables[:, range(n_classes), range(n_classes)] = right
    others = (np.arange(n_classes) + 1) % n_classes
    tables[:, range(n_classes), others] += truth - right
    return tables, truth


def test_values_and_difference_are_those_of_the_records():
    rng = np.random.default_rng(0)
    one, truth = confusions(30, 5, rng)
    two, _ = confusions(30, 5, rng, 1.0, truth=truth)
    for rule in ({}, {"absent": "skip"}, {"present": True}):
        a, b = segmentation(one, **rule), segmentation(two, **rule)
        found = paired(side(a), side(b), **QUICK)
        assert found.a == pytest.approx(counts.value([a]))
        assert found.difference == pytest.approx(counts.value([b]) - counts.value([a]))
        assert found.low < found.difference < found.high
        assert (found.n, found.unit, found.left_out, found.seeds, found.by_seed) == (30, "images", (0, 0), (1, 1), ())
        mean = np.mean([each.difference for each in found.classes])
        assert len(found.classes) == 5
        assert mean == pytest.approx(found.difference)


def test_draws_and_swaps_are_those_of_a_slow_loop():
    rng = np.random.default_rng(1)
    one, truth = confusions(12, 3, rng, rare=0.0)
    two, _ = confusions(12, 3, rng, 0.3, truth=truth)

    def miou(tables):
        total = np.stack([np.diagonal(tables, axis1=1, axis2=2), tables.sum(1), tables.sum(2)]).sum(1)
        return counts.mean_iou(np.stack([total[0], total[1] - total[0], total[2] - total[0]]), "zero")

    a, b = side(segmentation(one)), side(segmentation(two))
    weights = np.concatenate(list(draw_weights(12, 300, 7)))
    assert (weights.sum(1) == 12).all()
    drawn = [miou(np.repeat(two, w, 0)) - miou(np.repeat(one, w, 0)) for w in weights.astype(int)]
    low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
    wide = stats.t.ppf(0.975, 11) / stats.norm.ppf(0.975) * np.sqrt(12 / 11)
    found = paired(a, b, draws=300, swaps=4000, seed=7)
    assert (found.low, found.high) == pytest.approx((middle + wide * (low - middle), middle + wide * (high - middle)))
    exact = []
    for code in range(2**12):
        swap = (code >> np.arange(12) & 1).astype(bool)[:, None, None]
        exact.append(abs(miou(np.where(swap, one, two)) - miou(np.where(swap, two, one))))
    assert found.p == pytest.approx(np.mean(np.array(exact) >= abs(found.difference) - 1e-9), abs=0.03)


def test_a_class_that_a_draw_lost_is_left_out_of_it():
    """Class 1 is in one image, all right in both; classes 0 differ nowhere: without it, both score the same."""
    tables = np.zeros((40, 2, 2), int)
    tables[:, 0, 0] = 50
    tables[:, 0, 1] = 0
    one = tables.copy()
    one[0, 1, 1], one[0, 1, 0] = 50, 50
    two = tables.copy()
    two[0, 1, 1] = 100
    found = paired(side(segmentation(one)), side(segmentation(two)), **QUICK)
    # a draw without image 0 has no class 1 and no difference; counted as 0, it would be no difference as well, but
    # the values would fall from 100 to 50
    assert found.high >= found.difference > 0
    assert found.classes[1].low is None, "one image"
    assert found.p == 1.0
    (values,) = (align((side(segmentation(two)),)).sums[0][0],)
    without = values.total - values.table[0]
    assert values.scores(without[None])[0].tolist() == pytest.approx([100.0, 100.0, np.nan], nan_ok=True)
    assert values.scores(without[None], fixed=False)[0][0] == pytest.approx(100.0)


def test_the_same_record_twice_does_not_differ():
    rng = np.random.default_rng(2)
    tables, _ = confusions(20, 4, rng)
    found = paired(side(segmentation(tables)), side(segmentation(tables)), **QUICK)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.differs
    assert {each.p for each in found.classes} == {1.0}


def test_images_without_a_value():
    values = np.array([1.0, np.nan, 3.0, 2.0, np.nan, 5.0])
    other = np.array([2.0, np.nan, 4.0, np.nan, np.nan, 6.0])
    found = paired(side(means(values)), side(means(other)), **QUICK)
    assert found.a == pytest.approx(11 / 4)
    assert found.b == 4.0
    assert found.n == 6
    nothing = paired(side(means([np.nan, np.nan])), side(means([1.0, 2.0])), **QUICK)
    assert (nothing.low, nothing.p) == (None, None)


def test_one_image_has_no_interval():
    tables, truth = confusions(1, 3, np.random.default_rng(3), rare=0)
    other, _ = confusions(1, 3, np.random.default_rng(4), 2.0, truth=truth)
    found = paired(side(segmentation(tables)), side(segmentation(other)), **QUICK)
    assert (found.low, found.high, found.p) == (None, None, 1.0)
    assert not found.differs


def test_a_class_absent_everywhere_is_not_tested():
    tables = np.zeros((10, 3, 3), int)
    tables[:, 0, 0], tables[:, 1, 1] = 20, 30
    other = tables.copy()
    other[:, 0, 0], other[:, 0, 2] = 15, 5  # class 2 is predicted, and in no ground truth
    found = paired(side(segmentation(tables)), side(segmentation(other)), classes=["x", "y", "z"], **QUICK)
    assert [each.name for each in found.classes] == ["x", "y"]
    assert found.n_tested == 2
    assert found.a == pytest.approx(200 / 3), "it stays in the mean as 0"


def test_names_that_do_not_fit_are_numbers():
    tables, _ = confusions(10, 3, np.random.default_rng(3), rare=0)
    found = paired(side(segmentation(tables)), side(segmentation(tables)), classes=["x"], **QUICK)
    assert [each.name for each in found.classes] == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (segmentation(confusions(10, 4, np.random.default_rng(0))[0]), "they count other classes: 3 and 4"),
        (means(np.ones(10)), "same kind"),
    ],
)
def test_what_cannot_be_paired_is_said(others, said):
    tables, _ = confusions(10, 3, np.random.default_rng(0))
    with pytest.raises(UsageError, match=said):
        paired(side(segmentation(tables)), side(others), **QUICK)
    with pytest.raises(UsageError, match="same kind"):
        paired(side(segmentation(tables)), Side(("a",), ()), **QUICK)


def test_shared_images_alone_are_compared():
    values = np.arange(8.0)
    ids = [f"i{number}" for number in range(8)]
    found = paired(side(means(values), ids=ids), side(means(values[3:] + 1), ids=ids[3:]), **QUICK)
    assert (found.n, found.left_out, found.difference) == (5, (3, 0), 1.0)
    back = paired(side(means(values), ids=ids), side(means(values[::-1] + 1), ids=ids[::-1]), **QUICK)
    assert (back.low, back.high) == pytest.approx((1, 1)), "images are matched by id"
    with pytest.raises(UsageError, match="no images in common"):
        paired(side(means(values), ids=ids), side(means(values)), **QUICK)
    with pytest.raises(UsageError, match="an id twice"):
        paired(side(means(values), ids=ids), side(means(values), ids=["x"] * 8), **QUICK)


def test_other_masks_under_the_same_names_are_refused():
    tables, truth = confusions(10, 3, np.random.default_rng(0), rare=0)
    finer, _ = confusions(10, 3, np.random.default_rng(1), truth=truth * 4)
    paired(side(segmentation(tables)), side(segmentation(finer)), **QUICK)  # the same masks, larger
    moved, _ = confusions(10, 3, np.random.default_rng(1), truth=np.roll(truth, 1, 1) * [1, 9, 1])
    with pytest.raises(UsageError, match="other masks"):
        paired(side(segmentation(tables)), side(segmentation(moved)), **QUICK)


def test_seeds_are_means_and_their_spread_stands_beside():
    rng = np.random.default_rng(5)
    _, truth = confusions(25, 4, rng)
    a = [segmentation(confusions(25, 4, rng, truth=truth)[0], seed=str(s)) for s in range(3)]
    b = [segmentation(confusions(25, 4, rng, 0.8, truth=truth)[0], seed=str(s)) for s in (2, 1, 0, 7)]
    found = paired(side(*a), side(*b), **QUICK)
    assert found.seeds == (3, 4)
    assert found.difference == pytest.approx(counts.value(b) - counts.value(a))
    each = [counts.value([b[2 - s]]) - counts.value([a[s]]) for s in range(3)]
    assert found.by_seed == pytest.approx(each)
    assert found.seed_sd == pytest.approx(np.std(each, ddof=1))


def test_other_rules_for_absent_classes_have_an_interval_and_no_p():
    tables, _ = confusions(10, 3, np.random.default_rng(0))
    found = paired(side(segmentation(tables)), side(segmentation(tables, absent="skip")), **QUICK)
    assert found.p is None
    assert "other rules" in found.reason
    assert found.low is not None


def links(rng, n_images=30, n_pairs=200, shared=0.0, gap=0.0):
    """Return pairs of two categories and the hits of two models on them; `shared` is what pairs of an image share."""
    source = rng.integers(n_images, size=n_pairs)
    target = (source + 2 * rng.integers(1, n_images // 2, n_pairs)) % n_images
    points = rng.integers(1, 12, n_pairs)
    own = rng.normal(0, shared, (2, n_images))
    odds = [rng.normal(0, 0.5, n_pairs) + own[m, source] + own[m, target] + m * gap for m in (0, 1)]
    hits = [rng.binomial(points, 1 / (1 + np.exp(-o))) for o in odds]
    return source, target, source % 2, points, hits


@pytest.mark.parametrize("per", ["point", "pair"])
def test_keypoints_by_category(per):
    source, target, category, points, hits = links(np.random.default_rng(0), gap=1.0)
    a, b = (keypoints(source, target, category, points, h, per) for h in hits)
    found = paired(side(a, ids=range(30)), side(b, ids=range(30)), **QUICK)
    assert (found.unit, found.n) == ("pairs", 200)
    assert found.a == pytest.approx(counts.value([a]))
    assert found.difference == pytest.approx(counts.value([b]) - counts.value([a]))
    assert [each.name for each in found.classes] == ["cat", "dog"]
    assert found.differs
    assert found.p < 0.01
    order = np.random.default_rng(1).permutation(200)[:150]
    few = keypoints(
        source[order], target[order], 1 - category[order], points[order], hits[1][order], per, ["dog", "cat"]
    )
    some = paired(side(a, ids=range(30)), side(few, ids=range(30)), **QUICK)
    assert (some.n, some.left_out) == (150, (50, 0))


def test_pairs_that_share_images_make_wider_intervals():
    rng = np.random.default_rng(0)
    alone = links(rng, n_images=30, n_pairs=400)
    width = []
    for source, target, category, points, hits in (alone, links(rng, n_images=30, n_pairs=400, shared=1.0)):
        found = paired(*(side(keypoints(source, target, category, points, h), ids=range(30)) for h in hits), **QUICK)
        width.append(found.high - found.low)
    assert width[1] > 1.5 * width[0]


def test_p_values_are_adjusted_as_holm_has_it():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.5])
    assert holm(p) == pytest.approx([0.04, 0.09, np.nan, 0.09, 0.5], nan_ok=True)
    assert holm(np.full(3, 0.6)).tolist() == [1, 1, 1]
    assert np.isnan(holm(np.full(2, np.nan))).all()


def test_results_are_the_same_again_and_in_any_blocks(monkeypatch):
    rng = np.random.default_rng(6)
    one, truth = confusions(40, 6, rng)
    two, _ = confusions(40, 6, rng, 0.2, truth=truth)
    a, b = side(segmentation(one)), side(segmentation(two))
    first = paired(a, b, **QUICK)
    assert asdict(paired(a, b, **QUICK)) == asdict(first)
    monkeypatch.setattr("densebench.results.resample.BLOCK", 1000)
    other = paired(a, b, **QUICK)
    assert (other.low, other.high) == pytest.approx((first.low, first.high))
    monkeypatch.setattr("densebench.results.sums.DENSE", 0)
    assert paired(a, b, **QUICK).low == pytest.approx(first.low), "sparse tables give the same"
    assert -paired(b, a, **QUICK).high == pytest.approx(first.low), "the other way round"


def test_a_thousand_classes_are_quick_and_small():
    rng = np.random.default_rng(7)
    n, n_classes = 2000, 1000
    classes = rng.integers(n_classes, size=(n, 5))
    pixels = rng.integers(100, 1000, (n, 5))

    def entry(share):
        right = (pixels * np.clip(share + rng.normal(0, 0.2, pixels.shape), 0, 1)).astype(int)
        rows = {f"{what}_rows": np.full(n, 5) for what in ("truth", "predicted", "correct")}
        ids = {f"{what}_class": classes.ravel() for what in ("truth", "predicted", "correct")}
        arrays = {"truth_pixels": pixels.ravel(), "predicted_pixels": right.ravel(), "correct_pixels": right.ravel()}
        settings = {"n_classes": n_classes, "absent": "zero", "present": False}
        arrays = {"image": np.arange(n), **rows, **ids, **arrays}
        return ImageStatistics(kind="segmentation", name="miou", settings=settings, arrays=arrays)

    began = time.process_time()
    found = paired(side(entry(0.5)), side(entry(0.6)), draws=200, swaps=99)
    assert time.process_time() - began < 60
    assert found.differs
    assert found.n_tested > 900


@pytest.mark.parametrize("kind", ["segmentation", "mean", "keypoints"])
def test_intervals_hold_the_truth_and_p_is_even_where_there_is_no_difference(kind):
    """Both models are drawn alike, so the truth is 0. 95 % of 300 data sets are 285, give or take 4."""
    rng = np.random.default_rng(8)
    held, p = 0, []
    for trial in range(300):
        if kind == "segmentation":
            one, truth = confusions(60, 8, rng)
            two, _ = confusions(60, 8, rng, truth=truth)
            a, b = side(segmentation(one)), side(segmentation(two))
        elif kind == "mean":
            ease = rng.lognormal(0, 0.7, 40)
            a, b = (side(means(ease * rng.lognormal(0, 0.3, 40))) for _ in range(2))
        else:
            source, target, category, points, hits = links(rng, n_images=100, n_pairs=400, shared=0.3)
            a, b = (side(keypoints(source, target, category, points, h), ids=range(100)) for h in hits)
        found = paired(a, b, draws=400, swaps=99, seed=trial)
        held += not found.differs
        p.append(found.p)
    assert 0.915 <= held / 300 <= 0.985
    assert stats.kstest(np.array(p) - rng.random(300) / 100, "uniform").pvalue > 0.01
