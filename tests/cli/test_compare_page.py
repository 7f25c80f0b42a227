"""Every command and snippet of docs/compare.md is executed, and its table of effects is the one that is used."""

import os
import re
import shlex
from pathlib import Path

import pytest

import densebench
from densebench.cli import main
from densebench.leaderboard.effects import EFFECTS, SMALL, Effect
from densebench.results.schema import Metric
from densebench.results.store import ResultStore
from tests.commands import SMALL as QUICK
from tests.leaderboard.conftest import record as made

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines() if line]
RUNS, OTHERS = ([line for line in LINES if ("run" in line.split()[1]) is wanted] for wanted in (True, False))


def execute(line: str) -> int:
    arguments = shlex.split(line)[1:]
    with pytest.raises(SystemExit) as end:
        main([*arguments, *QUICK.get(arguments[0], [])])
    return end.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What the page assumes: results of two models, and a record of one that papers print."""
    folder = tmp_path_factory.mktemp("compare")
    before = Path.cwd()
    os.chdir(folder)
    for line in RUNS:
        assert execute(line) == 0
    metric = Metric(name="miou", at={"clusters": 300}, value=70.0, ci95=(69.0, 71.0), main=True)
    theirs = made.__wrapped__()("paka_vits14", [metric], protocol="overclustering", config={"absent": "zero"})
    store = ResultStore(folder / "results")
    store.write(store.place(theirs), theirs)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("line", OTHERS)
def test_every_command_of_the_page_works(line, place, monkeypatch):
    monkeypatch.chdir(place)
    assert execute(line) == 0


def test_its_lines_of_python_work(place, monkeypatch):
    monkeypatch.chdir(place)
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    found = {"densebench": densebench}
    exec(lines, found)
    assert len(found["found"].lines) > 0


def test_the_table_of_effects_is_the_one_that_is_used():
    every: dict[Effect, list[str]] = {}
    for field, effect in (EFFECTS | SMALL).items():
        every.setdefault(effect, []).append(field)
    rows = [
        f"| {effect.words} | {', '.join(f'`{f}`' for f in fields)} | {effect.known} |"
        for effect, fields in every.items()
    ]
    assert "\n".join(row.replace("|  |", "| |") for row in rows) in PAGE
