import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.sets.nyu.nyu import NYU
from densebench.datasets.tools.checks import check, without_corrupt

MILLIMETRES = np.array([[0, 1500], [2500, 9000]], dtype=np.uint16)


def write(folder, scene, number, values=MILLIMETRES):
    (folder / scene).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (10, 20, 30)).save(folder / scene / f"rgb_{number}.jpg")
    Image.fromarray(values).save(folder / scene / f"sync_depth_{number}.png")
    return f"/{scene}/rgb_{number}.jpg /{scene}/sync_depth_{number}.png 518.8579\n"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "nyu"
    lines = [write(folder, "kitchen_0028b", "00045"), write(folder, "bath_0001", "00002")]
    (folder / "nyu_train.txt").write_text("".join(lines) + "/gone/rgb_1.jpg None 518.8579\n\n")
    (folder / "nyu_test.txt").write_text(write(folder, "bathroom", "00045").replace("/bathroom", "bathroom"))
    return tmp_path


def test_the_real_layout_is_found_from_any_level(root):
    for place in (root, root / "nyu"):
        assert NYU(place, "train").ids == ["bath_0001/rgb_00002", "kitchen_0028b/rgb_00045"]
    (root / "nyu" / "splits").mkdir()
    for name in ("nyu_train.txt", "nyu_test.txt"):
        (root / "nyu" / name).rename(root / "nyu" / "splits" / name)
    assert len(load_dataset("nyu", "test", root)) == 1
    assert DATASETS["nyu"].info.val == "test"


def test_a_list_with_the_slashes_of_windows(root):
    path = root / "nyu" / "nyu_train.txt"
    path.write_text(path.read_text().replace("/", "\\"))
    assert NYU(root, "train").ids == ["bath_0001/rgb_00002", "kitchen_0028b/rgb_00045"]


def test_depth_is_metres_with_zero_for_no_measurement(root):
    sample = NYU(root, "test").sample(0)
    assert sample.image.mode == "RGB"
    assert sample.mask is None
    assert sample.depth.dtype == np.float32
    assert sample.depth.tolist() == [[0.0, 1.5], [2.5, 9.0]]
    assert NYU(root, "train").select([1]).depth(0)[1, 1] == 9.0


def test_the_digest_follows_the_depth(root):
    before = NYU(root, "test").digest()
    write(root / "nyu", "bathroom", "00045", MILLIMETRES + 1)
    assert NYU(root, "test").digest() != before


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            MILLIMETRES * 5,
            r"reaches 45\.00 m if 1000 is a metre.*expected 0\.3 to 15\.0 m.*end at 45000.*another scale",
        ),
        (MILLIMETRES // 100, r"reaches 0\.09 m"),
    ],
)
def test_another_scale_is_one_clear_error(root, values, said):
    write(root / "nyu", "bathroom", "00045", values)
    with pytest.raises(DatasetError, match=said):
        NYU(root, "test").depth(0)


def test_a_map_without_any_measurement_is_none_of_that(root):
    write(root / "nyu", "bathroom", "00045", MILLIMETRES * 0)
    assert not NYU(root, "test").depth(0).any()


def test_eight_bits_and_broken_files_are_refused(root):
    path = root / "nyu" / "bathroom" / "sync_depth_00045.png"
    Image.fromarray(MILLIMETRES.astype(np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"is a L image; expected a 16-bit grey PNG"):
        NYU(root, "test").depth(0)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CorruptFileError, match="cannot be decoded as a depth map"):
        NYU(root, "test").depth(0)
    assert without_corrupt(NYU(root, "test"), Progress(quiet=True))[1] == ("bathroom/rgb_00045",)


def test_what_is_missing_is_said(root, tmp_path_factory):
    with pytest.raises(DatasetError, match=r"no data root given.*Monocular-Depth-Estimation-Toolbox"):
        NYU(None, "test")
    with pytest.raises(DatasetError, match=r"no nyu_test\.txt below .*looked in nyu/.*splits.*data check nyu"):
        NYU(tmp_path_factory.mktemp("empty"), "test")
    with pytest.raises(UsageError, match="unknown split 'val'"):
        NYU(root, "val")
    (root / "nyu" / "bath_0001" / "sync_depth_00002.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 files of split train are missing .*sync_depth_00002\.png"):
        NYU(root, "train")
    (root / "nyu" / "nyu_test.txt").write_text("bathroom/rgb_00045.jpg\n")
    with pytest.raises(DatasetError, match=r"line 1 is .*expected IMAGE DEPTH FOCAL"):
        NYU(root, "test")
    (root / "nyu" / "nyu_test.txt").write_text("")
    with pytest.raises(DatasetError, match=r"nyu_test\.txt is empty"):
        NYU(root, "test")


