"""One reader for all lists of ids: as editors, spreadsheets and published code leave them."""

import unicodedata

import pytest

from densebench.core.errors import DatasetError
from densebench.core.regular import MOST_TEXT
from densebench.datasets.io.id_lists import ids_of, read_ids, read_lines, repeated
from tests.datasets.test_archives import write_zip

IDS = ["ulm/scene.1", "café 2", "2007_000033"]


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_of_any_editor(tmp_path, coding, end):
    path = tmp_path / "list.txt"
    path.write_bytes(end.join(["# für den Test", "", *IDS, " \t"]).encode(coding))
    assert read_ids(path, "the list", IDS.__contains__) == sorted(IDS)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("2007_000033", "2007_000033"),
        ("2007_000033 -1", "2007_000033"),
        ("2007_000033,3", "2007_000033"),
        ("2007_000033.JPG", "2007_000033"),
        ("/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png", "2007_000033"),
        ("train/images/ulm/scene.1.png", "ulm/scene.1"),
        ("train\\images\\ulm\\scene.1.png", "ulm/scene.1"),
        ("ulm/scene.1", "ulm/scene.1"),
        ("café 2", "café 2"),
        ("café 2.png, 7", "café 2"),
        (unicodedata.normalize("NFD", "café 2"), "café 2"),
        ("#7", "#7"),
        ("2007_33", "2007_33"),
    ],
)
def test_what_a_line_means(line, meant):
    assert ids_of([line], {*IDS, "#7"}.__contains__) == [meant]


def test_ids_composed_in_the_list_and_not_in_the_files():
    name = unicodedata.normalize("NFD", "é")
    assert ids_of(["é"], {name}.__contains__) == [name] != ["é"]


def test_published_lists_need_no_files_to_be_read():
    lines = ["# a", "2007_000033 1", "/JPEGImages/2007_000039.jpg /Seg/2007_000039.png", "000001-2007_1-2008_2:cat"]
    assert ids_of(lines) == ["2007_000033", "2007_000039", "000001-2007_1-2008_2:cat"]
    assert ids_of(["JPEGImages\\2007_000039.jpg Seg\\2007_000039.png"]) == ["2007_000039"]


def test_what_is_no_list_is_said(tmp_path):
    path = tmp_path / "list.txt"
    with pytest.raises(DatasetError, match=r"the list cannot be read \(No such file or directory\)"):
        read_ids(path, "the list")
    with pytest.raises(DatasetError, match=r"the list cannot be read \(it is a folder"):
        read_ids(tmp_path, "the list")
    for content, message in ((b"\n# none\n", "is empty; expected one image id per line"), (b"a\0b", "is not text"),
                             (b"a\nb\na\n", r"lists 1 ids twice \(first: a\); list each once")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"the list {message}"):
            read_ids(path, "the list")
    with path.open("wb") as file:
        file.truncate(MOST_TEXT + 1)
    with pytest.raises(DatasetError, match=r"the list cannot be read \(it has 67\.1 MB; expected at most 67\.1\)"):
        read_ids(path, "the list")
    assert repeated("banana") == ["a", "n"]


def test_lists_in_archives(tmp_path):
    write_zip(tmp_path / "lists.zip", {"sets/val.txt": "a\r\n".encode("utf-16")})
    assert read_lines(tmp_path / "lists.zip" / "sets" / "val.txt", "the list") == ["a"]
