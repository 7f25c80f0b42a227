"""Every command and every block of Python in the documentation is executed; what is marked is parsed, with its reason.

Commands that the readme has too are executed by its own test.
"""

import os
import re
import shlex
import subprocess
from collections import Counter

import pytest

from densebench.cli import main, parse
from densebench.cli.run import Run
from densebench.runner.suite import requests_of
from tests.cli.test_readme import COMMANDS as OF_README
from tests.commands import enter, run, write_place
from tests.datasets.test_pf_willow import write as write_willow
from tests.pages import PAGES, REPOSITORY, all_snippets, snippets

OWN = {"compare.md": "tests/cli/test_compare_page.py"}
"""Pages whose commands and blocks are executed by a test of their own, one after another."""
SNIPPETS = [each for each in all_snippets() if each.page not in OWN]
BASH = [each for each in SNIPPETS if each.language == "bash"]
PYTHON = [each for each in SNIPPETS if each.language == "python"]
COMMANDS = list({each.text: each for each in BASH if each.text.startswith("densebench ")}.values())
RUN = [each for each in COMMANDS if not each.reason and each.text not in OF_README]
MARKED = [each for each in COMMANDS if each.reason]
OTHERS = ("pip install ", "python -c ", "python benchmarks/", "make ", "sbatch ", "export ")
"""Beginnings of lines that are no command of densebench."""
FIRST = (
    "run --model pico --protocol hummingbird --dataset scenes --set hummingbird.input_size=64 --limit 8 "
    "--set hummingbird.fractions=[1,8]"
)
NOT_RUN = {
    "cluster.md": 3,
    "methods.md": 5,
    "protocols/depth.md": 4,
    "protocols/finetune_segmentation.md": 1,
    "protocols/in_context_depth.md": 3,
    "protocols/linear_segmentation.md": 2,
    "protocols/overclustering.md": 1,
    "protocols/unsupervised_segmentation.md": 1,
    "reproduce.md": 13,
}
"""How many commands of each page are parsed and not executed; `pytest -v` names them with their reasons."""
REASONS = re.compile(r"needs (the )?(weights|images|a GPU|Slurm)|takes hours|the dots stand for|lines to add")


def ids(found):
    return [each.id for each in found]


def marks(snippet):
    """Sweeps read every layer and facet: the readme's own is enough for every day."""
    return [pytest.mark.slow] if "sweep" in snippet.text else []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What readers have, a small PF-WILLOW, and results of a first run."""
    folder = write_place(tmp_path_factory.mktemp("docs"))
    write_willow(folder / "data")
    (folder / "mine.toml").write_text(next(each.text for each in SNIPPETS if each.text.startswith('title = "Two')))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "ZOO", "CONFIG"):
            patch.setenv(f"DENSEBENCH_{name}", str(folder / name.lower()))
        enter(folder, patch)
        with pytest.raises(SystemExit, match="0"):
            main([*shlex.split(FIRST), "--workers", "0"])
    (statistics,) = (folder / "results").rglob("statistics.npz")
    (folder / "statistics.npz").write_bytes(statistics.read_bytes())
    return folder


@pytest.mark.parametrize("snippet", [pytest.param(each, marks=marks(each), id=each.id) for each in RUN])
def test_every_command_works(snippet, place, monkeypatch):
    run(snippet.text, place, monkeypatch)


@pytest.mark.parametrize("snippet", MARKED, ids=ids(MARKED))
def test_what_is_not_run_has_arguments_that_exist(snippet, place, monkeypatch):
    """Verbs, options and their values; of `run` also names, presets and settings, and the files that it names."""
    enter(place, monkeypatch)
    monkeypatch.setenv("HOME", str(place))
    if "..." not in snippet.text:
        verb = parse(shlex.split(os.path.expandvars(snippet.text))[1:])
        if isinstance(verb, Run):
            requests_of(verb._request())


def test_what_is_not_run_has_a_reason_that_is_known():
    assert [each.id for each in SNIPPETS if each.reason and not REASONS.match(each.reason)] == []
    assert Counter(each.page for each in MARKED) == NOT_RUN


def test_pages_with_a_test_of_their_own_are_read_by_it():
    for page, test in OWN.items():
        assert f'"{page}"' in (REPOSITORY / test).read_text()


def test_other_lines_are_of_known_kinds_and_name_scripts_that_exist():
    for each in BASH:
        assert each.text.startswith(("densebench ", *OTHERS)), each.id
        if each.text.startswith("python benchmarks/"):
            assert (REPOSITORY / each.text.split()[1]).is_file(), each.id


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_blocks_of_bash_can_be_parsed_by_it(path):
    for block in re.findall(r"^```bash\n(.*?)^```$", path.read_text(), re.S | re.M):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("page", sorted({each.page for each in PYTHON}))
def test_the_python_of_a_page_runs(page, place, monkeypatch):
    """Blocks of a page follow each other, as in a notebook."""
    enter(place, monkeypatch)
    found = {"__name__": "page", "path": place / "statistics.npz"}
    for each in PYTHON:
        if each.page == page and not each.reason:
            exec(compile(each.text, page, "exec"), found)


def test_a_mark_is_for_lines_or_for_a_block():
    page = "<!-- not run (b): needs images -->\n<!-- not run (c \\): needs Slurm -->\n```bash\na\nb \\\n  --d\nc\n```\n"
    page += "\n```bash\na\n```\n<!-- not run: takes hours -->\n```python\nx = 1\n\ny = 2\n```\n"
    found = [(each.language, each.text, each.reason) for each in snippets(page, "p.md")]
    assert found == [
        ("bash", "a", ""), ("bash", "b --d", "needs images"), ("bash", "c", ""), ("bash", "a", ""),
        ("python", "x = 1\n\ny = 2\n", "takes hours"),
    ]  # fmt: skip


def test_no_block_is_of_a_kind_that_is_not_executed():
    """Blocks without a language show output, layouts of files or lines of them."""
    kinds = {each.language for each in SNIPPETS}
    assert kinds <= {"bash", "python", "toml", "text", ""}
    assert [each.id for each in SNIPPETS if not each.language and "densebench " in each.text] == []
