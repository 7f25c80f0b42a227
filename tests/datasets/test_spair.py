import gzip
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from densebench.core.errors import DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import load_dataset
from densebench.datasets.pairs import listed_pairs
from densebench.datasets.sets.spair import SPair
from densebench.datasets.tools.checks import check, without_corrupt

QUIET = Progress(quiet=True)
ANNOTATIONS = {
    "cat/2007_000001": ({"0": [10, 20], "1": [30, 5], "4": [9, 9]}, [5, 2, 40, 30]),
    "cat/2007_000002": ({"0": [11, 21], "4": [3, 33]}, [1, 1, 47, 37]),
    "cat/2007_000003": ({"1": [8, 8], "4": [7, 6]}, [0, 0, 20, 30]),
    "dog/2007_000001": ({"2": [1, 2]}, [0, 0, 10, 10]),  # the image of a cat, too
    "dog/2007_000004": ({"2": [3, 4], "29": [5, 6]}, [0, 0, 12, 10]),
}
PAIRS = ("cat:1:2", "cat:3:1", "cat:2:1", "dog:1:4")


def write(root, image_annotations=True):
    """Write a small SPair-71k; returns its folder."""
    folder = root / "SPair-71k"
    for place in ("Layout/large", "PairAnnotation/test", "JPEGImages/cat", "JPEGImages/dog"):
        (folder / place).mkdir(parents=True)
    for i, (image, (points, box)) in enumerate(ANNOTATIONS.items()):
        Image.new("RGB", (48, 40), (i * 40, 90, 90)).save(folder / "JPEGImages" / f"{image}.jpg")
        if image_annotations:
            path = folder / "ImageAnnotation" / f"{image}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            kps = {str(k): points.get(str(k)) for k in range(30)}
            path.write_text(json.dumps({"kps": kps, "bndbox": box}))
    names = []
    for number, pair in enumerate(PAIRS):
        category, *ends = pair.split(":")
        source, target = (f"2007_00000{end}" for end in ends)
        (kps, box), (other, other_box) = (ANNOTATIONS[f"{category}/{name}"] for name in (source, target))
        common = [k for k in kps if k in other]
        names.append(f"{number:06d}-{source}-{target}:{category}")
        state = {"kps_ids": common, "src_bndbox": box, "trg_bndbox": other_box}
        state |= {"src_kps": [kps[k] for k in common], "trg_kps": [other[k] for k in common]}
        (folder / "PairAnnotation" / "test" / f"{names[-1]}.json").write_text(json.dumps(state))
    (folder / "Layout" / "large" / "test.txt").write_text("\n".join(names) + "\n")
    return folder


def test_images_and_pairs_are_those_of_the_list(tmp_path):
    folder = write(tmp_path)
    for root in (tmp_path, folder):
        data = SPair(root, "test")
        assert data.ids == sorted(ANNOTATIONS)
        assert data.pairs() == [(0, 1), (2, 0), (1, 0), (3, 4)]
    assert load_dataset("spair", "test", tmp_path).sample(3).image.size == (48, 40)
    assert not check(data, QUIET).problems


@pytest.mark.parametrize("image_annotations", [True, False])
def test_key_points_are_by_id_with_or_without_image_annotations(image_annotations, tmp_path):
    write(tmp_path, image_annotations)
    data = SPair(tmp_path, "test")
    (cat,) = data.keypoints(0)
    assert (cat.category, cat.bbox) == ("cat", (5.0, 2.0, 40.0, 30.0))
    assert np.flatnonzero(cat.visible).tolist() == [0, 1, 4]
    assert cat.xy[[0, 1, 4]].tolist() == [[10, 20], [30, 5], [9, 9]]
    (dog,) = data.keypoints(3)
    assert (dog.category, np.flatnonzero(dog.visible).tolist()) == ("dog", [2])


