"""NYU's official file and HDF5 frames, written from `scenes` and read back."""

import multiprocessing
import pickle
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from densebench.core.errors import CorruptFileError, DatasetError
from densebench.core.progress import Progress
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.sets.nyu.nyu import NYU, NYUFilled, NYUFrames, NYULabeled
from densebench.datasets.tools.checks import check, without_corrupt

h5py = pytest.importorskip("h5py")

QUIET = Progress(quiet=True)
TYPES = ("kitchen", "bathroom", "home_office", "bathroom", "study")
TRAIN, TEST = (1, 3), (5, 4, 2)  # from 1 on, as MATLAB counts
SIZE = (48, 64)


@pytest.fixture(scope="module")
def frames():
    """Images (N, H, W, 3), depth (N, H, W) in metres with holes, and without them."""
    scenes = Scenes(None, "val", length=len(TYPES), size=SIZE)
    images = np.stack([np.asarray(scenes.image(i)) for i in range(len(TYPES))])
    depth = np.stack([scenes.depth(i) for i in range(len(TYPES))])
    filled = np.minimum(depth, np.float32(9.995))
    return images, np.where(depth <= 10, depth, np.float32(0)), filled


def write(folder, frames, **other):
    """Write the two files as MATLAB does: a header before the HDF5, axes in reverse, names by reference."""
    folder.mkdir(parents=True, exist_ok=True)
    images, depth, filled = frames
    arrays = {
        "images": images.transpose(0, 3, 2, 1),
        "rawDepths": depth.swapaxes(1, 2),
        "depths": filled.swapaxes(1, 2),
    }
    path = folder / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in {**arrays, **other}.items():
            if array is not None:
                file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="gzip")
        names = [
            file.create_dataset(f"#refs#/{i}", data=np.array([[ord(c)] for c in t], "u2")) for i, t in enumerate(TYPES)
        ]
        if "sceneTypes" not in other:
            file["sceneTypes"] = np.array([[name.ref for name in names]], dtype=h5py.ref_dtype)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    column = {"trainNdxs": TRAIN, "testNdxs": TEST}
    savemat(folder / "splits.mat", {k: np.array(v, dtype=np.uint16)[:, None] for k, v in column.items()})
    return path


@pytest.fixture
def root(tmp_path, frames):
    write(tmp_path / "nyu", frames)
    return tmp_path


def test_all_frames_come_back_as_they_went(root, frames):
    images, depth, _ = frames
    data = NYU(root, "labeled")
    assert data.ids == [
        "bathroom/rgb_00001",
        "bathroom/rgb_00003",
        "home_office/rgb_00002",
        "kitchen/rgb_00000",
        "study/rgb_00004",
    ]
    for index, number in enumerate((1, 3, 2, 0, 4)):
        sample = data.sample(index)
        np.testing.assert_array_equal(np.asarray(sample.image), images[number])
        np.testing.assert_array_equal(sample.depth, depth[number])
        assert sample.depth.dtype == np.float32
        assert (sample.depth == 0).any()
    report = check(data, QUIET)
    assert report.problems == []
    assert (report.n_images, report.n_published) == (5, 1449)


def test_the_test_is_what_its_export_holds(root, frames, tmp_path_factory):
    """BTS's script, in its own words: truncated millimetres, a black frame, paths by scene type and number from 0."""
    images, depth, _ = frames
    folder, lines = tmp_path_factory.mktemp("export"), []
    for number in sorted(i - 1 for i in TEST):
        scene = folder / TYPES[number]
        scene.mkdir(exist_ok=True)
        image = np.zeros_like(images[number])
        image[7:474, 7:632] = images[number][7:474, 7:632]
        Image.fromarray(image).save(scene / f"rgb_{number:05d}.png")
        Image.fromarray((depth[number] * 1000.0).astype(np.uint16)).save(scene / f"sync_depth_{number:05d}.png")
        lines.append(f"{scene.name}/rgb_{number:05d}.png {scene.name}/sync_depth_{number:05d}.png 518.8579\n")
    (folder / "nyu_test.txt").write_text("".join(lines))
    exported, official = NYU(folder, "test"), NYU(root, "test")
    assert exported.ids == official.ids == ["bathroom/rgb_00001", "bathroom/rgb_00003", "study/rgb_00004"]
    for i in range(3):
        assert exported.image(i).tobytes() == official.image(i).tobytes()
        np.testing.assert_array_equal(exported.depth(i), official.depth(i))
    assert exported.digest() != official.digest()
    shutil.copy(root / "nyu" / "nyu_depth_v2_labeled.mat", folder)
    assert NYU(folder, "test").digest() == exported.digest()  # the export comes first
    shutil.rmtree(folder / "study")
    with pytest.raises(DatasetError, match="2 of 6 files of split test are missing"):
        NYU(folder, "test")
    shutil.rmtree(folder / "bathroom")  # a list without its images
    shutil.copy(root / "nyu" / "splits.mat", folder)
    assert NYU(folder, "test").digest() == official.digest()
    for text, message in (("", "is empty"), ("bathroom/rgb_00001.png\n", "line 1 is .*expected IMAGE DEPTH FOCAL")):
        (folder / "nyu_test.txt").write_text(text)
        with pytest.raises(DatasetError, match=message):  # what is broken is said, whatever lies beside it
            NYU(folder, "test")


