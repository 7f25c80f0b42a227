"""Cards of checkpoints are data: what they may say, and that a broken or hostile one costs nothing but itself."""

import dataclasses
import http.server
import json
import os
import threading

import pytest
import timm
import torch
from safetensors.torch import save_file

from densebench.cli import listing
from densebench.core.errors import ModelError
from densebench.core.paths import zoo_dir
from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.catalog import ENTRIES
from densebench.model_zoo.files.cards import ArchitectureBlock, read_card
from densebench.model_zoo.files.fetch import weights_dir
from densebench.runner.grid import run_request
from densebench.runner.request import Request
from tests import toys

TINY = "vit_tiny_patch16_224"


def put(name, card, weights=True):
    """Write a zoo checkpoint of one block under a card: an object, or the bytes of the file."""
    folder = zoo_dir() / name
    folder.mkdir(parents=True)
    if weights:
        save_file(create(TINY, depth=1).state_dict(), folder / "weights.safetensors")
    (folder / "card.json").write_bytes(card if isinstance(card, bytes) else json.dumps(card).encode())
    return folder


def architecture(**more):
    return {"architecture": {"timm": TINY, "kwargs": {"depth": 1}, **more}}


BROKEN = {
    "empty": (b"", "EOF while parsing"),
    "list": (b"[]", "input should be an object, not '\\[\\]'"),
    "number": (b"5", "input should be an object, not '5'"),
    "half": (b'{"architecture": {"timm": "vit', "EOF while parsing"),
    "utf16": ('{"architecture": {}}'.encode("utf-16"), "byte 0 is not UTF-8"),
    "deep": (b'{"x": ' + b"[" * 100_000, "recursion limit exceeded"),
    "deep_in_balance": (b'{"x": ' + b"[" * 500 + b"]" * 500 + b"}", "recursion limit exceeded"),
    "large": (b" " * (17 << 20), "it has 17.8 MB; expected at most 16.8"),
    "no_architecture": ({}, "architecture: field required"),
    "no_timm": ({"architecture": {"kwargs": {}}}, "architecture.timm: field required"),
    "architecture_of_text": ({"architecture": "vit"}, "architecture: input should be an object, not 'vit'"),
    "unknown_field": (architecture(code="x"), "architecture.code is nothing that a card may say"),
    "short_mean": (architecture(mean=[0.5, 0.5]), "architecture.mean.2: field required"),
    "nan_std": (architecture(std=[0.5, float("nan"), 1]), "finite number"),
    "zero_std": (architecture(std=[0.5, 0, 1]), "greater than 0"),
    "text_depth": ({"architecture": {"timm": TINY, "kwargs": {"depth": "1"}}}, "valid integer, not '1'"),
    "true_depth": ({"architecture": {"timm": TINY, "kwargs": {"depth": True}}}, "valid integer, not 'True'"),
    "huge": ({"architecture": {"timm": TINY, "kwargs": {"depth": 500, "embed_dim": 30000}}}, "make 5e\\+12 weights"),
    "weights_of_text": ({**architecture(), "weights": "x"}, "weights: input should be an object"),
    "licence_of_null": ({**architecture(), "licence": None}, "licence: input should be a valid string"),
}
HOSTILE = {
    "hub": {"timm": "hf-hub:somebody/model"},
    "folder": {"timm": "local-dir:/somewhere"},
    "address": {"timm": "http://127.0.0.1/model"},
    "checkpoint": {"timm": TINY, "kwargs": {"checkpoint_path": "EVIL"}},
    "pretrained": {"timm": TINY, "kwargs": {"pretrained": True}},
    "config": {"timm": TINY, "kwargs": {"pretrained": True, "pretrained_cfg": {"url": "SERVER/w.pth"}}},
    "overlay": {"timm": TINY, "kwargs": {"pretrained_cfg_overlay": {"url": "SERVER/w.pth", "hf_hub_id": None}}},
    "cache": {"timm": TINY, "kwargs": {"cache_dir": "/somewhere"}},
    "class": {"timm": TINY, "kwargs": {"norm_layer": "layernorm"}},
}