@pytest.mark.parametrize("image_annotations", [True, False])
def test_the_tar_is_read_in_place(image_annotations, tmp_path):
    folder = write(tmp_path, image_annotations)
    plain = SPair(tmp_path, "test")
    digest, before = plain.digest(), [plain.keypoints(i)[0].xy.tolist() for i in range(5)]
    with tarfile.open(tmp_path / "SPair-71k.tar.gz", "w:gz") as file:
        file.add(folder, folder.name)
    shutil.rmtree(folder)
    message = (
        rf"SPair-71k\.tar\.gz is compressed as a whole\. .*: `tar -xf {tmp_path}/SPair-71k\.tar\.gz -C {tmp_path}`\."
    )
    with pytest.raises(DatasetError, match=message):
        SPair(tmp_path, "test")
    (tmp_path / "spair").mkdir()
    packed = gzip.decompress((tmp_path / "SPair-71k.tar.gz").read_bytes())
    for path in (tmp_path / "SPair-71k.tar", tmp_path / "spair" / "SPair-71k.tar"):
        path.write_bytes(packed)
        data = SPair(tmp_path, "test")
        assert data.files(0)[0] == path / "SPair-71k" / "JPEGImages" / "cat" / "2007_000001.jpg"
        assert (data.ids, data.pairs(), data.digest()) == (plain.ids, plain.pairs(), digest)
        assert [data.keypoints(i)[0].xy.tolist() for i in range(5)] == before
        path.unlink()


def test_a_view_keeps_the_pairs_it_shows(tmp_path):
    write(tmp_path)
    data = SPair(tmp_path, "test")
    assert listed_pairs(data.select([0, 1, 3])) == [(0, 1), (1, 0)]
    assert listed_pairs(data.select([3, 1, 4, 0]).select([1, 2, 3])) == [(2, 0), (0, 2)]
    assert listed_pairs(load_dataset("scenes", "val")) is None
    assert listed_pairs(load_dataset("scenes", "val").select([0, 1])) is None


def test_the_digest_follows_the_pair_list(tmp_path):
    folder = write(tmp_path)
    before = SPair(tmp_path, "test").digest()
    path = folder / "Layout" / "large" / "test.txt"
    path.write_text(path.read_text().replace("000002-2007_000002-2007_000001", "000002-2007_000003-2007_000002"))
    changed = SPair(tmp_path, "test")
    assert changed.ids == sorted(ANNOTATIONS)
    assert changed.digest() != before


def test_a_missing_list_and_a_missing_split_say_so(tmp_path):
    folder = write(tmp_path)
    (folder / "Layout" / "large" / "test.txt").unlink()
    with pytest.raises(DatasetError, match=r"no test\.txt in Layout/large/ below .*SPair-71k\.tar\.gz"):
        SPair(tmp_path, "test")
    with pytest.raises(UsageError, match="unknown split 'train'"):
        SPair(tmp_path, "train")
    with pytest.raises(DatasetError, match=r"no test\.txt in Layout/large/ below .*JPEGImages"):
        SPair(tmp_path / "SPair-71k" / "JPEGImages", "test")


def test_missing_pair_files_matter_only_without_image_annotations(tmp_path):
    for name, image_annotations in (("with", True), ("without", False)):
        folder = write(tmp_path / name, image_annotations)
        next((folder / "PairAnnotation" / "test").glob("000001*")).unlink()
    assert len(SPair(tmp_path / "with", "test")) == 5
    with pytest.raises(DatasetError, match=r"1 of 4 files of split test are missing .*first: 000001-2007_000003"):
        SPair(tmp_path / "without", "test")


def test_a_pair_that_names_a_missing_image_is_refused(tmp_path):
    folder = write(tmp_path)
    (folder / "JPEGImages" / "dog" / "2007_000004.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 5 files of split test are missing below .*JPEGImages .first: dog/2007_000004"
    ):
        SPair(tmp_path, "test")


@pytest.mark.parametrize("name", ["2007_000001-2007_000002:cat", "0-a-b:unicorn", "0-a-b"])
def test_a_name_that_is_no_pair_is_refused(name, tmp_path):
    folder = write(tmp_path)
    (folder / "Layout" / "large" / "test.txt").write_text(name + "\n")
    with pytest.raises(DatasetError, match=r"lists .* expected NUMBER-SOURCE-TARGET:CATEGORY"):
        SPair(tmp_path, "test")


