"""Every command line of the README is executed, on toy data and with small settings."""

import re
import subprocess

import pytest

from tests.commands import README, run, write_place
from tests.pages import REPOSITORY

LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
COMMANDS = [line for line in LINES if line.startswith("densebench ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("readme"))


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
