"""Checkpoints of one's own training: which network of a file is taken, that it is said, and how another is named."""

import argparse
import pathlib
from collections import defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.files.checkpoint import arrange_own, read
from densebench.model_zoo.files.published import Published
from densebench.model_zoo.files.wrappers import enter, find_network, sentence
from densebench.runner.grid import run_request
from densebench.runner.request import Request
from tests import toys
from tests.model_zoo.layouts import dino, dinov2, fill, prefixed
from tests.model_zoo.test_checkpoint import DEPTH, GRID, WIDTH, entry

TINY = "vit_tiny_patch16_224"
OWN = fill(dino(8, 2, 4, 2), "cpu")
OTHER = fill(dino(8, 2, 4, 2), "cpu", seed=1)
HEADS = fill({"head.mlp.0.weight": (2, 8), "head.last_layer.weight_v": (4, 2)}, "cpu")


def joined(state, prefix=""):
    """A backbone and its head, as DINO's MultiCropWrapper names them."""
    return prefixed(f"{prefix}backbone.", state) | prefixed(prefix, HEADS)


FILES = {
    "plain": (OWN, "", []),
    "model": ({"model": OWN, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}}, "model", []),
    "lightning": ({"state_dict": prefixed("model.", OWN), "pytorch-lightning_version": "2.1"}, "state_dict.model", []),
    "module": (prefixed("module.", OWN), "module", []),
    "compiled": (prefixed("_orig_mod.", OWN), "", []),
    "compiled and distributed": ({"state_dict": prefixed("module._orig_mod.", OWN)}, "state_dict.module", []),
    "compiled inside": ({k.replace("blocks.", "blocks._orig_mod."): v for k, v in OWN.items()}, "", []),
    "fsdp": (prefixed("_fsdp_wrapped_module.backbone._fsdp_wrapped_module.", OWN), "backbone", []),
    "chunks": ({k.replace("blocks.", "blocks.0."): v for k, v in OWN.items()}, "", []),
    "ema": ({"state_dict": OTHER, "state_dict_ema": OWN}, "state_dict_ema", ["state_dict"]),
    "model_ema": ({"model": OTHER, "model_ema": prefixed("module.", OWN)}, "model_ema.module", ["model"]),
    "dino": (
        {"student": joined(OTHER, "module."), "teacher": joined(OWN), "epoch": 1, "args": argparse.Namespace(lr=1)},
        "teacher.backbone", ["student.module.backbone"],
    ),
    "ibot": (
        {"student": joined(OTHER, "module."), "teacher": joined(OWN, "module.")},
        "teacher.module.backbone", ["student.module.backbone"],
    ),
    "dinov2": ({"teacher": joined(OWN)}, "teacher.backbone", []),
    "lightning dino": (
        {"state_dict": prefixed("student.", joined(OTHER)) | prefixed("teacher.", joined(OWN))},
        "state_dict.teacher.backbone", ["state_dict.student.backbone"],
    ),
    "student alone": ({"student": joined(OWN), "loss": {"center": torch.ones(1, 4)}}, "student.backbone", []),
    "beside numbers": ({**OWN, "epoch": 3}, "", []),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_wrappers_of_training_code_are_known(name):
    found, taken, others = FILES[name]
    network, left = find_network(found, "", OWN, "f")
    assert network.name == taken
    assert left == others
    assert network.inner.keys() == OWN.keys()
    assert all(torch.equal(network.inner[key], value) for key, value in OWN.items())
    said = sentence(network, left, network.outer, "f")
    assert bool(said) == bool(taken)
    assert all(f"@{other}" in said for other in others)
    assert (f"{len(network.outer)} tensors beside it" in said) == bool(network.outer)


