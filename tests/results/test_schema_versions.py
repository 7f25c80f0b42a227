"""Records of every schema that was ever written are read, and say what they said."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from densebench.cli import main
from densebench.core.errors import StorageError
from densebench.results import counts
from densebench.results.migrate import migrate
from densebench.results.schema import Metric, metric_label
from densebench.results.schema1 import parse_name
from densebench.results.store import ResultStore

FIXTURES = Path(__file__).parent / "fixtures"
OLD, NEW = (sorted((FIXTURES / name).glob("*.json")) for name in ("schema1", "schema2"))
COORDINATES = {
    "hummingbird": [("miou", {"fraction": "1"}), ("miou_hungarian", {"fraction": "1/8"})],
    "overclustering": [("miou", {"clusters": 23}), ("miou", {"clusters": 300})],
    "depth": [("rmse", {"head": "linear1"}), ("delta1", {"head": "linear4"})],
    "correspondence": [("pck", {"alpha": 0.1}), ("pck_image", {"alpha": 0.01})],
    "correspondence_sweep": [("pck", {"alpha": 0.1, "facet": "key"}), ("pck", {"alpha": 0.01, "facet": "token"})],
    "positional_effect_sweep": [("nmi_excess", {"facet": "query"}), ("nmi_ground_truth", {})],
    "finetune_segmentation": [("miou", {}), ("miou_best", {})],
}


def test_there_is_a_record_of_every_version():
    for version, paths in ((1, OLD), (2, NEW)):
        assert paths
        assert {json.loads(path.read_text())["schema_version"] for path in paths} == {version}
    assert {path.stem for path in OLD} == set(COORDINATES)


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_record_of_schema_1_has_coordinates_and_is_the_same_otherwise(path):
    record, written = ResultStore(FIXTURES).read(path), json.loads(path.read_text())
    found = [(metric.name, metric.at) for metric in record.metrics]
    for expected in COORDINATES[path.stem]:
        assert expected in found
        assert all(type(value) is type(found[found.index(expected)][1][k]) for k, value in expected[1].items())
    assert not any("@" in name for name, _ in found)
    again = json.loads(record.model_dump_json())
    assert again.pop("schema_version") == 2
    assert again.pop("statistics") is None
    assert again["model"].pop("parameters") is None
    assert again["cost"].pop("images_per_second") is None
    assert again.pop("withdrawn") == ""
    for old, new in zip(written["metrics"], again["metrics"], strict=True):
        assert old["name"] == metric_label(new.pop("name"), new.pop("at")) == Metric(**old).name
        assert {**new, "name": old["name"]} == old
    del written["schema_version"], written["metrics"], again["metrics"]
    assert again == written


@pytest.mark.parametrize("path", NEW, ids=lambda path: path.stem)
def test_a_record_of_schema_2_survives_the_round_trip(path):
    record, text = ResultStore(FIXTURES).read(path), path.read_text()
    if record.statistics is None:  # the first of them were written without
        text = text.replace(' "environment": {', ' "statistics": null,\n "environment": {')
    if record.model.parameters is None:  # and without what the network costs
        text = re.sub(r'("citation": "[^"\n]*")', r'\1,\n  "parameters": null', text)
        text = re.sub(r'("bank_bytes": \d+)', r'\1,\n  "images_per_second": null', text)
    if '"withdrawn"' not in text:
        text = text.removesuffix("\n}") + ',\n "withdrawn": ""\n}'
    assert record.model_dump_json(indent=1) == text


def test_what_images_add_is_read_and_gives_the_values_of_its_record():
    (path,) = [path for path in NEW if path.stem == "hummingbird_statistics"]
    record = ResultStore(FIXTURES).read(path)
    content = (path.parent / record.statistics.file).read_bytes()
    assert (record.statistics.n_bytes, record.statistics.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    kept = counts.read_npz(content)
    assert len(kept.ids) == record.data.val.n_images
    assert {entry.key for entry in kept.entries} == {metric.key for metric in record.metrics}
    for metric in record.metrics:
        assert counts.value(kept.of(metric.name, metric.at)) == pytest.approx(metric.value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "name", "at"),
    [
        ("miou@1/128", "miou", {"fraction": "1/128"}),
        ("pck@0.125", "pck", {"alpha": 0.125}),
        ("pck@1e-05/value", "pck", {"alpha": 1e-05, "facet": "value"}),
        ("pck@1.00", "pck", {"alpha": 1.0}),
        ("acc@threshold=3", "acc@threshold=3", {}),  # of a plugin: nobody knows what it means
        ("acc@K=07", "acc@K=07", {}),
        ("miou@2/3", "miou@2/3", {}),
        ("a/b", "a/b", {}),
    ],
)
def test_what_old_names_mean(text, name, at):
    assert parse_name(text) == (name, at)
    assert metric_label(name, at) == text


def old_results(folder: Path) -> list[Path]:
    paths = []
    for path in OLD:
        place = folder / "records" / "scenes" / path.stem / path.name
        place.parent.mkdir(parents=True)
        shutil.copy(path, place)
        paths.append(place)
    return paths


def test_records_are_migrated_in_place_once(tmp_path, capsys):
    paths = old_results(tmp_path)
    before = {path: ResultStore(tmp_path).read(path) for path in paths}
    with pytest.raises(SystemExit) as end:
        main(["results", "migrate", "--out", str(tmp_path)])
    assert end.value.code == 0
    assert capsys.readouterr() == ("7 records rewritten as schema 2, 0 had it already\n", "")
    assert {json.loads(path.read_text())["schema_version"] for path in paths} == {2}
    assert {path: ResultStore(tmp_path).read(path) for path in paths} == before
    written = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert migrate(tmp_path).line == "0 records rewritten as schema 2, 7 had it already"
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths} == written


def test_what_cannot_be_migrated_is_said_and_left(tmp_path, capsys):
    first, second, *_ = old_results(tmp_path)
    first.write_text('{"schema_version": 1, "metr')
    with ResultStore(tmp_path).lease(second), pytest.raises(SystemExit) as end:
        main(["results", "migrate", "--out", str(tmp_path)])
    assert end.value.code == 1
    out, problems = capsys.readouterr()
    assert out == "5 records rewritten as schema 2, 0 had it already, 2 left as they are\n"
    assert f"{first} is not a record" in problems
    assert f"{second}: another process is at it" in problems
    assert first.read_text() == '{"schema_version": 1, "metr'
    assert json.loads(second.read_text())["schema_version"] == 1
    with pytest.raises(StorageError, match="holds no records"):
        migrate(tmp_path / "nowhere")
