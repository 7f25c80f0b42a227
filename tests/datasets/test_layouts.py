"""Every layout, written from `scenes` and read back by the loader it belongs to: in folders and in archives."""

import re
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.cli import listing
from densebench.core.errors import DatasetError, StorageError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.sets.spair import CATEGORIES
from densebench.datasets.tools.checks import check
from densebench.datasets.tools.export import stored_values
from densebench.datasets.user.images import load_images
from tests.datasets.writers import LAYOUTS, export, export_splits

QUIET = Progress(quiet=True)
SIZE = (48, 64)

ARCHIVES = {
    "voc": [("VOCtrainval_11-May-2012.tar", ".", "VOCdevkit")],
    "ade20k": [("ADEChallengeData2016.zip", ".", "ADEChallengeData2016")],
    "ade20k_150": [("ADEChallengeData2016.zip", ".", "ADEChallengeData2016")],
    "camvid": [("camvid/val.zip", "camvid", "val"), ("camvid.zip", ".", "camvid")],
    "cityscapes": [
        ("cityscapes/leftImg8bit_trainvaltest.zip", "cityscapes", "leftImg8bit"),
        ("cityscapes/gtFine_trainvaltest.zip", "cityscapes", "gtFine"),
    ],
    "acdc": [("rgb_anon_trainvaltest.zip", "acdc", "rgb_anon"), ("gt_trainval.zip", "acdc", "gt")],
    "coco_things": [
        ("coco/val2017.zip", "coco", "val2017"),
        ("coco/annotations/panoptic_val2017.zip", "coco/annotations", "panoptic_val2017"),
        ("coco/panoptic_annotations_trainval2017.zip", "coco", "annotations"),
    ],
    "coco_stuff": [
        ("coco/val2017.zip", "coco", "val2017"),
        ("coco/annotations/stuff_val2017_pixelmaps.zip", "coco/annotations", "stuff_val2017_pixelmaps"),
        ("stuff_annotations_trainval2017.zip", "coco", "annotations"),
    ],
    "coco_stuff164k": [("coco/stuffthingmaps_trainval2017.zip", "coco/stuffthingmaps", "val2017")],
    "coco": [("coco/val2017.zip", "coco", "val2017")],
    "coco_things_instances": [
        ("coco/val2017.zip", "coco", "val2017"),
        ("coco/annotations_trainval2017.zip", "coco", "annotations"),
    ],
    "pascal_context": [("VOCtrainval_03-May-2010.tar", ".", "VOCdevkit/VOC2010/JPEGImages")],
    "pascal_part": [
        ("VOCtrainval_03-May-2010.tar", ".", "VOCdevkit/VOC2010/JPEGImages"),
        ("VOCdevkit/VOC2010/trainval.tar", "VOCdevkit/VOC2010", "Annotations_Part"),
    ],
}
"""Per layout: the archive as it is published, the folder that its names begin at, and what goes into it."""

OWN_LAYOUT = {"ade20k_150": "ade20k", "pascal_context59": "pascal_context", "cityscapes27": "cityscapes"}


def as_stored(mask, layout):
    """Return what a label map is after a way to the layout and back: labels that it does not have do not count."""
    void = 0 if layout == "ade20k" else 255
    return np.where(mask < DATASETS[layout].info.n_classes, mask, void).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes():
    return Scenes(None, "val", length=3, size=SIZE)


def pack(root: Path, archive: str, base: str, inner: str) -> None:
    """Move a folder into an archive."""
    files = [p for p in sorted((root / base / inner).rglob("*")) if p.is_file()]
    if archive.endswith(".zip"):
        with zipfile.ZipFile(root / archive, "w") as file:
            for path in files:  # an archive in an archive lies in it as it is
                packing = zipfile.ZIP_STORED if path.suffix == ".zip" else zipfile.ZIP_DEFLATED
                file.write(path, path.relative_to(root / base), packing)
    else:
        with tarfile.open(root / archive, "w") as file:
            for path in files:
                file.add(path, path.relative_to(root / base))
    shutil.rmtree(root / base / inner)


def layout_of(name):
    return OWN_LAYOUT.get(name, name)


