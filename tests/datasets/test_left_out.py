"""Files that lie beside a dataset's and are not read are counted and said: by `data check`, and by `run`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.io.left_out import spelled_otherwise
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.tools.checks import check
from densebench.datasets.user.images import load_images
from tests.datasets.writers import export

LISTED = {
    "ade20k": "ADEChallengeData2016/images/validation",
    "camvid": "camvid/val",
    "cityscapes": "cityscapes/leftImg8bit/val/city",
    "acdc": "acdc/rgb_anon/fog/val/sequence",
}
"""Datasets whose split is what a folder holds, and where their images are."""


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))


def write(folder, n=4):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(n):
            mask = np.full((32, 32), i % 2, np.uint8)
            mask[:16] = 1
            Image.fromarray(mask * 200).convert("RGB").save(folder / split / "images" / f"{i}.jpg")
            Image.fromarray(mask).save(folder / split / "masks" / f"{i}.png")
    path = folder / "own.toml"
    path.write_text(
        'name = "own"\nclasses = ["a", "b"]\nimages = "{split}/images/*.jpg"\nmasks = "{split}/masks/*.png"\n'
    )
    return path


def problems(data):
    return check(data, Progress(quiet=True)).problems


def test_endings_of_one_format():
    names = ["a.jpg", "b.JPG", "c.jpeg", "d.png", "e.JPEG", "f_x.PNG", "g_X.png"]
    assert spelled_otherwise(names, ".jpg") == ["b.JPG", "c.jpeg", "e.JPEG"]
    assert spelled_otherwise(names, "_x.png") == ["f_x.PNG", "g_X.png"]
    assert spelled_otherwise(names, "") == []


@pytest.mark.parametrize("ending", ["JPG", "jpeg"])
def test_images_of_another_ending(tmp_path, ending):
    path = write(tmp_path)
    assert problems(load_dataset(str(path), "val")) == []
    images = tmp_path / "val" / "images"
    for i in (1, 3):
        (images / f"{i}.jpg").rename(images / f"{i}.{ending}")
    data = load_dataset(str(path), "val")
    assert len(data) == 2
    (said,) = problems(data)
    assert said.startswith(f"2 images below {images} are not read, because they do not end in .jpg (first: ")
    assert list(data.select([0]).left_out()) == [said]


def test_masks_without_image(tmp_path):
    path = write(tmp_path)
    (tmp_path / "val" / "images" / "3.jpg").unlink()
    (said,) = problems(load_dataset(str(path), "val"))
    assert said.startswith(f"1 label files below {tmp_path / 'val' / 'masks'} have no image and are not read (first: 3")
    path.write_text(path.read_text() + 'lists = "{split}.txt"\n')
    (tmp_path / "val.txt").write_text("0\n1\n")
    assert problems(load_dataset(str(path), "val")) == []  # a list says which are meant


@pytest.mark.parametrize("name", LISTED)
def test_published_layouts_whose_folders_are_the_split(tmp_path, name):
    export(Scenes(None, "val", length=3, size=(32, 48)), name, tmp_path)
    before = load_dataset(name, "val", tmp_path)
    assert before.left_out() == []
    image, mask = before.files(2)
    shutil.copy(mask, mask.with_name(mask.name.replace("000002", "000009")))
    (said,) = load_dataset(name, "val", tmp_path).left_out()
    assert "1 label files below" in said
    image.rename(image.with_suffix(image.suffix.upper()))
    (said,) = load_dataset(name, "val", tmp_path).left_out()
    assert said.startswith(f"1 images below {tmp_path}/{LISTED[name].split('/')[0]}/")


def test_pictures_of_a_folder(tmp_path):
    for name in ("a.jpg", "b.JPG", "c.HEIC", "d.gif", "notes.txt"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "JPEG")
    data = load_images(str(tmp_path))
    assert data.ids == ["a.jpg", "b.JPG"]
    (said,) = problems(data)
    assert said.startswith(f"2 pictures below {tmp_path} are not read (first: c.HEIC); endings that are read: .jpg")


def test_a_run_says_and_notes_it(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "data")
    (tmp_path / "data" / "val" / "images" / "3.jpg").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["run", "--model", "pico", "--dataset", str(path), "--protocol", "hummingbird", "--workers", "0",
              "--set", "hummingbird.input_size=56", "--set", "hummingbird.fractions=[1]"])  # fmt: skip
    assert end.value.code == 0
    assert "own val: 1 label files below" in capsys.readouterr().err
    (record,) = (tmp_path / "results" / "records").glob("*/*/*.json")
    assert any(note.startswith("1 label files below") for note in json.loads(record.read_text())["notes"])
