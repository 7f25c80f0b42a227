"""The life of results: merged, validated, pruned, withdrawn; nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from densebench.cli import main
from densebench.core.errors import StorageError
from densebench.leaderboard import leaderboard_rows
from densebench.leaderboard.cells import ties
from densebench.leaderboard.record import find_records
from densebench.results import counts
from densebench.results.merge import merge
from densebench.results.prune import remove, surplus
from densebench.results.schema import Metric, StatisticsRecord
from densebench.results.store import ResultStore
from densebench.results.validate import validate
from tests.leaderboard.conftest import metric, record  # noqa: F401  (a fixture)

DEPTH = {"protocol": "depth", "dataset": "nyu", "version": 2}


def write(folder, record, picture=b"png"):  # noqa: F811
    """Write a record with a picture and statistics whose mean is 2.0."""
    store = ResultStore(folder)
    path = store.place(record)
    entry = counts.ImageStatistics(
        kind="mean", name="rmse", arrays={"image": np.arange(2, dtype=np.uint8), "value": np.array([1.0, 3.0])}
    )
    content = counts.to_npz(["a", "b"], [entry])
    files = {f"{path.stem}/examples.png": picture, f"{path.stem}/{counts.NAME}": content}
    statistics = StatisticsRecord(
        file=f"{path.stem}/{counts.NAME}", n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    store.write(path, record.model_copy(update={"artifacts": tuple(files), "statistics": statistics}), files)
    return path


def rmse(value=2.0):
    return (Metric(name="rmse", value=value, unit="m", higher_is_better=False, main=True),)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said(folder):
    return [finding.said for _, findings in validate(folder) for finding in findings]


def test_two_folders_become_one_without_loss(tmp_path, record):  # noqa: F811
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    write(mine, record("a", rmse(), **DEPTH))
    write(theirs, record("a", rmse(), **DEPTH))
    write(theirs, record("b", rmse(), **DEPTH))
    before = contents(mine)
    done = merge([theirs], mine)
    assert (done.copied, done.present, done.again, done.left) == (1, 1, 0, ())
    after = contents(mine)
    assert before.items() <= after.items()
    assert {found.model.name for found in ResultStore(mine).records()} == {"a", "b"}
    assert said(mine) == []
    assert merge([theirs], mine).copied == 0


def test_a_second_measurement_of_a_cell_is_kept_beside_the_first(tmp_path, record):  # noqa: F811
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    first = write(mine, record("a", rmse(), **DEPTH))
    write(theirs, record("a", rmse(), **DEPTH, created="2026-12-01T10:00:00Z"), picture=b"another")
    done = merge([theirs], mine)
    assert (done.copied, done.again) == (1, 1)
    second = first.with_name(f"{first.stem}.2.json")
    found = ResultStore(mine).read(second)
    assert (second.parent / found.artifacts[0]).read_bytes() == b"another"
    assert found.statistics.file.startswith(f"{second.stem}/")
    assert said(mine) == []
    assert len(leaderboard_rows(ResultStore(mine).records())) == 1
    assert merge([theirs], mine).present == 1
    assert len(find_records(mine, found.score_hash)) == 2


def test_what_cannot_be_merged_is_said_and_stays(tmp_path, record):  # noqa: F811
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    torn = write(theirs, record("torn", rmse(), **DEPTH))
    torn.write_text("{")
    (write(theirs, record("bare", rmse(), **DEPTH)).with_suffix("") / "examples.png").unlink()
    sly = write(theirs, record("sly", rmse(), **DEPTH))
    text = json.loads(sly.read_text())
    sly.write_text(json.dumps(text | {"artifacts": ["../../../../secret.png"]}))
    write(theirs, record("good", rmse(), **DEPTH))
    done = merge([theirs], mine)
    assert done.copied == 1
    assert len(done.left) == 3
    assert "not in its folder" in " ".join(done.left)
    assert [found.model.name for found in ResultStore(mine).records()] == ["good"]
    with pytest.raises(StorageError, match="holds no records"):
        merge([tmp_path / "nowhere"], mine)


def test_validate_finds_what_does_not_hold_together(tmp_path, record):  # noqa: F811
    write(tmp_path, record("fine", rmse(), **DEPTH))
    assert said(tmp_path) == []
    write(tmp_path, record("edited", rmse(1.5), **DEPTH))
    assert said(tmp_path) == ["rmse is 1.5 in the record and 2 by its statistics"]
    lost = write(tmp_path, record("lost", rmse(), **DEPTH))
    (lost.with_suffix("") / "examples.png").unlink()
    moved = write(tmp_path, record("moved", rmse(), **DEPTH))
    moved.rename(moved.with_name("elsewhere--paper--00.json"))
    other = write(tmp_path, record("other", rmse(), **DEPTH))
    (other.with_suffix("") / counts.NAME).write_bytes((lost.with_suffix("") / counts.NAME).read_bytes() + b" ")
    torn = write(tmp_path, record("torn", rmse(), **DEPTH))
    torn.write_text("[]")
    sly = write(tmp_path, record("sly", rmse(), **DEPTH))
    sly.write_text(json.dumps(json.loads(sly.read_text()) | {"artifacts": ["../../../../secret.png"]}))
    old = write(tmp_path, record("old", rmse(), **DEPTH | {"version": 1}))
    found = {path.stem.partition("--")[0]: findings for path, findings in validate(tmp_path)}
    assert "examples.png is not there" in found["lost"][0].said
    assert "whose place is" in found["elsewhere"][0].said
    assert any("is damaged, or of another run" in finding.said for finding in found["other"])
    assert "not a record of schema" in found["torn"][0].said
    assert "not in its folder" in found["sly"][0].said
    assert not found["old"][0].wrong
    assert "version 1" in found["old"][0].said
    assert old.exists()


def test_prune_removes_what_nobody_needs_and_nothing_else(tmp_path, record):  # noqa: F811
    kept = write(tmp_path, record("kept", rmse(), **DEPTH))
    old = write(tmp_path, record("old", rmse(), **DEPTH | {"version": 1}))
    limited = write(tmp_path, record("limited", rmse(), **DEPTH, limit=8))
    orphan = kept.with_name("gone--paper--aa")
    orphan.mkdir()
    (orphan / "x.png").write_bytes(b"x")
    torn = write(tmp_path, record("torn", rmse(), **DEPTH))
    torn.write_text("{")
    found = surplus(tmp_path)
    assert {item.path for item in found} == {old, orphan}
    assert {item.path for item in surplus(tmp_path, limited=True)} == {old, orphan, limited}
    assert all(item.n_bytes > 0 for item in found)
    remove(tmp_path, found)
    assert surplus(tmp_path) == []
    assert kept.exists()
    assert torn.exists()
    assert (kept.with_suffix("") / "examples.png").exists()
    assert not old.exists()
    assert not old.with_suffix("").exists()
    assert not orphan.exists()


def test_of_two_measurements_of_a_cell_prune_leaves_the_newest(tmp_path, record):  # noqa: F811
    first = write(tmp_path, record("a", rmse(), **DEPTH))
    theirs = tmp_path / "theirs"
    write(theirs, record("a", rmse(), **DEPTH, created="2026-12-01T10:00:00Z"))
    merge([theirs], tmp_path)
    found = surplus(tmp_path)
    assert [item.path for item in found] == [first]
    remove(tmp_path, found)
    (kept,) = ResultStore(tmp_path).records()
    assert kept.created == "2026-12-01T10:00:00Z"
    assert ResultStore(tmp_path).paths() == [first]  # where a run looks for it
    assert said(tmp_path) == []


def cli(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["results", *map(str, arguments)])
    return end.value.code or 0


def test_a_withdrawn_result_stays_marked_and_is_ranked_against_nothing(tmp_path, record, capsys):  # noqa: F811
    a = record("a", (metric("rmse", 1.0, unit="m", higher_is_better=False),), **DEPTH)
    b = record("b", (metric("rmse", 2.0, unit="m", higher_is_better=False),), **DEPTH)
    write(tmp_path, a)
    write(tmp_path, b)
    assert cli("withdraw", a.score_hash, "--why", "wrong <weights>", "--out", tmp_path) == 0
    rows = leaderboard_rows(ResultStore(tmp_path).records())
    assert [(row.label, row.withdrawn) for row in rows] == [("b", ""), ("a (withdrawn)", "wrong <weights>")]
    assert ties(rows) == (None, [])
    assert cli("validate", "--out", tmp_path, "--quiet") == 1  # the values are not those of the statistics
    assert "note: " in capsys.readouterr().out
    assert cli("prune", "--out", tmp_path) == 0
    assert len(list(ResultStore(tmp_path).records())) == 2
    assert cli("prune", "--yes", "--out", tmp_path) == 0
    assert [found.model.name for found in ResultStore(tmp_path).records()] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("merge",), "needs folders of results"),
        (("withdraw",), "needs the hash"),
        (("withdraw", "ab"), "--why TEXT goes with"),
        (("validate", "ab"), "takes no names"),
        (("prune", "--why", "x"), "--why TEXT goes with"),
        (("validate", "--yes"), "go with results prune"),
    ],
)
def test_words_that_mean_nothing_together(arguments, words, capsys):
    assert cli(*arguments) == 2
    assert words in capsys.readouterr().err


def test_merge_on_the_command_line(tmp_path, record, capsys):  # noqa: F811
    write(tmp_path / "theirs", record("a", rmse(), **DEPTH))
    assert cli("merge", tmp_path / "theirs", "--out", tmp_path / "mine") == 0
    assert "1 records copied, 0 were there already" in capsys.readouterr().out
    assert cli("validate", "--out", tmp_path / "mine", "--quiet") == 0
    assert "1 records, 0 of them" in capsys.readouterr().out
