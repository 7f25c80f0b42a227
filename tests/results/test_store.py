import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from densebench.core.errors import StorageError
from densebench.core.paths import write_atomically
from densebench.results.schema import DataRecord, Record, setting_label
from densebench.results.store import ResultStore


def record(**changes) -> Record:
    split = {"split": "val", "n_images": 3, "digest": "d"}
    base = {
        "score_hash": "abc",
        "created": "2026-01-01T00:00:00+00:00",
        "seed": 0,
        "model": {"name": "m", "weights_sha256": "w", "patch": 8, "prefix": 1, "width": 4, "depth": 2, "heads": 1,
                  "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        "data": {"name": "voc", "n_classes": 21, "ignored": (255,), "train": split, "val": split},
        "protocol": {"name": "hummingbird", "version": 1, "preset": "paper", "source": "s", "config": {}},
        "features": {},
        "metrics": ({"name": "miou", "at": {"fraction": "1"}, "value": 50.0, "ci95": (49.0, 51.0)},),
        "cost": {"seconds": {"total": 1.0}, "peak_memory_bytes": 1},
    }  # fmt: skip
    return Record.model_validate({**base, **changes})


def path_in(store: ResultStore) -> Path:
    return store.path(dataset="voc", protocol="hummingbird", model="timm/x?random", preset="paper", score_hash="abc")


def test_a_record_survives_the_round_trip(tmp_path):
    store = ResultStore(tmp_path)
    path = path_in(store)
    store.write(path, record(), {"abc/picture.png": b"png"})
    assert store.read(path) == record()
    assert (path.parent / "abc" / "picture.png").read_bytes() == b"png"
    assert list(store.records()) == [record()]
    assert path.name == "timm-x-random--paper--abc.json"


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 99}', "[1]"])
def test_a_torn_record_is_named_and_does_not_hide_the_others(tmp_path, content):
    store = ResultStore(tmp_path)
    store.write(path_in(store), record())
    torn = path_in(store).with_name("torn--paper--x.json")
    torn.write_text(content)
    good = [r for r in store.records() if isinstance(r, Record)]
    bad = [r for r in store.records() if isinstance(r, StorageError)]
    assert good == [record()]
    assert "torn--paper--x.json" in str(bad[0])


def test_a_pipe_where_a_record_is_expected_is_not_waited_for(tmp_path):
    path = tmp_path / "records" / "toy" / "p" / "x.json"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    (said,) = ResultStore(tmp_path).records()
    assert "it is a pipe; expected a regular file" in str(said)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def _write_many(root: Path, value: float) -> None:
    store = ResultStore(root)
    for _ in range(30):
        store.write(path_in(store), record(metrics=({"name": "miou", "value": value},)))


def test_two_writers_never_leave_a_torn_record(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, v)) for v in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    store = ResultStore(tmp_path)
    while any(w.is_alive() for w in writers):
        assert not [r for r in store.records() if isinstance(r, StorageError)]
    assert all(w.exitcode == 0 for w in writers)
    assert len(list(store.records())) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 3}, "schema_version"),
        ({"schema_version": 0}, "schema_version"),
        ({"schema_version": "1"}, "schema_version"),
        ({"schema_version": True}, "schema_version"),
        ({"metrics": [{"name": "m", "value": math.nan}]}, "a value of metric m is not a finite number"),
        ({"metrics": [{"name": "m", "value": math.inf}]}, "a value of metric m is not a finite number"),
        ({"metrics": [{"name": "m", "value": 1.0, "ci95": [0.0, math.inf]}]}, "metric m is not a finite"),
        ({"metrics": [{"name": "m", "value": 1.0, "seeds": {"0": math.nan}}]}, "metric m is not a finite"),
        ({"metrics": [{"name": "m", "value": 1.0, "per_class": {"cat": math.inf}}]}, "metric m is not a finite"),
        ({"metrics": [{"name": "m", "value": 1.0, "ci95": [2.0, 0.0]}]}, "ends before it begins: .2.0, 0.0."),
        ({"metrics": [{"name": "m", "value": 1.0}, {"name": "m", "value": 2.0}]}, "metric m is there 2 times"),
        (
            {"metrics": [{"name": "m", "at": at, "value": 1.0} for at in ({"a": 1, "b": 2}, {"b": 2, "a": 1})]},
            "metric m@a=1/b=2 is there 2 times",
        ),
    ],
)
def test_a_record_that_cannot_be_true_is_refused_in_words(tmp_path, change, said):
    store = ResultStore(tmp_path)
    path = path_in(store)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**json.loads(record().model_dump_json()), **change}))
    with pytest.raises(StorageError, match=said) as error:
        store.read(path)
    assert "run the cell again" in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_record_knows_its_place(tmp_path):
    store = ResultStore(tmp_path)
    assert store.place(record()) == store.path(
        dataset="voc", protocol="hummingbird", model=record().model.name, preset="paper", score_hash="abc"
    )


