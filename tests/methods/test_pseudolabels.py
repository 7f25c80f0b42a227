"""Making pseudo-labels: known segments and classes, the same files however often it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from densebench.cli import main
from densebench.core.errors import CorruptFileError, DatasetError, LoaderError, UsageError
from densebench.datasets import DATASETS
from densebench.datasets.io.decode import read_labels
from densebench.methods import SEGMENTERS, pseudolabels
from densebench.methods.label_folder import LabelFolder, read_map, write_map
from densebench.methods.pseudolabels import nearest_images, pseudolabel
from densebench.model_zoo import MODELS, load_model, register_model
from densebench.ops.segments import SEGMENTS, merge_patches
from tests import toys

from . import toy


@pytest.fixture(autouse=True)
def _boards(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (DATASETS, MODELS, SEGMENTERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    monkeypatch.setattr(pseudolabels, "BLOCK", 8)
    toy.register()


def make(out: Path, **settings: Any) -> Any:
    given = {"model": "pico?random", "data": "boards", "size": 32, "classes": 10, "device": "cpu", "quiet": True}
    return pseudolabel(out=out, **{**given, **settings})


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".png", ".txt")}


@pytest.mark.parametrize(("top", "dtype"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_maps_survive_a_png(tmp_path: Path, top: int, dtype: type) -> None:
    labels = np.random.default_rng(0).integers(0, top + 1, (20, 30))
    labels[0, 0] = top
    write_map(tmp_path / "a" / "map.png", labels)
    with Image.open(tmp_path / "a" / "map.png") as image:
        assert np.array(image).dtype == dtype
    found = read_map(tmp_path / "a" / "map.png")
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), labels)


def test_palettes_are_ids_and_colors_are_refused(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(ids)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_map(tmp_path / "palette.png").numpy(), ids)
    palette.convert("RGB").save(tmp_path / "colour.png")
    with pytest.raises(DatasetError, match=r"colour\.png has pixels of mode RGB"):
        read_map(tmp_path / "colour.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "palette.png").read_bytes()[:40])
    with pytest.raises(CorruptFileError, match=r"torn\.png cannot be decoded as a label map"):
        read_map(tmp_path / "torn.png")
    torch.save(torch.zeros(2, 3, 4), tmp_path / "deep.pt")
    with pytest.raises(DatasetError, match=r"\(2, 3, 4\) values"):
        read_map(tmp_path / "deep.pt")


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg:", ": a.jpg", "a.jpg: "])
def test_a_broken_list_of_pairs_is_named_by_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "pairs.txt").write_text(f"a.png: b.png\n{line}\n")
    with pytest.raises(UsageError, match=r"pairs\.txt, line 2: .*expected `QUERY\.jpg: POSITIVE\.jpg`"):
        LabelFolder(tmp_path).pairs(["a", "b"])


def test_names_in_folders_and_with_dots_are_ids(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("n01/a.1.JPEG: n02/b.JPEG\n")
    for id_ in ("n01/a.1", "n02/b"):
        write_map(tmp_path / f"{id_}.png", np.ones((2, 2), int))
    folder = LabelFolder(tmp_path)
    assert folder.pairs(["n02/b", "n01/a.1"]) == [(1, 0)]
    assert folder.read("n01/a.1", 2).tolist() == [[1, 1], [1, 1]]
    before = folder.digest()
    write_map(tmp_path / "n02/b.png", np.arange(40).reshape(4, 10))
    assert folder.digest() != before


def test_merging_finds_regions_and_cares_for_neither_scale_nor_offset() -> None:
    truth = np.zeros((9, 12), int)
    truth[:, 7:] = 1
    truth[5:, :4] = 2
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 16))[truth] + 0.05 * rng.normal(size=(9, 12, 16))
    found = merge_patches(features.astype(np.float32), segments=3)
    assert len({(a, b) for a, b in zip(truth.ravel(), found.ravel(), strict=True)}) == 3
    many = merge_patches(features.astype(np.float32))
    assert np.array_equal(many, merge_patches((1000 * features + 7).astype(np.float64)))
    assert many.max() == SEGMENTS - 1
    assert all(scipy.ndimage.label(many == i)[1] == 1 for i in range(many.max() + 1))
    assert len({(a, b) for a, b in zip(truth.ravel(), many.ravel(), strict=True)}) == many.max() + 1  # none straddles
    assert merge_patches(features[:2, :3].astype(np.float32)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nearest_images_are_others_by_cosine() -> None:
    features = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))
    found = nearest_images(features, 4)
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1).fill_diagonal_(-2)
    assert torch.equal(found, cosine.argsort(dim=1, descending=True)[:, :4])
    assert nearest_images(features[:3], 5).shape == (3, 2)
    twins = torch.ones(9, 6)
    assert nearest_images(twins, 2).shape == (9, 2)


def test_classes_of_known_colors(tmp_path: Path) -> None:
    """Where features are colours and classes are colours, each pseudo-class is of one class, and so is each pair."""
    toys.write_voc(tmp_path / "data", n_train=12)
    register_model("color", toys.ColorBackbone)
    result = make(
        tmp_path / "out", model="color", data="voc", split="trainaug", data_root=tmp_path / "data", size=64, classes=12
    )
    truth = tmp_path / "data" / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    true = {p.stem: read_labels(p).numbers for p in sorted(truth.glob("*_trainaug_*.png"))}
    found = {id_: read_map(result.folder / f"{id_}.png").numpy() for id_ in true}
    assert all(found[id_].shape == true[id_].shape for id_ in true)
    both = {(f, t) for id_ in true for f, t in zip(found[id_].ravel(), true[id_].ravel(), strict=True)}
    assert len({f for f, _ in both}) == len(both)  # every pseudo-class lies in one class
    pairs = LabelFolder(result.folder).pairs(list(true))
    maps = list(true.values())
    assert pairs
    assert all(set(maps[q].ravel()) & set(maps[p].ravel()) for q, p in pairs)
    assert result.about["pairs"] == len(pairs)
    assert f"12 label maps of voc/trainaug: 144 segments, 12 classes, {len(pairs)} pairs" in str(result)


def test_labels_are_the_same_with_any_number_of_workers(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other", workers=2)
    assert contents(one.folder) == contents(other.folder)
    assert len(contents(one.folder)) == 31
    assert one.about["maps_sha256"] == other.about["maps_sha256"]
    assert one.about["model"]["weights_sha256"] == load_model("pico?random").weights_digest()
    assert one.about["data"] == {
        "name": "boards", "split": "train", "images": 30, "of": 30, "digest": "boards", "version": None
    }  # fmt: skip
    assert sorted(p.name for p in one.folder.iterdir() if p.suffix != ".png") == ["pairs.txt", "pseudolabels.json"]
    assert contents(make(tmp_path / "seed", seed=1).folder) != contents(one.folder)
    assert read_map(one.folder / "board_00.png").shape == (40, 48)
    assert int(read_map(one.folder / "board_00.png").max()) < 10


@pytest.mark.parametrize("stage", ["segments", "maps"])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    whole = contents(make(tmp_path / "whole").folder)
    calls = [0]

    def limited(function: Any, at: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] > at:
                raise RuntimeError("power cut")
            return function(*args, **kwargs)

        return call

    out = tmp_path / "broken"
    with monkeypatch.context() as patch:
        if stage == "segments":
            SEGMENTERS.add("features", limited(merge_patches, 20), replace=True)
        else:
            patch.setattr(pseudolabels, "write_map", limited(write_map, 13))
        with pytest.raises(RuntimeError, match="power cut"):
            make(out)
    assert json.loads((out / "pseudolabels.json").read_text())["complete"] is False
    assert len(list((out / ".work").glob("*.npz"))) == (2 if stage == "segments" else 4)
    done = {p: p.stat().st_mtime_ns for p in out.glob("*.png")}
    assert len(done) == (0 if stage == "segments" else 13)
    with pytest.raises(UsageError, match=r"half made; go on with `densebench pseudolabel --model 'pico\?random'"):
        LabelFolder(out)
    if stage == "segments":  # a shard that was written and is another now is made again
        shard = out / ".work" / "00000000.npz"
        middle, content = shard.stat().st_size // 2, shard.read_bytes()
        shard.write_bytes(content[:middle] + bytes(16) + content[middle + 16 :])
    calls[0] = 0
    counted = limited(merge_patches, 99)
    SEGMENTERS.add("features", counted, replace=True)
    result = make(out)
    assert calls[0] == (30 - 8 if stage == "segments" else 0)
    assert contents(out) == whole
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert LabelFolder(out).classes == 10
    assert make(out).about == result.about  # finished: nothing is done
    assert not (out / ".lock").exists()


def test_a_worker_that_is_killed_is_said(tmp_path: Path) -> None:
    def merge(*_: Any) -> Any:  # where torch happens to raise it
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    SEGMENTERS.add("features", merge, replace=True)
    with pytest.raises(LoaderError, match="killed"):
        make(tmp_path / "labels")


def test_lost_maps_are_made_again(tmp_path: Path) -> None:
    whole = contents(make(tmp_path / "out").folder)
    (tmp_path / "out" / "board_09.png").unlink()
    make(tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 5}', '{"settings": {}, "model": {}}'])
def test_a_damaged_description_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "pseudolabels.json").write_text(text)
    with pytest.raises(UsageError, match=r"pseudolabels\.json is damaged .*another --out"):
        make(tmp_path, limit=4)


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    make(tmp_path / "out", limit=10)
    with pytest.raises(UsageError, match=r"other settings: classes was 10, now 9; images was 10, now 30\. Choose"):
        make(tmp_path / "out", classes=9)
    for settings, message in (
        ({"classes": 500}, r"30 images have 360 segments, too few for 500 classes"),
        ({"classes": 1}, "--classes 1"),
        ({"share": 1.0}, "--share 1"),
        ({"size": 36}, "--size 36 is not a multiple of the patch size of .*, 8"),
        ({"segmenter": "feature"}, r"unknown segmenter 'feature'; did you mean 'features'\?.*list segmenters"),
        ({"limit": 31}, "31"),
    ):
        with pytest.raises(UsageError, match=message):
            make(tmp_path / "new", **settings)
        assert not (tmp_path / "new" / "pseudolabels.json").exists()  # so that the next settings may have the folder
    write_map(tmp_path / "foreign" / "board_00.png", np.ones((2, 2)))
    with pytest.raises(UsageError, match=r"holds images but no pseudolabels\.json"):
        make(tmp_path / "foreign")
    with pytest.raises(CorruptFileError, match="board_17"):
        make(tmp_path / "torn", data="torn")


def test_a_segmenter_sees_features_and_image(tmp_path: Path) -> None:
    def halves(features: np.ndarray, image: np.ndarray) -> np.ndarray:
        assert features.shape == (4, 4, 128)
        assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
        return np.repeat([[7, 7, 3, 3]], 4, axis=0)

    SEGMENTERS.add("halves", halves)
    SEGMENTERS.add("lines", lambda features, image: np.zeros(4))
    result = make(tmp_path / "out", segmenter="halves")
    assert result.about["segments"] == 60
    found = read_map(tmp_path / "out" / "board_03.png")
    assert all(len(half.unique()) == 1 for half in (found[:, :24], found[:, 24:]))
    with pytest.raises(UsageError, match=r"the segmenter lines returned \(4,\) for board_00; expected a map \(4, 4\)"):
        make(tmp_path / "other", segmenter="lines")


def test_two_commands_make_labels_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = ["--data", "boards", "--device", "cpu", "--workers", "0"]
    settings = ["labels=labels", "global_size=32", "resize=40", "batch=4", "accumulate=1", "out=12", "epochs=1"]
    for line in (
        ["pseudolabel", "--model", "pico?random", "--out", "labels", "--size", "32", "--classes", "10", *shared],
        ["train", "dip", "--base", "pico?random", "--name", "mine", *shared]
        + [word for setting in settings for word in ("--set", setting)],
    ):
        with pytest.raises(SystemExit) as end:
            main(line)
        assert not end.value.code, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "30 label maps of boards/train: 360 segments, 10 classes" in out
    assert "mine: dip, preset paper, on boards/train" in out
    assert load_model("mine").info.patch == 8