def assert_same(data, scenes, layout):
    if layout != "seven_scenes":  # which numbers its frames
        assert [id_.rpartition("/")[2] for id_ in data.ids] == list(scenes.ids)
    for i in range(len(scenes)):
        sample = data.sample(i)
        assert sample.image.size == SIZE[::-1]
        assert np.abs(np.asarray(sample.image, float) - np.asarray(scenes.image(i), float)).mean() < 6
        if sample.mask is not None:
            np.testing.assert_array_equal(sample.mask, as_stored(scenes.mask(i), layout))
            assert sample.mask.dtype == np.uint8
        if sample.depth is not None:
            depth = scenes.depth(i)
            np.testing.assert_allclose(sample.depth, np.where(depth <= 10, depth, 0), atol=6e-4)


PER_IMAGE = [layout for layout in LAYOUTS if layout not in ("spair", "pf_willow", "folder")]


def test_every_dataset_has_a_layout():
    hdf5 = {"nyu_labeled", "nyu_filled", "nyu_h5"}  # these are written and read back in test_nyu_mat.py
    on_disk = {entry.name for entry in DATASETS if not DATASETS[entry.name].info.embedded}
    assert on_disk - hdf5 == {*LAYOUTS} - {"folder"} - hdf5


@pytest.mark.parametrize("layout", PER_IMAGE)
def test_scenes_come_back_as_they_went(layout, scenes, tmp_path):
    assert export(scenes, layout, tmp_path) == 3
    data = load_dataset(layout, DATASETS[layout].info.val, tmp_path)
    assert_same(data, scenes, layout)
    report = check(data, QUIET)
    assert report.problems == []
    assert report.n_images == 3


def test_key_points_come_back_as_they_went(tmp_path):
    scenes = Scenes(None, "val", length=12, size=SIZE)
    export(scenes, "spair", tmp_path)
    data = load_dataset("spair", "test", tmp_path)
    assert len(data.pairs()) > 5
    assert check(data, QUIET).problems == []
    for i, id_ in enumerate(data.ids):
        category, name = id_.split("/")
        (found,) = data.keypoints(i)
        number = CATEGORIES.index(category)
        same = [
            thing
            for thing in scenes.keypoints(scenes.ids.index(name))
            if scenes.info.classes.index(thing.category) % 18 == number and thing.visible.any()
        ]
        assert any(
            found.bbox == thing.bbox
            and np.array_equal(found.xy[: len(thing.xy)][thing.visible], thing.xy[thing.visible])
            and found.visible.sum() == thing.visible.sum()
            for thing in same
        )
    with pytest.raises(UsageError, match="show no category twice"):
        export(Scenes(None, "val", length=1, size=SIZE), "spair", tmp_path / "one")


def test_ten_points_come_back_by_their_rule(tmp_path):
    scenes = Scenes(None, "val", length=40, size=SIZE)
    export(scenes, "pf_willow", tmp_path)
    data = load_dataset("pf_willow", "test", tmp_path)
    assert check(data, QUIET).problems == []
    kinds = {}
    for i, id_ in enumerate(data.ids):
        group, name = id_.split("/")
        index = scenes.ids.index(name)
        np.testing.assert_array_equal(np.asarray(data.image(i)), np.asarray(scenes.image(index)))
        (found,) = data.keypoints(i)
        first = {t.category: t.xy for t in reversed(scenes.keypoints(index)) if t.visible.all()}
        (kind,) = [name for name, xy in first.items() if np.array_equal(found.xy[: len(xy)], xy)]
        xy = first[kind]
        for k in range(10 - len(xy)):
            after = xy[(k + 1) % len(xy)]
            np.testing.assert_array_equal(found.xy[len(xy) + k], (xy[k] + after) / 2)
        kinds.setdefault(group, set()).add(kind)
    assert len(kinds) >= 2
    assert all(len(kind) == 1 for kind in kinds.values())  # a group shows one class
    assert len({*map(str, kinds.values())}) == len(kinds)
    assert max(len([id_ for id_ in data.ids if id_.startswith(f"{group}/")]) for group in kinds) <= 10
    with pytest.raises(UsageError, match="show no class twice as a whole"):
        export(Scenes(None, "val", length=1, size=SIZE), "pf_willow", tmp_path / "one")


