"""Every command line of the README is executed, on toy data and with small settings."""

import re
import shlex
import subprocess
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

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
COMMANDS = [line for line in LINES if line.startswith("densebench ")]
SMALL = {
    "run": ["--limit", "4", *QUICK],
    "train": ["--set", "epochs=1", "--set", "images=8", "--set", "batch=4", "--workers", "0"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What the README assumes: a data folder, a weights file, the adapter of its example, results of a first run."""
    folder = tmp_path_factory.mktemp("readme")
    toys.write_voc(folder / "data")
    for seed, name in enumerate(("vit", "ep100", "ep200")):
        save_file(create("vit_tiny_patch16_224", seed).state_dict(), folder / f"{name}.safetensors")
    write_cells(folder / "cells")
    (folder / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    (folder / "tests").mkdir()
    (folder / "tests" / "golden").symlink_to(REPOSITORY / "tests" / "golden")
    adapter = re.search(r"```python\n(# my_backbone.py\n.*?)```", README, re.S)
    (folder / "my_backbone.py").write_text(adapter[1])
    return folder


def write_cells(folder):
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


def run(line: str, place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    for entries in ("_entries", "_loaded"):  # a dataset of a file is registered for its command alone
        monkeypatch.setattr(DATASETS, entries, dict(getattr(DATASETS, entries)))
    arguments = shlex.split(line)[1:]
    quick = SMALL.get(arguments[0], [])
    with pytest.raises(SystemExit) as end:
        main([*arguments, *quick])
    assert not end.value.code


def test_the_readme_has_commands_and_the_adapter_is_short():
    assert len(COMMANDS) > 12
    assert {"make demo", "make test"} <= set(LINES)
    adapter = re.search(r"```python\n# my_backbone.py\n(.*?)```", README, re.S)[1]
    assert len([line for line in adapter.splitlines() if line.strip()]) < 15


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_works(line, place, monkeypatch):
    run(line, place, monkeypatch)


def test_make_demo_runs_commands_of_the_readme(place, monkeypatch):
    """`make test` is what runs this test; what `make demo` would run after installing is run here."""
    printed = subprocess.run(["make", "-n", "demo"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    lines = [line.split("/", 2)[-1] for line in printed.splitlines() if "/densebench " in line]
    assert len(lines) == 3
    for line in lines:
        run(line, place, monkeypatch)
