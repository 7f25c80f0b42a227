"""The Hugging Face adapter against stand-ins with the module layout of transformers' ViTs, and against transformers."""

import json
import sys
import types
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import FeatureKey
from densebench.model_zoo.conformance import check
from tests.model_zoo.one_pass import assert_one_pass

WIDTH, HEADS, DEPTH, PATCH = 24, 3, 2, 8


def turned(x, angles):
    """Rotate the last tokens of x (B, heads, N, d) by angles (n, d / 2), channels c and c + d / 2 being one number."""
    parts = x.unflatten(3, (2, -1))
    numbers = torch.complex(parts[..., 0, :], parts[..., 1, :])
    full = torch.cat([torch.zeros(x.shape[2] - len(angles), angles.shape[1]), angles])
    numbers = numbers * torch.polar(torch.ones_like(full), full)
    return torch.cat([numbers.real, numbers.imag], dim=3)


class Projections(nn.Module):
    """ViT and DINOv2 say `query`, DINOv3 `q_proj`; the adapter reads both."""

    def __init__(self, names):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Linear(WIDTH, WIDTH))

    def forward(self, x, angles=None):
        q, k, v = (getattr(self, name)(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for name in self.names)
        if angles is not None:
            q, k = turned(q, angles), turned(k, angles)
        self.attended = (torch.einsum("bhqd,bhkd->bhqk", q, k) / (WIDTH / HEADS) ** 0.5).softmax(-1)
        return (self.attended @ v).transpose(1, 2).flatten(2)


class Rope(nn.Module):
    """Angles that grow along the rows, as cosines and sines of each pair of channels, twice."""

    def angles(self, pixels):
        count = (pixels.shape[2] // PATCH) * (pixels.shape[3] // PATCH)
        return torch.arange(count)[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.125])

    def forward(self, pixels):
        angles = self.angles(pixels).tile(2)
        return angles.cos(), angles.sin()


class Layer(nn.Module):
    def __init__(self, names, tuples):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.Module()
        self.attention.attention = Projections(names)
        self.mlp = nn.Linear(WIDTH, WIDTH)
        self.tuples = tuples

    def forward(self, x, angles=None):
        x = x + self.attention.attention(self.norm1(x), angles)
        x = x + self.mlp(self.norm2(x))
        return (x,) if self.tuples else x


class Model(nn.Module):
    def __init__(self, kind, registers=0, names=("query", "key", "value"), tuples=True):
        super().__init__()
        self.config = SimpleNamespace(
            model_type=kind,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            patch_size=PATCH,
            _commit_hash="abc123",
        )
        if registers:
            self.config.num_register_tokens = registers
        first = {"deit": 2, "ijepa": 0}.get(kind, 1) + registers
        self.first = nn.Parameter(torch.randn(1, first, WIDTH))
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(names, tuples) for _ in range(DEPTH))
        self.layernorm = nn.LayerNorm(WIDTH)
        self.pooler = nn.Linear(WIDTH, WIDTH)
        self.interpolated = []
        if kind == "dinov3_vit":
            self.rope_embeddings = Rope()

    def forward(self, pixel_values=None, interpolate_pos_encoding=None, **kwargs):
        self.interpolated.append(interpolate_pos_encoding)
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1)
        rope = getattr(self, "rope_embeddings", None)
        for layer in self.encoder.layer:
            out = layer(x, rope.angles(pixel_values) if rope else None)
            x = out[0] if layer.tuples else out
        return SimpleNamespace(last_hidden_state=self.layernorm(x))


