"""Files of the authors of models that timm has: features are what their equations give, written down without timm."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from densebench.core.errors import ModelError
from densebench.model_zoo import load_model
from densebench.model_zoo.catalog import ENTRIES
from tests.model_zoo.layouts import clip, dino, dinov3, fill, linear, radio, sam

WIDTH, DEPTH, HEADS, GRID = 48, 2, 3, 4


def loaded(monkeypatch, tmp_path, like, timm, state, **kwargs):
    """Load a file as an entry of the catalogue, at the size of a toy."""
    return load_tiny(monkeypatch, tmp_path, like, timm, 16 * GRID, state, img_size=16 * GRID, **kwargs)


def load_tiny(monkeypatch, tmp_path, like, timm, size, state, **kwargs):
    kwargs |= {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    net = dataclasses.replace(ENTRIES[like].architecture, timm=timm, native_size=size, kwargs=kwargs)
    monkeypatch.setitem(ENTRIES, "tiny", dataclasses.replace(ENTRIES[like], name="tiny", architecture=net))
    torch.save(state, tmp_path / "w.pth")
    return load_model("tiny", tmp_path / "w.pth")


def parts(state, eps):
    """Return the layers of a state dict as functions of their input and name."""
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)  # noqa: E731
    lin = lambda x, name: F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731
    return norm, lin


def split(x):
    return x.unflatten(-1, (3, HEADS, -1)).movedim(-3, 0).transpose(-2, -3)  # (3, ..., heads, N, d)


def same(backbone, images, expected, prefix):
    got = backbone.dense(images).maps[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(got, expected[:, prefix:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quick", [False, True])
def test_clip(quick, monkeypatch, tmp_path):
    """One norm before the blocks, no bias of the patches, and OpenAI's activation x * sigmoid(1.702 x)."""
    state = fill(clip(WIDTH, DEPTH, 16, GRID, 4 * WIDTH), "cpu")
    name = f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224"
    backbone = loaded(monkeypatch, tmp_path, "clip_vitb16", name, state)
    images = torch.rand(2, 3, 64, 64)
    norm, lin = parts(state, 1e-5)
    pixels = backbone.normalise(images)
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), x], dim=1) + state["visual.positional_embedding"]
    x = norm(x, "visual.ln_pre")
    for i in range(DEPTH):
        block = f"visual.transformer.resblocks.{i}"
        weight, bias = state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"]
        q, k, v = split(F.linear(norm(x, f"{block}.ln_1"), weight, bias))
        y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + lin(y.transpose(1, 2).flatten(2), f"{block}.attn.out_proj")
        y = lin(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        y = y * torch.sigmoid(1.702 * y) if quick else F.gelu(y)
        x = x + lin(y, f"{block}.mlp.c_proj")
    same(backbone, images, norm(x, "visual.ln_post"), 1)
    assert sorted(backbone.info.notes["left out"]) == ["head.bias", "head.weight"]


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3(gated, monkeypatch, tmp_path):
    """Patches are rotated by the angles of their centres, in [-1, 1] along each axis; class token and registers not."""
    state = fill(dinov3(WIDTH, DEPTH, HEADS, gated), "cpu")
    for key in [key for key in state if key.endswith(("qkv.bias", "bias_mask"))]:
        state[key] = torch.zeros_like(state[key])
    name = f"vit_{'huge_plus' if gated else 'base'}_patch16_dinov3"
    backbone = loaded(monkeypatch, tmp_path, "dinov3_vitb16", name, state)
    images = torch.rand(2, 3, 96, 64)
    norm, lin = parts(state, 1e-5)
    x = F.conv2d(backbone.normalise(images), *(state[f"patch_embed.proj.{k}"] for k in ("weight", "bias")), stride=16)
    rows, columns = x.shape[2:]
    first = torch.cat([state["cls_token"], state["storage_tokens"]], dim=1).expand(2, -1, -1)
    x = torch.cat([first, x.flatten(2).transpose(1, 2)], dim=1)
    places = torch.cartesian_prod(*(2 * (torch.arange(n) + 0.5) / n - 1 for n in (rows, columns)))
    quarter = WIDTH // HEADS // 4
    periods = 100 ** (torch.arange(quarter) / quarter)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    still = torch.zeros(5, angles.shape[1])
    angles = torch.cat([still, angles])

    def turn(z):
        low, high = z.chunk(2, dim=-1)
        return z * angles.cos() + torch.cat([-high, low], dim=-1) * angles.sin()

    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = split(F.linear(norm(x, f"{block}.norm1"), state[f"{block}.attn.qkv.weight"]))
        y = (turn(q) @ turn(k).mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + state[f"{block}.ls1.gamma"] * lin(y.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        y = norm(x, f"{block}.norm2")
        if gated:
            y = lin(F.silu(lin(y, f"{block}.mlp.w1")) * lin(y, f"{block}.mlp.w2"), f"{block}.mlp.w3")
        else:
            y = lin(F.gelu(lin(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + state[f"{block}.ls2.gamma"] * y
    same(backbone, images, norm(x, "norm"), 5)
    assert "mask_token" not in str(backbone.net.state_dict().keys())


def test_sam(monkeypatch, tmp_path):
    """Windows of 3 x 3 over 4 x 4 patches, padded by zeros; scores take the query's product with relative positions."""
    state = fill(sam(WIDTH, DEPTH, HEADS, GRID, 3, everywhere=(1,)), "cpu")
    backbone = loaded(
        monkeypatch, tmp_path, "sam_vitb16", "samvit_base_patch16", state, window_size=3, global_attn_indexes=(1,)
    )
    images = torch.rand(2, 3, 64, 64)
    own = {key.removeprefix("image_encoder."): value for key, value in state.items()}
    norm, lin = parts(own, 1e-6)
    x = F.conv2d(backbone.normalise(images), own["patch_embed.proj.weight"], own["patch_embed.proj.bias"], stride=16)
    x = x.permute(0, 2, 3, 1) + own["pos_embed"]

    def attend(y, block):  # (B, s, s, D)
        side = y.shape[1]
        q, k, v = split(lin(y.flatten(1, 2), f"{block}.attn.qkv"))
        away = torch.arange(side)[:, None] - torch.arange(side) + side - 1
        rows, columns = (own[f"{block}.attn.rel_pos_{axis}"][away] for axis in "hw")  # (s, s, d)
        grid = q.unflatten(2, (side, side))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).unflatten(3, (side, side)).unflatten(2, (side, side))
        scores = scores + torch.einsum("bhyxd,ykd->bhyxk", grid, rows)[..., None]
        scores = scores + torch.einsum("bhyxd,xkd->bhyxk", grid, columns)[..., None, :]
        out = scores.flatten(4).flatten(2, 3).softmax(-1) @ v
        return lin(out.transpose(1, 2).flatten(2), f"{block}.attn.proj").unflatten(1, (side, side))

    for i, block in enumerate(["blocks.0", "blocks.1"]):
        y = norm(x, f"{block}.norm1")
        if i == 0:
            y = F.pad(y, (0, 0, 0, 2, 0, 2))
            cut = [[attend(y[:, r : r + 3, c : c + 3], block) for c in (0, 3)] for r in (0, 3)]
            y = torch.cat([torch.cat(row, dim=2) for row in cut], dim=1)[:, :GRID, :GRID]
        else:
            y = attend(y, block)
        x = x + y
        x = x + lin(F.gelu(lin(norm(x, f"{block}.norm2"), f"{block}.mlp.lin1")), f"{block}.mlp.lin2")
    same(backbone, images, x.flatten(1, 2), 0)


@pytest.mark.parametrize("size", [(64, 64), (48, 112), (112, 48)])
def test_radio(size, monkeypatch, tmp_path):
    """Positions: bilinear from 128 x 128 to a square as wide as the longer side, corners on corners, then cut."""
    state = fill(radio(WIDTH, DEPTH, True), "cpu")
    own = {name.removeprefix("radio_model.model."): value for name, value in state.items()}
    backbone = load_tiny(monkeypatch, tmp_path, "radio_vitb16", "naflexvit_base_patch16_radio_v3", 512, state)
    assert "radio_model.summary_idxs" in backbone.info.notes["left out"]
    images = torch.rand(2, 3, *size)
    norm, lin = parts(own, 1e-6)
    h, w = (side // 16 for side in size)
    x = F.unfold(backbone.normalise(images), 16, stride=16).mT @ own["patch_generator.embedder.weight"].T
    places = own["patch_generator.pos_embed"].unflatten(1, (128, 128)).permute(0, 3, 1, 2)
    places = F.interpolate(places, (max(h, w),) * 2, mode="bilinear", align_corners=True)[:, :, :h, :w]
    first = own["patch_generator.cls_token.token"].expand(2, -1, -1)
    x = torch.cat([first, x + places.flatten(2).mT], dim=1)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = split(lin(norm(x, f"{block}.norm1"), f"{block}.attn.qkv"))
        y = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + lin(y, f"{block}.attn.proj") * own[f"{block}.ls1.grandma"]
        y = F.gelu(lin(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + lin(y, f"{block}.mlp.fc2") * own[f"{block}.ls2.grandma"]
    same(backbone, images, x, 8)


def test_a_classifier_is_left_out_and_said(monkeypatch, tmp_path):
    state = fill(dino(WIDTH, DEPTH, 16, GRID) | linear("head", 7, WIDTH), "cpu")
    backbone = loaded(monkeypatch, tmp_path, "deit_vits16", "deit_small_patch16_224", {"model": state})
    assert backbone.info.notes["left out"] == ["head.weight", "head.bias"]
    assert torch.equal(backbone.net.state_dict()["pos_embed"], state["pos_embed"])


def test_what_a_conversion_would_change_is_refused(monkeypatch, tmp_path):
    """A bias that timm's net has not, positions of another grid: timm goes on, we do not."""
    state = fill(dinov3(WIDTH, DEPTH, HEADS), "cpu")
    with pytest.raises(ModelError, match=r"unexpected \(blocks\.0\.attn\.qkv\.bias"):
        loaded(monkeypatch, tmp_path, "dinov3_vitb16", "vit_base_patch16_dinov3", state)
    state = fill(dino(WIDTH, DEPTH, 16, 6), "cpu")
    with pytest.raises(ModelError, match=r"1 of another shape \(pos_embed \(1, 37, 48\) for \(1, 17, 48\)"):
        loaded(monkeypatch, tmp_path, "mae_vitb16", "vit_base_patch16_224", state)
    state = fill(radio(WIDTH, DEPTH, True), "cpu")
    with pytest.raises(ModelError, match=r"33 missing .*; 34 unexpected \(radio_model\."):
        loaded(monkeypatch, tmp_path, "radio_vitb16", "vit_base_patch16_radio_v3", state)


def test_a_file_of_another_architecture_says_what_it_holds(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match=r"w\.pth holds a dict of encoder"):
        loaded(monkeypatch, tmp_path, "mae_vitb16", "vit_base_patch16_224", {"encoder": {"w": torch.ones(2)}, "x": 1})
    with pytest.raises(ModelError, match=r"w\.pth holds a list"):
        loaded(monkeypatch, tmp_path, "mae_vitb16", "vit_base_patch16_224", [1])
