"""Published files onto an architecture: strict, without running code, numerically what the authors' code computes."""

import argparse
import dataclasses
import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from densebench.core.errors import ModelError, UsageError
from densebench.features.source import FeatureSource
from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.positions import OffsetBackbone, resample
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.catalog import ENTRIES, Published
from densebench.model_zoo.files.checkpoint import arrange, fit, grid_of, read
from tests.methods import toy
from tests.model_zoo.layouts import dino, dinov2, fill, optimiser, prefixed

WIDTH, DEPTH, HEADS, GRID = 48, 2, 3, 4
BODY = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "img_size": 14 * GRID}


def entry(
    monkeypatch,
    name="tiny_vits14",
    timm="vit_small_patch14_dinov2",
    positions="antialias",
    prefix=1,
    file=None,
    **kwargs,
):
    """Put a tiny model into the catalogue, with the rules of DINOv2 unless told otherwise."""
    like = ENTRIES["dinov2_vits14"]
    net = {"timm": timm, "native_size": 14 * GRID, "positions": positions, "kwargs": {**BODY, **kwargs}}
    made = dataclasses.replace(
        like,
        name=name,
        architecture=dataclasses.replace(like.architecture, **net),
        prefix=prefix,
        file=file or Published(layout="dinov2", drop=("mask_token",), page="https://example.org"),
    )
    monkeypatch.setitem(ENTRIES, name, made)
    return made