def change(folder, **values):
    (path,) = (folder / "PairAnnotation" / "test").glob("000002*")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("values", [{"src_kps": [[11, 22], [3, 33]]}, {"trg_bndbox": [0, 0, 1, 1]}, {"kps_ids": ["0"]}])
def test_pairs_that_contradict_each_other_are_refused(values, tmp_path):
    change(write(tmp_path, image_annotations=False), **values)
    with pytest.raises(DatasetError, match="other keypoints or another box"):
        SPair(tmp_path, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"kps": {}}', "has no bndbox"),
        ('{"kps": {"30": [1, 2]}, "bndbox": [0, 0, 1, 1]}', "is not an annotation"),
        ('{"kps": {"a": [1, 2]}, "bndbox": [0, 0, 1, 1]}', "is not an annotation"),
        ('{"kps": {"0": [1, 2]}, "bndbox": [0, 0]}', "is not an annotation"),
    ],
)
def test_an_annotation_that_is_none_is_named(text, message, tmp_path):
    path = write(tmp_path) / "ImageAnnotation" / "cat" / "2007_000001.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=rf"2007_000001\.json {message}"):
        SPair(tmp_path, "test").keypoints(0)


def test_corrupt_images_leave_with_their_pairs(tmp_path):
    path = write(tmp_path) / "JPEGImages" / "cat" / "2007_000002.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    kept, left_out = without_corrupt(SPair(tmp_path, "test"), QUIET)
    assert left_out == ("cat/2007_000002",)
    assert listed_pairs(kept) == [(1, 0), (2, 3)]


def test_the_real_copy_reads_clean(shared_data):
    data = SPair(shared_data, "test")
    assert (len(data), len(data.pairs())) == (14, 8)
    assert not check(data, QUIET).problems
    for source, target in data.pairs():
        (a,), (b,) = data.keypoints(source), data.keypoints(target)
        assert a.category == b.category == "cat"
        assert (a.visible & b.visible).any()
        width, height = data.image(source).size
        assert (a.xy[a.visible] <= [width, height]).all()
    (cat,) = data.keypoints(data.ids.index("cat/2010_000469"))
    assert np.flatnonzero(cat.visible).tolist() == list(range(11))  # two pairs, of ten points each


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_width": 96, "image_height": 80}, r"2007_000002\.jpg is 48x40 px, but \S+\.json is for 96x80"),
        ({"bndbox": [20, 20, 20, 20]}, r"has a box without area, \[20\.0, 20\.0, 20\.0, 20\.0\]"),
        ({"bndbox": [40, 30, 5, 5]}, "has a box without area"),
        ({"bndbox": [0, 0, 1e12, 30]}, r"has a box far out of its image of 48x40 px, \[0\.0, 0\.0, 1000000000000\.0"),
        ({"kps": {"4": [300, -40]}}, r"has keypoint 4 at \(300, -40\), outside of its image of 48x40 px"),
        ({"kps": {"4": [float("nan"), 3]}}, r"has keypoint 4 at \(nan, 3\)"),
        ({"kps": {"4": [47.9, -0.5]}, "image_width": 48, "image_height": 40}, ""),
    ],
)
def test_annotations_are_held_against_their_image(values, message, tmp_path):
    path = write(tmp_path) / "ImageAnnotation" / "cat" / "2007_000002.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    data = SPair(tmp_path, "test")
    problems = check(data, QUIET).problems
    assert len(problems) == bool(message)
    if message:
        with pytest.raises(DatasetError, match=message):
            data.keypoints(1)


def test_pair_files_state_sizes_too(tmp_path):
    folder = write(tmp_path, image_annotations=False)
    change(folder, src_imsize=[48, 40, 3], trg_imsize=[48, 40, 3])
    assert check(SPair(tmp_path, "test"), QUIET).problems == []
    change(folder, src_imsize=[500, 334, 3])
    with pytest.raises(DatasetError, match=r"2007_000002\.jpg is 48x40 px, but \S+ is for 500x334"):
        SPair(tmp_path, "test").keypoints(1)