def test_a_plain_folder_comes_back(scenes, tmp_path):
    assert list(export_splits("scenes", "folder", tmp_path, limit=2)) == [("train", 2), ("val", 2)]
    export(scenes, "folder", tmp_path / "small")
    data = load_images(f"{tmp_path}/small/val")
    assert list(data.ids) == [f"{id_}.png" for id_ in scenes.ids]
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(data.image(i)), np.asarray(scenes.image(i)))


@pytest.mark.parametrize("layout", PER_IMAGE)
def test_the_training_split_is_written_where_it_is_read(layout, tmp_path):
    export(Scenes(None, "train", length=2, size=(24, 24)), layout, tmp_path)
    assert len(load_dataset(layout, DATASETS[layout].info.train, tmp_path)) == 2


def test_images_of_both_splits_never_become_one_file(tmp_path, monkeypatch):
    for entries in ("_entries", "_loaded"):  # the dataset is registered for this test alone
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))
    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.new(mode, (8, 8)).save(tmp_path / split / kind / "one.png")
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "alike"\nclasses = ["a", "b"]\nimages = "{split}/images/*.png"\nmasks = "{split}/masks/*.png"\n'
        'splits = ["train", "val"]\n'
    )
    with pytest.raises(UsageError, match=r"images of both splits of alike would be one file, .*one\.jpg.* camvid"):
        list(export_splits(str(path), "voc", tmp_path / "out", overwrite=True))
    assert not (tmp_path / "out").exists()
    assert list(export_splits(str(path), "camvid", tmp_path / "out")) == [("train", 1), ("val", 1)]


def test_both_splits_are_exported_by_name(tmp_path):
    assert list(export_splits("scenes", "camvid", tmp_path, limit=2)) == [("train", 2), ("val", 2)]
    assert len(load_dataset("camvid", "train", tmp_path)) == len(load_dataset("camvid", "val", tmp_path)) == 2
    assert list(export_splits("scenes", "spair", tmp_path, limit=8)) == [("val", 8)]
    with pytest.raises(UsageError, match="--limit 0: expected at least 1"):
        list(export_splits("scenes", "camvid", tmp_path, limit=0))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file.* \(Not a directory\)"):
        list(export_splits("scenes", "camvid", tmp_path / "file", limit=1))
    with pytest.raises(UsageError, match="unknown layout 'pf_wilow'; did you mean 'pf_willow'"):
        list(export_splits("scenes", "pf_wilow", tmp_path))


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_read_in_place(name, scenes, tmp_path):
    layout = layout_of(name)
    export(scenes, layout, tmp_path)
    plain = load_dataset(name, "val", tmp_path)
    digest, before = plain.digest(), [plain.sample(i) for i in range(3)]
    for archive, base, inner in ARCHIVES[name]:
        pack(tmp_path, archive, base, inner)
    data = load_dataset(name, "val", tmp_path)
    assert list(data.ids) == list(plain.ids)
    for i in range(3):
        sample = data.sample(i)
        np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(before[i].image))
        np.testing.assert_array_equal(sample.mask, before[i].mask)
    assert data.digest() == digest  # contents, not places
    assert check(data, QUIET).problems == []


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "folder"])
def test_every_layout_is_read_from_a_zip_or_tar_of_its_folder(layout, suffix, tmp_path):
    val = DATASETS[layout].info.val
    export(Scenes(None, "val", length=30 if layout in ("spair", "pf_willow") else 3, size=SIZE), layout, tmp_path)
    plain = load_dataset(layout, val, tmp_path)
    digest, before = plain.digest(), [plain.sample(i) for i in range(len(plain))]
    (top,) = tmp_path.iterdir()
    pack(tmp_path, f"{top.name}{suffix}", ".", top.name)
    assert [path.name for path in tmp_path.iterdir()] == [f"{top.name}{suffix}"]
    data = load_dataset(layout, val, tmp_path)
    assert list(data.ids) == list(plain.ids)
    assert data.digest() == digest
    assert check(data, QUIET).problems == []
    for i, expected in enumerate(before):
        assert_equal(data.sample(i), expected)


