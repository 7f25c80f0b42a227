"""Training on folders and joined datasets; torn images and a full disk end in one error and leave nothing torn."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from densebench.core.errors import CorruptFileError, StorageError, UsageError
from densebench.core.paths import cache_dir, zoo_dir
from densebench.methods import card, trainer
from densebench.methods.data import CachedImages, TrainingImages
from densebench.methods.launch import cost
from densebench.methods.pseudolabels import pseudolabel

from . import toy


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images in a folder beside which the test runs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "photos" / f"{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(path)
    return tmp_path / "photos"


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("cache", [None, 64])
def test_a_folder_is_trained_on(photos: Path, cache: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "0" / "from_a_phone.HEIC").touch()
    found = toy.run("mine", data="./photos", cache=cache).card
    assert found["data"] == {**found["data"], "name": "./photos", "split": "all", "images": 8}
    assert "--data ./photos" in found["command"]
    assert "1 pictures below photos are not read (first: 0/from_a_phone.HEIC)" in capsys.readouterr().err
    if cache:
        assert [p.name[:11] for p in (cache_dir() / "pixels").glob("*.bin")] == ["photos-all-"]


def test_parts_are_trained_on_together_and_may_move(photos: Path, tmp_path: Path) -> None:
    found = toy.run("mine", data="scenes:val,photos", images=168, epochs=1, batch=56).card
    assert (found["data"]["name"], found["data"]["images"]) == ("scenes:val,photos", 168)
    photos.rename(tmp_path / "moved")
    again = toy.run("mine", data="scenes:val,moved", images=168, epochs=1, batch=56, resume=True)
    assert again.card == found


@pytest.mark.parametrize("settings", [{"workers": 0}, {"workers": 1}, {"cache": 64}])
def test_a_torn_image_is_named_or_left_out_and_listed(photos: Path, settings: dict[str, Any]) -> None:
    tear(photos / "1" / "3.jpg")
    with pytest.raises(CorruptFileError, match=r"image 1/3\.jpg of \./photos cannot be read.*skip_corrupt=true") as e:
        toy.run("mine", data="./photos", **settings)
    if "cache" in settings:
        assert str(e.value).startswith("1 of 8 images cannot be read")
    assert not (zoo_dir() / "mine").exists()
    assert toy.run("mine", data="./photos", skip_corrupt=True, **settings).card["left_out"] == ["1/3.jpg"]


@pytest.mark.parametrize("cache", [None, 64])
def test_nothing_but_torn_images_is_said(photos: Path, cache: int | None) -> None:
    for path in photos.glob("*/*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(CorruptFileError, match=r"all 8 samples cannot be read.*data check"):
        toy.run("mine", data="./photos", skip_corrupt=True, cache=cache)
    assert not (zoo_dir() / "mine").exists()


def test_an_image_too_large_to_be_honest_counts_as_unreadable(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(CorruptFileError, match=r"cannot be read \(Image size \(1920 pixels\) exceeds limit"):
        toy.run("mine", data="./photos")


def test_a_split_beside_a_folder_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"the split 'train' goes with a single name; got --data \./photos"):
        toy.run("mine", data="./photos", split="train")
    with pytest.raises(UsageError, match=r"images=9: \./photos, split all, holds 8; images=none takes all"):
        toy.run("mine", data="./photos", images=9)


def test_a_dry_run_hashes_nothing(photos: Path) -> None:
    found, _ = cost(method="dino", base="pico?random", data="photos", overrides=toy.SMALL, device="cpu")
    assert found.images == 8
    assert not (cache_dir() / "digests").exists()


def test_pseudolabels_of_a_folder_are_those_dip_trains_on(photos: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"model": "pico?random", "classes": 3, "size": 32, "device": "cpu", "quiet": True}
    made = pseudolabel(data="photos,scenes:val", out="labels", limit=8, **common)
    assert (made.folder / "photos" / "0" / "0.jpg.png").exists()
    assert made.about["data"]["name"] == "photos,scenes:val"
    small = {
        "images": 8,
        "cache": None,
        "resize": 32,
        "global_size": 32,
        "batch": 2,
        "accumulate": 1,
        "epochs": 1,
        "out": 16,
    }
    ran = toy.run("dipped", method="dip", data="photos,scenes:val", labels="labels", small=small, out=tmp_path / "zoo")
    assert ran.card["data"]["name"] == "photos,scenes:val"
    with pytest.raises(UsageError, match="goes with a single name"):
        pseudolabel(data="./photos", split="val", out="other", **common)
    (photos / "a:b.jpg").write_bytes((photos / "0" / "0.jpg").read_bytes())
    with pytest.raises(UsageError, match=r"'a:b\.jpg' cannot stand in a list of pairs"):
        pseudolabel(data="./photos", out="other", **common)


@pytest.mark.parametrize("full_at", ["state-0000003.pt", "log.jsonl", "weights.safetensors", "log.png", "card.json"])
def test_a_full_disk_costs_nothing_that_was_written(
    photos: Path, full_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"data": "photos", "checkpoint_every": 1, "log_every": 1}
    toy.run("whole", **settings)
    write = trainer.write_atomically

    def full(path: Path, content: Any) -> None:
        if path.name == full_at and (full_at != "log.jsonl" or b"\n" in str(content).encode()[:-1]):
            error = OSError(errno.ENOSPC, "No space left on device")
            raise StorageError(f"cannot write {path} ({error.strerror}).") from error
        write(path, content)

    with monkeypatch.context() as patch:
        for module in (trainer, card):
            patch.setattr(module, "write_atomically", full)
        with pytest.raises(StorageError, match=r"No space left.*with --resume the run goes on from it"):
            toy.run("mine", **settings)
    assert not list((zoo_dir() / "mine").glob(".*"))
    toy.run("mine", **settings, resume=True)
    one, other = (load_file(zoo_dir() / name / "weights.safetensors") for name in ("whole", "mine"))
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert json.loads((zoo_dir() / "mine" / "card.json").read_text())["steps"] == 4


def test_a_cache_that_cannot_be_made_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot write the image cache .*DENSEBENCH_CACHE.*cache=none"):
        CachedImages(toy.Boards(None, "train"), None, 64)
    assert len(TrainingImages(toy.Boards(None, "train"))) == 30
