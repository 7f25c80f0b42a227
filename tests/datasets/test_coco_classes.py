import numpy as np
import pytest

from densebench.datasets.sets.coco.classes import (
    STUFF_15,
    STUFF_27,
    STUFF_171,
    THINGS_12,
    THINGS_80,
    ClassMerge,
    merge_classes,
)

MERGES = {"things12": THINGS_12, "stuff15": STUFF_15, "stuff27": STUFF_27, "things80": THINGS_80, "all171": STUFF_171}


@pytest.mark.parametrize(
    ("name", "classes", "categories"),
    [("things12", 12, 80), ("stuff15", 15, 91), ("stuff27", 27, 182), ("things80", 80, 80), ("all171", 171, 171)],
)
def test_merges_are_complete(name, classes, categories):
    merge = MERGES[name]
    assert len(merge.classes) == len(set(merge.classes)) == classes
    assert len(merge.members) == categories
    assert set(merge.members.values()) == set(range(classes))


@pytest.mark.parametrize("name", MERGES)
def test_numberings_differ_by_one(name):
    merge = MERGES[name]
    np.testing.assert_array_equal(merge.lookup()[1:], merge.lookup(zero_based=True)[:-1])
    assert merge.lookup(zero_based=True)[255] == 255
    assert merge.lookup()[0] == 255


def test_coarse_and_fine_agree_on_what_a_category_is():
    def name(merge, category):
        return merge.classes[merge.members[category]]

    assert [name(m, 18) for m in (THINGS_12, STUFF_27, THINGS_80, STUFF_171)] == ["animal", "animal", "dog", "dog"]
    assert [name(m, 120) for m in (STUFF_15, STUFF_27, STUFF_171)] == ["water", "water", "fog"]
    for category, merged in {**THINGS_12.members, **STUFF_15.members}.items():
        coarse = THINGS_12 if category <= 90 else STUFF_15
        assert coarse.classes[merged] == name(STUFF_27, category)


def test_things_are_numbered_without_the_ids_that_coco_dropped():
    assert (THINGS_80.members[1], THINGS_80.members[13], THINGS_80.members[90]) == (0, 11, 79)
    assert STUFF_171.members[92] == 80
    assert STUFF_171.members[182] == 170


def test_masks_keep_their_shape_and_what_is_left_out_is_void():
    ids = np.array([[0, 1, 92], [183, 200, 255]], dtype=np.uint8)
    merged = merge_classes(ids, THINGS_12)
    assert merged.dtype == np.uint8
    assert merged.tolist() == [[255, 9, 255], [255, 255, 255]]
    assert merge_classes(np.zeros((0, 3), dtype=np.int32), STUFF_15).shape == (0, 3)


@pytest.mark.parametrize(
    ("ids", "message"),
    [(np.array([1.0]), "integers, got float64"), (np.array([3, 300]), "span 3..300"), (np.array([-1, 3]), "span -1")],
)
def test_values_that_are_no_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        merge_classes(ids, ClassMerge(("a",), {1: 0}))
