import copy

import pytest
import torch

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model, parse_spec, register_model
from densebench.model_zoo.adapters.timm import TimmBackbone
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from tests import toys


@pytest.fixture(scope="module")
def pico():
    return load_model("pico?random")


def test_normalisation_is_applied_once_and_with_the_declared_values():
    backbone = toys.ColorBackbone()
    images = torch.rand(2, 3, 16, 24)
    maps = backbone.dense(images).maps[0]
    assert maps.shape == (2, 4, 2, 3)  # rows first: not square on purpose
    mean, std = torch.tensor(backbone.info.mean), torch.tensor(backbone.info.std)
    expected = (images[1, :, 8:, 16:].mean((1, 2)) - mean) / std
    torch.testing.assert_close(maps[1, :3, 1, 2], expected)
    other = backbone.dense(images, std=(1.0, 1.0, 1.0)).maps[0]
    torch.testing.assert_close(other[1, :3, 1, 2], images[1, :, 8:, 16:].mean((1, 2)) - mean)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"patch": 0}, "mine declares patch=0 in its info: expected at least 1."),
        ({"patch": -14}, "mine declares patch=-14 in its info: expected at least 1."),
        ({"patch": (14, 14)}, "mine declares patch=(14, 14) in its info: expected a whole number of at least 1."),
        ({"patch": 14.0}, "mine declares patch=14.0 in its info: expected a whole number of at least 1."),
        ({"prefix": -1}, "mine declares prefix=-1 in its info: expected at least 0."),
        ({"width": 0}, "mine declares width=0 in its info: expected at least 1."),
        ({"mean": (0.5, 0.5)}, "mine declares mean=(0.5, 0.5) in its info: expected 3 numbers."),
        ({"mean": (float("nan"), 0, 0)}, "mine declares mean=(nan, 0, 0) in its info: expected 3 finite numbers."),
        ({"std": (1.0, 1.0, 0.0)}, "mine declares std=(1.0, 1.0, 0.0) in its info: expected 3 numbers above 0."),
        ({"std": 0.5}, "mine declares std=0.5 in its info: expected 3 numbers above 0."),
        ({"native_size": "224"}, "mine declares native_size='224' in its info: expected a whole number of at least 1."),
    ],
)
def test_what_no_network_can_have_is_refused_where_it_is_declared(declared, message):
    with pytest.raises(ModelError) as caught:
        BackboneInfo(**{"name": "mine", "patch": 8, "width": 4, **declared})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("size", "message"), [((60, 64), "60x64 is not a multiple. Nearest sizes: 56 or 64"), ((64, 63), "64x63")]
)
def test_sizes_that_do_not_divide_are_refused_with_the_nearest(pico, size, message):
    with pytest.raises(ModelError, match=message):
        pico.dense(torch.rand(1, 3, *size))


def test_requests_outside_the_declaration_are_refused(pico):
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ModelError, match=r"layers 0\.\.5"):
        pico.dense(image, [FeatureKey(6)])
    with pytest.raises(ModelError, match="no facet 'keys'"):
        pico.dense(image, [FeatureKey(facet="keys")])
    with pytest.raises(ModelError, match="float RGB images"):
        pico.dense((image * 255).byte())


@pytest.mark.parametrize("size", [(96, 96), (160, 160), (64, 104)])
def test_any_multiple_of_the_patch_is_fine(pico, size):
    features = pico.dense(torch.rand(2, 3, *size), [FeatureKey(), FeatureKey(0)])
    assert [m.shape for m in features.maps] == [(2, 128, size[0] // 8, size[1] // 8)] * 2
    assert features.class_tokens[0].shape == (2, 128)


def test_patches_are_row_major(pico):
    """A change in one corner moves the features there most."""
    image = torch.full((1, 3, 64, 96), 0.5)
    changed = image.clone()
    changed[:, :, 40:48, 80:88] = 1.0
    before, after = (pico.dense(x, [FeatureKey(0)]).maps[0] for x in (image, changed))
    difference = (after - before).norm(dim=1)[0]
    row, column = divmod(int(difference.argmax()), 12)
    assert abs(row - 5) <= 1  # the stem sees a few pixels beyond its patch
    assert abs(column - 10) <= 1


def test_features_do_not_depend_on_the_batch(pico):
    images = torch.rand(4, 3, 64, 64)
    alone = torch.cat([pico.dense(i[None]).maps[0] for i in images])
    torch.testing.assert_close(pico.dense(images).maps[0], alone, rtol=1e-4, atol=1e-5)


def test_the_final_norm_belongs_to_the_last_layer_only(pico):
    image = torch.rand(1, 3, 64, 64)
    normed, raw = (pico.dense(image, [FeatureKey(norm=n), FeatureKey(-2, norm=n)]).maps for n in (True, False))
    assert not torch.allclose(normed[0], raw[0])
    torch.testing.assert_close(normed[1], raw[1])
    torch.testing.assert_close(pico.net.norm(raw[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2), normed[0])


def test_key_facets_give_the_attention_that_the_model_computes(pico):
    """Attention rebuilt from the query and key facets of patches equals `attentions`, class token and all."""
    image = torch.rand(1, 3, 32, 40)
    query, key = (x.flatten(2) for x in pico.dense(image, [FeatureKey(2, "query"), FeatureKey(2, "key")]).maps)
    scores = torch.einsum("bhdq,bhdk->bhqk", query.unflatten(1, (4, -1)), key.unflatten(1, (4, -1))) * 32**-0.5
    attention = next(pico.attentions(image, [2]))
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 4, 21))
    patches = attention[:, :, 1:, 1:]
    torch.testing.assert_close(scores.softmax(-1), patches / patches.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "prefix", "arguments"),
    [
        ("vit_small_patch14_reg4_dinov2", 5, {"depth": 2, "embed_dim": 48, "num_heads": 3}),
        ("deit_tiny_distilled_patch16_224", 2, {"depth": 2}),
        ("vit_base_patch16_siglip_224", 0, {"depth": 2, "embed_dim": 48, "num_heads": 3}),
        ("vit_small_patch16_dinov3", 5, {"depth": 2, "embed_dim": 48, "num_heads": 3}),
    ],
)
def test_families_of_timm_declare_their_prefix(name, prefix, arguments):
    backbone = TimmBackbone(create(name, **arguments), name).eval()
    patch = backbone.info.patch
    assert backbone.info.prefix == prefix
    for facet in ("token", "key", "query", "value"):
        assert backbone.dense(torch.rand(1, 3, 3 * patch, 5 * patch), [FeatureKey(facet=facet)]).maps[0].shape[2:] == (
            3,
            5,
        )