def reference(state, pixels, registers=True, antialias=True):
    """DINOv2's forward pass from its own state dict: equations of the paper and of its published modules."""
    norm = lambda x, name: F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)  # noqa: E731
    lin = lambda x, name: F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731
    maps = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    grid, positions = maps.shape[2:], state["pos_embed"]
    side = int((positions.shape[1] - 1) ** 0.5)
    if grid != (side, side):
        square = positions[:, 1:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
        how = {"size": grid, "antialias": True} if antialias else {"scale_factor": [(n + 0.1) / side for n in grid]}
        patches = F.interpolate(square, mode="bicubic", **how).permute(0, 2, 3, 1).reshape(1, -1, WIDTH)
        positions = torch.cat([positions[:, :1], patches], dim=1)
    x = torch.cat([state["cls_token"].expand(len(pixels), -1, -1), maps.flatten(2).transpose(1, 2)], dim=1) + positions
    if registers:
        x = torch.cat([x[:, :1], state["register_tokens"].expand(len(pixels), -1, -1), x[:, 1:]], dim=1)
    for name in sorted({key.rpartition(".norm1")[0] for key in state if key.endswith(".norm1.weight")}):
        q, k, v = lin(norm(x, f"{name}.norm1"), f"{name}.attn.qkv").unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + state[f"{name}.ls1.gamma"] * lin(attended.transpose(1, 2).flatten(2), f"{name}.attn.proj")
        y = norm(x, f"{name}.norm2")
        if f"{name}.mlp.w12.weight" in state:
            first, second = lin(y, f"{name}.mlp.w12").chunk(2, dim=-1)
            y = lin(F.silu(first) * second, f"{name}.mlp.w3")
        else:
            y = lin(F.gelu(lin(y, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        x = x + state[f"{name}.ls2.gamma"] * y
    return norm(x, "norm")


def dense(backbone, images):
    return backbone.dense(images).maps[0].flatten(2).transpose(1, 2)


@pytest.mark.parametrize("side", [GRID, 6])
def test_dinov2_with_registers_is_what_its_code_computes(side, monkeypatch, tmp_path):
    entry(monkeypatch, timm="vit_small_patch14_reg4_dinov2", prefix=5)
    state = fill(dinov2(WIDTH, DEPTH, GRID, registers=4), "cpu")
    torch.save(state, tmp_path / "w.pth")
    backbone = load_model("tiny_vits14", tmp_path / "w.pth")
    images = torch.rand(2, 3, 14 * side, 14 * GRID)
    expected = reference(state, backbone.normalise(images))
    torch.testing.assert_close(dense(backbone, images), expected[:, 5:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone.dense(images).class_tokens[0], expected[:, 0], rtol=1e-4, atol=1e-4)
    assert backbone.info.notes["left out"] == ["mask_token"]


@pytest.mark.parametrize("positions", ["antialias", "offset"])
def test_registers_removed_is_the_same_file_without_them(positions, monkeypatch, tmp_path):
    rules = Published(layout="dinov2", drop=("mask_token", "register_tokens"))
    entry(monkeypatch, positions=positions, file=rules)
    state = fill(dinov2(WIDTH, DEPTH, GRID, registers=4), "cpu")
    torch.save(state, tmp_path / "w.pth")
    backbone = load_model("tiny_vits14", tmp_path / "w.pth")
    images = torch.rand(1, 3, 14 * 7, 14 * 5)
    expected = reference(state, backbone.normalise(images), registers=False, antialias=positions == "antialias")
    torch.testing.assert_close(dense(backbone, images), expected[:, 1:], rtol=1e-4, atol=1e-4)


def test_gated_mlps_in_chunked_blocks_are_what_their_code_computes(monkeypatch, tmp_path):
    """Franca, and DINOv2's ViT-g."""
    hidden = (int(4 * WIDTH * 2 / 3) + 7) // 8 * 8
    entry(
        monkeypatch,
        timm="vit_giant_patch14_dinov2",
        mlp_ratio=2 * hidden / WIDTH,
        file=Published(entry="teacher?", prefix="**", others=True, layout="dinov2", drop=("mask_token",)),
    )
    state = fill(dinov2(WIDTH, DEPTH, GRID, gated=True, chunks=2), "cpu")
    torch.save(
        {"teacher": prefixed("module.backbone.", state) | {"module.ibot_head.w": torch.ones(1)}}, tmp_path / "w.pth"
    )
    backbone = load_model("tiny_vits14", tmp_path / "w.pth")
    images = torch.rand(1, 3, 56, 56)
    expected = reference(state, backbone.normalise(images), registers=False)
    torch.testing.assert_close(dense(backbone, images), expected[:, 1:], rtol=1e-4, atol=1e-4)


def test_a_file_of_another_grid_keeps_its_grid(monkeypatch, tmp_path):
    entry(monkeypatch)
    state = fill(dinov2(WIDTH, DEPTH, 6), "cpu")
    torch.save(state, tmp_path / "w.pth")
    backbone = load_model("tiny_vits14", tmp_path / "w.pth")
    images = torch.rand(1, 3, 84, 84)
    expected = reference(state, backbone.normalise(images), registers=False)
    torch.testing.assert_close(dense(backbone, images), expected[:, 1:], rtol=1e-4, atol=1e-4)


def test_a_converted_file_needs_no_rules(monkeypatch, tmp_path):
    """A file whose keys are the architecture's own is loaded as it is, whatever the entry's rules."""
    entry(monkeypatch, timm="vit_small_patch14_reg4_dinov2", prefix=5)
    torch.save(fill(dinov2(WIDTH, DEPTH, GRID, registers=4), "cpu"), tmp_path / "w.pth")
    backbone = load_model("tiny_vits14", tmp_path / "w.pth")
    save_file({k: v.clone() for k, v in backbone.net.state_dict().items()}, tmp_path / "w.safetensors")
    assert load_model("tiny_vits14", tmp_path / "w.safetensors").weights_digest() == backbone.weights_digest()


def test_half_precision_files_become_float32(monkeypatch, tmp_path):
    entry(monkeypatch)
    torch.save({k: v.half() for k, v in fill(dinov2(WIDTH, DEPTH, GRID), "cpu").items()}, tmp_path / "w.pth")
    assert {v.dtype for v in load_model("tiny_vits14", tmp_path / "w.pth").state_dict().values()} == {torch.float32}


# positions


def bicubic(signal, factor, n):
    """Sample a signal at the n points that a scale factor puts down, by Keys' kernel with a = -0.75, ends repeated."""
    out = np.zeros((n, *signal.shape[1:]))
    for i in range(n):
        at = (i + 0.5) / factor - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            d, a = abs(at - j), -0.75
            weight = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)
            out[i] += weight * signal[min(max(j, 0), len(signal) - 1)]
    return out


def test_offset_places_its_samples_by_the_factor():
    positions = torch.randn(1, 1 + 16, 5, generator=torch.Generator().manual_seed(0))
    got = resample(positions, (7, 3), 1)
    square = positions[0, 1:].reshape(4, 4, 5).double().numpy()
    rows = bicubic(square, 7.1 / 4, 7)
    both = bicubic(rows.transpose(1, 0, 2), 3.1 / 4, 3).transpose(1, 0, 2)
    torch.testing.assert_close(got[0, 1:], torch.tensor(both).reshape(21, 5).float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(got[:, 0], positions[:, 0])
    assert resample(positions, (4, 4), 1) is positions


def test_the_rule_is_part_of_the_digest_and_of_the_features():
    images = torch.rand(1, 3, 96, 96)
    offset, antialias = (load_model(f"dino_vits16?random=1{rule}") for rule in ("", "&pos=antialias"))
    assert offset.weights_digest() != antialias.weights_digest()
    assert offset.weights_digest() == load_model("dino_vits16?random=1&pos=offset").weights_digest()
    assert FeatureSource(offset).weights_digest == offset.weights_digest()  # which features and scores are filed under
    assert not torch.allclose(offset.dense(images).maps[0], antialias.dense(images).maps[0], atol=1e-4)
    native = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(offset.dense(native).maps, antialias.dense(native).maps)


def test_offset_means_nothing_without_learned_positions():
    net = create("vit_small_patch16_dinov3", depth=1, embed_dim=48, num_heads=3)
    with pytest.raises(UsageError, match=r"no learned positions on a grid"):
        OffsetBackbone(net, "dinov3")


# files


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_with_code_is_refused_and_no_code_runs(nested, tmp_path):
    evil = Evil(tmp_path / "ran")
    file = tmp_path / "w.pth"
    torch.save({"teacher": fill(dino(8, 1, 16, 2), "cpu"), "x": evil} if nested else evil, file)
    with pytest.raises(ModelError, match=r"w\.pth holds a [\w.]*mkdir, which runs code of its own"):
        read(file)
    file.write_bytes(pickle.dumps(evil))
    with pytest.raises(ModelError, match=r"runs code of its own"):
        read(file)
    assert not (tmp_path / "ran").exists()


def test_arguments_of_a_training_script_are_harmless(tmp_path):
    torch.save({"teacher": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "w.pth")
    assert read(tmp_path / "w.pth")["args"].lr == 1e-3


@pytest.mark.parametrize("written_by", ["numpy 2", "numpy 1"])
def test_a_checkpoint_of_dinos_training_code_is_read(written_by, tmp_path):
    """With its optimiser, whose rates are numpy's: so are the files of CrOC, CrIBo and SelfPatch."""
    state = fill(dino(8, 1, 16, 2), "cpu")
    whole = {"teacher": state, "optimizer": optimiser(state), "args": argparse.Namespace(lr=1e-3), "epoch": 3}
    torch.save(whole, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    names = {"numpy 1": b"numpy.core.multiarray", "numpy 2": b"numpy._core.multiarray"}
    saved = (tmp_path / "w.pth").read_bytes()
    assert any(name in saved for name in names.values())
    for name in names.values():
        saved = saved.replace(name, names[written_by])
    (tmp_path / "w.pth").write_bytes(saved)
    found = read(tmp_path / "w.pth")
    assert found["optimizer"]["param_groups"][0]["lr"] == 5e-4
    assert torch.equal(found["teacher"]["pos_embed"], state["pos_embed"])


def test_an_array_of_objects_is_no_way_in(tmp_path):
    torch.save({"teacher": {}, "x": np.array([Evil(tmp_path / "ran")], dtype=object)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"runs code of its own"):
        read(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 3, 40, 700])
@pytest.mark.parametrize("suffix", ["safetensors", "pth", "old"])
def test_a_truncated_file_is_one_clear_line(suffix, keep, tmp_path):
    file = tmp_path / f"w.{suffix}"
    state = fill(dino(8, 1, 16, 2), "cpu")
    if suffix == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=suffix == "pth")
    read(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        ModelError, match=r"w\.\w+ is not a readable checkpoint \(.*\)\. Was the download cut short\?"
    ) as info:
        read(file)
    assert "\n" not in str(info.value)


def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path):
    file = tmp_path / "w.pth"
    with pytest.raises(ModelError, match="do not exist"):
        read(file)
    file.write_text("\n<!DOCTYPE html><html>Quota exceeded")
    with pytest.raises(ModelError, match="is a web page, not the weights"):
        read(file)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    with pytest.raises(ModelError, match="pointer of Git LFS"):
        read(file)
    file.write_text("hello")
    with pytest.raises(ModelError, match=r"checkpoint \(neither safetensors nor a file of torch\.save\)"):
        read(file)
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with pytest.raises(ModelError, match=r"w\.npz is an archive of a\.npy; unpack it"):
        read(tmp_path / "w.npz")
    with pytest.raises(ModelError, match="are a folder; give the file in it"):
        read(tmp_path)


def test_a_file_that_may_not_be_read_is_one_clear_line(tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    file.write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "open", refuse)
    with pytest.raises(ModelError, match=r"w\.pth cannot be read \(Permission denied\)"):
        read(file)


# rules


def test_entries_and_prefixes_that_are_not_there_are_named():
    state = fill(dino(8, 1, 16, 2))
    with pytest.raises(ModelError, match="has no entry 'teacher'; it holds student, epoch"):
        arrange({"student": state, "epoch": 3}, Published(entry="teacher"), "f")
    with pytest.raises(ModelError, match="holds no dict of tensors, but student, epoch"):
        arrange({"student": state, "epoch": 3}, Published(), "f")
    with pytest.raises(ModelError, match="but a Tensor"):
        arrange(torch.ones(1), Published(entry="teacher?"), "f")
    with pytest.raises(ModelError, match=r"no key in f begins with 'module\.'; it holds pos_embed, .*, \.\.\."):
        arrange(state, Published(prefix="module."), "f")
    with pytest.raises(ModelError, match=r"2 prefixes \(a\., b\.\) before"):
        arrange(prefixed("a.", state) | prefixed("b.", state), Published(prefix="**", others=True), "f")
    with pytest.raises(ModelError, match="nothing before"):
        arrange(prefixed("a.b.", state), Published(prefix="*."), "f")


def test_other_modules_are_left_out_only_where_the_entry_says_so():
    state = fill(dino(8, 1, 16, 2))
    file = prefixed("module.backbone.", state) | fill({"head.weight": (2, 2)})
    with pytest.raises(ModelError, match=r"1 keys without the prefix 'module\.backbone\.' \(head\.weight\)"):
        arrange(file, Published(prefix="**backbone."), "f")
    found, left_out = arrange(file, Published(prefix="**backbone.", others=True, drop=("mask*",)), "f")
    assert found.keys() == state.keys()
    assert left_out == ["head.weight"]
    _, left_out = arrange(file, Published(prefix="*.*.", others=True, drop=("norm.*",)), "f")
    assert left_out == ["head.weight", "module.backbone.norm.weight", "module.backbone.norm.bias"]


def test_a_misfit_loads_nothing():
    net = torch.nn.Linear(2, 2)
    before = net.weight.clone()
    with pytest.raises(ModelError, match=r"f does not hold the weights of n: of 2 expected keys, 1 missing \(bias\)"):
        fit(net, {"weight": torch.zeros(2, 2)}, "n", "f")
    assert torch.equal(net.weight, before)


def test_weights_that_were_quantised_are_refused():
    with pytest.raises(ModelError, match=r"1 quantised \(weight int8\)"):
        fit(torch.nn.Linear(2, 2, bias=False), {"weight": torch.ones(2, 2, dtype=torch.int8)}, "n", "f")


def test_grids_are_read_from_square_positions_only():
    assert grid_of({"pos_embed": torch.empty(1, 17, 3)}, 1) == 4
    assert grid_of({"pos_embed": torch.empty(1, 17, 3)}, 0) is None
    assert grid_of({}, 1) is None


def test_a_published_base_trains_into_a_checkpoint_with_its_rule(monkeypatch, tmp_path):
    """From a file in the authors' layout to a trained student whose card says how positions are interpolated."""
    toy.register()
    entry(monkeypatch, positions="offset")
    monkeypatch.setenv("DENSEBENCH_WEIGHTS", str(tmp_path))
    torch.save(fill(dinov2(WIDTH, DEPTH, GRID), "cpu"), tmp_path / "tiny_vits14.pth")
    result = toy.run("mine", base="tiny_vits14", epochs=1, global_size=28, local_size=14, drop_path=0.1, weights="fp32")
    assert result.card["architecture"]["positions"] == "offset"
    assert result.card["base_digest"] == load_model("tiny_vits14").weights_digest()
    trained = load_model("mine")
    assert isinstance(trained, OffsetBackbone)
    assert trained.weights_digest() != load_model("mine?pos=antialias").weights_digest()
    assert trained.info.native_size == 14 * GRID


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1, 2], "w.pth holds a list; expected the tensors of timm/vit_tiny"),
        ({"state_dict": {"w": torch.ones(1)}}, "w.pth holds a dict of state_dict; expected the tensors"),
    ],
)
def test_what_a_file_of_weights_holds_instead_is_said(held, message, tmp_path):
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message):
        load_model("timm/vit_tiny_patch16_224", tmp_path / "w.pth")
