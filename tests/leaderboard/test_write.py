from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from densebench.core.errors import StorageError, UsageError
from densebench.leaderboard import write_leaderboard


def test_writes_all_formats_and_reports_what_is_left_off(results: Path):
    told: list[str] = []
    written = write_leaderboard(results, ("csv", "md", "json", "png"), published=True, report=told.append)
    assert sorted(path.relative_to(results).as_posix() for path in written) == [
        "leaderboard.csv",
        "leaderboard.json",
        "leaderboard.md",
        "plots/scenes--positional_effect--paper.png",
        "plots/voc--hummingbird--paper--memory.png",
        "plots/voc--hummingbird--paper.png",
        "plots/voc--overclustering--paper--clusters.png",
        "plots/voc--overclustering--paper.png",
        "published.csv",
    ]
    assert all(path.stat().st_size for path in written)
    assert len(told) == 2
    assert "torn--paper--00.json" in told[0]
    assert told[1] == (
        "1 record of --limit runs left off the leaderboard; `densebench leaderboard --limited` shows them."
    )
    text = (results / "leaderboard.md").read_text()
    assert "plots/voc--hummingbird--paper--memory.png" in text
    assert "As printed by the papers" in text
    assert "quick" not in text


def test_same_records_same_bytes(results: Path):
    first = {path: path.read_bytes() for path in write_leaderboard(results)}
    assert {path: path.read_bytes() for path in write_leaderboard(results)} == first


def test_filters(results: Path):
    write_leaderboard(results, ["csv"], protocols=["overclustering"])
    with (results / "leaderboard.csv").open() as file:
        assert {line["protocol"] for line in csv.DictReader(file)} == {"overclustering"}


def test_unknown_format_and_missing_folder(results: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="'xls'; there are csv, md, json, latex, models, png"):
        write_leaderboard(results, ["csv", "xls"])
    with pytest.raises(StorageError, match="holds no records"):
        write_leaderboard(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_nothing_heavy_is_imported_for_tables(results: Path):
    code = (
        "import sys; from densebench.leaderboard import write_leaderboard\n"
        f"write_leaderboard({str(results)!r}, ('csv', 'md', 'json'))\n"
        "print(sorted({'torch', 'matplotlib', 'rich', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_processes_at_once_leave_valid_files(results: Path):
    code = (
        "from densebench.leaderboard import write_leaderboard\n"
        f"for _ in range(20): write_leaderboard({str(results)!r}, ('csv', 'md'), report=lambda line: None)"
    )
    expected = {path: path.read_bytes() for path in write_leaderboard(results, ("csv", "md"))}
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    while any(process.poll() is None for process in both):
        assert all(path.read_bytes() == content for path, content in expected.items())
    assert [process.returncode for process in both] == [0, 0]
    left = sorted(path.name for path in results.iterdir())
    assert left == ["leaderboard.csv", "leaderboard.md", "records"]
