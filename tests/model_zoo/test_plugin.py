"""Adapters of other people: those of docs/adapters.md, one in a file, one in an installed package."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model
from densebench.model_zoo.conformance import CHECKS, check
from tests import toys
from tests.cli.test_run import QUICK

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "adapters.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.S))

ADAPTER = '''
import torch
from densebench import Backbone, BackboneInfo

class Colours(Backbone):
    """The mean colour of a patch, through a layer that keeps it."""

    info = BackboneInfo(name="colours", patch=8, width=3, prefix=0, has_class_token=False, native_size=64)

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Conv2d(3, 3, 8, 8, groups=3)
        torch.nn.init.constant_(self.mean.weight, 1 / 64)
        torch.nn.init.zeros_(self.mean.bias)

    def tokens(self, pixels, keys):
        return [self.mean(pixels).flatten(2).transpose(1, 2)]

def load(spec):
    assert spec.family == "acme"
    return {"plain": Colours}[spec.name]()
'''
ENTRY_POINTS = """
[densebench.models]
acme-colours = acme_vision:Colours

[densebench.families]
acme = acme_vision:load
"""
CALLS = """
import json, sys
from densebench.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        print("exit", end.code or 0, flush=True)
"""


@pytest.mark.parametrize(
    ("file", "name", "size"),
    [
        ("my_backbone.py", "MyBackbone", None),
        ("my_registers.py", "MyRegisters", (42, 56)),  # smaller, to be quick
        ("my_cnn.py", "MyCNN", (96, 128)),
    ],
)
def test_adapters_of_the_page_pass_check_model(file, name, size, tmp_path):
    (tmp_path / file).write_text(BLOCKS[file])
    found = check(load_model(f"{tmp_path / file}:{name}"), size)
    assert not [f for f in found if f.outcome in ("failed", "note")], found


def test_the_template_is_short_and_every_adapter_of_the_page_is_tested():
    assert set(BLOCKS) == {"my_backbone.py", "my_registers.py", "my_cnn.py"}
    assert len([line for line in BLOCKS["my_backbone.py"].splitlines() if line.strip()]) < 15


def test_the_page_explains_every_check():
    assert re.findall(r"^\| ([a-z ]+) \|", PAGE.partition("## What check-model finds")[2], re.M)[1:] == list(CHECKS)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One process with a package on its path that was installed there by hand; every command's exit and output."""
    folder = tmp_path_factory.mktemp("plugin")
    site = folder / "site"
    described = site / "acme_vision-1.0.dist-info"
    described.mkdir(parents=True)
    (site / "acme_vision.py").write_text(ADAPTER)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-vision\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "mine.py").write_text(ADAPTER.replace("groups=3", "groups=1"))  # mixes colours: it scores otherwise
    toys.write_voc(folder / "data")
    run = ["run", "--protocol", "hummingbird", "--dataset", "voc", "--data-root", "data", *QUICK, "--json", "--quiet"]
    commands = [
        [*run, "--model", "mine.py:Colours,acme-colours"],
        ["leaderboard", "--format", "csv"],
        ["check-model", "mine.py:Colours", "--quiet"],
        ["check-model", "acme-colours", "--json", "--quiet"],
        ["check-model", "acme/plain", "--size", "16", "32", "--quiet"],
        ["list", "models", "acme*"],
    ]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site}", "DENSEBENCH_CACHE": str(folder / "c")}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    parts = re.findall(r"(.*?)^exit (\d+)$", done.stdout, re.S | re.M)
    assert len(parts) == len(commands), done.stdout + done.stderr
    return folder, {" ".join(c[:2]): (int(code), text) for c, (text, code) in zip(commands, parts, strict=True)}


def test_an_adapter_in_a_file_and_one_of_a_package_run_and_stand_on_the_leaderboard(session):
    folder, said = session
    code, text = said["run --protocol"]
    assert code == 0
    scores = {
        r["model"]["name"]: m["value"]
        for r in json.loads(text)
        for m in r["metrics"]
        if (m["name"], m["at"]) == ("miou_present", {"fraction": "1"})
    }
    assert set(scores) == {"colours", "acme-colours"}
    assert scores["acme-colours"] > 95  # colour is all that the toy asks for
    assert said["leaderboard --format"][0] == 0
    with (folder / "results" / "leaderboard.csv").open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == set(scores)


def test_check_model_takes_files_packages_and_families(session):
    _, said = session
    code, text = said["check-model mine.py:Colours"]
    assert (code, "failed" in text) == (0, False)
    code, text = said["check-model acme-colours"]
    read = json.loads(text)
    assert (code, read["ok"], read["model"]) == (0, True, "acme-colours")
    code, text = said["check-model acme/plain"]
    assert code == 0
    assert "16x32 pixels" in text


def test_packages_are_listed_with_their_name(session):
    code, text = session[1]["list models"]
    assert code == 0
    assert "acme-colours  from acme-vision" in text


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Nowhere", UsageError, r"mine\.py has no 'Nowhere'; its adapters .* are: Colours\."),
        ("load", ModelError, r"raised TypeError: load\(\) missing 1 required"),
        ("torch", ModelError, r"raised TypeError"),
    ],
)
def test_what_is_no_adapter_in_a_file_is_said(name, kind, words, tmp_path):
    (tmp_path / "mine.py").write_text(ADAPTER)
    with pytest.raises(kind, match=words):
        load_model(f"{tmp_path / 'mine.py'}:{name}")
