"""Workers: several share a grid, one that is killed leaves its cell to the others, one whose time is up leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from densebench.cli.work import seconds_of
from densebench.core.errors import UsageError
from densebench.runner.request import from_json, make_request, to_json
from tests.cli.test_run import REPOSITORY, Command, cli, records  # noqa: F401  (a fixture)
from tests.cli.test_suites import CELLS

SUITE = f"""
title = "Four cells"

[models]
"mine.py:ColorBackbone" = ""
"half=mine.py:ColorBackbone" = ""
{CELLS}"""
ASKED = ["--suite", "four.toml", "--data-root", "data", "--workers", "0"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def folder(cli):  # noqa: F811
    (cli.folder / "four.toml").write_text(SUITE)
    return cli.folder


def scores(place: Path) -> dict[str, list[float]]:
    found = [json.loads(path.read_text()) for path in sorted((place / "records").glob("*/*/*.json"))]
    return {f"{r['model']['name']}/{r['protocol']['name']}": [m["value"] for m in r["metrics"]] for r in found}


def start(folder, *arguments):
    command = [sys.executable, "-m", "densebench", *arguments]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def test_workers_share_cells_and_one_that_is_killed_leaves_its_own(folder):
    alone = start(folder, "work", *ASKED, "--out", "alone")
    assert alone.wait(300) == 0, alone.stderr.read()
    workers = [start(folder, "work", *ASKED, "--out", "shared") for _ in range(2)]
    deadline = time.time() + 120
    while not list((folder / "shared").glob(".leases/[!.]*")) and time.time() < deadline:
        time.sleep(0.02)
    workers[0].send_signal(signal.SIGKILL)
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert workers[0].returncode == -signal.SIGKILL
    assert workers[1].returncode == 0, said[1]
    assert scores(folder / "shared") == scores(folder / "alone")
    assert len(scores(folder / "alone")) == 4


def test_a_launcher_starts_workers_and_says_what_became_of_the_cells(folder):
    done = subprocess.run(
        [sys.executable, "-m", "densebench", "run", *ASKED, "--launcher", "local", "--jobs", "2"],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 workers for 4 cells" in done.stderr
    assert "4 of 4 cells done" in done.stderr
    assert len(scores(folder / "results")) == 4
    assert "hummingbird on voc" in done.stdout
    (logs,) = (folder / "results" / ".workers").iterdir()
    assert {path.name for path in logs.iterdir()} == {"request.json", "worker-0.log", "worker-1.log"}


def test_cells_that_workers_leave_undone_have_failed(folder):
    broken = SUITE.replace('"half=mine.py', '"broken=wrong.py').replace("input_size = 64, fractions", "fractions")
    (folder / "wrong.py").write_text(
        "from tests.toys import *\nclass ColorBackbone(ColorBackbone):\n"
        "    def tokens(self, *asked):\n        raise LookupError('odd')\n"
    )
    (folder / "four.toml").write_text(broken)
    done = subprocess.run(
        [sys.executable, "-m", "densebench", "run", *ASKED, "--protocol", "overclustering", "--launcher", "local"],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        "failed: broken / overclustering / voc: the workers left it without a result; their logs are in" in done.stderr
    )
    assert len(scores(folder / "results")) == 1


def test_a_worker_whose_time_is_up_begins_nothing(cli, folder):  # noqa: F811
    done = cli("work", *ASKED, "--time-limit", "0s")
    assert done.returncode == 1
    assert "the time is up: 4 cells are left" in done.stderr
    assert not (folder / "results" / "records").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--time-limit", "soon"), "--time-limit soon: expected a time such as 55m"),
        (("--launcher", "local"), "a worker starts no others"),
        (("--request", "four.toml"), "this is not a request"),
        (("--request", "none.json"), "none.json"),
    ],
)
def test_what_a_worker_cannot_do_is_said_at_once(cli, folder, arguments, said):  # noqa: F811
    done = cli("work", *ASKED, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("55m", 3300), ("1.5h", 5400), ("1d", 86400), ("1:30:00", 5400), ("1-0:00:01", 86401)],
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "-5m", "1:5", "h", "nan"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError):
        seconds_of(text)


def test_a_request_survives_its_file():
    asked = make_request(
        model="pico", dataset="scenes", seed=[0, 1], settings={"hummingbird": {"neighbours": 3}}, data_root=Path("data")
    )
    again = from_json(to_json(asked))
    assert replace(again, data_root=Path(again.data_root)) == asked
    assert to_json(again) == to_json(asked)
