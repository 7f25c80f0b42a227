"""Fetching from a loopback server that breaks, lies, redirects and forgets."""

import hashlib
import io
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from rich.console import Console

from densebench.core import download as fetching
from densebench.core.errors import ModelError, StorageError
from densebench.core.progress import Progress
from densebench.model_zoo import load_model
from densebench.model_zoo.catalog import ENTRIES, Published
from densebench.model_zoo.catalog.pages import status
from densebench.model_zoo.files import fetch as fetch_module
from densebench.model_zoo.files.fetch import fetch, local_file, weights_dir
from tests.model_zoo.layouts import dinov2, fill
from tests.model_zoo.test_checkpoint import DEPTH, GRID, WIDTH, dense, entry, reference

CONTENT = bytes(range(256)) * 8000  # 2 MB: more than one chunk
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; the attributes say how it misbehaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts = []
        """Bytes after which each of the first answers breaks off."""
        self.etag = '"one"'
        self.ranges = True
        self.length = True
        self.kind = "application/octet-stream"
        self.status = {}
        """Path -> (code, Location)."""
        self.lie = 0
        self.asked = []

    def handle_error(self, request, client_address):
        """Say nothing of a client that has gone."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        if self.path in server.status:
            code, location = server.status[self.path]
            self.send_response(code)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, content = 0, server.content
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if span and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(span[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            at = start + server.lie
            self.send_header("Content-Range", f"bytes {at}-{len(content) - 1}/{len(content)}")
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.kind)
        self.end_headers()
        body = content[start:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        self.wfile.write(body)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    for name in ("DENSEBENCH_OFFLINE", "DENSEBENCH_WEIGHTS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def refused(match):
    with pytest.raises(ModelError, match=match):
        yield
    kept = [path.name for path in weights_dir().glob("*") if not path.name.startswith(".")]
    assert not [name for name in kept if not name.endswith((".part", ".part.json"))], kept


def quiet():
    return Progress(quiet=True)


def test_a_file_is_fetched_once_and_its_digest_recorded(server):
    path = fetch("mine", f"{server.url}/w.pth", progress=quiet())
    assert path.read_bytes() == CONTENT
    assert path.name == "mine.pth"
    record = json.loads(path.with_name("mine.pth.json").read_text())
    assert (record["sha256"], record["bytes"], record["url"]) == (DIGEST, len(CONTENT), f"{server.url}/w.pth")
    assert fetch("mine", f"{server.url}/w.pth") == path
    assert len(server.asked) == 1
    assert sorted(p.name for p in weights_dir().iterdir() if p.suffix != ".lock") == ["mine.pth", "mine.pth.json"]


def test_trust_on_first_use_then_never_another_file(server):
    path = fetch("mine", f"{server.url}/w.pth", progress=quiet())
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ModelError, match=rf"the file that was fetched first of mine has {DIGEST[:16]}"):
        fetch("mine", f"{server.url}/w.pth")


def test_a_broken_connection_is_taken_up_where_it_broke(server):
    server.cuts = [1_500_000, 100_000, 0]
    path = fetch("mine", f"{server.url}/w.pth", DIGEST, quiet())
    assert path.read_bytes() == CONTENT
    assert [asked[1] for asked in server.asked] == [None, "bytes=1500000-", "bytes=1600000-", "bytes=1600000-"]
    assert {asked[2] for asked in server.asked[1:]} == {'"one"'}


def test_another_process_goes_on_where_one_gave_up(server):
    server.cuts = [700_000] + [0] * fetching.TRIES
    with refused(r"cut off after 700000 of 2048000 bytes; 700000 bytes are kept, run again to go on"):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())
    server.asked.clear()
    assert fetch("mine", f"{server.url}/w.pth", DIGEST, quiet()).read_bytes() == CONTENT
    assert [asked[1] for asked in server.asked] == ["bytes=700000-"]


def test_a_file_that_changed_meanwhile_is_begun_again(server):
    server.cuts = [700_000] + [0] * fetching.TRIES
    with refused("cut off"):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())
    server.etag, server.content = '"two"', CONTENT[::-1]
    assert fetch("mine", f"{server.url}/w.pth", progress=quiet()).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", ['"one"', "", 'W/"weak"'])
def test_a_server_that_ignores_ranges_or_gives_no_validator_sends_all_again(server, etag):
    server.etag, server.ranges = etag, False
    server.cuts = [700_000]
    assert fetch("mine", f"{server.url}/w.pth", DIGEST, quiet()).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_range_that_begins_elsewhere_is_refused(server):
    server.cuts, server.lie = [700_000], 5
    with refused("asked for bytes from 700000, it sends bytes 700005-2047999/2048000"):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())


def test_a_part_longer_than_the_file_is_begun_again(server):
    server.cuts = [700_000] + [0] * fetching.TRIES
    with refused("cut off"):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())
    with (weights_dir() / "mine.pth.part").open("ab") as file:
        file.write(CONTENT)
    assert fetch("mine", f"{server.url}/w.pth", DIGEST, quiet()).read_bytes() == CONTENT


def test_wrong_bytes_are_thrown_away(server):
    server.content = CONTENT[:-1] + b"x"
    with refused(rf"sent 2048000 bytes with SHA-256 \w+\.\.\.; the published file has {DIGEST[:16]}"):
        fetch("mine", f"{server.url}/w.pth", DIGEST, quiet())
    assert not list(weights_dir().glob("*.part"))
    server.content = CONTENT
    assert fetch("mine", f"{server.url}/w.pth", DIGEST, quiet()).read_bytes() == CONTENT


def test_a_web_page_is_no_file(server):
    server.content, server.kind = b"<!DOCTYPE html><html>log in</html>", "text/html"
    with refused("sends a web page, not a file"):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())


def test_redirects_are_followed_on_the_web_only(server, tmp_path):
    server.status = {"/a.pth": (302, "/b"), "/b": (307, f"{server.url}/c.pth"), "/loop.pth": (302, "/loop.pth")}
    assert fetch("mine", f"{server.url}/a.pth", DIGEST, quiet()).read_bytes() == CONTENT
    (tmp_path / "secret").write_bytes(CONTENT)
    for target in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/x"):
        server.status["/a.pth"] = (302, target)
        with pytest.raises(ModelError, match=r"[Rr]edirect"):
            fetch("other", f"{server.url}/a.pth", progress=quiet())
    with pytest.raises(ModelError, match="loop"):
        fetch("other", f"{server.url}/loop.pth", progress=quiet())
    assert local_file("other") is None


def test_no_redirect_leaves_encryption():
    follow = fetching._Redirects().redirect_request
    request = urllib.request.Request("https://example.org/a")
    assert follow(request, None, 302, "", {}, "https://example.org/b").full_url == "https://example.org/b"
    with pytest.raises(urllib.error.URLError, match=r"redirects to http://example\.org/b, which is not followed"):
        follow(request, None, 302, "", {}, "http://example.org/b")


@pytest.mark.parametrize(("code", "match"), [(404, "answers 404"), (403, "accept the licence"), (503, "503")])
def test_refusals_say_what_the_server_said(server, code, match):
    server.status = {"/w.pth": (code, None)}
    with refused(match):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())
    assert len(server.asked) == (fetching.TRIES if code == 503 else 1)


def test_a_server_that_hides_the_length_is_bounded(server, monkeypatch):
    server.length = False
    assert fetch("mine", f"{server.url}/w.pth", progress=quiet()).read_bytes() == CONTENT
    monkeypatch.setattr(fetching, "UNDECLARED", 10**6)
    with pytest.raises(ModelError, match="does not say how many"):
        fetch("other", f"{server.url}/w.pth", progress=quiet())
    assert not list(weights_dir().glob("other*.part"))


def test_a_disk_too_small_is_known_before_the_first_byte(server, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(StorageError, match=r"mine\.pth needs 0\.0 GB more .* DENSEBENCH_ZOO"):
        fetch("mine", f"{server.url}/w.pth", progress=quiet())


def test_two_at_once_fetch_once(server):
    found, errors = [], []

    def work():
        try:
            found.append(fetch("mine", f"{server.url}/w.pth", DIGEST, quiet()))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 4
    assert len(server.asked) == 1


def test_offline_and_strange_addresses_are_refused_without_asking(server, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"OFFLINE forbids .* as mine\.pth .* DENSEBENCH_WEIGHTS"):
        fetch("mine", f"{server.url}/w.pth")
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "0")
    with pytest.raises(ModelError, match="not an http, https or file address"):
        fetch("mine", "ftp://127.0.0.1/w.pth")
    assert not server.asked


def test_a_local_folder_and_a_mirror_come_first(server, monkeypatch, tmp_path):
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", f"{server.url}/mirror/")
    assert fetch("mine", "https://example.invalid/28925", DIGEST, quiet()).read_bytes() == CONTENT
    assert server.asked[0][0] == "/mirror/mine.pth"
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(CONTENT)
    assert fetch("mine", "https://example.invalid/x", DIGEST).parent == tmp_path
    (tmp_path / "mine.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="the published file of mine has"):
        fetch("mine", "https://example.invalid/x", DIGEST)


def test_files_on_disk_have_addresses_too(tmp_path):
    (tmp_path / "w.pth.tar").write_bytes(CONTENT)
    path = fetch("mine", f"file://{tmp_path}/w.pth.tar", DIGEST, quiet())
    assert (path.name, path.read_bytes()) == ("mine.pth.tar", CONTENT)
    with pytest.raises(ModelError, match="could not be fetched"):
        fetch("other", f"file://{tmp_path}/nowhere.pth", progress=quiet())


def test_progress_shows_bytes_on_a_terminal_and_a_line_elsewhere(server):
    shown = Progress()
    shown.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    fetch("mine", f"{server.url}/w.pth", progress=shown)
    assert "MB" in shown.console.file.getvalue()
    plain = Progress()
    plain.console = Console(file=io.StringIO(), force_terminal=False, width=200)
    fetch("other", f"{server.url}/w.pth", progress=plain)
    line = f"fetched other, 2.0 MB, SHA-256 {DIGEST[:16]} (recorded, for none was known)\n"
    assert plain.console.file.getvalue() == line


def test_from_a_name_over_a_broken_line_to_features(server, monkeypatch):
    """The whole chain: name, fetch with a break, record, keys, architecture, normalisation, dense features."""
    state = fill(dinov2(WIDTH, DEPTH, GRID, registers=4), "cpu")
    saved = io.BytesIO()
    torch.save({"teacher": {f"module.backbone.{k}": v for k, v in state.items()}, "epoch": 3}, saved)
    server.content, server.cuts = saved.getvalue(), [10_000, 20_000]
    rules = Published(url=f"{server.url}/tiny.pth", entry="teacher", prefix="**", layout="dinov2", drop=("mask_token",))
    entry(monkeypatch, timm="vit_small_patch14_reg4_dinov2", prefix=5, file=rules)
    backbone = load_model("tiny_vits14")
    images = torch.rand(2, 3, 84, 56)
    torch.testing.assert_close(
        dense(backbone, images), reference(state, backbone.normalise(images))[:, 5:], rtol=1e-4, atol=1e-4
    )
    asked = len(server.asked)
    assert asked == 3
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    assert load_model("tiny_vits14").weights_digest() == backbone.weights_digest()
    assert len(server.asked) == asked


def test_weights_of_timms_hub_come_from_the_mirror_where_there_is_one(server, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", server.url)
    with pytest.raises(ModelError, match=r"mae_vitb16\.safetensors is not a readable"):
        load_model("mae_vitb16")  # the server's bytes are no weights, but they were asked for here
    assert [path for path, *_ in server.asked] == ["/mae_vitb16.safetensors"]


# Hugging Face's hub, from which libraries fetch by themselves

OF_HUB = ("timm/vit_tiny_patch16_224", "timm/resnet18", "timm/resnet18:2", "mae_vitb16", "sam_vitb16")


@pytest.fixture
def nothing_cached(monkeypatch):
    for name in ("DENSEBENCH_OFFLINE", "DENSEBENCH_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch_module, "hub_file", lambda repository, names=(), revision=None: None)
    monkeypatch.setattr(fetch_module.urllib.request, "getproxies", dict)


@pytest.mark.parametrize("name", OF_HUB)
def test_a_hub_out_of_reach_is_said_at_once(name, nothing_cached, monkeypatch):
    """huggingface_hub alone would try for three quarters of a minute."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(
            ModelError, match=r"127\.0\.0\.1:\d+ is out of reach \(Connection refused\)\. .*--weights FILE"
        ):
            load_model(name)


