"""The open_clip adapter against a stand-in with open_clip's published attribute layout, and against open_clip."""

import json
import sys
import types

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from safetensors.torch import save_file
from torch import nn

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import FeatureKey
from densebench.model_zoo.catalog import ENTRIES
from densebench.model_zoo.conformance import check
from tests.model_zoo.one_pass import assert_one_pass

WIDTH, HEADS, DEPTH, PATCH, SIZE = 24, 3, 2, 8, 32
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


class Attention(nn.Module):
    """open_clip's own: one projection for queries, keys and values, in that order, as in nn.MultiheadAttention."""

    def __init__(self):
        super().__init__()
        self.num_heads = HEADS
        self.in_proj_weight = nn.Parameter(torch.randn(3 * WIDTH, WIDTH) / 4)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * WIDTH))
        self.ln_q, self.ln_k, self.logit_scale = nn.Identity(), nn.Identity(), None
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (
            F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x, attn_mask=None):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class SequenceFirst(nn.Module):
    """The layout of older versions: (N, B, D) between the blocks."""

    def __init__(self, block):
        super().__init__()
        self.block = block
        self.attn, self.ln_1 = block.attn, block.ln_1

    def forward(self, x):
        return self.block(x.transpose(0, 1)).transpose(0, 1)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.proj = nn.Parameter(torch.randn(WIDTH, 8))
        self.grid_size = (SIZE // PATCH, SIZE // PATCH)
        self.preprocess_cfg = {"size": (SIZE, SIZE), "mean": MEAN, "std": STD, "interpolation": "bicubic"}

    def reference(self, pixels):
        """Tokens after ln_post, as VisionTransformer._embeds, .transformer and ._pool give them."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_post(x)


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Tower()
        self.text = nn.Linear(2, 2)


@pytest.fixture
def library(monkeypatch):
    module = types.ModuleType("open_clip")
    module.asked = []

    def create_model(arch, pretrained=None, device="cpu", precision="fp32", **more):
        module.asked.append((arch, pretrained))
        module.more = more
        if pretrained is not None:
            torch.manual_seed(len(pretrained))
        return Clip().eval()

    module.create_model = create_model
    module.list_models = lambda: ["ViT-B-16", "ViT-L-14", "coca_ViT-B-32"]
    module.list_pretrained_tags_by_model = lambda arch: ["laion2b_s34b_b88k", "openai"] if arch == "ViT-B-16" else []
    module.vision = {"layers": DEPTH, "width": WIDTH}
    module.get_model_config = lambda arch: {"embed_dim": 8, "vision_cfg": module.vision, "text_cfg": {}}
    module.get_pretrained_cfg = lambda arch, tag: (
        {"mean": (0.5, 0.5, 0.5), "std": STD, "quick_gelu": True} if tag == "openai" else {"mean": MEAN, "std": STD}
    )
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return module


def test_tokens_facets_and_layers_are_the_towers_own(library):
    backbone = load_model("open_clip/ViT-B-16:laion2b_s34b_b88k")
    assert library.asked == [("ViT-B-16", "laion2b_s34b_b88k")]
    info = backbone.info
    assert (info.patch, info.width, info.depth, info.heads, info.prefix, info.native_size) == (8, 24, 2, 3, 1, 32)
    assert (info.mean, info.std, info.interpolation) == (MEAN, STD, "bicubic")
    images = torch.rand(2, 3, SIZE, SIZE)
    pixels = backbone.normalise(images)
    expected = backbone.tower.reference(pixels)
    found = backbone.dense(images, [FeatureKey(0), FeatureKey()])
    torch.testing.assert_close(found.maps[1].flatten(2).transpose(1, 2), expected[:, 1:])
    torch.testing.assert_close(found.class_tokens[1], expected[:, 0])
    raw = backbone.dense(images, [FeatureKey(norm=False)]).maps[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(backbone.tower.ln_post(raw), expected[:, 1:])

    seen = {}
    block = backbone.tower.transformer.resblocks[1]
    handle = block.attn.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    backbone.tower.reference(pixels)
    handle.remove()
    q, k, v = F.linear(seen["x"], block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    for facet, want in (("query", q), ("key", k), ("value", v)):
        (maps,) = backbone.dense(images, [FeatureKey(facet=facet)]).maps
        torch.testing.assert_close(maps.flatten(2).transpose(1, 2), want[:, 1:])
    q, k = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k))
    torch.testing.assert_close(next(backbone.attentions(images, [1])), (q @ k.transpose(2, 3) / 8**0.5).softmax(-1))


def test_layers_facets_and_attention_come_from_one_forward_pass(library):
    backbone = load_model("open_clip/ViT-B-16:openai")
    calls, images = [], torch.rand(2, 3, SIZE, SIZE)
    backbone.tower.conv1.register_forward_hook(lambda *_: calls.append(1))
    assert_one_pass(backbone, images, calls)


def test_it_keeps_the_contract(library):
    assert not [f for f in check(load_model("open_clip/ViT-B-16:openai")) if f.outcome == "failed"]


def test_other_grids_resize_positions_antialiased(library):
    backbone = load_model("open_clip/ViT-B-16:openai")
    tower = backbone.tower
    images = torch.rand(1, 3, 48, 24)
    own = tower.positional_embedding.data
    square = own[1:].reshape(1, 4, 4, WIDTH).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(6, 3), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(18, WIDTH)
    got = backbone.dense(images).maps[0]
    tower.positional_embedding = nn.Parameter(torch.cat([own[:1], resized]))
    expected = tower.reference(backbone.normalise(images))[:, 1:]
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), expected)


def test_the_sequence_first_layout_gives_the_same(library):
    backbone = load_model("open_clip/ViT-B-16:openai")
    images = torch.rand(2, 3, SIZE, SIZE)
    expected = backbone.dense(images).maps[0]
    transformer = backbone.tower.transformer
    transformer.resblocks = nn.ModuleList(SequenceFirst(block) for block in transformer.resblocks)
    transformer.batch_first = False
    torch.testing.assert_close(backbone.dense(images).maps[0], expected)


def test_names_without_weights_say_which_there_are(library):
    with pytest.raises(UsageError, match="did you mean 'open_clip/ViT-B-16'"):
        load_model("open_clip/ViT-B-17:openai")
    with pytest.raises(UsageError, match="there are open_clip/ViT-B-16:laion2b_s34b_b88k, open_clip/ViT-B-16:openai"):
        load_model("open_clip/ViT-B-16")
    with pytest.raises(UsageError, match="there are none"):
        load_model("open_clip/ViT-L-14:openai")


def test_random_weights_and_local_files(library, tmp_path):
    one, again = (load_model("open_clip/ViT-B-16?random=5") for _ in range(2))
    assert one.weights_digest() == again.weights_digest() != load_model("open_clip/ViT-B-16?random=6").weights_digest()
    whole = {f"visual.{k}": v.contiguous() for k, v in one.tower.state_dict().items()}
    save_file({**whole, "text.weight": torch.ones(2, 2)}, tmp_path / "clip.safetensors")
    loaded = load_model("open_clip/ViT-B-16", tmp_path / "clip.safetensors")
    assert loaded.weights_digest() == one.weights_digest()
    whole.pop("visual.ln_post.bias")
    save_file(whole, tmp_path / "clip.safetensors")
    with pytest.raises(ModelError, match=r"1 missing \(ln_post\.bias\)"):
        load_model("open_clip/ViT-B-16", tmp_path / "clip.safetensors")
    assert {asked[1] for asked in library.asked} == {None}


def test_a_tag_brings_its_activation_and_its_preprocessing(library, tmp_path):
    load_model("open_clip/ViT-B-16:laion2b_s34b_b88k")
    assert library.more == {}
    fetched = load_model("open_clip/ViT-B-16:openai")
    assert library.more == {"force_quick_gelu": True}
    save_file({k: v.contiguous() for k, v in fetched.tower.state_dict().items()}, tmp_path / "tower.safetensors")
    local = load_model("open_clip/ViT-B-16:openai", tmp_path / "tower.safetensors")
    assert library.asked[-1] == ("ViT-B-16", None)
    assert library.more["force_quick_gelu"]
    assert local.info.mean == fetched.info.mean == (0.5, 0.5, 0.5)
    assert load_model("open_clip/ViT-B-16?random").info.mean == MEAN
    with pytest.raises(UsageError, match=r"names no weights of ViT-B-16"):
        load_model("open_clip/ViT-B-16:opnai?random")


def test_towers_that_are_not_its_own_vit_are_refused(library):
    for vision, message in (
        ({"timm_model_name": "vit_x"}, r"is timm's vit_x\. Ask for timm/vit_x"),
        ({"layers": [3, 4, 6, 3]}, "is a ResNet"),
        ({"layers": 12, "attentional_pool": True}, "pools by attention"),
    ):
        library.vision = vision
        with pytest.raises(ModelError, match=message):
            load_model("open_clip/ViT-B-16:openai")
    assert not library.asked  # nothing was fetched


def test_towers_of_another_layout_are_refused(library, monkeypatch):
    class OtherClip(nn.Module):
        visual = nn.Linear(2, 2)
        visual.preprocess_cfg = {"mean": MEAN, "std": STD, "size": 32}

    monkeypatch.setattr(library, "create_model", lambda *_, **__: OtherClip())
    with pytest.raises(ModelError, match=r"no `conv1`: it is not open_clip's own ViT"):
        load_model("open_clip/ViT-B-16:openai")


def test_the_hub_is_asked_for_where_the_tag_lies(library, monkeypatch):
    asked = []
    monkeypatch.setattr("densebench.model_zoo.adapters.open_clip.ask_hub", lambda *what: asked.append(what[1]))
    for place in ("laion/CLIP/", "laion/CLIP/pytorch_model.bin"):
        monkeypatch.setattr(
            library, "get_pretrained_cfg", lambda *_, at=place: {"mean": MEAN, "std": STD, "hf_hub": at}
        )
        load_model("open_clip/ViT-B-16:openai")
    assert asked == ["laion/CLIP"] * 2
    load_model("open_clip/ViT-B-16:openai?random")
    assert len(asked) == 2


def test_what_cannot_be_fetched_is_an_error(library, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(library, "create_model", fail)
    with pytest.raises(ModelError, match=r"could not be fetched \(no route to host\)"):
        load_model("open_clip/ViT-B-16:openai")


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModelError, match=r"pip install 'densebench\[open-clip\]'"):
        load_model("open_clip/ViT-B-16:openai")
    assert "openclip_vitb16" in ENTRIES  # through timm, without the package


TINY = {"image_size": 64, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16}
VARIANTS = {
    "plain": TINY,
    "scaled": {**TINY, "ls_init_value": 0.5},
    "mean-then-norm": {**TINY, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},  # CLIPA
    "sines": {**TINY, "pos_embed_type": "sin_cos_2d"},
    "normed-keys": {**TINY, "qk_norm": True},
    "oblong": {**TINY, "image_size": [64, 96]},
}


@pytest.fixture
def tiny(tmp_path):
    """Make small architectures known to open_clip: densebench-NAME for each variant."""
    text = {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1}
    for name, vision in VARIANTS.items():
        config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
        (tmp_path / f"densebench-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", VARIANTS)
def test_the_packages_own_towers_give_the_same(name):
    backbone = load_model(f"open_clip/densebench-{name}?random=1")
    tower, info = backbone.tower, backbone.info
    own = tower.positional_embedding
    tower.output_tokens = True
    flat = lambda maps: maps.flatten(2).transpose(1, 2)  # noqa: E731
    native = tower.grid_size
    facet_keys = [FeatureKey(facet=facet) for facet in ("query", "key", "value")]
    for grid in (native, (3, 5)) if name != "oblong" else (native,):
        images = torch.rand(2, 3, *(16 * side for side in grid))
        pixels = backbone.normalise(images)
        with torch.inference_mode():
            found = backbone.dense(images)
            every = backbone.dense(images, [FeatureKey(layer, norm=False) for layer in range(3)])
            facets = [flat(x) for x in backbone.dense(images, facet_keys).maps]
            attention = next(backbone.attentions(images, [2])) if info.attention else None
        state = {"visual.positional_embedding": own.detach().clone()}
        tower.grid_size = grid
        if grid != native:
            resize_pos_embed(state, types.SimpleNamespace(visual=tower))
        tower.positional_embedding = nn.Parameter(state["visual.positional_embedding"])
        seen, last = {}, tower.transformer.resblocks[-1]
        handle = last.ln_1.register_forward_hook(lambda _, __, x, seen=seen: seen.update(x=x))
        with torch.inference_mode():
            pooled, tokens = tower(pixels)
            handle.remove()
            inside = tower.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
            projected = F.linear(seen["x"], last.attn.in_proj_weight, last.attn.in_proj_bias).chunk(3, dim=-1)
            torch.testing.assert_close(flat(found.maps[0]), tokens)
            if tower.pool_type == "tok":
                torch.testing.assert_close(found.class_tokens[0] @ tower.proj, pooled)
            for maps, expected in zip(every.maps, inside["image_intermediates"], strict=True):
                torch.testing.assert_close(flat(maps), expected)
            for got, expected in zip(facets, projected, strict=True):
                torch.testing.assert_close(got, expected[:, 1:])
            if attention is None:
                assert name == "normed-keys"
            else:
                expected = last.attn(*[seen["x"]] * 3, need_weights=True, average_attn_weights=False)[1]
                torch.testing.assert_close(attention, expected)
        tower.positional_embedding, tower.grid_size = own, native
    assert not [f for f in check(backbone) if f.outcome == "failed"]


def test_tags_of_real_architectures_keep_their_activation():
    kinds = {
        type(load_model(f"open_clip/{name}?random").tower.transformer.resblocks[0].mlp.gelu)
        for name in ("ViT-B-32:openai", "ViT-B-32-quickgelu:openai", "ViT-B-32-quickgelu")
    }
    assert [kind.__name__ for kind in kinds] == ["QuickGELU"]
    plain = load_model("open_clip/ViT-B-32:laion2b_s34b_b79k?random").tower
    assert isinstance(plain.transformer.resblocks[0].mlp.gelu, nn.GELU)


def test_real_architectures_that_are_not_its_own_are_refused_by_name():
    for name, message in (
        ("ViT-B-16-SigLIP:webli", "Ask for timm/vit_base_patch16_siglip_224"),
        ("coca_ViT-B-32", "pools by attention"),
        ("RN50:openai", "is a ResNet"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(f"open_clip/{name}" + ("" if ":" in name else "?random"))
    assert load_model("open_clip/xlm-roberta-base-ViT-B-32?random").info.width == 768  # its text tower is not fetched
