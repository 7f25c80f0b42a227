"""The protocol of docs/your_protocol.md, in a package of its own: it runs, resumes, and stands in tables and plots."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.model_zoo.test_plugin import CALLS

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "your_protocol.md").read_text()
PROTOCOL = re.search(r"```python\n(# acme_protocol.py\n.*?)```", PAGE, re.S)[1]
ENTRY_POINT = re.search(r"nearest_centroid = \"(acme_protocol:NearestCentroid)\"", PAGE)[1]


def test_a_protocol_of_a_package_runs_resumes_and_stands_in_tables_and_plots(tmp_path):
    assert re.findall(r"densebench\.\w+ import", PROTOCOL) == []  # public names alone
    site = tmp_path / "site"
    described = site / "acme_protocol-1.0.dist-info"
    described.mkdir(parents=True)
    (site / "acme_protocol.py").write_text(PROTOCOL)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-protocol\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[densebench.protocols]\nnearest_centroid = {ENTRY_POINT}\n")
    run = ["run", "--model", "pico", "--protocol", "nearest_centroid", "--dataset", "scenes", "--limit", "12"]
    run += ["--workers", "0", "--quiet"]
    commands = [
        ["list", "protocols"],
        ["show", "protocol", "nearest_centroid"],
        [*run, "--set", "nearest_centroid.input_size=64", "--json"],
        [*run, "--set", "nearest_centroid.input_size=64"],
        ["leaderboard", "--limited"],
    ]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site}", "DENSEBENCH_CACHE": f"{tmp_path}/c"}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(commands)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    listed, shown, first, second, _ = (text for text, _ in re.findall(r"(.*?)^exit (0)$", done.stdout, re.S | re.M))
    assert "nearest_centroid" in listed
    assert "Side in pixels that images are squashed to." in shown
    (record,) = json.loads(first)
    (metric,) = record["metrics"]
    assert (metric["name"], record["protocol"]["settings"]) == ("accuracy", {"input_size": 64})
    assert 0 < metric["value"] < 100
    assert "nothing to do: all 1 results are in results already" in done.stderr
    assert "nearest_centroid on scenes" in second
    with (tmp_path / "results" / "leaderboard.csv").open() as file:
        assert {row["protocol"] for row in csv.DictReader(file)} == {"nearest_centroid"}
    assert list((tmp_path / "results" / "plots").glob("scenes*nearest_centroid*.png"))
