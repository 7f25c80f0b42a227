"""Images to train on: folders, COCO's layout, several parts as one; what is missing or wrong is said."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.cli.listing import data_report, data_where, page
from densebench.core.errors import CorruptFileError, DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.tools.checks import check
from densebench.datasets.user.folder import ImageFolder
from densebench.datasets.user.images import Joined, digest, load_images
from tests import toys

QUIET = Progress(quiet=True)


def write(path: Path, shade: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 100, 200)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(("b.JPG", "a.png", "trip/two/c.webp", "trip/d.tiff", "e.jpeg", "f.bmp")):
        write(tmp_path / "photos" / name, 40 * i)
    for name in (".hidden.png", ".thumbs/x.png"):
        write(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for split, n in (("train", 5), ("val", 3)):
        for i in range(n):
            write(tmp_path / "data" / "coco" / f"{split}2017" / f"{3 * i:012}.jpg", 50 * i)
    return tmp_path / "data"


def test_a_folder_is_its_images_by_path(photos: Path) -> None:
    data = ImageFolder(photos)
    assert list(data.ids) == ["a.png", "b.JPG", "e.jpeg", "f.bmp", "trip/d.tiff", "trip/two/c.webp"]
    assert data.files(4) == (photos / "trip" / "d.tiff",)
    assert data.image(0).getpixel((3, 3)) == (40, 100, 200)
    assert data.sample(0).mask is None


def test_links_to_files_are_images_and_links_to_folders_are_left_alone(photos: Path, tmp_path: Path) -> None:
    (photos / "g.png").symlink_to(write(tmp_path / "elsewhere" / "x.png"))
    (photos / "circle").symlink_to(photos)
    (photos / "folder.jpg").symlink_to(tmp_path / "elsewhere")
    assert len(ImageFolder(photos)) == 7
    (tmp_path / "door").symlink_to(photos)
    assert len(ImageFolder(tmp_path / "door")) == 7  # the folder itself may be one
    (photos / "h.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DatasetError, match=r"1 of 8 images below .*links to nothing.*first: h\.png"):
        ImageFolder(photos)


def test_a_digest_is_of_names_and_contents_wherever_the_folder_lies(photos: Path, tmp_path: Path) -> None:
    before = load_images(str(photos)).digest()
    moved = photos.rename(tmp_path / "moved")
    assert load_images(str(moved)).digest() == ImageFolder(moved).digest() == before
    content = (moved / "f.bmp").read_bytes()
    (moved / "f.bmp").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # same name, same size
    assert load_images(str(moved)).digest() != before


@pytest.mark.parametrize("at", ["", "coco", "other"])
def test_coco_needs_its_folders_of_images_alone(coco: Path, at: str) -> None:
    if at == "other":
        (coco / "coco").rename(coco / "COCO")
        at = ""
    data = load_dataset("coco", "train", coco / at)
    assert list(data.ids) == [f"{3 * i:012}" for i in range(5)]
    assert data.image(1).size == (24, 20)
    assert len(load_dataset("coco", "val", coco / at)) == 3
    report = check(data, QUIET)
    assert (report.n_images, report.n_published, report.problems) == (5, 118_287, [])
    assert report.pixels == {}


def test_cocos_absence_is_said(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown split 'test'; it has train, val"):
        load_dataset("coco", "test", coco)
    with pytest.raises(DatasetError, match=r"no folder train2017/ or .* below .*train2017\.zip"):
        load_dataset("coco", "train", tmp_path)
    for path in (coco / "coco" / "val2017").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"val2017 holds no \.jpg file.*data check coco"):
        load_dataset("coco", "val", coco)


def test_listing_checks_and_shows_what_has_no_masks(
    coco: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_report("coco", coco, None) == 0
    assert "coco val: 3 images (of 5000 published), digest" in capsys.readouterr().out
    assert "ground truth: none" in page("dataset", "coco")
    assert "train: 5 images" in data_where("coco", coco)
    (photos / "z.png").write_bytes(b"nothing")
    (photos / "y.jpg").write_bytes(b"nothing")
    assert data_report(str(photos), None, None) == 1
    out, err = capsys.readouterr()
    assert f"{photos} all: 8 images, digest" in out
    assert err.count("problem: ") == 2
    assert "z.png" in err


@pytest.mark.parametrize(
    ("spec", "name", "n"),
    [
        ("coco", "coco", 5),
        ("coco:val", "coco", 3),
        ("./photos", "./photos", 6),
        ("photos", "photos", 6),
        ("photos/trip", "photos/trip", 2),
        ("coco,photos", "coco:train,photos", 11),
        ("coco:val, coco:train", "coco:val,coco:train", 8),
        ("voc,coco:val", "voc:trainaug,coco:val", 11),
    ],
)
def test_specs(
    spec: str, name: str, n: int, coco: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.write_voc(coco)
    monkeypatch.chdir(tmp_path)
    data = load_images(spec, root=coco)
    assert (data.info.name, len(data), len(set(data.ids))) == (name, n, n)


def test_home_here_and_commas(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    monkeypatch.chdir(photos)
    assert load_images("~/photos").ids == load_images(".").ids
    write(photos / "a,b" / "x.png")
    write(photos / "voc" / "x.png")
    assert len(load_images("a,b")) == len(load_images("./voc")) == 1
    with pytest.raises(DatasetError, match="no data root given"):
        load_images("voc")  # a registered name is never a folder


def test_parts_are_one_dataset_with_ids_of_their_own(coco: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "photos"
    write(other / "a.png", 7)
    data = load_images(f"{photos},coco:val,{other}", root=coco)
    assert isinstance(data, Joined)
    assert data.ids[0] == "photos/a.png"
    assert data.ids[-4:] == [
        "coco-val/000000000000",
        "coco-val/000000000003",
        "coco-val/000000000006",
        "photos-2/a.png",
    ]
    assert data.files(6) == (coco / "coco" / "val2017" / "000000000000.jpg",)
    assert data.image(9).getpixel((0, 0)) == (7, 100, 200)
    with pytest.raises(IndexError):
        data.image(10)
    assert data.info.targets == frozenset()
    assert "Lin et al." in data.info.citation
    turned = load_images(f"coco:val,{photos},{other}", root=coco)
    assert len({data.digest(), turned.digest(), load_images("coco:val", root=coco).digest()}) == 3


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cells.toml and own.py, which are also there in a folder with a comma; it is the working folder."""
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))
    monkeypatch.chdir(tmp_path)
    for place, name in ((tmp_path, "cells"), (tmp_path / "a,b", "other")):
        for i, file in enumerate(("train/0.png", "train/1.png", "val/2.png")):
            write(place / "pictures" / file, 30 * i)
            (place / "masks" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (24, 20), i % 2).save(place / "masks" / file)
        lines = [f'name = "{name}"', 'classes = ["a", "b"]', 'images = "pictures/{split}/*.png"']
        (place / "cells.toml").write_text("\n".join([*lines, 'masks = "masks/{split}/*.png"\n']))
        (place / "own.py").write_text(
            "from dataclasses import replace\nfrom densebench.datasets.scenes.dataset import Scenes\n"
            f"class Mine(Scenes):\n    info = replace(Scenes.info, name='{name}_scenes', embedded=False)\n"
        )
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "name", "split", "first"),
    [
        ("cells.toml", "cells", "train", "0"),
        ("./cells.toml:val", "cells", "val", "2"),
        ("own.py:Mine", "cells_scenes", "unlabelled", "unlabelled_000000"),
        ("./own.py:Mine:val", "cells_scenes", "val", "val_000000"),
        ("./a,b/cells.toml:val", "other", "val", "2"),
        ("a,b/own.py:Mine:train", "other_scenes", "train", "train_000000"),
        ("cells.toml, cells.toml:val", "cells.toml:train,cells.toml:val", "all", "cells-train/0"),
        ("scenes:val,own.py:Mine:val", "scenes:val,own.py:Mine:val", "all", "scenes-val/val_000000"),
        ("pictures,./cells.toml:val", "pictures,./cells.toml:val", "all", "pictures/train/0.png"),
    ],
)
def test_datasets_of_ones_own(own: Path, spec: str, name: str, split: str, first: str) -> None:
    data = load_images(spec)
    assert (data.info.name, data.split, data.ids[0]) == (name, split, first)
    assert data.image(len(data) - 1).mode == "RGB"
    assert pickle.loads(pickle.dumps(data)).digest() == data.digest()