TOPS = {"seven_scenes": "7scenes", "spair": "SPair-71k", "pf_willow": "PF-dataset"}


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "folder"])
def test_an_archive_that_cannot_be_read_is_named_in_one_line(layout, tmp_path):
    top = TOPS.get(layout) or LAYOUTS[layout].image.split("/")[0]
    for names in ([f"{top}.zip"], [f"{top}.tar"], [archive for archive, *_ in ARCHIVES.get(layout, ())]):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"PK\3\4 or so, but broken off" * 100)
            message = rf"^{root}/\S+ cannot be read as an archive \(.*\)\. Get the original file\.$"
        if names:
            with pytest.raises(DatasetError, match=message):
                load_dataset(layout, DATASETS[layout].info.val, root)
    (tmp_path / f"{top}.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(
        DatasetError, match=rf"{top}\.tar\.gz is compressed as a whole\. Unpack it once: `tar -xf [^\n]*$"
    ):
        load_dataset(layout, DATASETS[layout].info.val, tmp_path)


def assert_equal(sample, expected):
    assert sample.id == expected.id
    np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(expected.image))
    np.testing.assert_array_equal(sample.mask, expected.mask)
    np.testing.assert_array_equal(sample.depth, expected.depth)
    for thing, other in zip(sample.keypoints, expected.keypoints, strict=True):
        assert (thing.category, thing.bbox) == (other.category, other.bbox)
        np.testing.assert_array_equal(thing.xy, other.xy)


@pytest.mark.parametrize("name", ["ade20k_150", "pascal_context59", "cityscapes27", "coco_things80"])
def test_other_class_lists_read_the_same_files(name, scenes, tmp_path):
    layout = {**OWN_LAYOUT, "coco_things80": "coco_things"}[name]
    export(scenes, layout, tmp_path)
    one, other = load_dataset(layout, "val", tmp_path), load_dataset(name, "val", tmp_path)
    by_name = {c: i for i, c in enumerate(other.info.classes)}
    seen = 0
    for i in range(3):
        a, b = one.mask(i), other.mask(i)
        for label in np.unique(a):
            expected = by_name.get(one.info.classes[label], 255) if label != 255 else None
            if name == "coco_things80" and label != 255:
                assert 255 not in b[a == label]
            elif expected is not None:
                assert set(np.unique(b[a == label])) == {expected}
                seen += 1
    assert seen or name == "coco_things80"
    assert one.digest() != other.digest()


def test_every_dataset_says_what_a_result_needs():
    for entry in DATASETS:
        info = DATASETS[entry.name].info
        assert len(info.palette) == len(info.classes), entry.name
        assert len(set(info.classes)) == len(info.classes), entry.name
        assert info.train in info.splits, entry.name
        assert info.val in info.splits, entry.name
        assert info.licence, entry.name
        assert info.citation, entry.name
        assert info.how_to_get, entry.name
        assert entry.summary, entry.name


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("voc", 21, {"train": 1464, "trainaug": 10582, "val": 1449}),
        ("ade20k", 151, {"train": 20210, "val": 2000}),
        ("ade20k_150", 150, {"train": 20210, "val": 2000}),
        ("coco_things", 12, {"train": 118287, "val": 5000}),
        ("coco_stuff", 15, {"train": 118287, "val": 5000}),
        ("coco_stuff27", 27, {"train": 118287, "val": 5000, "train_curated": 49629, "val_curated": 2175}),
        ("coco_stuff164k", 171, {"train": 118287, "val": 5000}),
        ("coco_things80", 80, {"train": 118287, "val": 5000}),
        ("pascal_context", 60, {"train": 4998, "val": 5105}),
        ("pascal_context59", 59, {"train": 4998, "val": 5105}),
        ("cityscapes", 19, {"train": 2975, "val": 500}),
        ("cityscapes27", 27, {"train": 2975, "val": 500}),
        ("acdc", 19, {"train": 1600, "val": 406}),
        ("camvid", 11, {"train": 367, "val": 101, "test": 233}),
        ("pascal_part", 6, {"train": 1077, "val": 1094}),
    ],
)
def test_published_sizes(name, classes, counts):
    info = DATASETS[name].info
    assert info.n_classes == classes
    assert dict(info.splits) == counts