def test_the_official_split_trains_and_tests_on_what_was_measured_or_filled_in(root, frames):
    _, depth, filled = frames
    train, test = NYULabeled(root, "train"), NYULabeled(root, "test")
    assert train.ids == ["home_office/rgb_00002", "kitchen/rgb_00000"]
    assert test.ids == NYU(root, "test").ids
    for i in range(3):
        np.testing.assert_array_equal(test.depth(i), NYU(root, "test").depth(i))
    np.testing.assert_allclose(train.depth(1), depth[0], atol=1e-3)
    whole = NYUFilled(root, "test")
    assert whole.ids == test.ids
    np.testing.assert_array_equal(whole.depth(1), filled[3])
    assert whole.depth(1).all()
    digests = {data.digest() for data in (train, test, whole, NYUFilled(root, "train"), NYU(root, "test"))}
    assert len(digests) == 5


def test_nothing_to_train_on_is_made_up(root):
    with pytest.raises(DatasetError, match=r"no nyu_train\.txt below"):
        NYU(root, "train")


def test_the_digest_follows_contents_and_split_not_the_place(root, frames, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(root / "nyu", elsewhere / "nyu_depth_v2")
    before = NYU(root, "test").digest()
    assert NYU(elsewhere, "test").digest() == before
    images, depth, filled = frames
    changed = depth.copy()
    changed[0, 20, 20] += 1  # in a frame that the test does not have: the file is hashed as a whole
    write(root / "nyu", (images, changed, filled))
    assert NYU(root, "test").digest() != before
    savemat(elsewhere / "nyu_depth_v2" / "splits.mat", {"testNdxs": [[1]], "trainNdxs": [[2]]})
    assert NYU(elsewhere, "test").digest() != before


def depth_of(data, index):
    return data.depth(index).tobytes() + data.image(index).tobytes()


def test_threads_and_processes_read_at_once(root):
    data = NYU(root, "test")
    indices = [0, 1, 2] * 20
    expected = [depth_of(data, i) for i in indices]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(depth_of, [data] * 60, indices)) == expected
        with multiprocessing.get_context("fork").Pool(2) as processes:
            assert processes.starmap(depth_of, [(data, i) for i in indices]) == expected
    assert depth_of(pickle.loads(pickle.dumps(data)), 1) == expected[1]


def test_other_files_are_refused_in_a_line(tmp_path, frames):
    images, depth, filled = frames
    path = write(tmp_path / "nyu", frames)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError, match=r"labeled\.mat cannot be read as HDF5 \(.*truncated file.*\)\. Get the"):
        NYU(tmp_path, "test")
    savemat(path, {"images": images})
    with pytest.raises(CorruptFileError, match=r"cannot be read as HDF5 \(.*signature not found"):
        NYU(tmp_path, "test")
    for other, said in (
        ({"rawDepths": None}, "has no array rawDepths; expected float32 .N, W, H"),
        ({"images": images}, r"has uint8 \(5, 48, 64, 3\) as images; expected uint8 \(N, 3, W, H\)"),
        ({"rawDepths": (depth * 1000).astype(np.uint16)}, "has uint16 .* as rawDepths; expected float32"),
        ({"rawDepths": depth}, "images, rawDepths and sceneTypes differ in size"),
        ({"sceneTypes": np.zeros((1, 5))}, r"has float64 \(1, 5\) as sceneTypes"),
    ):
        write(tmp_path / "nyu", frames, **other)
        with pytest.raises(DatasetError, match=said) as caught:
            NYU(tmp_path, "test")
        assert "\n" not in str(caught.value)
    write(tmp_path / "nyu", (images, depth * 1000, filled))
    with pytest.raises(DatasetError, match=r"rawDepths of frame 2 reaches \d{4}.\d\d m; expected 0\.3 to 15\.0 m"):
        NYU(tmp_path, "test").depth(0)
    for value in (np.nan, -2):
        write(tmp_path / "nyu", (images, np.where(depth == 0, np.float32(value), depth), filled))
        with pytest.raises(DatasetError, match=r"reaches (nan m|\d\.\d\d m and -2\.00 m).*another scale"):
            NYU(tmp_path, "test").depth(0)


