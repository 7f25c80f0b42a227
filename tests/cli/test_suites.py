"""Suites as a user meets them: listed, shown, run from a file of one's own, and beside what the papers print."""

import pytest

from tests.cli.test_run import Command, cli, records  # noqa: F401  (a fixture)

CELLS = """
[[cells]]
protocol = "overclustering"
datasets = ["voc"]
preset = "paper"
settings = { input_size = 64, clusters = [21], seeds = [0], n_redo = 1 }

[[cells]]
protocol = "hummingbird"
datasets = ["voc"]
preset = "paper"
settings = { input_size = 64, fractions = [1] }
"""
MINE = f"""
title = "Clusters of colours"
source = "nobody"

[models]
"mine.py:ColorBackbone" = ""
paka_vits14 = "PaKA ViT-S/14"
{CELLS}models = ["mine.py:ColorBackbone"]
"""


@pytest.fixture
def suite(cli):  # noqa: F811
    (cli.folder / "mine.toml").write_text(MINE)
    return lambda *arguments: cli(
        "run", "--suite", "mine.toml", "--data-root", "data", "--workers", "0", "--quiet", *arguments
    )


def test_a_suite_of_ones_own_runs_its_cells_and_says_which_models_are_not_here(cli, suite):  # noqa: F811
    done = suite()
    assert done.returncode == 1  # not every result that was asked for exists
    assert set(records(cli.folder)) == {"overclustering", "hummingbird"}
    assert "the weights of paka_vits14 are not on this machine: `densebench show suite mine.toml`" in done.stderr
    assert "Clusters of colours (nobody)\n" in done.stdout
    assert "hummingbird on voc, preset paper + input_size=64, fractions=[1]" in done.stdout
    again = suite("--model", "mine.py:ColorBackbone")
    assert again.returncode == 0, again.stderr
    assert "nothing to do: all 2 results" in again.stderr


def test_cells_can_be_chosen_and_planned(cli, suite):  # noqa: F811
    done = suite("--model", "mine.py:ColorBackbone", "--protocol", "overclustering", "--dry-run")
    assert done.returncode == 0
    assert "would run 1 cells" in done.stderr
    assert not (cli.folder / "results" / "records").exists()
    assert suite("--protocol", "depth").returncode == 2
    assert suite("--preset", "paper").returncode == 2


def test_results_of_a_plain_run_stand_beside_a_papers_table(cli):  # noqa: F811
    done = cli.run("--protocol", "overclustering", "--preset", "paper", model="paka_vits14=mine.py:ColorBackbone")
    assert done.returncode == 0, done.stderr
    done = cli("leaderboard", "--suite", "paka-3")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(" paka_vits14") and "74.5" in line][:1]
    assert " / 21.3 / " in line
    assert "a: validation images (images): 6 of 1449 against the whole split" in done.stdout
    written = (cli.folder / "results" / "suite-paka-3.md").read_text()
    assert "| paka_vits14 |" in written
    assert "- a: validation images" in written


def test_suites_are_listed_and_shown(cli):  # noqa: F811
    done = cli("list", "suites", "paka-1*")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["paka-1", "paka-10", "paka-11"]
    done = cli("show", "suite", "paka-3")
    assert done.returncode == 0, done.stderr
    for said in ("densebench run --suite paka-3", "Cells (14):", "make it with `densebench train paka", "76.5", "GB"):
        assert said in done.stdout
    own = cli("show", "suite", "paka-3", "--toml").stdout
    (cli.folder / "copy.toml").write_text(own)
    assert cli("show", "suite", "copy.toml").returncode == 0
    wrong = cli("show", "suite", "paka3")
    assert wrong.returncode == 2
    assert "did you mean 'paka-3'" in wrong.stderr