@pytest.mark.parametrize(
    ("name", "asked", "taken"),
    [
        ("dino", "student", "student.module.backbone"),
        ("dino", "student.module", "student.module.backbone"),
        ("dino", "teacher", "teacher.backbone"),
        ("ema", "state_dict", "state_dict"),
        ("model_ema", "model", "model"),
        ("lightning dino", "state_dict.student", "state_dict.student.backbone"),
        ("lightning dino", "state_dict", "state_dict.teacher.backbone"),
    ],
)
def test_an_entry_names_another(name, asked, taken):
    network, _ = find_network(FILES[name][0], asked, OWN, "f")
    assert network.name == taken
    expected = OWN if taken == FILES[name][1] else OTHER
    assert torch.equal(network.inner["pos_embed"], expected["pos_embed"])


def test_what_cannot_be_told_apart_is_not_guessed():
    with pytest.raises(ModelError, match=r"f holds 2 networks that may be meant; name one .*: @a\.net, @b\.net\."):
        find_network({"a": prefixed("net.", OWN), "b": prefixed("net.", OTHER)}, "", OWN, "f")
    with pytest.raises(ModelError, match=r"no weights of this network under 'tutor'; it has @student.*, @teacher"):
        find_network(FILES["dino"][0], "tutor", OWN, "f")
    with pytest.raises(ModelError, match=r"under 'x'; it holds epoch\."):
        find_network({"epoch": 3}, "x", OWN, "f")
    assert find_network({"layers": {"w": torch.ones(1)}}, "", OWN, "f") == (None, [])
    assert find_network([OWN], "", OWN, "f") == (None, [])


def test_parts_of_a_network_are_no_networks():
    """Names that end alike inside one network: later patch embeddings, and the convolutions of a CNN."""
    pyramid = fill({f"{p}patch_embed.proj.weight": (2, 2, 1, 1) for p in ("", "stages.1.", "stages.2.")}, "cpu")
    network, others = find_network({"model": prefixed("net.", pyramid)}, "", pyramid, "f")
    assert (network.name, others) == ("model.net", [])
    cnn = fill({f"{p}conv1.weight": (2, 2, 1, 1) for p in ("", "layer1.0.", "layer1.1.", "layer2.0.")}, "cpu")
    network, others = find_network({"state_dict": prefixed("module.", cnn)}, "", cnn, "f")
    assert (network.name, others) == ("state_dict.module", [])


def test_a_file_in_a_known_layout_keeps_its_rules():
    state = fill(dinov2(8, 2, 2, registers=4, chunks=2), "cpu")
    found = {"teacher": prefixed("backbone.", state) | HEADS, "student": prefixed("backbone.", state)}
    rules = Published(layout="dinov2", drop=("mask_token",))
    own = arrange_own(state, rules, "", {}, "f")[0]
    got, left_out, said = arrange_own(found, rules, "", own, "f")
    assert got.keys() == own.keys()
    assert all(torch.equal(got[key], own[key]) for key in own)
    assert left_out == [*HEADS, "mask_token"]
    assert said == "f: took the weights under 'teacher.backbone'; left out @student.backbone, 3 tensors beside it."


