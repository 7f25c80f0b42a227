import io
import multiprocessing
import pickle
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from densebench.core.errors import CorruptFileError, DatasetError, StorageError
from densebench.datasets.io import archive_index
from densebench.datasets.io.archive_index import members
from densebench.datasets.io.archives import extract, is_folder, names, opened, read_bytes, read_member, split

CONTENT = {f"a/b{i}.txt": bytes([i]) * (i * 700 + 3) for i in range(8)}


def write_zip(path, content, **options):
    with zipfile.ZipFile(path, "w", options.pop("packing", zipfile.ZIP_DEFLATED)) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def write_tar(path, content, mode="w", links=()):
    with tarfile.open(path, mode) as file:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            file.addfile(entry)
    return path


@pytest.fixture(params=["stored.zip", "deflated.zip", "plain.tar"])
def archive(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".tar":
        return write_tar(path, CONTENT)
    return write_zip(path, CONTENT, packing=zipfile.ZIP_STORED if "stored" in path.name else zipfile.ZIP_DEFLATED)


def test_files_are_read_where_they_lie(archive):
    assert set(members(archive)) == set(CONTENT)
    for name, data in CONTENT.items():
        assert read_member(archive / name) == data
        assert opened(archive / name).read() == data
    assert split(archive / "a" / "b1.txt") == (archive, "a/b1.txt")


def test_plain_files_stay_what_they_are(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    assert opened(tmp_path / "x") == tmp_path / "x"
    assert read_bytes(tmp_path / "x") == b"1"
    with pytest.raises(DatasetError, match="is missing"):
        read_bytes(tmp_path / "y")


def test_threads_and_processes_read_at_once(archive):
    paths = [archive / name for name in CONTENT] * 20
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_member, paths)) == list(CONTENT.values()) * 20
    with multiprocessing.get_context("fork").Pool(2) as pool:  # an archive indexed before the fork
        assert pool.map(read_member, paths) == list(CONTENT.values()) * 20
    assert pickle.loads(pickle.dumps(paths[0])) == paths[0]


def test_what_is_not_there_is_said(archive):
    with pytest.raises(DatasetError, match=r"has no file a/c\.txt"):
        read_member(archive / "a" / "c.txt")


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "..\\out.txt", "C:/out.txt"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_paths_that_leave_the_folder_are_refused(name, suffix, tmp_path):
    path = tmp_path / f"bad{suffix}"
    (write_zip if suffix == ".zip" else write_tar)(path, {"ok.txt": b"1", name: b"2"})
    with pytest.raises(DatasetError, match="has a path that leaves its folder"):
        members(path)
    with pytest.raises(DatasetError, match="has a path that leaves its folder"):
        extract(path, tmp_path / "out", 1000)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def bytes_of(kind, content, folder):
    """Return an archive: "zip" with its files compressed, "stored" with them as they are, or "tar"."""
    path = folder / "made"
    if kind == "tar":
        return write_tar(path, content).read_bytes()
    return write_zip(
        path, content, packing=zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
    ).read_bytes()


@pytest.mark.parametrize("outer", ["stored.zip", "plain.tar"])
@pytest.mark.parametrize("inner", ["zip", "stored", "tar"])
def test_an_archive_in_an_archive_is_a_folder(outer, inner, tmp_path):
    suffix = "tar" if inner == "tar" else "zip"
    data = bytes_of(inner, CONTENT, tmp_path)
    content = {"readme.txt": b"read me" * 50, f"top/in.{suffix}": data, "top/other.txt": b"x"}
    path = tmp_path / outer
    path.write_bytes(bytes_of("tar" if path.suffix == ".tar" else "stored", content, tmp_path))
    folder = path / "top" / f"in.{suffix}"
    for place in (path, path / "top", folder, folder / "a"):
        assert is_folder(place)
    assert not is_folder(path / "a")
    assert sorted(names(folder)) == sorted(CONTENT)
    assert sorted(names(folder / "a")) == [f"b{i}.txt" for i in range(8)]
    for name, expected in CONTENT.items():
        assert read_member(folder / name) == expected
    assert read_member(folder) == data  # the archive itself is a file, too
    assert read_member(path / "top" / "other.txt") == b"x"
    assert set(members(path)) == set(content)  # and what is unpacked is the outer one alone
    assert extract(path, tmp_path / "out", 10**6) == 3


