import os

import pytest

from densebench.core.memo import remembered
from densebench.core.paths import cache_dir
from densebench.datasets.sets.voc import VOC
from tests import toys


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))


def asked(name: str = "kind/memo.json") -> tuple[str, int]:
    """Return what is remembered, and how often it had to be found out."""
    found = []
    return remembered(name, lambda: found.append(1) or "[1, 2]\nsecond line"), len(found)


def test_what_is_found_out_is_remembered():
    assert asked() == ("[1, 2]\nsecond line", 1)
    assert asked() == ("[1, 2]\nsecond line", 0)
    assert asked("kind/other.json")[1] == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda memo: memo.write_bytes(b""),
        lambda memo: memo.write_bytes(memo.read_bytes()[:-3]),
        lambda memo: memo.write_bytes(b"\xff\xfe" + memo.read_bytes()),
        lambda memo: memo.write_bytes(memo.read_bytes().replace(b"[1, 2]", b"[1, 3]")),
        lambda memo: memo.write_text("[1, 2]\nsecond line"),  # as versions before wrote it
        lambda memo: memo.rename(memo.with_name("other.json")),
    ],
    ids=["empty", "torn", "bytes", "another answer", "no digest", "moved"],
)
def test_a_damaged_memo_is_found_out_anew(damage):
    asked()
    damage(cache_dir() / "kind" / "memo.json")
    assert asked() == ("[1, 2]\nsecond line", 1)
    assert asked()[1] == 0


def test_the_memo_of_another_name_is_not_believed():
    asked()
    (cache_dir() / "kind" / "other.json").write_bytes((cache_dir() / "kind" / "memo.json").read_bytes())
    assert asked("kind/other.json")[1] == 1


def test_a_cache_folder_that_cannot_be_written_is_said_once(capsys):
    cache_dir().write_text("a file where the folder should be")
    assert asked() == ("[1, 2]\nsecond line", 1)
    assert asked() == ("[1, 2]\nsecond line", 0)  # as long as the process lives
    assert asked("kind/other.json")[1] == 1
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_file_replaced_with_the_same_size_and_date_is_another(tmp_path):
    data = VOC(toys.write_voc(tmp_path / "data", n_train=2, n_val=2), "val")
    first = data.digest()
    mask = data.files(0)[1]
    other, state = bytearray(mask.read_bytes()), mask.stat()
    other[-20] ^= 1
    mask.write_bytes(other)
    os.utime(mask, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (mask.stat().st_size, mask.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert VOC(data.root, "val").digest() != first