def test_dinov3_key_facet_is_what_its_own_projection_gives():
    """Eva keeps key and value biases beside the fused projection: the facet must include them."""
    net = create("vit_small_patch16_dinov3_qkvb", depth=1, embed_dim=48, num_heads=3).eval()
    attention = net.blocks[0].attn
    with torch.no_grad():
        for bias in (attention.q_bias, attention.v_bias):
            bias.normal_()
    seen = {}
    attention.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    backbone = TimmBackbone(net, "dinov3")
    value = backbone.dense(torch.rand(1, 3, 32, 32), [FeatureKey(facet="value")]).maps[0].flatten(2).transpose(1, 2)
    direct = seen["x"] @ attention.qkv.weight[96:].T + attention.v_bias
    torch.testing.assert_close(value, direct[:, 5:])


def test_random_weights_are_drawn_from_the_seed_alone():
    torch.manual_seed(1)
    first = load_model("pico?random=3").weights_digest()
    torch.manual_seed(2)
    assert load_model("pico?random=3").weights_digest() == first
    assert load_model("pico?random=4").weights_digest() != first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("picoo", "unknown model 'picoo'; did you mean 'pico'"),
        ("timm/vit_tiny_patch16_22", "did you mean 'timm/vit_tiny_patch16_224'"),
        ("pico?randon", r"unknown option '\?randon'"),
        ("pico?", r"unknown option '\?'"),
        ("pico?random&random=2", r"repeated option '\?random=2'"),
        ("no_file.safetensors", "no_file.safetensors does not exist"),
        ("no_file.py:Mine", "no_file.py does not exist"),
    ],
)
def test_unknown_models_are_usage_errors(name, message):
    with pytest.raises(UsageError, match=message):
        load_model(name)


def test_a_cnn_answers_with_its_last_stage():
    assert load_model("timm/resnet18?random").info.patch == 32


def test_a_pyramid_that_takes_any_size_answers_with_its_last_stage():
    assert load_model("timm/swin_tiny_patch4_window7_224?random").info.patch == 32


def test_a_registered_adapter_is_a_model():
    register_model("my-color", toys.ColorBackbone)
    assert load_model("my-color").info.name == "my-color"
    assert parse_spec("my-color").family == "zoo"


def test_an_adapter_in_a_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from tests.toys import ColorBackbone\nclass Plain: pass\n")
    assert load_model(f"{file}:ColorBackbone").dense(torch.rand(1, 3, 16, 16)).maps[0].shape == (1, 4, 2, 2)
    with pytest.raises(UsageError, match=r"has no 'ColorBackbon'; its adapters .* are: ColorBackbone\."):
        load_model(f"{file}:ColorBackbon")
    with pytest.raises(ModelError, match="is a Plain; expected a subclass"):
        load_model(f"{file}:Plain")


OWN = """
import torch
from densebench import Backbone, BackboneInfo

class Mine(Backbone):
    info = BackboneInfo(name="mine", patch=8, width=4, prefix=0, has_class_token=False)

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 4, 8, 8)
        torch.nn.init.constant_(self.net.weight, 0.1)
        torch.nn.init.zeros_(self.net.bias)

    def tokens(self, pixels, keys):
        found = self.net(pixels).flatten(2).transpose(1, 2)
        return [found]
"""


def test_other_code_with_the_same_weights_has_another_digest(tmp_path):
    file = tmp_path / "own.py"
    digests = set()
    for code in (OWN, OWN.replace("[found]", "[-found]")):
        file.write_text(code)
        first, again = load_model(f"{file}:Mine"), load_model(f"{file}:Mine")
        assert first.weights_digest() == again.weights_digest() == copy.deepcopy(first).weights_digest()
        digests.add(first.weights_digest())
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("found", "returned a Tensor from `tokens`; expected a list"),
        ("None", "returned a NoneType from `tokens`"),
        ("[found.detach().numpy()]", "returned a list of ndarray from `tokens`"),
        ('[found.to("meta")]', "given images on cpu and returned features on meta"),
        ("[found, found]", "returned 2 tensors; 1 were asked for"),
    ],
)
def test_what_tokens_must_not_return_is_said(answer, message, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("[found]", answer))
    backbone = load_model(f"{tmp_path}/own.py:Mine")
    with pytest.raises(ModelError, match=message):
        backbone.dense(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("super().__init__()", "open('no.pth')", r"raised FileNotFoundError: .*no\.pth.*own\.py, line 9"),
        ("(self):", "(self, path):", r"raised TypeError: .*'path'"),
        ("import torch", "import torch,", r"raised SyntaxError: .*line 2"),
        ("import torch", "import no_such_module", r"raised ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_an_adapter_raises_is_an_error_of_the_model(before, after, message, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace(before, after, 1))
    with pytest.raises(ModelError, match=message):
        load_model(f"{tmp_path}/own.py:Mine")
