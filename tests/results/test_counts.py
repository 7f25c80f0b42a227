"""What images add to a metric: values by hand, the file and its size, and files that are torn."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from densebench.core.errors import StorageError
from densebench.core.npz import read_numbers
from densebench.datasets.scenes.dataset import Scenes
from densebench.ops.confusion import counts as counts_of
from densebench.ops.confusion import mean_iou
from densebench.protocols.common import scoring
from densebench.protocols.common.image_tables import OVERHEAD, ImageTables
from densebench.protocols.correspondence.matches import Link
from densebench.protocols.correspondence.pairs import Pairs
from densebench.protocols.protocol import Data
from densebench.results import counts
from densebench.results.counts import ImageStatistics
from densebench.results.schema import Metric
from densebench.runner.failures import finite

IDS = ["a", "b", "c"]


def segmentation(arrays, n_classes, absent="zero", present=False, name="miou", seed="", at=()):
    settings = {"n_classes": n_classes, "absent": absent, "present": present}
    return ImageStatistics(kind="segmentation", name=name, at=dict(at), seed=seed, settings=settings, arrays=arrays)


def by_hand():
    """Two images of three classes, of which class 2 occurs nowhere: image 0 has 6 + 2 pixels right, 4 wrong."""
    arrays = {
        "image": [0, 2], "truth_rows": [2, 1], "truth_class": [0, 1, 0], "truth_pixels": [8, 4, 10],
        "predicted_rows": [2, 1], "predicted_class": [0, 1, 0], "predicted_pixels": [8, 4, 10],
        "correct_rows": [2, 1], "correct_class": [0, 1, 0], "correct_pixels": [6, 2, 10],
    }  # fmt: skip
    return {what: np.array(array) for what, array in arrays.items()}


def drawn(n_images=9, n_classes=5, n_predicted=12, seed=0):
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, 50, (n_images, n_classes, n_predicted)) * (rng.random((n_images, 1, n_predicted)) < 0.4)
    tables[:, 3] = 0  # a class that does not occur
    return torch.from_numpy(tables)


def held(tables, order=None):
    images = ImageTables()
    for i in order if order is not None else range(len(tables)):
        images.update(i, tables[i])
    return images


def test_values_by_hand():
    arrays = by_hand()
    zero = segmentation(arrays, 3)
    assert counts.value([zero]) == pytest.approx(100 * (16 / 20 + 2 / 6 + 0) / 3)
    assert counts.value([segmentation(arrays, 3, absent="skip")]) == pytest.approx(100 * (16 / 20 + 2 / 6) / 2)
    assert counts.value([segmentation(arrays, 3, present=True)]) == pytest.approx(100 * (16 / 20 + 2 / 6) / 2)
    assert counts.pixel_counts(zero).tolist() == [[[6, 2, 0], [2, 2, 0], [2, 2, 0]], [[10, 0, 0], [0] * 3, [0] * 3]]
    swapped = segmentation({**arrays, "mapping": np.array([1, 0, 2]), "correct_pixels": np.array([2, 2, 0])}, 3)
    assert counts.pixel_counts(swapped)[0, 1].tolist() == [2, 6, 0]
    values = np.array([1.0, np.nan, 3.0])
    mean = ImageStatistics(kind="mean", name="rmse", arrays={"image": np.arange(3), "value": values})
    assert counts.value([mean]) == 2.0
    pairs = {"source": [0, 1], "target": [1, 0], "category": [0, 0], "points": [4, 1], "hits": [1, 1]}
    point, pair = (
        ImageStatistics(
            kind="keypoints", name="pck", settings={"per": per, "categories": ["cat"]},
            arrays={what: np.array(array) for what, array in pairs.items()},
        )
        for per in ("point", "pair")
    )  # fmt: skip
    assert (counts.value([point]), counts.value([pair])) == (40.0, 62.5)
    assert counts.value([point, pair]) == 51.25, "the mean over seeds"


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("absent", ["zero", "skip"])
def test_tables_of_images_give_the_counts_of_the_confusion_table(merge, matched, absent):
    tables = drawn()
    mapping = torch.from_numpy(np.random.default_rng(1).integers(0, 5, 12)) if matched else None
    entry = segmentation(held(tables).arrays(mapping, merge), 5, absent)
    found = counts.pixel_counts(entry)
    for i, table in enumerate(tables):
        assert found[i].tolist() == torch.stack(counts_of(table, mapping)).tolist()
    expected = 100 * float(mean_iou(*counts_of(tables.sum(0), mapping), absent=absent))
    assert counts.value([entry]) == pytest.approx(expected, rel=1e-12)
    assert ("mapping" in entry.arrays) == (matched and not merge)
    (again,) = counts.read_npz(counts.to_npz(list("abcdefghi"), [entry])).entries
    assert np.array_equal(counts.pixel_counts(again), found)


def test_neither_order_nor_batches_of_images_change_the_file():
    tables = drawn()
    mapping = torch.arange(12) % 5
    files = {
        counts.to_npz(list("abcdefghi"), [segmentation(held(tables, order).arrays(mapping), 5)])
        for order in (range(9), reversed(range(9)), [4, 0, 8, 1, 2, 3, 7, 6, 5])
    }
    assert len(files) == 1
    predictions, targets = torch.randint(0, 3, (2, 6, 8, 8), generator=torch.Generator().manual_seed(0)).unbind(0)
    found = set()
    for size in (1, 4, 6):
        tally = scoring.PixelTally(3, (255,))
        for i in range(0, 6, size):
            images = list(range(i, min(i + size, 6)))
            tally.update(images, predictions[images], targets[images])
        scored = [scoring.metric(name, {"": run}, "memory") for name, run in tally.variants("zero").items()]
        found.add(counts.to_npz(list("abcdef"), scoring.measurement(scored).statistics))
    assert len(found) == 1


def test_a_file_gives_back_what_went_in_and_holds_shared_arrays_once():
    arrays = by_hand()
    entries = [
        segmentation(arrays, 3, seed="1", at={"fraction": "1/8"}),
        segmentation({name: array.copy() for name, array in arrays.items()}, 3, seed="2", at={"fraction": "1/8"}),
        ImageStatistics(
            kind="mean", name="rmse", at={"head": 4}, arrays={"image": np.arange(3), "value": np.array([0.1, 1e9, -2])}
        ),
    ]
    content = counts.to_npz(["ä", "b/1", "c\udc80"], entries)
    assert content == counts.to_npz(["ä", "b/1", "c\udc80"], entries)
    found = counts.read_npz(content)
    assert found.ids == ("ä", "b/1", "c\udc80")
    for one, two in zip(entries, found.entries, strict=True):
        assert (one.kind, one.name, one.at, one.seed, one.settings) == (
            two.kind,
            two.name,
            two.at,
            two.seed,
            two.settings,
        )
        assert {name: array.tolist() for name, array in one.arrays.items()} == {
            name: array.tolist() for name, array in two.arrays.items()
        }
    assert [entry.seed for entry in found.of("miou", {"fraction": "1/8"})] == ["1", "2"]
    assert found.of("miou", {}) == ()
    shared = counts.to_npz(IDS, entries[:1])
    assert set(read_numbers(shared)) == set(read_numbers(counts.to_npz(IDS, entries[:2]))), "stored once"
    assert found.entries[0].arrays["truth_pixels"].dtype == np.uint8, "as few bytes as are needed"


def test_above_the_bound_nothing_is_kept_and_a_note_says_so():
    tables = drawn()
    need = sum(OVERHEAD + int((table > 0).sum()) * 5 for table in tables)
    for bound, is_kept in ((need, True), (need - 1, False)):
        images = ImageTables(bound)
        for i, table in enumerate(tables):
            images.update(i, table)
        assert (images.arrays() is not None, images.too_large) == (is_kept, not is_kept)
        assert len(images._cells) == (len(tables) if is_kept else 0), "memory is given back"
    tally = scoring.PixelTally(3, (255,), max_bytes=10)
    tally.update([0], torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64))
    scored = [scoring.metric("miou", {"": tally.miou("zero")}, "memory", at={"fraction": "1/8"})]
    measurement = scoring.measurement([*scored, scoring.Scored(Metric(name="nmi", value=1.0))], notes=["so it is"])
    assert [metric.name for metric in measurement.metrics] == ["miou", "nmi"]
    assert measurement.statistics == ()
    assert measurement.notes == (
        "so it is",
        "what each image adds is not kept of miou@1/8: it needs more than 256 MB while it is counted",
    )


def test_hits_of_pairs_are_kept_in_the_order_of_their_images_up_to_a_bound():
    added = [(Link(2, 0, 1, 0, "dog"), [[1, 0, 1], [0, 0, 1]]), (Link(0, 1, 2, 0, "cat"), [[1], [1]])]
    for bound, is_kept in ((2 * (200 + 8), True), (2 * (200 + 8) - 1, False)):
        pairs = Pairs(["cat", "dog"], bound)
        for link, hits in added:
            pairs.add(link, torch.tensor(hits, dtype=torch.bool))
        scored = pairs.scored(Metric(name="pck", at={"alpha": 0.1}, value=75.0), 0, "point")
        assert scored.too_large == (not is_kept)
        if not is_kept:
            assert scored.statistics == ()
            continue
        (entry,) = scored.statistics
        assert {name: array.tolist() for name, array in entry.arrays.items()} == {
            "source": [0, 2], "target": [2, 1], "category": [0, 1], "points": [1, 3], "hits": [1, 2],
        }  # fmt: skip
        assert counts.value([entry]) == 75.0
        (other,) = pairs.scored(Metric(name="pck", value=50.0), 1, "point").statistics
        assert counts.value([other]) == 50.0


def test_a_metric_without_a_value_leaves_nothing_of_its_images():
    tables = drawn()
    scored = [
        scoring.segmented(Metric(name=name, value=value), {"": ({"n_classes": 5}, held(tables).arrays())})
        for name, value in (("miou", 50.0), ("miou_present", float("nan")))
    ]
    found = finite(
        scoring.measurement(scored), data=Data(Scenes(None, "train", length=2), Scenes(None, "val", length=2))
    )
    assert [entry.name for entry in found.statistics] == [metric.name for metric in found.metrics] == ["miou"]


def test_a_usual_record_of_ade20k_has_less_than_5_mb():
    """2000 images, about 10 of 151 classes in each and twice as many predicted; 16 memories, each read three ways."""
    rng = np.random.default_rng(0)
    n_images, n_classes, side, simulated = 2000, 151, 504, 2
    common = 1 / np.arange(1, n_classes + 1)
    truth = []
    for _ in range(n_images):
        classes = rng.choice(n_classes, rng.integers(5, 16), replace=False, p=common / common.sum())
        truth.append((classes, rng.multinomial(side * side, rng.dirichlet(np.full(len(classes), 0.7)))))
    mapping = torch.arange(n_classes)
    mapping[[3, 9]] = mapping[[9, 3]]  # what matching changes in predictions that are named already
    entries, sizes = [], []
    for run in range(simulated):
        images = ImageTables()
        for image, (classes, pixels) in enumerate(truth):
            table = np.zeros((n_classes, n_classes), np.int64)
            others = np.concatenate([classes, rng.choice(n_classes, rng.integers(5, 16))])
            for c, n in zip(classes, pixels, strict=True):
                found = np.concatenate([[c], rng.choice(others, 6)])
                np.add.at(table, (c, found), rng.multinomial(n, rng.dirichlet([8, 1, 1, 0.5, 0.5, 0.2, 0.2])))
            images.update(image, torch.from_numpy(table))
        assert images.n_bytes < 8e6
        plain, matched = images.arrays(), images.arrays(mapping)
        for name, arrays in (("miou", plain), ("miou_present", plain), ("miou_hungarian", matched)):
            entries.append(segmentation(arrays, n_classes, name=name, seed=str(run), at={"fraction": "1/8"}))
        sizes.append(len(counts.to_npz([f"ADE_val_{i:08d}" for i in range(n_images)], entries)))
    assert sizes[0] < 0.4e6
    assert sizes[0] + 15 * (sizes[1] - sizes[0]) < 4e6  # the true classes are stored once, other runs add alike


def files():
    mean = ImageStatistics(kind="mean", name="rmse", arrays={"image": np.arange(3), "value": np.array([0.1, 2.0, 3.0])})
    return counts.to_npz(IDS, [segmentation(by_hand(), 3), mean])


def test_a_torn_file_is_an_error_in_words(tmp_path):
    whole = files()
    for end in range(0, len(whole), 7):
        with pytest.raises(StorageError, match="no statistics of a record"):
            counts.read_npz(whole[:end])
    expected = [entry.arrays["image"].tolist() for entry in counts.read_npz(whole).entries]
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 0x55
        try:
            found = counts.read_npz(bytes(broken))
        except StorageError:
            continue  # zip's checksums find nearly all; the rest are bytes that say nothing, such as a date
        assert [entry.arrays["image"].tolist() for entry in found.entries] == expected
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(StorageError, match="Run its cell again"):
            counts.read_npz(path)
    (tmp_path / "some.npz").write_bytes(whole)
    assert len(counts.read_npz(tmp_path / "some.npz").entries) == 2


def rewritten(change):
    arrays = read_numbers(files())
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def places(header, what, entry=0):
    return header["entries"][entry]["arrays"][what]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda header, arrays: header.update(version=2), "version 2, expected 1"),
        (lambda header, arrays: header.pop("ids"), "lacks 'ids'"),
        (lambda header, arrays: header.update(ids=["a"]), "images or classes that there are not"),
        (lambda header, arrays: header["entries"][0].update(kind="other"), "unknown kind 'other'"),
        (lambda header, arrays: header["entries"][0]["settings"].update(n_classes=1), "classes that there are not"),
        (lambda header, arrays: header["entries"][0]["arrays"].pop("truth_rows"), "lacks truth_rows"),
        (lambda header, arrays: arrays.pop(places(header, "truth_rows")), "lacks 'a"),
        (
            lambda header, arrays: arrays.update({places(header, "truth_rows"): np.ones(2, np.uint8)}),
            "differ in length",
        ),
        (lambda header, arrays: arrays.update({places(header, "image"): -np.ones(2, np.int64)}), "not lists of counts"),
        (
            lambda header, arrays: arrays.update({places(header, "value", 1): np.ones(3, np.uint8)}),
            "not lists of counts",
        ),
        (lambda header, arrays: arrays.update({places(header, "image", 1): np.zeros((3, 1), np.uint8)}), "not lists"),
        (lambda header, arrays: header.update(entries=7), "not iterable"),
    ],
)
def test_a_file_that_does_not_hold_together_is_refused(change, reason):
    with pytest.raises(StorageError, match=reason):
        counts.read_npz(rewritten(change))


def test_only_numbers_within_bounds_are_read():
    pickled = io.BytesIO()
    np.savez(pickled, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="torn, or of other than numbers"):
        read_numbers(pickled.getvalue())
    large = io.BytesIO()
    np.savez_compressed(large, header=np.zeros(1_000_000, np.uint8))
    with pytest.raises(ValueError, match="more than 1 MB of arrays"):
        read_numbers(large.getvalue(), most_bytes=1_000_000)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    import zipfile

    promising = io.BytesIO()
    with zipfile.ZipFile(promising, "w") as archive:
        archive.writestr("header.npy", head.getvalue())
    with pytest.raises(ValueError, match="torn"):
        read_numbers(promising.getvalue())


def test_reading_needs_no_torch():
    code = "import sys, densebench.results.counts; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
