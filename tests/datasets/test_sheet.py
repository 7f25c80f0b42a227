"""Sheets show what is known of any dataset; neither they nor exports replace a file that is there."""

import io

import numpy as np
import pytest
from PIL import Image

from densebench.cli import main
from densebench.core.errors import UsageError
from densebench.datasets import load_dataset
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.tools.sheet import sheet
from densebench.datasets.user.images import load_images
from tests import toys
from tests.datasets.writers import export


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)


def colors(data):
    """How often the most frequent colours of a PNG occur."""
    found, counts = np.unique(picture(data), axis=0, return_counts=True)
    return {tuple(map(int, color)): int(n) for color, n in zip(found, counts, strict=True) if n > 200}


def test_labels_have_their_colors_and_the_legend_names_what_is_shown(tmp_path, monkeypatch):
    named = []
    legend = __import__("matplotlib.figure").figure.Figure.legend
    monkeypatch.setattr(
        "matplotlib.figure.Figure.legend",
        lambda self, handles, **more: (
            named.extend(h.get_label() for h in handles) or legend(self, handles=handles, **more)
        ),
    )
    data = load_dataset("voc", "val", toys.write_voc(tmp_path))
    held = {int(v) for i in range(len(data)) for v in np.unique(data.mask(i))}
    shown = colors(sheet(data, 6))
    assert named == [data.info.classes[label] for label in sorted(held)]
    assert {data.info.palette[label] for label in held} <= shown.keys()


@pytest.mark.parametrize("layout", ["nyu", "spair", "pf_willow", "folder", "cityscapes"])
def test_any_kind_of_ground_truth_is_drawn(tmp_path, layout):
    export(Scenes(None, "val", length=20, size=(40, 64)), layout, tmp_path)
    if layout == "folder":
        data = load_images(str(tmp_path))
    else:
        data = load_dataset(layout, "test" if layout in ("nyu", "spair", "pf_willow") else "val", tmp_path)
    one, more = (picture(sheet(data, n)) for n in (1, 6))
    assert len(more) > len(one)
    assert (one < 250).any(1).mean() > 0.1


def test_a_sheet_of_scenes_shows_their_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "densebench.datasets.scenes.sheet.contact_sheet", lambda rows, split, seed: f"{rows} {split}".encode()
    )
    assert sheet(Scenes(None, "val"), 5) == b"3 val"


def test_a_file_that_is_there_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    toys.write_voc(tmp_path)
    precious = tmp_path / "mine.png"
    precious.write_text("precious")
    arguments = ("data", "sheet", "voc", "--data-root", tmp_path, "--limit", "2", "--out", precious)
    assert call(*arguments) == 2
    assert "mine.png exists and stays as it is; choose another --out, or give --overwrite" in capsys.readouterr().err
    assert precious.read_text() == "precious"
    assert call(*arguments, "--overwrite") == 0
    assert precious.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "data.toml").write_text("precious")
    assert call("data", "sheet", "voc", "--data-root", tmp_path, "--out", "data.toml", "--overwrite") == 2
    assert (tmp_path / "data.toml").read_text() == "precious"
    assert call("data", "sheet", "scenes.png") == 2
    assert "data sheet scenes --out scenes.png" in capsys.readouterr().err
    assert call("data", "sheet", "voc", "--data-root", tmp_path, "--limit", "1") == 0
    assert (tmp_path / "voc.png").exists()
    with pytest.raises(UsageError, match="--limit 0: expected at least 1"):
        sheet(Scenes(None, "val"), 0)


def test_an_export_replaces_nothing(tmp_path, capsys):
    arguments = ("data", "export", "scenes", tmp_path, "--limit", "2", "--layout", "voc")
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000033\n")
    assert call(*arguments) == 2
    assert "val.txt exists and stays as it is; choose another name, or give --overwrite" in capsys.readouterr().err
    assert (lists / "val.txt").read_text() == "2007_000033\n"
    assert not list(tmp_path.rglob("val_*"))  # nothing of that split was written
    assert call(*arguments, "--overwrite") == 0
    assert (lists / "val.txt").read_text() == "val_000000\nval_000001\n"
    assert call(*arguments) == 0  # what is there is what would be written


@pytest.mark.parametrize("layout", ["pf_willow", "pascal_part", "coco_things", "spair"])
def test_an_export_of_the_same_is_the_same(tmp_path, layout):
    data = Scenes(None, "val", length=12, size=(40, 64))
    for _ in range(2):
        export(data, layout, tmp_path)
    path = next(path for path in tmp_path.rglob("*") if path.suffix in (".mat", ".json"))
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match=f"{path.name} exists and stays as it is"):
        export(data, layout, tmp_path)
