"""Images to train on: folders, COCO's layout, several parts as one; what is missing or wrong is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densebench.datasets import DATASETS, load_dataset
from densebench.datasets.checks import check
from densebench.datasets.folder import ImageFolder
from densebench.datasets.images import Joined, digest, load_images
from densebench.errors import CorruptFileError, DatasetError, UsageError
from densebench.listing import data_report, data_where, page
from densebench.progress import Progress
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
    with pytest.raises(DatasetError, match=r"no UTF-8 .*caf"):
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
