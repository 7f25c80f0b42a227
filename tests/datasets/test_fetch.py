"""Against a server on this machine; nothing leaves it."""

import contextlib
import dataclasses
import hashlib
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from densebench.core.download import DownloadFailure, download
from densebench.core.errors import DatasetError, DensebenchError, StorageError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.tools import fetch
from tests.datasets.writers import export

QUIET = Progress(quiet=True)
FAILURE = DownloadFailure(DatasetError, "Put it there yourself.", "give another folder")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        if self.server.script:
            self.server.script.pop(0)(self, data)
            return
        first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.server.asked.append(first)
        self.send_response(206 if first else 200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        end = first + self.server.cut if self.server.cut else len(data)
        self.wfile.write(data[first:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.files, http.asked, http.cut, http.script = {}, [], 0, []
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def archive(server, tmp_path):
    """ADE20K's archive as it is published, of a few scenes."""
    made = tmp_path / "made"
    for split in ("train", "val"):
        export(Scenes(None, split, length=2, size=(32, 32)), "ade20k", made)
    path = tmp_path / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(made.rglob("*.*")):
            file.write(each, each.relative_to(made))
    return serve(server, "ADEChallengeData2016.zip", path.read_bytes())


def serve(server, name, data, **more):
    server.files[f"/{name}"] = data
    url = f"http://127.0.0.1:{server.server_port}/{name}"
    return fetch.Remote(url, hashlib.sha256(data).hexdigest(), len(data), **more)


def test_an_archive_comes_once_and_is_read_in_place(archive, server, tmp_path):
    root = tmp_path / "root"
    for _ in range(2):
        (path,) = fetch.fetch("ade20k", root, QUIET, [archive])
    assert path == root / "ADEChallengeData2016.zip"
    assert server.asked == [0]
    assert [p.name for p in root.iterdir() if not p.name.startswith(".")] == [path.name]
    assert len(DATASETS["ade20k"](root, "train")) == len(DATASETS["ade20k"](root, "val")) == 2


def test_a_connection_that_breaks_is_taken_up(archive, server, tmp_path, monkeypatch):
    server.cut = archive.size // 3 + 1
    fetch.fetch("ade20k", tmp_path / "root", QUIET, [archive])
    assert server.asked == [0, server.cut, 2 * server.cut]


def begun(handler, data, etag, first=0):
    """Answer with the head of a whole file, or of its end."""
    handler.server.asked.append(first)
    handler.send_response(206 if first else 200)
    handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(len(data) - first))
    if first:
        handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
    handler.end_headers()


def test_the_end_of_another_file_is_not_appended(server, tmp_path):
    old, new = b"a" * 5000, b"b" * 5000
    remote = dataclasses.replace(serve(server, "x.zip", new), sha256="")

    def beginning(handler, data):
        begun(handler, old, '"old"')
        handler.wfile.write(old[:2000])

    def end_of_another(handler, data):  # as servers do that ignore If-Range
        begun(handler, new, '"new"', 2000)
        handler.wfile.write(new[2000:])

    server.script = [beginning, end_of_another]
    path = download(remote.url, tmp_path / "x.zip", "", QUIET, FAILURE)
    assert path.read_bytes() == new
    assert server.asked == [0, 2000, 0]


def test_what_came_before_a_stall_is_kept(server, tmp_path, monkeypatch):
    monkeypatch.setattr("densebench.core.download.TIMEOUT", 1.0)
    data, over = bytes(range(256)) * 40, threading.Event()
    remote = serve(server, "x.zip", data)

    def stall(handler, data):
        begun(handler, data, '"x"')
        handler.wfile.write(data[:3000])
        handler.wfile.flush()
        over.wait(20)

    server.script = [stall]
    try:
        path = download(remote.url, tmp_path / "x.zip", remote.sha256, QUIET, FAILURE)
    finally:
        over.set()
    assert path.read_bytes() == data
    assert server.asked == [0, 3000]


def test_a_drip_comes_to_an_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr("densebench.core.download.TIMEOUT", 0.3)
    monkeypatch.setattr("densebench.core.download.PAUSE", 0.01)
    data, over = bytes(20_000), threading.Event()
    remote = serve(server, "x.zip", data)

    def drip(handler, data):
        first = int(handler.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        begun(handler, data, '"x"', first)
        with contextlib.suppress(OSError):
            while not over.wait(0.02):
                handler.wfile.write(b"\0")
                handler.wfile.flush()

    server.script = [drip] * 9
    try:
        with pytest.raises(DatasetError, match=r"\d+ bytes came in 0 s, which has no end; \d+ bytes are kept"):
            download(remote.url, tmp_path / "x.zip", remote.sha256, QUIET, FAILURE)
    finally:
        over.set()
    assert len(server.asked) == 5
    assert (tmp_path / "x.zip.part").stat().st_size >= 5


def test_what_cannot_be_unpacked_is_said(server, tmp_path):
    remote = serve(server, "long.zip", zipped(tmp_path / "x.zip", {"a" * 300: b"1"}), unpacked=100)
    with pytest.raises(StorageError, match=r"long\.zip cannot be unpacked: .*File name too long.*the archive is kept"):
        fetch.fetch("coco_things", tmp_path / "root", QUIET, [remote])


def test_another_file_is_thrown_away(archive, server, tmp_path):
    server.files["/ADEChallengeData2016.zip"] = b"x" * archive.size
    with pytest.raises(DatasetError, match="SHA-256"):
        fetch.fetch("ade20k", tmp_path / "root", QUIET, [archive])
    assert not [p for p in (tmp_path / "root").iterdir() if p.suffix in (".zip", ".part")]
    server.files.clear()
    with pytest.raises(DatasetError, match=r"404.*put the file at .*ADEChallengeData2016\.zip yourself"):
        fetch.fetch("ade20k", tmp_path / "root", QUIET, [archive])


def test_a_file_of_that_name_is_not_overwritten(archive, tmp_path):
    path = tmp_path / "root" / "ADEChallengeData2016.zip"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"is not the archive published at .*move it away"):
        fetch.fetch("ade20k", tmp_path / "root", QUIET, [archive])
    assert path.read_bytes() == b"mine"


def zipped(path, content):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path.read_bytes()


def test_archives_of_archives_are_unpacked_once(server, tmp_path):
    data = zipped(tmp_path / "x.zip", {"annotations/a.json": b"{}", "annotations/b.zip": b"PK"})
    remote = serve(server, "panoptic.zip", data, place="coco", unpacked=100)
    for _ in range(2):
        fetch.fetch("coco_things", tmp_path / "root", QUIET, [remote])
    assert server.asked == [0]
    found = sorted(p.name for p in (tmp_path / "root" / "coco").rglob("*") if p.is_file() and p.name[0] != ".")
    assert found == ["a.json", "b.zip"]


def test_what_unpacks_to_too_much_or_elsewhere_is_refused(server, tmp_path):
    large = serve(server, "large.zip", zipped(tmp_path / "x.zip", {"a": bytes(101)}), unpacked=100)
    with pytest.raises(DatasetError, match="unpacks to 101 bytes, expected at most 100"):
        fetch.fetch("coco_things", tmp_path / "root", QUIET, [large])
    evil = serve(server, "evil.zip", zipped(tmp_path / "x.zip", {"../a": b"1"}), unpacked=100)
    with pytest.raises(DatasetError, match="a path that leaves its folder"):
        fetch.fetch("coco_things", tmp_path / "root", QUIET, [evil])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", [entry.name for entry in DATASETS if entry.name not in fetch.REMOTES])
def test_what_is_not_fetched_says_what_to_do(name, tmp_path):
    with pytest.raises(UsageError, match=r"nothing to get|is not fetched: .+ \(licence: .+\)\. \w+"):
        fetch.fetch(name, tmp_path, QUIET)


def test_every_archive_has_a_whole_digest():
    for remotes in fetch.REMOTES.values():
        for remote in remotes:
            assert len(remote.sha256) == 64
            assert remote.url.endswith((".zip", ".tar"))
    with pytest.raises(UsageError, match="no data root given"):
        fetch.fetch("ade20k", None, QUIET)


def test_without_a_network_nothing_is_asked(archive, server, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    with pytest.raises(DensebenchError, match="DENSEBENCH_OFFLINE"):
        fetch.fetch("ade20k", tmp_path / "root", QUIET, [archive])
    assert server.asked == []