@pytest.mark.parametrize("name", OF_HUB)
def test_offline_forbids_the_hub_too(name, nothing_cached, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"is not on this machine and DENSEBENCH_OFFLINE forbids fetching timm/"):
        load_model(name)


def test_a_slow_hub_and_one_behind_a_proxy_are_left_to_the_library(monkeypatch):
    asked = []

    def slow(address, timeout):
        asked.append(address)
        raise TimeoutError

    monkeypatch.setattr(fetch_module.socket, "create_connection", slow)
    monkeypatch.setattr(fetch_module.urllib.request, "getproxies", dict)
    assert fetch_module._out_of_reach("https://example.invalid") == ""
    assert asked == [("example.invalid", 443)]
    monkeypatch.setattr(fetch_module.urllib.request, "getproxies", lambda: {"https": "http://proxy"})
    assert fetch_module._out_of_reach("https://example.invalid") == ""
    assert len(asked) == 1


def test_files_in_the_hubs_cache_are_found_whichever_name_clip_has(monkeypatch, tmp_path):
    import huggingface_hub

    seen = []
    found = lambda repo, name, revision: seen.append((repo, name))  # noqa: E731
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", found)
    assert status(ENTRIES["clip_vitb16"]) == "fetchable"
    assert seen[0] == ("timm/vit_base_patch16_clip_224.openai", "model.safetensors")


def test_a_mirrored_file_of_the_hub_is_checked_at_every_load(server, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", server.url)
    with pytest.raises(ModelError, match="is not a readable"):
        load_model("mae_vitb16")
    (weights_dir() / "mae_vitb16.safetensors").write_bytes(b"others")
    with pytest.raises(ModelError, match="the file that was fetched first of mae_vitb16"):
        load_model("mae_vitb16")