def test_the_catalogue_takes_a_training_checkpoint_and_an_entry_of_it(monkeypatch, tmp_path):
    entry(monkeypatch)
    plain, other = (fill(dinov2(WIDTH, DEPTH, GRID), "cpu", seed=seed) for seed in (0, 1))
    torch.save(plain, tmp_path / "plain.pth")
    torch.save({"teacher": joined(plain), "student": joined(other, "module.")}, tmp_path / "run.pth")
    expected = load_model("tiny_vits14", tmp_path / "plain.pth")
    teacher = load_model("tiny_vits14", tmp_path / "run.pth")
    assert teacher.weights_digest() == expected.weights_digest()
    assert teacher.info.notes["loading"][0].startswith("run.pth: took the weights under 'teacher.backbone'; left out")
    student = load_model(f"tiny_vits14@{tmp_path}/run.pth@student")
    assert student.weights_digest() != expected.weights_digest()
    assert student.info.name == "tiny_vits14@run@student"
    assert load_model("tiny_vits14", f"{tmp_path}/run.pth@teacher").weights_digest() == expected.weights_digest()
    with pytest.raises(ModelError, match="no weights of this network under 'tutor'"):
        load_model("tiny_vits14", f"{tmp_path}/run.pth@tutor")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The weights of a net of timm in the wrappings that a user may have them in."""
    folder = tmp_path_factory.mktemp("tiny")
    state = create(TINY).state_dict()
    other = {k: v + 0.01 for k, v in state.items()}
    save_file(state, folder / "plain.safetensors")
    torch.save({"state_dict": other, "state_dict_ema": state, "epoch": 3}, folder / "ema.pth")
    torch.save(prefixed("_orig_mod.", state), folder / "compiled.pth")
    args = argparse.Namespace(out=pathlib.Path("x"), log=defaultdict(list), best=np.float32(1))
    torch.save({"state_dict": prefixed("module.", state), "args": args}, folder / "args.pth")
    torch.save(
        {**state, "blocks.3.mlp.fc1.weight": state["blocks.3.mlp.fc1.weight"] * float("nan")}, folder / "nan.pth"
    )
    return folder


@pytest.mark.parametrize("name", ["ema", "compiled", "args"])
def test_wrapped_weights_of_timm_are_the_plain_ones(name, tiny):
    expected = load_model(f"timm/{TINY}", tiny / "plain.safetensors")
    assert load_model(f"timm/{TINY}", tiny / f"{name}.pth").weights_digest() == expected.weights_digest()


def test_what_was_taken_and_whose_preprocessing_it_gets_is_in_the_record_and_on_stderr(tiny, tmp_path, capsys):
    toys.write_voc(tmp_path / "data")
    quick = {"input_size": 32, "fractions": (1,)}
    request = Request(
        model=[f"a=timm/{TINY}@{tiny}/ema.pth", f"b=timm/{TINY}.augreg_in21k@{tiny}/plain.safetensors"],
        protocol=["hummingbird"], dataset=["voc"], data_root=tmp_path / "data",
        settings={"hummingbird": quick}, workers=0, out=tmp_path / "results",
    )  # fmt: skip
    first, second = run_request(request).done
    took = "ema.pth: took the weights under 'state_dict_ema'; left out @state_dict."
    whose = f"ema.pth: mean 0.5, 0.5, 0.5, deviation 0.5, 0.5, 0.5 and bicubic resampling are those of timm/{TINY} ("
    said = capsys.readouterr().err
    for sentence_ in (took, whose):
        assert sentence_ in said
        assert any(note.startswith(sentence_) for note in first.notes)
    assert not any("resampling" in note for note in second.notes)  # the user named the tag


def test_weights_that_are_not_numbers_are_named(tiny):
    with pytest.raises(ModelError, match=r"nan\.pth holds NaN in blocks\.3\.mlp\.fc1\.weight: its training diverged"):
        load_model(f"timm/{TINY}", tiny / "nan.pth")


def test_a_shard_is_called_a_shard(tmp_path):
    for name in (
        "model-00001-of-00002.safetensors",
        "pytorch_model-00002-of-00002.bin",
        "m-00001-of-00001.safetensors",
    ):
        save_file({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(
        ModelError, match=r"shard 1 of 2 of a checkpoint, whose index is model\.safetensors\.index\.json"
    ):
        read(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(
        ModelError, match=r"shard 2 of 2 of a checkpoint, whose index is pytorch_model\.bin\.index\.json"
    ):
        read(tmp_path / "pytorch_model-00002-of-00002.bin")
    assert read(tmp_path / "m-00001-of-00001.safetensors").keys() == {"w"}
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"index\.json is the index of shards"):
        read(tmp_path / "model.safetensors.index.json")


def test_an_entry_of_a_layout_of_its_own_is_keys_alone():
    found = {"model": {"a.b": {"w": 1}}, "epoch": 3}
    assert enter(found, "", "f") is found
    assert enter(found, "model.a.b", "f") == {"w": 1}
    with pytest.raises(ModelError, match=r"f has no entry 'ema'; it has @model, @model\.a\.b\."):
        enter(found, "ema", "f")


def test_an_entry_goes_with_files_of_weights_alone():
    with pytest.raises(UsageError, match="has its own"):
        load_model("pico", "w.pth@teacher")