def test_label_tables_follow_the_published_numbering():
    def stored(name, value):
        label = DATASETS[name].labels[value]
        return "void" if label == 255 else "wrong" if label == 254 else DATASETS[name].info.classes[label]

    assert [stored("ade20k", v) for v in (0, 1, 150, 151, 255)] == ["other", "wall", "flag", "wrong", "wrong"]
    assert DATASETS["ade20k"].info.ignored == (0, 255)
    assert [stored("ade20k_150", v) for v in (0, 1, 150, 255)] == ["void", "wall", "flag", "wrong"]
    assert [stored("camvid", v) for v in (0, 10, 11, 12)] == ["sky", "bicyclist", "void", "wrong"]
    ids = (0, 6, 7, 8, 9, 11, 17, 18, 29, 31, 33, 34, 255)
    nineteen = ["void", "void", "road", "sidewalk", "void", "building", "pole", "void", "void", "train", "bicycle"]
    assert [stored("cityscapes", v) for v in ids] == [*nineteen, "wrong", "wrong"]
    assert [stored("acdc", v) for v in ids] == [*nineteen, "wrong", "void"]
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # HBIRD's list
    assert DATASETS["cityscapes"].labels[evaluated].tolist() == list(range(19))
    assert [stored("cityscapes27", v) for v in (6, 7, 9, 33)] == ["void", "road", "parking", "bicycle"]
    assert DATASETS["acdc"].info.classes == DATASETS["cityscapes"].info.classes
    assert [stored("pascal_context", v) for v in (0, 1, 59, 60)] == ["background", "aeroplane", "wood", "wrong"]
    assert [stored("pascal_context59", v) for v in (0, 1, 59)] == ["void", "aeroplane", "wood"]


