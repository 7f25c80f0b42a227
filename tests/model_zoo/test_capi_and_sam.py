"""The two encoders of the catalogue that are no plain ViT of timm."""

import pytest
import torch
import torch.nn.functional as F

from densebench.core.errors import ModelError
from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.capi import CapiBackbone, _edge, random_capi
from densebench.model_zoo.adapters.sam import SamBackbone
from densebench.model_zoo.backbone import FACETS, FeatureKey
from densebench.model_zoo.conformance import check

SIZES = {"width": 32, "depth": 2, "heads": 2}


def tiny():
    return CapiBackbone(random_capi(3, **SIZES), "capi").eval()


def rms(x, weight=1.0):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def test_capi_is_what_its_equations_give():
    backbone = tiny()
    images = torch.rand(2, 3, 42, 28)
    state, pixels = backbone.net.state_dict(), backbone.normalise(images)
    x = F.conv2d(pixels, state["patch_embed.weight"], state["patch_embed.bias"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["registers"].expand(2, -1, -1), x], dim=1)
    side = [0, 0.25, 0.5, 0.75]
    edge = [(s, 0) for s in side] + [(1, s) for s in side] + [(1 - s, 1) for s in side] + [(0, 1 - s) for s in side]
    places = torch.tensor([*edge, *((r / 2, c) for r in range(3) for c in range(2))], dtype=torch.float32)
    for i in range(2):
        block = f"encoder.blocks.{i}.residual"
        w = {k: state[f"{block}1.fn.{k}.weight"] for k in ("q_proj", "k_proj", "v_proj", "proj")}
        angle = places @ state[f"{block}1.fn.rope.freqs"]
        y = rms(x, state[f"{block}1.norm.weight"])
        q, k, v = ((y @ w[name].T).unflatten(2, (2, 16)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj"))
        q, k = (z * angle.cos() + torch.cat([-z[..., 8:], z[..., :8]], dim=-1) * angle.sin() for z in (q, k))
        attention = (q @ k.transpose(2, 3) / 4).softmax(-1)
        torch.testing.assert_close(next(backbone.attentions(images, [i])), attention, rtol=1e-4, atol=1e-5)
        x = x + (attention @ v).transpose(1, 2).flatten(2) @ w["proj"].T
        y = rms(x, state[f"{block}2.norm.weight"]) @ state[f"{block}2.fn.fc1.weight"].T
        x = x + F.gelu(y) @ state[f"{block}2.fn.fc2.weight"].T
    got = backbone.dense(images).maps[0]
    assert got.shape == (2, 32, 3, 2)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), rms(x)[:, 16:], rtol=1e-4, atol=1e-4)
    (raw,) = backbone.dense(images, [FeatureKey(norm=False)]).maps
    torch.testing.assert_close(raw.flatten(2).transpose(1, 2), x[:, 16:], rtol=1e-4, atol=1e-4)
    assert backbone.dense(images).class_tokens == (None,)


def test_capi_registers_sit_on_the_edge_once_each():
    edge = _edge(16)
    assert len({tuple(place) for place in edge.tolist()}) == 16
    assert bool(((edge == 0) | (edge == 1)).any(dim=1).all())


def test_capi_facets_layers_and_seeds():
    backbone, images = tiny(), torch.rand(1, 3, 28, 28)
    first, last = backbone.dense(images, [FeatureKey(0, "key"), FeatureKey(facet="key")]).maps
    assert first.shape == last.shape == (1, 32, 2, 2)
    assert not torch.equal(first, last)
    assert not [f for f in check(backbone) if f.outcome == "failed"]
    assert tiny().weights_digest() == backbone.weights_digest()
    assert CapiBackbone(random_capi(4, **SIZES), "capi").weights_digest() != backbone.weights_digest()


def test_capi_gives_layers_facets_and_attention_of_one_forward_pass():
    backbone, images, calls = tiny(), torch.rand(2, 3, 28, 42), []
    backbone.net.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    assert_one_pass(backbone, images, calls)
    calls.clear()
    attentions = list(backbone.attentions(images, [-1, 0, 1]))
    assert len(calls) == 1
    assert torch.equal(attentions[0], attentions[2])
    assert torch.equal(attentions[1], next(backbone.attentions(images, [0])))


def assert_one_pass(backbone, images, calls):
    """All keys come from one forward pass, which `calls` counts, and each is what it is alone."""
    keys = [
        *(FeatureKey(layer, facet) for facet in FACETS for layer in (1, 0)),
        FeatureKey(1, norm=False),
        FeatureKey(0, "key"),
    ]
    found = backbone.dense(images, keys).maps
    assert len(calls) == 1
    for key, maps in zip(keys, found, strict=True):
        assert torch.equal(maps, backbone.dense(images, [key]).maps[0]), key


def tiny_sam():
    import timm

    net = timm.create_model(
        "samvit_base_patch16", num_classes=0, embed_dim=48, depth=2, num_heads=3, img_size=64, window_size=2,
        global_attn_indexes=(1,),
    ).eval()  # fmt: skip
    return net, SamBackbone(net, "sam")


def test_sam_gives_the_outputs_of_its_blocks():
    net, backbone = tiny_sam()
    images = torch.rand(2, 3, 96, 64)  # another grid than 4 x 4, and windows that do not divide it
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append(out))
    maps = backbone.dense(images, [FeatureKey(0), FeatureKey()]).maps
    for got, out in zip(maps, seen, strict=True):
        torch.testing.assert_close(got, out.permute(0, 3, 1, 2))
    assert maps[1].shape == (2, 48, 6, 4)
    assert not [f for f in check(backbone) if f.outcome == "failed"]


def test_sam_gives_keys_of_patches_whatever_their_windows():
    net, backbone = tiny_sam()
    images, calls, seen = torch.rand(2, 3, 80, 48), [], {}  # 5 x 3 patches: windows of 2 x 2 are padded
    net.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    assert_one_pass(backbone, images, calls)
    for index, block in enumerate(net.blocks):
        block.attn.qkv.register_forward_hook(lambda _, args, out, index=index: seen.update({index: out}))
    values = backbone.dense(images, [FeatureKey(0, "value"), FeatureKey(1, "value")]).maps
    whole = seen[1].unflatten(1, (5, 3))[..., 96:].permute(0, 3, 1, 2)  # attends to all patches
    torch.testing.assert_close(values[1], whole)
    windows = seen[0].unflatten(1, (2, 2)).unflatten(0, (2, 3, 2))[..., 96:]  # (B, rows, columns, 2, 2, D)
    padded = windows.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    torch.testing.assert_close(values[0], padded[:, :, :5, :3])


def test_sam_says_why_it_gives_no_attention():
    _, backbone = tiny_sam()
    assert backbone.info.attention is False
    assert not backbone.has_attention
    with pytest.raises(ModelError, match="within windows, padded at the border"):
        next(backbone.attentions(torch.rand(1, 3, 64, 64), [0]))


def test_sam_of_the_catalogue_is_built_by_its_adapter():
    with torch.device("meta"):
        backbone = load_model("sam_vitb16?random")
    assert isinstance(backbone, SamBackbone)
    assert (backbone.info.patch, backbone.info.prefix, backbone.info.native_size) == (16, 0, 1024)
    assert backbone.info.mean == (0.485, 0.456, 0.406)