def test_no_deeper_than_one_archive_in_another(tmp_path):
    inner = bytes_of("stored", {"in.zip": bytes_of("zip", CONTENT, tmp_path)}, tmp_path)
    path = write_tar(tmp_path / "x.tar", {"mid.zip": inner})
    assert is_folder(path / "mid.zip")
    assert not is_folder(path / "mid.zip" / "in.zip")


def encrypted(data):
    data = bytearray(data)
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def shifted(data):
    """Return a zip whose first file begins, as it says, where there is nothing."""
    data = bytearray(data)
    at = data.index(b"PK\x01\x02") + 42
    data[at : at + 4] = (10**8).to_bytes(4, "little")
    return bytes(data)


BAD = {
    "cut": (lambda data: data[: len(data) // 2], "cannot be read as an archive .*Get the original file"),
    "encrypted": (encrypted, r"is encrypted \(a/b0\.txt\) .*Unpack it once: `unzip -n "),
    "shifted": (shifted, r"cannot be read as an archive \(it ends before a/b0\.txt does\)"),
    "other": (lambda data: b"<html>please log in</html>" * 20, "cannot be read as an archive"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("inside", [False, True])
def test_a_bad_archive_is_named(bad, inside, tmp_path):
    change, message = BAD[bad]
    path, data = tmp_path / "x.zip", change(bytes_of("zip", CONTENT, tmp_path))
    path.write_bytes(bytes_of("stored", {"ok.txt": b"1", "in.zip": data}, tmp_path) if inside else data)
    bad_one = path / "in.zip" if inside else path
    with pytest.raises(DatasetError, match=rf"^{bad_one} {message}") as caught:
        is_folder(bad_one)
    assert "\n" not in str(caught.value)
    if inside:  # which does not matter to who does not need it
        assert read_member(path / "ok.txt") == b"1"
    if bad == "encrypted":  # the archive on disk is what can be unpacked, not the one inside
        assert f"`unzip -n {path} -d {tmp_path}`" in str(caught.value)


def test_a_cut_tar_is_named(tmp_path):
    path = write_tar(tmp_path / "x.tar", CONTENT)
    path.write_bytes(path.read_bytes()[:-11_000])
    with pytest.raises(DatasetError, match=r"x\.tar cannot be read as an archive"):
        members(path)


def test_an_archive_that_is_compressed_in_another_says_how_to_unpack_it(tmp_path):
    path = write_zip(tmp_path / "out er.zip", {"top/in.zip": bytes_of("zip", CONTENT, tmp_path), "ok.txt": b"1"})
    assert read_member(path / "ok.txt") == b"1"
    assert not is_folder(path / "top" / "in.zip" / "a")
    message = rf"^{path} holds top/in\.zip compressed, .*Unpack it once: `unzip -n '{path}' -d {tmp_path}`\.$"
    with pytest.raises(DatasetError, match=message):
        is_folder(path / "top" / "in.zip")


def test_a_path_that_leaves_an_inner_archive_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"in.zip": bytes_of("zip", {"../out.txt": b"1"}, tmp_path)})
    with pytest.raises(DatasetError, match=r"x\.tar/in\.zip has a path that leaves its folder \('\.\./out\.txt'\)"):
        is_folder(path / "in.zip")


def test_files_of_archives_inside_count(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_index, "MOST_MEMBERS", 10)
    inner = bytes_of("zip", CONTENT, tmp_path)
    assert is_folder(write_tar(tmp_path / "x.tar", {"a.zip": inner}))
    with pytest.raises(DatasetError, match="holds more than 10 files"):
        is_folder(write_tar(tmp_path / "y.tar", {"a.zip": inner, "b.zip": inner}))


def test_windows_and_macs_have_their_ways(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a\\b.txt": b"1", "a\\c\\": b"", "._a.zip": b"Mac OS X", "d.txt": b"2"})
    assert sorted(members(path)) == ["._a.zip", "a/b.txt", "d.txt"]
    assert read_member(path / "a" / "b.txt") == b"1"


def linked(suffix, path, content, links, hard=()):
    """Write an archive with symbolic links, and in a tar hard ones."""
    if suffix == ".tar":
        write_tar(path, content, links=links)
        with tarfile.open(path, "a") as file:
            for name, target in hard:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.LNKTYPE, target
                file.addfile(entry)
        return path
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
        for name, target in links:
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            file.writestr(entry, target)
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_links_are_what_they_lead_to(suffix, tmp_path):
    links = [("b/c.txt", "../a/b1.txt"), ("d.txt", "b/c.txt"), ("e", "./a"), ("f.txt", "e/b2.txt")]
    hard = [("g.txt", "./a/b3.txt")] if suffix == ".tar" else []
    path = linked(suffix, tmp_path / f"x{suffix}", CONTENT, links, hard)
    for name, same in [("b/c.txt", 1), ("d.txt", 1), ("e/b7.txt", 7), ("f.txt", 2), *([("g.txt", 3)] if hard else [])]:
        assert read_member(path / name) == CONTENT[f"a/b{same}.txt"]
    assert is_folder(path / "e")
    assert names(path / "e") == [name.removeprefix("a/") for name in CONTENT]
    assert extract(path, tmp_path / "out", 10**6) == len(members(path)) == 2 * len(CONTENT) + 3 + len(hard)
    assert (tmp_path / "out" / "e" / "b7.txt").read_bytes() == CONTENT["a/b7.txt"]
    assert not any(written.is_symlink() for written in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_link_that_leads_nowhere_in_the_archive_is_listed_and_said(suffix, tmp_path):
    links = [("link", "/etc/passwd"), ("up", ".."), ("a/x", "../../ok.txt"), ("round", "round2"), ("round2", "round")]
    path = linked(suffix, tmp_path / f"x{suffix}", {"ok.txt": b"1"}, links)
    assert sorted(names(path)) == ["a/x", "link", "ok.txt", "round", "round2", "up"]
    for name, target in (("link", "/etc/passwd"), ("a/x", r"\.\./ok\.txt"), ("round", "round2")):
        with pytest.raises(DatasetError, match=rf"{name} is a link to {target}, which x\{suffix} does not hold"):
            read_member(path / name)
    assert extract(path, tmp_path / "out", 1000) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ok.txt"]


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"ok": b"1", "a" * 300: b"2"})
    with pytest.raises(StorageError, match=r"cannot be unpacked: \S+aaa cannot be written \(File name too long\)"):
        extract(path, tmp_path / "out", 1000)


def test_a_link_that_stands_where_files_go_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"leads out of .* by a link; nothing was written"):
        extract(write_zip(tmp_path / "x.zip", CONTENT), tmp_path / "out", 10**6)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_extraction_is_bounded_and_whole(archive, tmp_path):
    total = sum(map(len, CONTENT.values()))
    with pytest.raises(DatasetError, match=f"unpacks to {total} bytes, expected at most {total - 1}"):
        extract(archive, tmp_path / "out", total - 1)
    assert extract(archive, tmp_path / "out", total) == len(CONTENT)
    assert {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.txt")
    } == CONTENT


def test_a_member_never_gives_more_than_its_index_says(tmp_path):
    path = write_zip(tmp_path / "bomb.zip", {"x": bytes(10**6)})
    data = bytearray(path.read_bytes())
    for header, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):  # where the unpacked size stands
        start = data.index(header) + at
        data[start : start + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="is not what its archive says it is"):
        read_member(path / "x")


def test_damage_is_noticed(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"x": b"0123456789" * 100}, packing=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="is not what its archive says") as caught:
        read_member(path / "x")
    assert caught.value.path == str(path / "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.zip", "cannot be read as an archive"),
        ("x.tar", r"x\.tar is compressed as a whole\. Unpack it once: `tar -xf \S+x\.tar -C \S+`\.$"),
    ],
)
def test_what_is_no_archive_is_said(name, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(DatasetError, match=message):
        members(path)
    if name == "x.tar":
        with pytest.raises(DatasetError, match=message):
            members(write_tar(path, CONTENT, "w:gz"))


def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"x": b"old"})
    assert read_member(path / "x") == b"old"
    write_zip(path, {"x": b"newer"})
    assert read_member(Path(path) / "x") == b"newer"