@pytest.mark.parametrize(
    ("val", "train", "limit", "skipped", "label"),
    [
        ((1449, 1449), (10582, 10582), None, (), "voc"),
        ((1449, 0), None, None, (), "voc"),
        ((120, 1449), (10582, 10582), None, (), "voc (120 of 1449)"),
        ((1449, 1449), (260, 10582), None, (), "voc (trained on 260 of 10582)"),
        ((120, 1449), (260, 10582), None, (), "voc (120 of 1449, trained on 260 of 10582)"),
        ((32, 1449), (32, 10582), 32, (), "voc (first 32 of 1449, trained on first 32 of 10582)"),
        ((32, 0), None, 32, (), "voc (first 32)"),
        ((1448, 1449), None, None, ("a",), "voc (1448 of 1449)"),
        ((9, 0), None, None, ("a",), "voc (1 left out)"),
        ((31, 0), None, 32, ("a",), "voc (1 left out, limit 32)"),
        ((31, 1449), None, 32, ("a",), "voc (31 of 1449, limit 32)"),
        ((160, 160), (200, 512), 200, (), "voc (trained on first 200 of 512)"),
        ((1450, 1449), None, None, (), "voc (1450 of 1449)"),
    ],
)
def test_the_label_of_data_says_what_is_not_whole(val, train, limit, skipped, label):
    def split(numbers):
        return (
            None
            if numbers is None
            else {"split": "s", "digest": "d", "n_images": numbers[0], "n_published": numbers[1]}
        )

    data = DataRecord(
        name="voc", n_classes=2, ignored=(), val=split(val), train=split(train), limit=limit, skipped=skipped
    )
    assert data.label == label


def test_records_of_before_have_no_settings_and_are_read(tmp_path):
    state = json.loads(record().model_dump_json())
    del state["protocol"]["settings"]
    for split in ("train", "val"):
        del state["data"][split]["n_published"]
    path = path_in(ResultStore(tmp_path))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(state))
    assert ResultStore(tmp_path).read(path).protocol.label == "paper"


def test_settings_are_written_as_they_are_set():
    settings = {"norm": False, "memory_size": None, "fractions": [1, 8], "similarity": "l2", "temperature": 0.07}
    assert setting_label("paper", settings) == (
        "paper + norm=false, memory_size=none, fractions=[1, 8], similarity=l2, temperature=0.07"
    )


def test_long_names_make_files_that_can_be_written_and_are_told_apart(tmp_path):
    store = ResultStore(tmp_path)
    paths = set()
    for end in ("a", "b"):
        made = record(score_hash="0123456789abcdef")
        made = made.model_copy(
            update={
                "model": made.model.model_copy(update={"name": "m/" * 400 + end}),
                "data": made.data.model_copy(update={"name": "d" * 900 + end}),
                "protocol": made.protocol.model_copy(update={"preset": "p" * 300}),
            }
        )
        path = store.place(made)
        store.write(path, made, {f"{path.stem}/picture.png": b"png"})
        with store.lease(path):
            assert store.read(path) == made
        paths.add(path)
    assert len(paths) == 2