@pytest.fixture
def library(monkeypatch):
    module = types.ModuleType("transformers")
    module.asked, module.report = [], {}
    module.model = lambda: Model("dinov2")

    class Automatic:
        def __init__(self, make):
            self.make = make

        def from_pretrained(self, repository, output_loading_info=False, ignore_mismatched_sizes=False, **where):
            module.asked.append((repository, where))
            torch.manual_seed(0)
            made = self.make()
            return (made, module.report) if output_loading_info else made

        def from_config(self, config, trust_remote_code):
            assert not trust_remote_code
            return module.model()

    processor = SimpleNamespace(
        image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], size={"height": 32, "width": 32}, resample=3
    )
    module.AutoImageProcessor = Automatic(lambda: processor)
    module.AutoConfig = Automatic(lambda: module.model().config)
    module.AutoModel = Automatic(lambda: module.model())
    monkeypatch.setitem(sys.modules, "transformers", module)
    module.hub = []
    monkeypatch.setattr("densebench.model_zoo.adapters.transformers.ask_hub", lambda *asked: module.hub.append(asked))
    return module


@pytest.mark.parametrize(
    ("kind", "registers", "prefix", "names", "tuples"),
    [
        ("vit", 0, 1, ("query", "key", "value"), True),
        ("deit", 0, 2, ("query", "key", "value"), True),
        ("ijepa", 0, 0, ("query", "key", "value"), False),
        ("dinov2", 0, 1, ("query", "key", "value"), True),
        ("dinov2_with_registers", 4, 5, ("query", "key", "value"), False),
        ("dinov3_vit", 4, 5, ("q_proj", "k_proj", "v_proj"), False),
    ],
)
def test_tokens_and_facets_are_the_models_own(kind, registers, prefix, names, tuples, library):
    library.model = lambda: Model(kind, registers, names, tuples)
    backbone = load_model("hf/someone/model@1a2b3c")
    assert {where["revision"] for _, where in library.asked} == {"1a2b3c"}
    assert not any(where["trust_remote_code"] for _, where in library.asked)
    info = backbone.info
    assert (info.patch, info.width, info.depth, info.heads, info.prefix) == (8, 24, 2, 3, prefix)
    assert (info.mean, info.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert (info.interpolation, info.native_size) == ("bicubic", 32)
    assert info.has_class_token is (prefix > 0)
    assert info.notes["revision"] == "abc123"
    assert backbone.has_attention

    model, images = backbone.model, torch.rand(2, 3, 24, 32)
    pixels = backbone.normalise(images)
    flat = lambda features: features.maps[0].flatten(2).transpose(1, 2)  # noqa: E731
    expected = model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(flat(backbone.dense(images)), expected[:, prefix:])
    raw = flat(backbone.dense(images, [FeatureKey(norm=False)]))
    torch.testing.assert_close(model.layernorm(raw), expected[:, prefix:])
    first = flat(backbone.dense(images, [FeatureKey(0)]))
    assert not torch.allclose(first, raw)

    seen = {}
    layer = model.encoder.layer[1]
    handle = layer.norm1.register_forward_hook(lambda _, args, out: seen.update(x=out))
    model(pixel_values=pixels)
    handle.remove()
    for facet, name in zip(("query", "key", "value"), names, strict=True):
        want = getattr(layer.attention.attention, name)(seen["x"])[:, prefix:]
        torch.testing.assert_close(flat(backbone.dense(images, [FeatureKey(facet=facet)])), want)
    for index, attention in enumerate(backbone.attentions(images, range(DEPTH))):
        torch.testing.assert_close(attention, model.encoder.layer[index].attention.attention.attended)
    assert model.interpolated[1] is True  # `model(...)` of this test apart, positions are asked to be interpolated
    assert not any(m._forward_hooks for m in model.modules())


def test_layers_facets_and_attention_come_from_one_forward_pass(library):
    backbone = load_model("hf/someone/model")
    calls, images = backbone.model.interpolated, torch.rand(2, 3, 24, 32)
    assert_one_pass(backbone, images, calls)


def test_a_model_whose_queries_are_not_found_has_no_attention(library):
    library.model = lambda: Model("dinov2", names=("both", "key", "value"))
    backbone = load_model("hf/someone/model")
    assert backbone.info.facets == ("token", "key", "value")
    assert not backbone.has_attention
    with pytest.raises(ModelError, match="no queries and keys that this adapter finds"):
        next(backbone.attentions(torch.rand(1, 3, 16, 16), [0]))


def test_it_keeps_the_contract(library):
    library.model = lambda: Model("dinov2_with_registers", 4)
    assert not [f for f in check(load_model("hf/someone/model")) if f.outcome == "failed"]


def test_a_pooler_drawn_at_random_is_not_part_of_the_model(library):
    assert "model.pooler.weight" not in load_model("hf/someone/model").state_dict()


def test_unknown_types_and_half_loaded_weights_are_refused(library):
    library.model = lambda: Model("beit")
    with pytest.raises(ModelError, match=r"is a 'beit'; this adapter knows vit, .*open_clip/ARCH:TAG"):
        load_model("hf/someone/model")
    assert len(library.asked) == 1  # its config, and no weights
    library.model = lambda: Model("dinov2")
    library.report = {"missing_keys": ["pooler.weight"], "mismatched_keys": []}
    load_model("hf/someone/model")
    library.report = {"missing_keys": ["encoder.layer.0.norm1.weight"], "mismatched_keys": []}
    with pytest.raises(ModelError, match=r"lacks 1 weights \(encoder\.layer\.0\.norm1\.weight\)"):
        load_model("hf/someone/model")
    library.report = {"missing_keys": set(), "mismatched_keys": {("patches.bias", (24,), (48,))}}
    with pytest.raises(ModelError, match=r"has 1 of another shape \(patches\.bias\)"):
        load_model("hf/someone/model")


def test_preprocessing_is_what_the_processor_does(library):
    processor = library.AutoImageProcessor.make()
    processor.size, processor.crop_size, processor.do_center_crop = {"shortest_edge": 40}, {"height": 32}, True
    processor.do_normalize, processor.resample = False, 0
    info = load_model("hf/someone/model").info
    assert (info.native_size, info.mean, info.std, info.interpolation) == (32, (0.0,) * 3, (1.0,) * 3, "nearest")
    processor.do_center_crop = False
    assert load_model("hf/someone/model").info.native_size == 40


def test_what_cannot_be_loaded_is_one_line(library, monkeypatch):
    def fail(*_, **__):
        raise OSError("someone/model is not a local folder\nand more")

    monkeypatch.setattr(library.AutoImageProcessor, "from_pretrained", fail)
    with pytest.raises(ModelError, match=r"could not be loaded \(someone/model is not a local folder\).*never run"):
        load_model("hf/someone/model")


def test_random_weights_come_from_the_seed(library):
    one = load_model("hf/someone/model?random=1").weights_digest()
    assert one == load_model("hf/someone/model?random=1").weights_digest()
    assert one != load_model("hf/someone/model?random=2").weights_digest()


def test_offline_asks_local_files_only(library, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    load_model("hf/someone/model@v1")
    assert all(where["local_files_only"] for _, where in library.asked)
    assert [(asked[1], asked[3:]) for asked in library.hub] == [("someone/model", (("config.json",), "v1"))]


def test_weights_and_a_missing_package_are_explained(library, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"hf/\./FOLDER"):
        load_model("hf/someone/model", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'densebench\[hf\]'"):
        load_model("hf/someone/model")


TINY = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": PATCH,
}
TEXT = {**TINY, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1}
REAL = {
    "vit": ("ViT", TINY, 1),
    "vit_msn": ("ViTMSN", TINY, 1),
    "deit": ("DeiT", TINY, 2),
    "ijepa": ("IJepa", TINY, 0),
    "dinov2": ("Dinov2", TINY, 1),
    "dinov2_with_registers": ("Dinov2WithRegisters", {**TINY, "num_register_tokens": 4}, 5),
    "dinov3_vit": ("DINOv3ViT", {**TINY, "num_register_tokens": 4}, 5),
    "siglip": ("Siglip", {"vision_config": TINY, "text_config": TEXT}, 0),
    "clip": ("CLIP", {"vision_config": TINY, "text_config": TEXT}, 1),
}


def save(folder, family, config):
    """Write a small model with random weights, no two norms the same, and an image processor into a folder."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def dinov3_angles(h, w):
    """Angles (h*w, d / 2) by the paper: patch centres in [-1, 1], rows before columns, periods of base 100."""
    rows, columns = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (h, w))
    speeds = 2 * torch.pi * 100 ** (-torch.arange(2, dtype=torch.float64) / 2)  # d / 4 = 2 of them
    return torch.cat([torch.outer(rows.repeat_interleave(w), speeds), torch.outer(columns.repeat(h), speeds)], dim=1)


@pytest.mark.parametrize("kind", REAL)
def test_the_packages_own_models_give_the_same(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    family, config, prefix = REAL[kind]
    save(tmp_path, family, config)
    backbone = load_model(f"hf/{tmp_path}")
    assert backbone.info.prefix == prefix
    assert backbone.info.notes["revision"] == "local folder"
    own = transformers.AutoModel.from_pretrained(tmp_path).eval()
    own = getattr(own, "vision_model", own)
    more = {} if kind.startswith("dino") else {"interpolate_pos_encoding": True}
    flat = lambda maps: maps.flatten(2).transpose(1, 2)  # noqa: E731
    for height, width in ((32, 32), (24, 40)):
        images = torch.rand(2, 3, height, width)
        pixels = backbone.normalise(images)
        with torch.inference_mode():
            expected = own(pixel_values=pixels, output_hidden_states=True, **more)
            last = expected.last_hidden_state
            last = own.post_layernorm(last) if kind == "clip" else last  # CLIP norms its pooled token only
            found = backbone.dense(images)
            torch.testing.assert_close(flat(found.maps[0]), last[:, prefix:])
            if prefix:
                torch.testing.assert_close(found.class_tokens[0], last[:, 0])
            raw = backbone.dense(images, [FeatureKey(layer, norm=False) for layer in range(DEPTH)]).maps
            for maps, hidden in zip(raw, expected.hidden_states[1:], strict=True):
                torch.testing.assert_close(flat(maps), hidden[:, prefix:])
            for model in (own, backbone.model):
                model.set_attn_implementation("eager")
            attentions = own(pixel_values=pixels, output_attentions=True, **more).attentions
            for layer, attention in enumerate(backbone.attentions(images, range(DEPTH))):
                assert torch.equal(attention, attentions[layer])  # to the last bit
                keys = [FeatureKey(layer, facet, False) for facet in ("query", "key")]
                query, key = (
                    found.double().unflatten(2, (HEADS, -1)).transpose(1, 2) for found in backbone.tokens(pixels, keys)
                )
                if kind == "dinov3_vit":
                    angles = dinov3_angles(height // PATCH, width // PATCH)
                    query, key = turned(query, angles), turned(key, angles)
                expected = torch.einsum("bhqd,bhkd->bhqk", query, key) / (WIDTH // HEADS) ** 0.5
                torch.testing.assert_close(attention.double(), expected.softmax(-1), rtol=1e-4, atol=1e-6)
            backbone.model.set_attn_implementation("sdpa")
            for layer, attention in enumerate(backbone.attentions(images, range(DEPTH))):
                torch.testing.assert_close(attention, attentions[layer])
    assert not [f for f in check(backbone) if f.outcome == "failed"]


def test_folders_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save(tmp_path, "Dinov2", TINY)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    state = json.loads(config.read_text())
    for change, message in (
        ({"num_hidden_layers": 3}, r"lacks \d+ weights \(encoder\.layer\.2"),
        ({"hidden_size": 48}, r"\d+ of another shape \(embeddings\."),
        ({"model_type": "x", "auto_map": {"AutoConfig": "x.X", "AutoModel": "x.X"}}, "could not be loaded .*never run"),
    ):
        config.write_text(json.dumps({**state, **change}))
        with pytest.raises(ModelError, match=message):
            load_model(f"hf/{tmp_path}")
    config.write_text(json.dumps(state))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_model(f"hf/{tmp_path}")


def test_a_folder_that_is_not_there_is_named(library):
    with pytest.raises(ModelError, match=r"there is no folder \./nowhere"):
        load_model("hf/./nowhere")
