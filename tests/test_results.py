import multiprocessing
from pathlib import Path

import pytest

from densebench.errors import StorageError
from densebench.paths import write_atomically
from densebench.results import Record, ResultStore


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
        "metrics": ({"name": "miou@1", "value": 50.0, "ci95": (49.0, 51.0)},),
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
        store.write(path_in(store), record(metrics=({"name": "miou@1", "value": value},)))


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
