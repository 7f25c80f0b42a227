import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import load_dataset
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.sets.voc import VOC
from densebench.datasets.tools.checks import check, label_presence, without_corrupt
from tests import toys

QUIET = Progress(quiet=True)


@pytest.fixture
def root(tmp_path):
    return toys.write_voc(tmp_path)


def folder(root):
    return root / "VOCdevkit" / "VOC2012"


def test_the_real_layout_is_found_from_any_level(root):
    for place in (root, root / "VOCdevkit", folder(root)):
        assert len(VOC(place, "val")) == 6
    assert load_dataset("voc", "trainaug", root).ids == sorted(f"2007_trainaug_{i:04d}" for i in range(8))


def test_the_package_of_hbird_and_neco_is_the_same_dataset(root, tmp_path):
    """Other names of folders and lists, the same digest."""
    package = tmp_path / "package" / "VOCSegmentation"
    shutil.copytree(folder(root), package)
    (package / "JPEGImages").rename(package / "images")
    (package / "ImageSets" / "Segmentation").rename(package / "sets")
    for split in ("train", "trainaug", "val"):
        assert VOC(package.parent, split).digest() == VOC(root, split).digest()


def test_samples_are_rgb_images_with_integer_masks(root):
    sample = VOC(root, "val").sample(0)
    assert sample.image.mode == "RGB"
    assert sample.mask.dtype == np.uint8
    assert sample.mask.shape == sample.image.size[::-1]
    image, mask = VOC(root, "val")[0]  # torchvision's call shape
    assert tuple(image.shape) == (3, 64, 64)
    assert mask.max() < 4


def test_the_palette_is_vocs():
    assert voc_palette(4) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc_palette(21)[20] == (0, 64, 128)


def test_no_root_and_no_folder_say_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"--data-root DIR or set DENSEBENCH_DATA.*VOCtrainval_11-May-2012"):
        VOC(None, "val")
    with pytest.raises(DatasetError, match="does not exist"):
        VOC(tmp_path / "nowhere", "val")
    with pytest.raises(DatasetError, match=r"no folder JPEGImages/ or .* below .*densebench data check voc"):
        VOC(tmp_path, "val")
    with pytest.raises(UsageError, match="unknown split 'test'"):
        VOC(tmp_path, "test")


def test_missing_files_are_counted_and_the_first_is_named(root):
    for i in (1, 3):
        (folder(root) / "SegmentationClassAug" / f"2007_trainaug_{i:04d}.png").unlink()
    with pytest.raises(DatasetError, match=r"2 of 8 files of split trainaug are missing .*2007_trainaug_0001\.png"):
        VOC(root, "trainaug")
    assert len(VOC(root, "val")) == 6


def test_an_empty_or_repeating_list_is_refused(root):
    path = folder(root) / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text("\n")
    with pytest.raises(DatasetError, match="is empty"):
        VOC(root, "val")
    path.write_text("2007_val_0001\n2007_val_0001\n")
    with pytest.raises(DatasetError, match="lists 1 ids twice"):
        VOC(root, "val")


def test_a_mask_value_out_of_range_names_file_and_value(root):
    path = folder(root) / "SegmentationClass" / "2007_val_0002.png"
    mask = np.array(Image.open(path))
    mask[3, 4:9] = 99
    Image.fromarray(mask).save(path)
    with pytest.raises(DatasetError, match=r"2007_val_0002\.png holds label 99 in 5 pixels; expected 0\.\.20 or 255"):
        VOC(root, "val").mask(2)


def test_a_color_mask_is_refused(root):
    path = folder(root) / "SegmentationClass" / "2007_val_0000.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(DatasetError, match=r"mode RGB; expected a grey or palette PNG.*Get the original"):
        VOC(root, "val").mask(0)


def corrupt(path):
    path.write_bytes(path.read_bytes()[:-200])


def test_a_truncated_jpeg_is_named(root):
    corrupt(folder(root) / "JPEGImages" / "2007_val_0004.jpg")
    with pytest.raises(CorruptFileError, match=r"2007_val_0004\.jpg cannot be decoded.*--skip-corrupt"):
        VOC(root, "val").image(4)


def test_corrupt_files_can_be_left_out_and_are_listed(root):
    corrupt(folder(root) / "JPEGImages" / "2007_val_0004.jpg")
    data = VOC(root, "val")
    kept, left_out = without_corrupt(data, QUIET)
    assert left_out == ("2007_val_0004",)
    assert len(kept) == 5
    assert kept.digest() != data.digest()


def test_the_digest_follows_contents_not_places(root, tmp_path):
    other = toys.write_voc(tmp_path / "copy")
    assert VOC(root, "val").digest() == VOC(other, "val").digest()
    assert VOC(root, "val").digest() != VOC(root, "trainaug").digest()
    assert VOC(root, "val").select([0, 1]).digest() != VOC(root, "val").digest()
    path = folder(other) / "SegmentationClass" / "2007_val_0000.png"
    path.write_bytes((folder(other) / "SegmentationClass" / "2007_val_0001.png").read_bytes())
    assert VOC(root, "val").digest() != VOC(other, "val").digest()


def test_presence_and_check_count_labels(root):
    data = VOC(root, "val")
    presence = label_presence(data, QUIET)
    assert presence.shape == (6, 21)
    assert (presence.sum(1) == 2).all()
    report = check(data, QUIET)
    assert sum(report.pixels.values()) == 6 * 64 * 64
    assert report.images["background"] == presence[:, 0].sum()
    assert not report.problems


def test_the_real_copy_reads_clean(shared_data):
    data = VOC(shared_data, "val")
    assert len(data) == 120
    report = check(data, QUIET)
    assert report.problems == []
    assert report.images["cat"] == 26  # its README counts them
    assert report.images["aeroplane"] == report.images["train"] == 0
    assert report.pixels["ignored"] > 0


def test_links_in_an_archive_hide_no_image(root, tmp_path_factory):
    images = folder(root) / "JPEGImages"
    store = images.with_name("store")
    store.mkdir()
    for name, link in (("2007_val_0001.jpg", Path.hardlink_to), ("2007_val_0003.jpg", Path.symlink_to)):
        (images / name).rename(store / name)
        link(images / name, store / name if link is Path.hardlink_to else Path("../store") / name)
    packed = tmp_path_factory.mktemp("packed")
    with tarfile.open(packed / "VOCtrainval_11-May-2012.tar", "w") as file:
        file.add(root / "VOCdevkit", "VOCdevkit")
    data = VOC(packed, "val")
    assert (len(data), data.digest()) == (6, VOC(root, "val").digest())
    assert check(data, QUIET).problems == []


def test_lists_of_deeplab_and_of_windows_are_the_same_split(root):
    path, ids = folder(root) / "ImageSets" / "Segmentation" / "trainaug.txt", VOC(root, "trainaug").ids
    lines = [f"/JPEGImages/{id_}.jpg /SegmentationClassAug/{id_}.png" for id_ in ids]
    for content in ("\n".join(lines).encode(), "\r\n".join(ids).encode("utf-16")):
        path.write_bytes(content)
        assert VOC(root, "trainaug").ids == ids
