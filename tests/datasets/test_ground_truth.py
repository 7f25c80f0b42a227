"""What a split's masks and depth must hold, and how few of them a run looks at to know."""

import numpy as np
import pytest
from PIL import Image

from densebench.core.errors import DatasetError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.io.palettes import voc_palette
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.tools.checks import check
from densebench.datasets.tools.ground_truth import DOZEN, FEW, PALETTES, check_ground_truth
from tests.datasets.writers import export

QUIET = Progress(quiet=True)
DEPTH = frozenset({"depth"})


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


def written(root, masks, palettes=None, classes="abc"):
    """Write a dataset of these masks, and return its validation images."""
    for split, some in (("train", masks[:1]), ("val", masks)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for i, mask in enumerate(some):
            image = Image.fromarray(np.asarray(mask, dtype=np.uint8))
            if palettes is not None:
                image.putpalette(np.asarray(palettes[i], dtype=np.uint8).tobytes())
            image.save(root / split / "masks" / f"{i}.png")
            Image.new("RGB", image.size).save(root / split / "images" / f"{i}.png")
    (root / "d.toml").write_text(
        f'name = "d"\nclasses = {list(classes)}\nimages = "{{split}}/images/*.png"\nmasks = "{{split}}/masks/*.png"\n'
    )
    return load_dataset(str(root / "d.toml"), "val")


def looked(data, needs=("mask",), limited=False):
    """Return notes and problem of a look, and hold `data check` against it, which looks at everything."""
    problems = check(data, QUIET).problems
    notes: tuple[str, ...] = ()
    said = ""
    try:
        notes = check_ground_truth(data, needs, limited, QUIET)
    except DatasetError as error:
        said = str(error)
    if not limited and set(needs) & data.info.targets:
        assert bool(problems) == bool(said)
    assert not said or all(problem in said for problem in problems)
    return notes, said


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([[[255, 255]], [[255, 255]]], "of 3 classes the masks hold none, and 100 % of their pixels are of no class"),
        ([[[0, 255]], [[255, 0]]], "hold only a, and 50 % .* masks of 0 and 255 have to be saved as 0 and 1"),
        ([[[2, 2]], [[2, 2]]], r"hold only c, and 0 % of their pixels are of no class\. Run `densebench data check"),
    ],
)
def test_masks_of_one_class_or_none_are_no_ground_truth(masks, said, tmp_path):
    notes, problem = looked(written(tmp_path, masks))
    assert not notes
    with pytest.raises(DatasetError, match=said):
        raise DatasetError(problem)


def test_few_images_may_hold_one_class_and_not_none(tmp_path):
    data = written(tmp_path, [[[2, 2]], [[255, 255]], [[0, 1]]])
    ((note,), problem) = looked(data.select([0]), limited=True)
    assert "hold only c" in note
    assert not problem
    assert "hold none" in looked(data.select([1]), limited=True)[1]
    assert looked(data) == ((), "")


def test_a_dataset_of_one_class_is_always_right(tmp_path):
    assert "whatever is predicted is right" in looked(written(tmp_path, [[[0, 0]], [[0, 255]]], classes="a"))[1]


def test_a_run_looks_at_a_handful_and_remembers(tmp_path, monkeypatch):
    data = written(tmp_path, [[[0, 0]], *[[[0, 1]]] * 30])
    opened, mask = [], type(data).mask
    monkeypatch.setattr(type(data), "mask", lambda self, i: opened.append(i) or mask(self, i))
    assert check_ground_truth(data, {"mask"}, False, QUIET) == ()
    assert opened == [0, 1]
    assert check_ground_truth(data, {"mask"}, False, QUIET) == ()
    assert opened == [0, 1]


VOC = np.array(voc_palette(256))


def test_colors_that_change_their_numbers_from_file_to_file_are_told(tmp_path):
    """Each file saved with its colours sorted: black, then what it shows."""
    ones = [[[0, 1]]] * (PALETTES + 2)
    sound = [VOC] * len(ones)
    assert looked(written(tmp_path, ones, sound)) == ((), "")
    late = [*sound[:-1], VOC[[0, 3]]]  # another colour is no contradiction
    assert looked(written(tmp_path, ones, late)) == ((), "")
    three = [*ones[:-1], [[0, 2]]]
    _, problem = looked(written(tmp_path, three, [VOC[[0, 3]], *sound[1:-1], VOC[[0, 9, 1]]]))
    assert "one colour, (128, 0, 0), for b in 1 and for c in 17" in problem


