"""Commands of the readme and of the documentation, executed on toy data and with small settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from densebench.cli import main
from densebench.datasets import DATASETS
from densebench.model_zoo.adapters.timm_nets import create
from tests import toys
from tests.cli.test_run import QUICK
from tests.pages import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
SMALL = {
    "run": ["--limit", "4", *QUICK],
    "pictures": [
        "--limit", "12", "--first", "1", "--input-size", "64", "--quiet", "--set", "overclustering.n_redo=1",
        "--set", "overclustering.n_iter=3",
    ],
    "train": ["--set", "epochs=1", "--set", "images=8", "--set", "batch=4", "--workers", "0"],
}  # fmt: skip


def write_place(folder: Path) -> Path:
    """Write what readers have: a data folder, files of weights, the adapter of the readme, a dataset of their own."""
    toys.write_voc(folder / "data")
    for seed, name in enumerate(("vit", "ep100", "ep200")):
        save_file(create("vit_tiny_patch16_224", seed).state_dict(), folder / f"{name}.safetensors")
    write_cells(folder / "cells")
    (folder / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    (folder / "tests").mkdir()
    (folder / "tests" / "golden").symlink_to(REPOSITORY / "tests" / "golden")
    (folder / "my_backbone.py").write_text(re.search(r"```python\n(# my_backbone.py\n.*?)```", README, re.S)[1])
    return folder


def write_cells(folder: Path) -> None:
    """Write images, and masks of two classes beside them, in the folders of two splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(4):
            mask = np.zeros((48, 48), np.uint8)
            mask[8 + number : 30, 10:40] = 1
            pixels = (rng.random((48, 48, 3)) * 60 + 120 * mask[..., None]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(folder / "masks" / split / f"{number}.png")


def run(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command in a folder, cut down to seconds; it has to succeed."""
    enter(place, monkeypatch)
    arguments = shlex.split(line)[1:]
    cut = arguments[0] == "run" and "--suite" in arguments  # whose settings are the suite's
    quick = ["--limit", "4"] if cut else SMALL.get(arguments[0], [])
    with pytest.raises(SystemExit) as end:
        main([*arguments, *quick])
    assert not end.value.code


def enter(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder; a dataset of a file is registered until the test ends."""
    monkeypatch.chdir(place)
    for entries in ("_entries", "_loaded"):
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))
