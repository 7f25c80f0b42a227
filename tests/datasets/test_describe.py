"""`data init` looks at a folder and writes what `data check` and `run` then take."""

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.core.errors import UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.tools.checks import check
from densebench.datasets.tools.describe import describe

QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


def write(folder, images, masks, ids, values=(0, 1, 2), palette=None):
    """Write images and masks under patterns whose `*` is the id."""
    rng = np.random.default_rng(0)
    for id_ in ids:
        blocks = rng.permutation([*values, *values, *values])[: 9 // len(values) * len(values)]
        mask = np.resize(blocks, (3, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        picture = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
        for pattern, image in ((images, Image.fromarray(picture)), (masks, Image.fromarray(mask))):
            path = folder / pattern.replace("*", id_)
            path.parent.mkdir(parents=True, exist_ok=True)
            if palette and pattern == masks:
                image.putpalette(palette)
            image.save(path)


def described(folder):
    path, _ = describe(folder, QUIET)
    return path, DATASETS[load_dataset(str(path), None).info.name]


def test_folders_per_split(tmp_path):
    for split, n in (("training", 6), ("val", 4)):
        write(
            tmp_path / "cells", f"images/{split}/*.jpg", f"masks/{split}/*_mask.png", map(str, range(n)), (0, 1, 2, 255)
        )
    path, found = described(tmp_path / "cells")
    assert path == tmp_path / "cells" / "cells.toml"
    assert (found.info.name, found.info.classes) == ("cells", ("class_0", "class_1", "class_2"))
    assert (found.info.train, found.info.val) == ("training", "val")
    for split, n in (("training", 6), ("val", 4)):
        data = load_dataset(str(path), split)
        assert len(data) == n
        assert not check(data, QUIET).problems
        assert set(np.unique(data.mask(0))) <= {0, 1, 2, 255}
    text = path.read_text()
    assert 'masks = "masks/{split}/*_mask.png"' in text
    assert "255 never does, here 255 in" in text


def test_published_names_and_folders_are_known(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "camvid", f"{split}/*.png", f"{split}annot/*.png", ["0", "1", "2"], (0, 1, 11))
    names = [f"thing {i}" for i in range(11)]
    (tmp_path / "camvid" / "classes.txt").write_text("\n".join([*names, "unlabelled"]))
    path, found = described(tmp_path / "camvid")
    assert (found.info.name, found.info.train, found.info.val) == ("camvid_own", "train", "val")
    assert found.info.classes == ("thing 0", "thing 1")  # few of the numbers occur
    assert 'masks = "{split}annot/*.png"' in path.read_text()


def test_one_folder_gets_lists(tmp_path):
    write(
        tmp_path / "my cells",
        "img/*.png",
        "annotations/*.png",
        [f"a {i}" for i in range(10)],
        palette=[9, 9, 9, 200, 0, 0, 0, 0, 250],
    )
    (tmp_path / "my cells" / "classes.txt").write_text("0 ground\n1 cell\n2 wall\n")
    path, found = described(tmp_path / "my cells")
    assert path.name == "my_cells.toml"
    assert found.info.classes == ("ground", "cell", "wall")
    assert found.info.palette == ((9, 9, 9), (200, 0, 0), (0, 0, 250))
    train, val = (set(load_dataset(str(path), split).ids) for split in ("train", "val"))
    assert (len(train), len(val), train & val) == (8, 2, set())


def test_lists_of_the_folder_are_kept_to(tmp_path):
    write(tmp_path / "own", "*_rgb.png", "*_seg.png", map(str, range(6)))
    (tmp_path / "own" / "train.txt").write_text("0\n1\n")
    (tmp_path / "own" / "test.txt").write_text("4\n5\n")
    path, _ = described(tmp_path / "own")
    assert load_dataset(str(path), "train").ids == ["0", "1"]
    assert load_dataset(str(path), "test").ids == ["4", "5"]


def test_images_without_masks_are_left_out_by_lists(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / "own", f"images/{split}/*.png", f"masks/{split}/*.png", map(str, range(7)))
        (tmp_path / "own" / "masks" / split / "3.png").unlink()
    path, found = described(tmp_path / "own")
    assert (found.info.train, found.info.val) == ("train", "test")
    for split in ("train", "test"):
        assert load_dataset(str(path), split).ids == ["0", "1", "2", "4", "5", "6"]


def test_numbers_far_apart_and_above(tmp_path):
    write(tmp_path / "grey", "i/*.png", "m/*.png", map(str, range(5)), (0, 50, 100, 250))
    _, found = described(tmp_path / "grey")
    assert found.info.classes == ("class_0", "class_50", "class_100")


@pytest.mark.parametrize(
    ("masks", "values", "message"),
    [
        ("m/*.png", (0, 255), r"the masks m/\*\.png hold 0 and 255 alone\. .* save them as 0 and 1"),
        ("m/*.jpg", (0, 1), r"holds no masks: none of its pictures .* JPEG changes them"),
        ("m/b*.png", (0, 1), r"no image and mask below .* have an id in common \(found "),
    ],
)
def test_what_cannot_be_described_is_said(tmp_path, masks, values, message):
    write(tmp_path, "i/*.png", masks, ["0", "1", "2"], values)
    with pytest.raises(UsageError, match=message):
        describe(tmp_path, QUIET)
    assert not list(tmp_path.glob("*.toml"))


def test_nothing_is_replaced_and_the_next_command_is_said(tmp_path, capsys):
    folder = tmp_path / "own"
    with pytest.raises(UsageError, match="own does not exist; expected a folder"):
        describe(folder, QUIET)
    folder.mkdir()
    with pytest.raises(UsageError, match="holds no pictures"):
        describe(folder, QUIET)
    write(folder, "train/i/*.png", "train/m/*.png", ["0", "1", "2"])
    write(folder, "val/i/*.png", "val/m/*.png", ["0", "1", "2"])
    for code in (0, 2):
        with pytest.raises(SystemExit) as end:
            main(["data", "init", str(folder), "--quiet"])
        assert (end.value.code or 0) == code
        said = capsys.readouterr()
        assert f"densebench data check {folder}/own.toml" in said.out if code == 0 else "exists and stays" in said.err
