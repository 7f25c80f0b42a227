import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from densebench.core.errors import DatasetError
from densebench.core.progress import Progress
from densebench.datasets import load_dataset
from densebench.datasets.pairs import listed_pairs
from densebench.datasets.sets.pf_willow import PFWillow
from densebench.datasets.tools.checks import check

QUIET = Progress(quiet=True)


def points(seed):
    return np.random.default_rng(seed).uniform(2, 30, (2, 10))


def write(root, groups=("duck(S)", "car(G)"), each=3):
    """Write a small PF-WILLOW; returns its folder."""
    folder = root / "PF-WILLOW" / "PF-dataset-WILLOW"
    for g, group in enumerate(groups):
        (folder / group).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (40, 32), (80 * i, 120, 90 * g)).save(folder / group / f"a_{i}.png")
            savemat(folder / group / f"a_{i}.mat", {"pts_coord": points(10 * g + i)})
    return folder


def test_groups_give_all_ordered_pairs(tmp_path):
    folder = write(tmp_path)
    for root in (tmp_path, folder, folder.parent):
        data = PFWillow(root)
        assert data.ids == [f"{group}/a_{i}" for group in ("car(G)", "duck(S)") for i in range(3)]
        assert data.pairs()[:7] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 4)]
        assert len(data.pairs()) == 12
    assert listed_pairs(data.select([5, 0, 3])) == [(2, 0), (0, 2)]
    assert not check(load_dataset("pf_willow", "test", tmp_path), QUIET).problems


def test_points_and_their_box(tmp_path):
    write(tmp_path)
    (duck,) = PFWillow(tmp_path).keypoints(4)
    expected = points(1).astype(np.float32)
    assert duck.category == "duck(S)"
    np.testing.assert_array_equal(duck.xy, expected.T)
    assert duck.visible.all()
    np.testing.assert_allclose(duck.bbox, [*expected.min(1), *expected.max(1)])


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"no folder car\(G\)/ or .*Proposal Flow project page"):
        PFWillow(tmp_path)
    with pytest.raises(DatasetError, match="--data-root DIR or set DENSEBENCH_DATA"):
        PFWillow(None)
    folder = write(tmp_path)
    (folder / "duck(S)" / "a_1.mat").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 files of split test are missing below .*duck.S. .first: a_1\.mat"):
        PFWillow(tmp_path)
    for path in (folder / "car(G)").glob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"car\(G\) holds no \.png file"):
        PFWillow(tmp_path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"pts_coord": np.zeros((2, 9))}, r"holds points \(2, 9\)"),
        ({"pts_coord": np.full((2, 10), np.nan)}, "expected finite x and y"),
        ({"other": np.zeros((2, 10))}, "no readable pts_coord"),
        ({"pts_coord": "words"}, "no readable pts_coord"),
        (None, "cannot be read as a MATLAB file"),
    ],
)
def test_points_that_are_none_name_their_file(state, message, tmp_path):
    path = write(tmp_path) / "car(G)" / "a_0.mat"
    if state is None:
        path.write_bytes(b"no mat file at all, but long enough to have a header" * 5)
    else:
        savemat(path, state)
    with pytest.raises(DatasetError, match=rf"a_0\.mat {message}|a_0\.mat .*{message}"):
        PFWillow(tmp_path).keypoints(0)


def test_the_real_copy_reads_clean(shared_data):
    data = PFWillow(shared_data)
    assert (len(data), len(data.pairs())) == (70, 7 * 90)
    assert not check(data, QUIET).problems
    for index in range(len(data)):
        (thing,) = data.keypoints(index)
        width, height = data.image(index).size
        assert (thing.xy > -1).all()
        assert (thing.xy < [width + 1, height + 1]).all()


def test_points_lie_in_their_image(tmp_path):
    folder = write(tmp_path)
    Image.new("RGB", (20, 16)).save(folder / "duck(S)" / "a_0.png")  # shrunk, its points not
    with pytest.raises(DatasetError, match=r"a_0\.mat has keypoint \d at .* outside of its image of 20x16 px"):
        PFWillow(tmp_path).keypoints(3)
    savemat(folder / "duck(S)" / "a_1.mat", {"pts_coord": np.full((2, 10), 5.0)})
    with pytest.raises(DatasetError, match=r"a_1\.mat has a box without area, \[5\.0, 5\.0, 5\.0, 5\.0\]"):
        PFWillow(tmp_path).keypoints(4)
