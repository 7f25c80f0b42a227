"""docs/reproduce.md says of each suite what the suite says."""

import re
from pathlib import Path

import pytest

from densebench.runner.foresee import foresee
from densebench.runner.plan import GPU
from densebench.suites.suite import load_suite

PAGE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()
ROWS = re.findall(r"^\| `(paka-\d)` \| [^|]+ \| (\d+) \| ([\d.]+) \| ([^|]+) \|$", PAGE, re.M)


def test_every_suite_has_a_row_and_a_command():
    names = [name for name, *_ in ROWS]
    assert names == [f"paka-{table}" for table in range(1, 9)]
    assert re.findall(r"^densebench run --suite (\S+) --data-root", PAGE, re.M) == names


@pytest.mark.parametrize(("name", "n_cells", "hours", "datasets"), ROWS)
def test_cells_and_data_are_those_of_the_suite(name, n_cells, hours, datasets):
    suite = load_suite(name)
    assert sum(len(cell.models) * len(cell.datasets) * len(cell.seeds) for cell in suite.cells) == int(n_cells)
    assert suite.datasets == tuple(datasets.strip().split(", "))


@pytest.mark.parametrize(("name", "n_cells", "hours", "datasets"), ROWS)
def test_hours_are_those_that_are_counted(name, n_cells, hours, datasets):
    digits = len(hours.partition(".")[2])
    assert round(foresee(load_suite(name)).flops / GPU / 3600, digits) == float(hours)