@pytest.mark.parametrize("spec", ["cells.toml", "own.py:Mine", "./~x", "photos.toml:train"])
def test_what_is_there_as_a_folder_is_one(own: Path, spec: str) -> None:
    write(own / "there" / spec / "x.png")
    data = load_images(f"there/{spec}")
    assert (data.info.name, data.split, data.ids) == (f"there/{spec}", "all", ["x.png"])


def test_a_name_that_a_file_takes_does_not_hide_a_folder(own: Path) -> None:
    write(own / "cells" / "x.png")
    data = load_images("cells.toml,cells")
    assert data.ids == ["cells-train/0", "cells-train/1", "cells/x.png"]


@pytest.mark.parametrize(
    ("spec", "split", "error", "message"),
    [
        ("./nowhere.toml", None, UsageError, r"nowhere\.toml does not exist; expected a dataset's name, FILE\.toml or"),
        ("nowhere.py:Mine:val", None, UsageError, r"nowhere\.py does not exist"),
        ("./own.py", None, DatasetError, r"own\.py is a file; expected a folder of images, FILE.toml or FILE.py"),
        ("own.py:Nine", None, UsageError, r"own\.py has no class 'Nine'; its classes are Mine\."),
        ("cells.toml:fit", None, UsageError, "cells: unknown split 'fit'; it has train, val"),
        ("cells.toml:", None, UsageError, "cells: unknown split ''"),
        ("own.py:Mine:", None, UsageError, "cells_scenes: unknown split ''"),
        ("cells.toml,./cells.toml:train", None, UsageError, r"asks for \./cells\.toml:train twice"),
        ("cells.toml,a,b/cells.toml", None, UsageError, "unknown dataset 'a'"),
        ("cells.toml,", None, UsageError, "has an empty part"),
        ("cells.toml:val", "val", UsageError, "the split 'val' goes with a single name; got --data cells.toml:val"),
    ],
)  # fmt: skip
def test_what_cannot_be_of_ones_own_is_said(own: Path, spec: str, split: str | None, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        load_images(spec, split)


def test_ones_own_can_be_checked_and_trained_on(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_images("cells.toml", "val").split == "val"
    assert data_report("cells.toml:val", None, None) == 1  # of two classes, the one image has one
    assert data_report("own.py:Mine:val,cells.toml", None, None) == 0
    assert "own.py:Mine:val,cells.toml:train all: 162 images, digest" in capsys.readouterr().out
    settings = ("global_size=56", "local_size=32", "batch=3", "epochs=1", "hidden=0", "global_crops=2", "local_crops=1")
    arguments = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as end:
        main(["train", "paka", "--base", "pico", "--data", "cells.toml,./cells.toml:val", "--name", "t", *arguments])
    assert end.value.code == 0
    assert "paka, preset paper, on cells.toml:train,./cells.toml:val/all, 1 steps, 3 images" in capsys.readouterr().out


def test_the_usual_split_is_unlabelled_or_train() -> None:
    assert load_images("scenes").split == "unlabelled"
    assert load_images("scenes", "val").split == "val"
    assert load_images("scenes:val,scenes").info.name == "scenes:val,scenes:unlabelled"


@pytest.mark.parametrize(
    ("spec", "split", "error", "message"),
    [
        ("", None, UsageError, "has an empty part"),
        ("coco,", None, UsageError, "has an empty part"),
        ("cocoo", None, UsageError, r"did you mean 'coco' or.*A folder of that name would be \./cocoo"),
        ("coco:test", None, UsageError, "coco: unknown split 'test'; it has train, val"),
        ("coco:", None, UsageError, "unknown split ''"),
        ("coco:train:val", None, UsageError, "unknown split 'train:val'"),
        ("coco", "test", UsageError, "unknown split 'test'"),
        ("coco,coco:train", None, UsageError, "asks for coco:train twice"),
        ("photos,./photos/", None, UsageError, r"asks for \./photos/ twice"),
        ("coco:val", "val", UsageError, "the split 'val' goes with a single name; got --data coco:val"),
        ("coco,photos", "val", UsageError, "goes with a single name"),
        ("./photos", "val", UsageError, "goes with a single name.*a folder has none"),
        ("./nowhere", None, DatasetError, r"\./nowhere does not exist; expected a folder of images"),
        ("~nobody-of-that-name/x", None, DatasetError, "does not exist"),
        ("./photos/a.png", None, DatasetError, "is a file; expected a folder"),
        ("./empty", None, DatasetError, r"holds no images: looked for \.jpg, .*found no other files"),
        ("./texts", None, DatasetError, "found 2 other files"),
    ],
)
def test_what_cannot_be_is_said(
    spec: str,
    split: str | None,
    error: Any,
    message: str,
    coco: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "below").mkdir(parents=True)
    for name in ("a.txt", "below/b.gif"):
        (tmp_path / "texts" / name).write_text("text")
    with pytest.raises(error, match=message):
        load_images(spec, split, coco)


def test_names_that_are_no_text_are_refused(photos: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DatasetError, match=r"not UTF-8 .*caf"):
        ImageFolder(photos)


def test_sixteen_bits_are_refused_rather_than_made_white(photos: Path) -> None:
    Image.fromarray(np.full((8, 8), 20_000, np.uint16)).save(photos / "aa.png")
    with pytest.raises(CorruptFileError, match=r"aa\.png has pixels of mode I;16; expected 8 bits"):
        ImageFolder(photos).image(1)


def test_a_file_that_may_not_be_read_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Any) -> str:
        raise PermissionError(13, "Permission denied", str(photos / "a.png"))

    monkeypatch.setattr(ImageFolder, "digest", refused)
    with pytest.raises(DatasetError, match=r"a\.png cannot be read \(Permission denied\).*remove it"):
        digest(load_images(str(photos)))


def test_no_protocol_takes_images_alone() -> None:
    from densebench.protocols import PROTOCOLS

    assert [e.name for e in PROTOCOLS if PROTOCOLS[e.name]().needs <= DATASETS["coco"].info.targets] == []


def test_the_real_copies_read_clean(shared_data: Path) -> None:
    data = load_images("coco:train,coco:val,voc:trainaug", root=shared_data)
    assert len(data) == 209 + 138 + 260
    assert [len(part) for part in data.parts] == [209, 138, 260]  # type: ignore[attr-defined]
    assert data.image(len(data) - 1).mode == "RGB"
    for part in (load_images("coco:val", root=shared_data), load_images(str(shared_data / "coco" / "val2017"))):
        assert (len(part), check(part, QUIET).problems) == (138, [])


def test_a_dataset_for_evaluation_alone_is_trained_on_by_name_only() -> None:
    with pytest.raises(UsageError, match="pf_willow has no split to train on apart from the one that is measured"):
        load_images("pf_willow")