def test_foreign_colors_of_published_masks_are_a_note(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (3, 1)).save(folder / "JPEGImages" / "a.jpg")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    for palette, notes in ((VOC, 0), (VOC + 1, 1)):
        image = Image.fromarray(np.array([[0, 8, 255]], dtype=np.uint8))
        image.putpalette(palette.astype(np.uint8).tobytes())
        image.save(folder / "SegmentationClass" / "a.png")
        data = load_dataset("voc", "val", tmp_path)
        found = check_ground_truth(data, {"mask"}, True, QUIET)
        assert len([note for note in found if "other colours than the published" in note]) == notes
        assert len(check(data, QUIET).notes) == notes


@pytest.mark.parametrize("layout", ["acdc", "cityscapes"])
def test_train_ids_in_the_place_of_label_ids_are_told_by_what_they_never_show(layout, tmp_path):
    """ACDC's own files may hold 255, and Cityscapes' train ids may happen not to."""
    scenes = Scenes(None, "val", length=DOZEN, size=(32, 32))
    export(scenes, layout, tmp_path)
    assert check_ground_truth(load_dataset(layout, "val", tmp_path), {"mask"}, False, QUIET) == ()
    for path in tmp_path.rglob("*_labelIds.png"):
        trained = DATASETS["acdc"].labels[np.array(Image.open(path))]
        Image.fromarray(np.where(trained == 255, 0, trained)).save(path)
    data = load_dataset(layout, "val", tmp_path)
    assert "none holds traffic sign, vegetation, sky, person, car" in looked(data)[1]
    assert looked(data.select(range(3)))[1] == ""


def nyu(root, metres, per_metre=1000):
    """Write images of NYU that reach this far, in these units."""
    (root / "nyu").mkdir(parents=True, exist_ok=True)
    for i, far in enumerate(metres):
        values = np.linspace(0, far * per_metre, 12).reshape(3, 4)
        Image.fromarray(values.astype(np.uint16)).save(root / "nyu" / f"d{i}.png")
        Image.new("RGB", (4, 3)).save(root / "nyu" / f"i{i}.jpg")
    lines = (f"i{i}.jpg d{i}.png 518.8579\n" for i in range(len(metres)))
    (root / "nyu" / "nyu_test.txt").write_text("".join(lines))
    return load_dataset("nyu", "test", root)


@pytest.mark.parametrize(("per_metre", "reached"), [(256, "1.25"), (100, "0.49")])
def test_depth_in_another_unit_ends_too_near(per_metre, reached, tmp_path):
    _, problem = looked(nyu(tmp_path / "a", [3.0, 4.9, 3.0], per_metre), DEPTH)
    assert f"the farthest pixel of 3 images is {reached} m away; expected more than 2.6 m" in problem
    ((note,), problem) = looked(nyu(tmp_path / "b", [3.0, 4.9][: FEW - 1], per_metre), DEPTH)
    assert f"of 2 images is {reached} m away" in note  # which a close view may be
    assert not problem
    assert looked(nyu(tmp_path / "c", [1.2, 1.3, 4.9]), DEPTH) == ((), "")


def test_depth_without_a_measurement_is_none(tmp_path):
    assert "no pixel has a depth" in looked(nyu(tmp_path, [0.0, 0.0]), DEPTH)[1]


class Points(DenseDataset):
    """Two images whose keypoints are hidden, or not."""

    info = DatasetInfo(
        name="points", title="", classes=(), palette=(), splits={"train": 2, "val": 2}, targets=frozenset({"keypoints"})
    )
    ids = ("0", "1")

    def image(self, index):
        return Image.new("RGB", (2, 2))

    def keypoints(self, index):
        return ()

    def digest(self):
        return "0"


def test_images_without_key_points_are_refused():
    assert "no image has a keypoint" in looked(Points(None, "val"), ("keypoints",))[1]
    assert looked(Points(None, "val"), ("mask",))[0] == ()  # nothing that it has is asked for