def pack(root, archive, folder, top):
    """Move all files below a folder into an archive, where their names begin with `top`."""
    zipped = archive.endswith(".zip")
    with zipfile.ZipFile(root / archive, "w") if zipped else tarfile.open(root / archive, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            (file.write if zipped else file.add)(path, f"{top}{path.relative_to(folder)}")
    shutil.rmtree(folder)


def same(one, other):
    assert list(one.ids) == list(other.ids)
    for i in range(len(one)):
        a, b = one.sample(i), other.sample(i)
        assert a.image.tobytes() == b.image.tobytes()
        np.testing.assert_array_equal(a.depth, b.depth)
    return True


@pytest.mark.parametrize(
    ("archive", "top"),
    [("nyu.zip", "nyu/"), ("nyu_depth_v2.zip", "nyu_depth_v2/"), ("nyu.tar", "nyu/"), ("nyu.zip", "")],
)
@pytest.mark.parametrize("lists", ["", "splits"])
def test_archives_are_read_in_place(root, tmp_path_factory, archive, top, lists):
    plain = shutil.copytree(root, tmp_path_factory.mktemp("plain"), dirs_exist_ok=True)
    if lists:
        (root / "nyu" / lists).mkdir()
        for path in (root / "nyu").glob("nyu_*.txt"):
            path.rename(root / "nyu" / lists / path.name)
    pack(root, archive, root / "nyu", top)
    for split in ("train", "test"):
        data = NYU(root, split)
        assert same(data, NYU(plain, split))
        assert data.digest() == NYU(plain, split).digest()
        assert check(data, Progress(quiet=True)).problems == []
    (plain / "nyu" / "bath_0001" / "sync_depth_00002.png").unlink()
    pack(plain, archive, plain / "nyu", top)
    with pytest.raises(DatasetError, match=r"1 of 4 files of split train are missing below .*sync_depth_00002\.png"):
        NYU(plain, "train")


def test_the_archive_and_the_folders_of_bts_are_read(root, tmp_path_factory):
    """The list beside sync.zip, whose names begin with sync/, and the test images in official_splits/test/."""
    plain = shutil.copytree(root, tmp_path_factory.mktemp("plain"), dirs_exist_ok=True)
    for scene in ("kitchen_0028b", "bath_0001"):
        shutil.move(root / "nyu" / scene, root / "nyu" / "sync" / scene)
    shutil.move(root / "nyu" / "bathroom", root / "nyu" / "official_splits" / "test" / "bathroom")
    for split in ("train", "test"):
        assert same(NYU(root, split), NYU(plain, split))
    pack(root, "nyu/sync.zip", root / "nyu" / "sync", "sync/")
    assert same(NYU(root, "train"), NYU(plain, "train"))
    assert NYU(root, "train").digest() == NYU(plain, "train").digest()
    (root / "nyu" / "sync.zip").unlink()
    with pytest.raises(DatasetError, match=r"no bath_0001/rgb_00002\.jpg below"):
        NYU(root, "train")


def test_the_labelled_frames_are_read_from_an_archive(tmp_path):
    for name in ("000001", "000002"):
        for kind in ("rgb", "depth"):
            (tmp_path / "labeled" / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "labeled" / "rgb" / f"{name}.png")
        Image.fromarray(MILLIMETRES * 5).save(tmp_path / "labeled" / "depth" / f"{name}.png")
    plain = NYU(tmp_path, "labeled")
    assert plain.ids == ["labeled/rgb/000001", "labeled/rgb/000002"]
    digest, depth = plain.digest(), plain.depth(1)
    assert depth.max() == 9
    pack(tmp_path, "nyu.zip", tmp_path / "labeled", "nyu/labeled/")
    packed = NYU(tmp_path, "labeled")
    assert packed.digest() == digest
    np.testing.assert_array_equal(packed.depth(1), depth)


def test_the_real_labelled_frames_are_metres(shared_data):
    data = NYU(shared_data, "labeled")
    assert data.ids == ["labeled/rgb/000433", "labeled/rgb/000464"]
    for index in range(len(data)):
        depth = data.depth(index)
        assert depth.shape == data.image(index).size[::-1] == (480, 640)
        assert 1 < np.median(depth[depth > 0]) < depth.max() < 10
