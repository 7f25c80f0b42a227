import numpy as np
import pytest

from densebench.core.paths import cache_dir
from densebench.datasets.sets.coco import index as coco_index


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function that returns what is kept of a JSON file, and how often it had to be read."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "some.json").write_text('{"values": [1, 2, 3]}')
    read = []

    def build(content):
        read.append(1)
        return {"values": np.array(content["values"]), "names": np.array(["a", "bc"])}

    def ask() -> tuple[dict[str, list], int]:
        read.clear()
        arrays = coco_index._remembered(tmp_path / "some.json", "instances", build)
        return {name: array.tolist() for name, array in arrays.items()}, len(read)

    return ask


ANSWER = {"values": [1, 2, 3], "names": ["a", "bc"]}


def test_a_file_of_annotations_is_read_once(asked):
    assert [asked(), asked()] == [(ANSWER, 1), (ANSWER, 0)]


@pytest.mark.parametrize("damage", ["flipped", "torn", "empty", "gone", "no sums"])
def test_damaged_arrays_are_made_anew(asked, damage):
    asked()
    (folder,) = (cache_dir() / "coco").iterdir()
    file = folder / ("sums.json" if damage == "no sums" else "values.npy")
    content = bytearray(file.read_bytes())
    if damage in ("gone", "no sums"):
        file.unlink()
    elif damage == "flipped":
        content[-8] ^= 64
        file.write_bytes(content)
    else:
        file.write_bytes(content[: -5 if damage == "torn" else 0])
    assert [asked(), asked()] == [(ANSWER, 1), (ANSWER, 0)]


def test_without_a_cache_folder_annotations_are_read_every_time(asked):
    cache_dir().write_text("a file where the folder should be")
    assert [asked(), asked()] == [(ANSWER, 1), (ANSWER, 1)]