def test_the_split_file_is_looked_at(root):
    path = root / "nyu" / "splits.mat"
    for numbers in ([[0]], [[6]], [[1], [1]], [["a"]], [[1.5]], np.zeros((0, 1))):
        savemat(path, {"testNdxs": numbers})
        with pytest.raises(DatasetError, match="testNdxs is not a list of different frames 1 to 5"):
            NYU(root, "test")
    savemat(path, {"other": 1})
    with pytest.raises(DatasetError, match="testNdxs is not a list"):
        NYU(root, "test")
    path.write_bytes(b"x" * 200)
    with pytest.raises(CorruptFileError, match=r"splits\.mat cannot be read as a MATLAB file"):
        NYU(root, "test")
    path.unlink()
    with pytest.raises(DatasetError, match=r"splits\.mat is missing, the official split.*indoor_seg_sup"):
        NYU(root, "test")
    assert len(NYU(root, "labeled")) == 5


def test_a_broken_frame_is_left_out_with_skip_corrupt(root):
    path = root / "nyu" / "nyu_depth_v2_labeled.mat"
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info_by_coord((3, 0, 0, 0)).byte_offset
    with open(path, "r+b") as file:
        file.seek(place + 200)
        file.write(bytes(200))
    data = NYU(root, "test")
    with pytest.raises(CorruptFileError, match=r"cannot be read as HDF5 .*(filter|inflate)") as caught:
        data.image(1)
    assert caught.value.index == 1
    assert without_corrupt(data, QUIET)[1] == ("bathroom/rgb_00003",)


def test_without_h5py_the_command_that_installs_it_is_said(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"needs h5py: pip install 'densebench\[nyu\]'"):
        NYU(root, "test")


def write_frames(folder, frames):
    images, _, filled = frames
    for split, scene, numbers in (("train", "kitchen_0001a", (0, 1)), ("val", "official", (2, 3, 4))):
        for number in numbers:
            path = folder / "nyudepthv2" / split / scene / f"{number + 1:05d}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["rgb"], file["depth"] = images[number].transpose(2, 0, 1), filled[number]


def test_single_frames_come_back_as_they_went(tmp_path, frames):
    write_frames(tmp_path, frames)
    train, val = NYUFrames(tmp_path, "train"), NYUFrames(tmp_path, "val")
    assert (train.ids, val.ids[2]) == (["kitchen_0001a/00001", "kitchen_0001a/00002"], "official/00005")
    np.testing.assert_array_equal(np.asarray(val.image(2)), frames[0][4])
    np.testing.assert_array_equal(val.depth(2), frames[2][4])
    assert check(val, QUIET).problems == []
    digest = val.digest()
    with tarfile.open(tmp_path / "nyudepthv2.tar", "w") as file:
        file.add(tmp_path / "nyudepthv2", "nyudepthv2")
    shutil.rmtree(tmp_path / "nyudepthv2")
    packed = NYUFrames(tmp_path, "val")
    assert packed.digest() == digest
    np.testing.assert_array_equal(np.asarray(packed.image(2)), frames[0][4])
    np.testing.assert_array_equal(packed.depth(2), frames[2][4])


def test_single_frames_that_are_none_are_refused(tmp_path, frames):
    write_frames(tmp_path, frames)
    path = tmp_path / "nyudepthv2" / "val" / "official" / "00003.h5"
    with h5py.File(path, "r+") as file:
        file["depth"][...] = frames[2][2] * 1000
        del file["rgb"]
    data = NYUFrames(tmp_path, "val")
    with pytest.raises(DatasetError, match=r"00003\.h5 has no array rgb; expected uint8 \(3, H, W\)"):
        data.image(0)
    with pytest.raises(DatasetError, match=r"00003\.h5 reaches \d{4}\.\d\d m; expected"):
        data.depth(0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptFileError, match=r"00003\.h5 cannot be read as HDF5"):
        data.depth(0)
    assert without_corrupt(data, QUIET)[1] == ("official/00003",)
    shutil.rmtree(tmp_path / "nyudepthv2" / "val")
    with pytest.raises(DatasetError, match=r"no folder val/ below .*nyudepthv2\.tar\.gz"):
        NYUFrames(tmp_path, "val")
    (tmp_path / "nyudepthv2" / "val").mkdir()
    with pytest.raises(DatasetError, match=r"val holds no \.h5 file"):
        NYUFrames(tmp_path, "val")
