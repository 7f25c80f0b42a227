"""Records as a DataFrame: typed columns, coordinates as fields, nothing averaged."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import densebench
from densebench.results.store import ResultStore

FIXTURES = Path(__file__).parent / "fixtures"
OLD = sorted((FIXTURES / "schema1").glob("*.json"))


@pytest.fixture
def records():
    return [ResultStore(FIXTURES).read(path) for path in OLD]


def test_a_row_per_metric_with_its_coordinates_as_columns(records):
    long = densebench.frame(records)
    assert len(long) == sum(len(record.metrics) for record in records)
    assert [name for name in long if name.startswith("at_")] == [
        "at_alpha", "at_facet", "at_head", "at_fraction", "at_clusters",
    ]  # fmt: skip
    eighth = long[(long.quantity == "miou") & (long.at_fraction == "1/8")]
    (hummingbird,) = [record for record in records if record.protocol.name == "hummingbird"]
    (metric,) = [metric for metric in hummingbird.metrics if metric.label == "miou@1/8"]
    assert list(eighth.metric) == ["miou@1/8"]
    assert (eighth.value.item(), eighth.ci95_low.item(), eighth.ci95_high.item()) == (metric.value, *metric.ci95)
    assert (eighth.seed_count.item(), eighth.n_images.item(), eighth.unit.item()) == (5, 160, "%")
    keys = long[(long.quantity == "pck") & (long.at_facet == "key")].set_index("at_alpha").value
    assert list(keys.index) == [0.1, 0.05, 0.01]
    assert keys.is_monotonic_decreasing


def test_columns_have_types_that_can_be_computed_with(records):
    long = densebench.frame(records)
    for name in ("value", "ci95_low", "seed_sd", "at_alpha"):
        assert long[name].dtype == "float64", name
    for name in ("at_clusters", "limit", "n_published", "n_train"):
        assert long[name].dtype in ("Int64", "int64"), name
    assert long.seed.dtype == "int64"
    assert long.main.dtype == "bool"
    assert set(long.at_clusters.dropna()) == {23, 300, 500}
    assert set(long.limit.dropna()) == {12}


def test_wide_is_a_row_per_record_and_a_column_per_metric(records):
    wide = densebench.frame(records, wide=True)
    assert len(wide) == len(records)
    assert list(wide)[:7] == ["model", "protocol", "dataset", "data", "preset", "settings", "seed"]
    assert {"miou@1/8", "miou@K=300", "rmse@linear4", "pck@0.10/key", "miou"} <= set(wide)
    for record, row in zip(records, wide.to_dict("records"), strict=True):
        own = {metric.label: metric.value for metric in record.metrics}
        assert {name: row[name] for name in own} == own
        assert (row["model"], row["score_hash"], row["data"]) == ("pico", record.score_hash, record.data.label)
    assert wide["miou@1/8"].isna().sum() == len(records) - 1


def test_a_folder_is_read_and_what_cannot_be_is_logged(tmp_path, records, caplog):
    store = ResultStore(tmp_path)
    for record in records:
        store.write(store.place(record), record)
    first, *_ = store.paths()
    first.write_text("{")
    with caplog.at_level(logging.WARNING):
        found = densebench.frame(str(tmp_path))
    assert set(found.score_hash) == {record.score_hash for record in records} - {first.stem.rpartition("--")[2]}
    assert f"{first} is not a record" in caplog.text


def test_no_records_are_a_frame_with_the_same_columns(tmp_path):
    for wide in (False, True):
        empty = densebench.frame(tmp_path, wide=wide)
        assert len(empty) == 0
        assert {"model", "protocol", "settings", "limit"} <= set(empty)


def test_the_name_costs_nothing_until_it_is_called():
    code = "import densebench, sys; densebench.frame, densebench.Metric; print({'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
