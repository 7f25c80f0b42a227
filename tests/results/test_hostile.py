"""Records that somebody edited, copied or made up: clear words, nothing lost, nothing run."""

from __future__ import annotations

import csv
import io
import json

import pytest

from densebench.cli import main
from densebench.leaderboard import leaderboard_rows, select, write_leaderboard
from densebench.results.store import MOST_RECORD, ResultStore
from tests.leaderboard.conftest import metric, record  # noqa: F401  (a fixture)

HOSTILE = "<script>alert(1)</script>=1+1\x1b[31m\u202e|`$(id)`"


@pytest.fixture
def folder(tmp_path, record):  # noqa: F811
    """A folder with a good record, and where to put others beside it."""
    store = ResultStore(tmp_path)
    good = record("good", (metric("miou", 50.0),))
    store.write(store.place(good), good)
    return store


def put(store, name, text):
    path = store.root / "records" / "voc" / "hummingbird" / f"{name}.json"
    path.write_text(text)
    return path


def edited(store, **changes):
    (path,) = (store.root / "records").glob("*/*/good--*.json")
    return json.dumps(json.loads(path.read_text()) | changes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda store: "x" * (MOST_RECORD + 1), "expected at most"),
        (lambda store: "[" * 100_000, "nested too deep"),
        (lambda store: edited(store, schema_version=3), "schema_version"),
        (lambda store: edited(store, schema_version="2; rm -rf"), "schema_version"),
        (lambda store: edited(store, surprise=1), "surprise"),
        (lambda store: edited(store, metrics=[{"name": "miou", "value": float("nan")}]), "finite"),
        (lambda store: edited(store, metrics=[{"name": "miou", "value": 1}] * 2), "is there 2 times"),
        (lambda store: edited(store, seed="zero"), "seed"),
        (lambda store: "null", ""),
        (lambda store: "\x00\x01", ""),
    ],
    ids=["huge", "deep", "later", "odd version", "field", "nan", "twice", "seed", "null", "bytes"],
)
def test_what_is_no_record_is_one_line_and_the_others_are_read(folder, make, said, capsys):
    path = put(folder, "odd--paper--00", make(folder))
    found = select(folder.root)
    assert [each.model.name for each in found.records] == ["good"]
    (line,) = found.unreadable
    assert str(path) in line
    assert said in line
    assert len(line) < 1000
    with pytest.raises(SystemExit) as end:
        main(["results", "validate", "--out", str(folder.root), "--quiet"])
    assert end.value.code == 1
    assert "2 records, 1 of them" in capsys.readouterr().out
    assert path.exists()


def test_a_copy_of_a_record_under_another_name_counts_once(folder):
    put(folder, "copy--paper--00", edited(folder))
    rows = leaderboard_rows(select(folder.root).records)
    assert [row.model for row in rows] == ["good"]


def test_texts_of_a_record_are_text_in_every_table(folder):
    changed = json.loads(edited(folder))
    changed["model"]["name"] = HOSTILE
    changed["data"]["name"] = "=cmd|'/c calc'!A0"
    put(folder, "hostile--paper--00", json.dumps(changed))
    files = {path.name: path.read_text() for path in write_leaderboard(folder.root, ["csv", "md", "latex", "models"])}
    for name, text in files.items():
        assert "\x1b" not in text, name
    assert "<script>" not in files["leaderboard.md"]
    lines = list(csv.DictReader(io.StringIO(files["leaderboard.csv"])))
    assert len(lines) == 2
    assert not [cell for line in lines for cell in line.values() if cell and cell[0] in "=+@"]
    assert all(path.is_relative_to(folder.root) for path in folder.root.rglob("*"))