@pytest.fixture
def server(monkeypatch):
    """A server that every library is told to ask; it counts who came."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{httpd.server_port}")
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_card_is_a_sentence(name):
    content, message = BROKEN[name]
    put(name, content, weights=False)
    with pytest.raises(ModelError, match=rf"card\.json is not a card of a checkpoint \(.*{message}") as error:
        load_model(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_what_is_no_file_is_a_sentence():
    (zoo_dir() / "folder" / "card.json").mkdir(parents=True)
    with pytest.raises(ModelError, match="it is a folder; expected a regular file"):
        load_model("folder")
    (zoo_dir() / "pipe").mkdir()
    os.mkfifo(zoo_dir() / "pipe" / "card.json")
    with pytest.raises(ModelError, match="it is a pipe; expected a regular file"):
        load_model("pipe")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("offline", ["1", ""])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_card_runs_nothing_and_asks_nobody(name, offline, server, tmp_path, monkeypatch):
    address, asked = server
    monkeypatch.setenv("DENSEBENCH_OFFLINE", offline)
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pth")
    text = json.dumps({"architecture": HOSTILE[name]})
    folder = put(name, text.replace("EVIL", str(tmp_path / "evil.pth")).replace("SERVER", address).encode())
    for model in (name, str(folder / "weights.safetensors"), f"{name}?random"):
        with pytest.raises(ModelError, match="is not a card of a checkpoint"):
            load_model(model)
    assert not (tmp_path / "ran").exists()
    assert asked == []


def test_the_second_of_two_keys_is_the_one_that_is_checked():
    """Readers of JSON differ in which of two equal keys counts; what is checked must be what is used."""
    good, bad = '"architecture": {"timm": "vit_tiny_patch16_224"}', '"architecture": {"timm": "hf-hub:a/b"}'
    for name, text in (("first", f"{{{bad}, {good}}}"), ("second", f"{{{good}, {bad}}}")):
        folder = put(name, text.encode(), weights=False)
        try:
            assert read_card(folder / "card.json")["architecture"] == {"timm": TINY}
        except ModelError:
            assert name == "second"


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.architecture.timm])
def test_every_architecture_of_the_catalogue_can_stand_in_a_card(name):
    """Which `densebench train --base` writes; so can all of timm's names."""
    block = dataclasses.asdict(ENTRIES[name].architecture)
    found = ArchitectureBlock.model_validate_json(json.dumps(block)).model_dump(exclude_unset=True)
    assert found == {**block, "kwargs": dict(block["kwargs"])}


def test_every_name_of_timm_can_stand_in_a_card():
    for name in timm.list_models() + timm.list_pretrained():
        ArchitectureBlock.model_validate({"timm": name})


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"timm": "no_such_model"}, r"no_such_model with \{\}, which timm cannot build \(Unknown model"),
        ({"timm": TINY, "kwargs": {"embed_dim": 100, "num_heads": 7}}, "which timm cannot build"),
        ({"timm": TINY, "kwargs": {"use_rot_pos_emb": True}}, "use_rot_pos_emb"),
        ({"timm": "resnet18"}, "no plain ViT|not a plain ViT"),
    ],
)
def test_a_card_of_a_net_that_cannot_be_built_is_a_sentence(block, message):
    put("mine", {"architecture": block})
    with pytest.raises(ModelError, match=message):
        load_model("mine")


def test_one_broken_card_stops_neither_other_models_nor_the_listing(tmp_path):
    put("bad", b"[]")
    put("good", architecture())
    toys.write_voc(tmp_path / "data")
    quick = {"input_size": 32, "fractions": (1,)}
    request = Request(
        model=["bad", "good"], protocol=["hummingbird"], dataset=["voc"], data_root=tmp_path / "data",
        settings={"hummingbird": quick}, workers=0, out=tmp_path / "results",
    )  # fmt: skip
    done = run_request(request)
    assert [record.model.name for record in done.done] == ["good"]
    ((cell, error),) = done.failed
    assert cell == "bad"
    assert "is not a card of a checkpoint" in str(error)
    listed = dict(listing.rows("models", "*", tmp_path))
    assert listed["good"] == "ready"
    assert listed["bad"].startswith("broken: ")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"sha256": 5}', b'{"sha256": "xyz"}', b"[" * 100_000, "{}".encode("utf-16")]
)
def test_a_damaged_record_of_a_fetch_is_a_sentence(content, tmp_path):
    weights_dir().mkdir(parents=True)
    torch.save({}, weights_dir() / "dino_vits16.pth")
    (weights_dir() / "dino_vits16.pth.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"is not the record of the fetch of dino_vits16\.pth \(.*Delete both"):
        load_model("dino_vits16")
    dict(listing.rows("models", "dino*", tmp_path))


def test_weights_at_an_address_of_their_own_are_not_fetched_offline(monkeypatch, tmp_path):
    """timm has some that are in no repository of the hub, which it fetches by itself."""
    name = next(each for each in timm.list_pretrained() if not timm.get_pretrained_cfg(each).hf_hub_id)
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"DENSEBENCH_OFFLINE forbids fetching https?://"):
        load_model(f"timm/{name}")