def test_pascal_context_reads_the_459_categories_of_its_authors(scenes, tmp_path):
    from scipy.io import savemat

    export(scenes, "pascal_context", tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2010"
    plain = [load_dataset("pascal_context", "val", tmp_path).mask(i) for i in range(3)]
    from densebench.datasets.sets.pascal_context import CATEGORIES

    numbers = np.array([1, *CATEGORIES], dtype=np.uint16)  # 1 accordion is none of the 59
    (folder / "trainval").mkdir()
    for id_, mask in zip(scenes.ids, plain, strict=True):
        savemat(folder / "trainval" / f"{id_}.mat", {"LabelMap": numbers[np.where(mask == 255, 0, mask)]})
    shutil.rmtree(folder / "SegmentationClassContext")
    data = load_dataset("pascal_context", "val", tmp_path)
    for i in range(3):
        np.testing.assert_array_equal(data.mask(i), np.where(plain[i] == 255, 0, plain[i]))
    savemat(folder / "trainval" / f"{scenes.ids[0]}.mat", {"LabelMap": np.full(SIZE, 460)})
    with pytest.raises(DatasetError, match="no LabelMap of categories"):
        data.mask(0)


def test_pascal_part_finds_its_animals_without_lists(scenes, tmp_path):
    from scipy.io import savemat

    export(scenes, "pascal_part", tmp_path)
    folder = tmp_path / "VOCdevkit" / "VOC2010"
    (folder / "ImageSets" / "PascalPart").rename(folder / "ImageSets" / "Main")
    chair = {"anno": {"imname": "x", "objects": [{"class": "chair", "class_ind": 9, "mask": 0, "parts": []}]}}
    savemat(folder / "Annotations_Part" / f"{scenes.ids[1]}.mat", chair)
    data = load_dataset("pascal_part", "val", tmp_path)
    assert data.ids == [scenes.ids[0], scenes.ids[2]]
    np.testing.assert_array_equal(data.mask(1), as_stored(scenes.mask(2), "pascal_part"))
    parts = [{"part_name": name, "mask": np.eye(*SIZE)} for name in ("lfuleg", "beak", "antenna")]
    thing = {"class": "bird", "class_ind": 3, "mask": 0, "parts": parts}
    savemat(folder / "Annotations_Part" / f"{scenes.ids[0]}.mat", {"anno": {"imname": "x", "objects": [thing]}})
    with pytest.raises(DatasetError, match="a part 'antenna' that no animal has"):
        data.mask(0)


def test_stuff27_reads_the_curated_list(scenes, tmp_path):
    export(scenes, "coco_stuff27", tmp_path)
    lists = tmp_path / "coco" / "curated" / "val2017"
    lists.mkdir(parents=True)
    (lists / "Coco164kFull_Stuff_Coarse_7.txt").write_text(f"{scenes.ids[2]}\n{scenes.ids[0]}\n")
    data = load_dataset("coco_stuff27", "val_curated", tmp_path)
    assert data.ids == [scenes.ids[0], scenes.ids[2]]
    np.testing.assert_array_equal(data.mask(1), as_stored(scenes.mask(2), "coco_stuff27"))
    (lists / "Coco164kFull_Stuff_Coarse_7.txt").write_text("000000000009\n")
    with pytest.raises(DatasetError, match="1 of 1 images of the list of val_curated have no mask"):
        load_dataset("coco_stuff27", "val_curated", tmp_path)


def test_things_read_converted_masks_too(scenes, tmp_path):
    export(scenes, "coco_things", tmp_path)
    panoptic = load_dataset("coco_things", "val", tmp_path)
    folder = tmp_path / "coco" / "annotations" / "panoptic_annotations" / "semantic_segmentation_val2017"
    folder.mkdir(parents=True)

    masks = [panoptic.mask(i) for i in range(3)]
    for id_, mask in zip(panoptic.ids, masks, strict=True):
        Image.fromarray(stored_values(DATASETS["coco_things"])[mask]).save(folder / f"{id_}.png")
    shutil.rmtree(tmp_path / "coco" / "annotations" / "panoptic_val2017")
    converted = load_dataset("coco_things", "val", tmp_path)
    assert converted.files(0)[1].parent == folder
    for i in range(3):
        np.testing.assert_array_equal(converted.mask(i), masks[i])


def test_masks_of_another_numbering_are_noticed(scenes, tmp_path):
    assert DATASETS["coco_stuff"].labels[[0, 92, 183, 255]].tolist() == [255, 11, 255, 255]
    for name, wrong in (("coco_things", 201), ("coco_stuff", 91), ("coco_stuff", 184), ("coco_stuff27", 182)):
        assert DATASETS[name].labels[wrong] == 254
    export(scenes, "coco_stuff164k", tmp_path)
    path = tmp_path / "coco" / "stuffthingmaps" / "val2017" / f"{scenes.ids[0]}.png"
    Image.new("L", SIZE[::-1], 184).save(path)  # a category id of the panoptic file
    with pytest.raises(DatasetError, match=r"holds label 184 in 3072 pixels; expected 0\.\.181 or 255"):
        load_dataset("coco_stuff27", "val", tmp_path).mask(0)


def test_a_panoptic_mask_without_its_json_is_refused(scenes, tmp_path):
    export(scenes, "coco_things", tmp_path)
    path = tmp_path / "coco" / "annotations" / "panoptic_val2017.json"
    text = path.read_text()
    path.write_text(text.replace(scenes.ids[1], "other"))
    with pytest.raises(DatasetError, match=f"lacks 1 of 3 images .*{scenes.ids[1]}"):
        load_dataset("coco_things", "val", tmp_path)
    path.write_text(text.replace('"segments_info": [', '"segments_info": [], "was": ['))
    with pytest.raises(DatasetError, match=r"holds segment .*, which .* does not list"):
        load_dataset("coco_things", "val", tmp_path).mask(0)
    path.write_text("[]")
    with pytest.raises(DatasetError, match="is not a COCO file of panoptic"):
        load_dataset("coco_things", "val", tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"no panoptic_val2017\.json in annotations/"):
        load_dataset("coco_things", "val", tmp_path)


def test_ids_that_occur_twice_are_refused(scenes, tmp_path):
    export(scenes, "cityscapes", tmp_path)
    for kind, suffix in (("leftImg8bit", "_leftImg8bit.png"), ("gtFine", "_gtFine_labelIds.png")):
        folder = tmp_path / "cityscapes" / kind / "val"
        (folder / "town").mkdir()
        shutil.copy(folder / "city" / f"{scenes.ids[0]}{suffix}", folder / "town")
    with pytest.raises(DatasetError, match=f"1 ids occur twice .*{scenes.ids[0]}"):
        load_dataset("cityscapes", "val", tmp_path)


def test_missing_masks_are_counted(scenes, tmp_path):
    export(scenes, "ade20k", tmp_path)
    (tmp_path / "ADEChallengeData2016" / "annotations" / "validation" / f"{scenes.ids[1]}.png").unlink()
    with pytest.raises(DatasetError, match=rf"1 of 3 files of split val are missing .*{scenes.ids[1]}\.png"):
        load_dataset("ade20k", "val", tmp_path)
    with pytest.raises(UsageError, match="unknown split 'testing'"):
        load_dataset("ade20k", "testing", tmp_path)
    with pytest.raises(DatasetError, match=r"no folder images/training/ below .*ADEChallengeData2016\.zip.*data check"):
        load_dataset("ade20k", "train", tmp_path)


def test_train_ids_alone_are_not_what_is_missing(scenes, tmp_path):
    export(scenes, "cityscapes", tmp_path)
    for path in (tmp_path / "cityscapes" / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(
        DatasetError, match=r"_labelIds\.png, but there is .*_labelTrainIds\.png: train ids, which mean"
    ):
        load_dataset("cityscapes", "val", tmp_path)


def test_color_masks_and_odd_sizes_are_problems_of_the_check(scenes, tmp_path):
    export(scenes, "ade20k", tmp_path)
    folder = tmp_path / "ADEChallengeData2016" / "annotations" / "validation"
    Image.open(folder / f"{scenes.ids[0]}.png").convert("RGB").save(folder / f"{scenes.ids[0]}.png")
    Image.open(folder / f"{scenes.ids[1]}.png").resize((32, 32), Image.Resampling.NEAREST).save(
        folder / f"{scenes.ids[1]}.png"
    )
    first, second = check(load_dataset("ade20k", "val", tmp_path), QUIET).problems
    assert "has pixels of mode RGB; expected a grey or palette PNG" in first
    assert f"{scenes.ids[1]} is 64x48 px but its mask 32x32" in second


def test_depth_of_another_scale_is_a_problem_of_the_check(scenes, tmp_path):
    export(scenes, "nyu", tmp_path)
    path = tmp_path / "nyu" / "scenes" / f"{scenes.ids[0]}_depth.png"
    Image.fromarray((np.array(Image.open(path)).astype(np.uint16) // 40).astype(np.uint16)).save(path)
    (problem,) = check(load_dataset("nyu", "test", tmp_path), QUIET).problems
    assert "is of another scale" in problem


def test_the_check_counts_depth_and_points(scenes):
    report = check(scenes, QUIET)
    depths = [scenes.depth(i) for i in range(3)]
    assert report.measured == sum(int((d > 0).sum()) for d in depths)
    assert report.depth == (min(float(d[d > 0].min()) for d in depths), max(float(d.max()) for d in depths))
    assert report.objects == sum(len(scenes.keypoints(i)) for i in range(3)) > 0


def test_exports_that_cannot_be_are_refused(scenes, tmp_path):
    with pytest.raises(UsageError, match="unknown layout 'vok'; did you mean 'voc'"):
        export(scenes, "vok", tmp_path)
    flat = Scenes(None, "val", length=1)
    flat.info = replace(Scenes.info, targets=frozenset({"mask"}))
    with pytest.raises(UsageError, match="needs depth, which scenes does not have"):
        export(flat, "nyu", tmp_path)


def test_the_class_of_the_docs_works(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    (source,) = re.findall(r"```python\n(\"\"\"Mine: .*?)```", text, re.S)
    names: dict[str, type] = {}
    exec(source, names)
    for folder, ending, stored in (("images", "jpg", (0, 0, 0)), ("masks", "png", 7)):
        path = tmp_path / "mine" / folder / "val" / f"x.{ending}"
        path.parent.mkdir(parents=True)
        Image.new("RGB" if ending == "jpg" else "L", (4, 3), stored).save(path)
    data = names["Mine"](tmp_path)
    assert data.ids == ["x"]
    np.testing.assert_array_equal(data.mask(0), np.ones((3, 4)))


def test_the_list_says_what_is_ready(tmp_path):
    def said(name, root):
        return dict(listing.rows("datasets", name, tmp_path, root))[name].partition(";")[0]

    nowhere = tmp_path / "nowhere"
    assert [said(name, nowhere) for name in ("scenes", "voc", "camvid")] == ["ready", "fetchable", "by hand"]
    list(export_splits("scenes", "camvid", tmp_path, 2))
    assert said("camvid", tmp_path) == "ready"
    shutil.rmtree(tmp_path / "camvid" / "trainannot")
    assert said("camvid", tmp_path) == "ready, but for split train"
    next((tmp_path / "camvid" / "valannot").iterdir()).unlink()
    assert said("camvid", tmp_path) == "not as expected, see `densebench data where camvid`"
