"""Names, numbers and colours that the datasets' own files state, where a list of ours could be out of step."""

import pytest

from densebench.core.errors import CorruptFileError, DatasetError
from densebench.datasets import DATASETS
from densebench.datasets.io.decode import read_mat
from densebench.datasets.sets.pascal_context import CATEGORIES
from densebench.datasets.sets.pascal_part import ENDINGS


def test_ade20k_has_the_colors_of_its_benchmark():
    with_other, without = (DATASETS[name].info for name in ("ade20k", "ade20k_150"))
    of = dict(zip(without.classes, without.palette, strict=True))
    assert with_other.palette == ((0, 0, 0), *without.palette)
    assert [of[name] for name in ("wall", "sky", "bed", "land", "flag")] == [
        (120, 120, 120), (6, 230, 230), (204, 5, 255), (0, 194, 255), (92, 0, 255),
    ]  # fmt: skip
    assert of["road"] == of["skyscraper"]  # as published: no other two classes are alike
    assert len(set(without.palette)) == 149


def test_every_dataset_has_a_color_per_class_and_facts_for_a_record():
    for entry in DATASETS:
        info = DATASETS[entry.name].info
        assert len(info.palette) == len(info.classes) == len(set(info.classes))
        assert all(0 <= channel <= 255 for color in info.palette for channel in color)
        assert info.licence
        assert info.embedded or info.citation


def test_pascal_contexts_ids_are_in_alphabetical_order():
    """So are the authors' 459 categories; the list of names in mmsegmentation's dataset class is not."""
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert list(CATEGORIES.values()) == sorted(CATEGORIES.values())


def test_every_part_that_animals_are_annotated_with_has_a_class():
    """Names as Pascal-Part's `part2ind.m` lists them for birds, cats, cows, dogs, horses and sheep."""
    shared = "head leye reye lear rear torso neck tail "
    named = {
        "bird": "head leye reye beak torso neck lwing rwing lleg lfoot rleg rfoot tail",
        "cat": shared + "nose lfleg lfpa rfleg rfpa lbleg lbpa rbleg rbpa",
        "cow": shared + "muzzle lhorn rhorn lfuleg lflleg rfuleg rflleg lbuleg lblleg rbuleg rblleg",
        "dog": shared + "nose muzzle lfleg lfpa rfleg rfpa lbleg lbpa rbleg rbpa",
        "horse": shared + "muzzle lfho rfho lbho rbho lfuleg lflleg rfuleg rflleg lbuleg lblleg rbuleg rblleg",
    }
    ends = {
        part: {ENDINGS[end] for end in ENDINGS if part.endswith(end)}
        for parts in named.values()
        for part in parts.split()
    }
    assert all(len(found) == 1 for found in ends.values())
    assert {part for part, found in ends.items() if found == {"leg"}} >= {"lfoot", "lfpa", "lfho", "rblleg"}
    assert {part for part, found in ends.items() if found == {"head"}} >= {"beak", "rear", "lhorn", "muzzle", "nose"}


@pytest.mark.parametrize("content", [b"", b"abc", b"MATLAB 5.0 MAT-file" + bytes(109) + b"\x00\x01IM" + b"\xff" * 60])
def test_a_broken_matlab_file_is_one_that_may_be_left_out(content, tmp_path):
    path = tmp_path / "2008_000002.mat"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"2008_000002\.mat cannot be read as a MATLAB file") as caught:
        read_mat(path, 7)
    assert caught.value.index == 7


def test_a_matlab_file_that_is_missing_is_not_called_broken(tmp_path):
    with pytest.raises(DatasetError, match="missing") as caught:
        read_mat(tmp_path / "2008_000002.mat", 0)
    assert not isinstance(caught.value, CorruptFileError)
