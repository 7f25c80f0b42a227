"""Several layers and facets of one forward pass, and attention layer by layer."""

import re

import pytest
import torch

from densebench.core.errors import ModelError
from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.timm import TimmBackbone
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.backbone import FACETS, FeatureKey
from tests import toys

EVERYTHING = [FeatureKey(layer, facet) for facet in FACETS for layer in range(6)] + [FeatureKey(-1, "token", False)]
TINY = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def pico():
    return load_model("pico?random").eval()


def counted(net):
    """Return a list that grows by one with every forward pass of a timm net."""
    calls = []
    net.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_all_keys_come_from_exactly_one_forward_pass_and_are_what_they_are_alone(pico):
    images = torch.rand(2, 3, 32, 40)
    calls = counted(pico.net)
    found = pico.dense(images, EVERYTHING)
    assert len(calls) == 1
    assert len(found.maps) == len(found.class_tokens) == len(EVERYTHING)
    for key, maps, token in zip(EVERYTHING, found.maps, found.class_tokens, strict=True):
        alone = pico.dense(images, [key])
        assert torch.equal(maps, alone.maps[0]), key
        assert torch.equal(token, alone.class_tokens[0]), key
    assert not torch.equal(found.maps[5], found.maps[-1])  # with the final norm and without


def test_keys_keep_their_order_and_may_repeat(pico):
    image = torch.rand(1, 3, 16, 16)
    found = pico.dense(
        image, [FeatureKey(3, "key"), FeatureKey(-1), FeatureKey(0), FeatureKey(3, "key"), FeatureKey(-3, "key")]
    ).maps
    assert torch.equal(found[0], found[3])
    assert torch.equal(found[0], found[4])
    assert torch.equal(found[2], pico.dense(image, [FeatureKey(0)]).maps[0])
    assert pico.dense(image, []).maps == ()


def test_a_forward_pass_ends_with_the_last_layer_asked_for(pico):
    calls = []
    handle = pico.net.blocks[3].register_forward_hook(lambda *_: calls.append(1))
    pico.dense(torch.rand(1, 3, 16, 16), [FeatureKey(0), FeatureKey(2, "key")])
    handle.remove()
    assert not calls


class Counting(toys.ColorBackbone):
    """An adapter that writes down what it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def tokens(self, pixels, keys):
        self.asked.append(list(keys))
        (tokens,) = super().tokens(pixels, keys[:1])
        scale = {"token": 1, "key": 2, "query": 3, "value": 4}
        return [tokens * scale[facet] + layer + 10 * norm for layer, facet, norm in keys]


def test_adapters_get_each_key_once_layers_from_zero_and_norm_where_it_is_applied():
    backbone, images = Counting(), torch.rand(2, 3, 16, 16)
    keys = [
        FeatureKey(0),
        FeatureKey(-1),
        FeatureKey(1),
        FeatureKey(0, "key"),
        FeatureKey(1, "token", False),
        FeatureKey(1, "key"),
        FeatureKey(-2, "token", False),
    ]
    found = backbone.dense(images, keys).maps
    assert backbone.asked == [
        [
            FeatureKey(0, "token", False),
            FeatureKey(1, "token", True),
            FeatureKey(0, "key", False),
            FeatureKey(1, "token", False),
            FeatureKey(1, "key", False),
        ]
    ]
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[0], found[6])  # the final norm has no say before the last layer
    assert torch.equal(found[4] + 10, found[1])
    assert torch.equal(found[5], backbone.dense(images, [FeatureKey(1, "key", False)]).maps[0])


class OneAnswer(toys.ColorBackbone):
    """An adapter that forgets all keys but one."""

    def tokens(self, pixels, keys):
        return super().tokens(pixels, keys[:1])


def test_an_adapter_of_one_tensor_serves_the_last_layer_however_often_it_is_asked_for():
    class Short(OneAnswer):
        info = toys.OneHotBackbone.info

    first, second = Short().dense(torch.rand(1, 3, 16, 16), [FeatureKey(), FeatureKey(1)]).maps
    assert torch.equal(first, second)


def test_wrong_requests_and_answers_say_why(pico):
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ModelError, match=r"layers 0\.\.5; 6 asked for"):
        pico.dense(image, [FeatureKey(0), FeatureKey(6)])
    with pytest.raises(ModelError, match="no facet 'key'"):
        toys.OneHotBackbone().dense(image, [FeatureKey(-1, "key")])
    for key in (FeatureKey(0), FeatureKey(norm=False)):
        with pytest.raises(ModelError, match="its last layer after the final norm only"):
            toys.OneHotBackbone().dense(image, [key])
    with pytest.raises(ModelError, match=r"registers\?"):
        toys.ForgetfulBackbone().dense(image)
    with pytest.raises(ModelError, match="returned 1 tensors; 2 were asked for, one per key"):
        OneAnswer().dense(image, [FeatureKey(0), FeatureKey(1)])
    with pytest.raises(ModelError, match=r"layers 0\.\.5; -7 asked for"):
        next(pico.attentions(image, [-7]))


def old_tokens(self, pixels, layers, facet, norm):
    return [pixels for _ in layers]


def other_names(self, pixels, which, what, normed):
    return [pixels for _ in which]


def with_defaults(self, pixels, layers=(-1,), facet="token", norm=True):
    return [pixels for _ in layers]


def old_attention(self, images, layer):
    return images


def old_attentions(self, images, layers):
    yield images


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (
            {"tokens": old_tokens},
            "Old.tokens(self, pixels, layers, facet, norm): expected `tokens(self, pixels, keys)`",
        ),
        ({"tokens": other_names}, "expected `tokens(self, pixels, keys)`: one tensor (B, prefix"),
        ({"tokens": with_defaults}, "expected `tokens(self, pixels, keys)`"),
        (
            {"attention": old_attention},
            "Old.attention(self, images, layer): expected `attention(self, pixels, layers)`",
        ),
        (
            {"attentions": old_attentions},
            "Old.attentions(self, images, layers): expected `attention(self, pixels, layer",
        ),
        ({"tokens_many": lambda self, pixels, reads: []}, "pixels, reads): expected `tokens(self, pixels, keys)`"),
    ],
)
def test_hooks_of_old_are_refused_with_what_to_write_instead(hooks, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        type("Old", (toys.ColorBackbone,), hooks)


def test_the_adapter_of_a_file_written_for_the_old_hook_is_an_error_of_the_model(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from densebench import Backbone, BackboneInfo\n\n\nclass Mine(Backbone):\n"
        '    info = BackboneInfo(name="mine", patch=8, width=3)\n\n'
        "    def tokens(self, pixels, layers, facet, norm):\n        return [pixels]\n"
    )
    with pytest.raises(ModelError, match=r"Mine\.tokens\(.*docs/adapters\.md"):
        load_model(f"{file}:Mine")


def test_attention_of_several_layers_comes_from_one_forward_pass_layer_by_layer(pico):
    image = torch.rand(2, 3, 16, 24)
    calls = counted(pico.net)
    stream = pico.attentions(image, [0, -1, 2])
    found = [next(stream), next(stream), next(stream)]
    assert len(calls) == 1
    for layer, attention in zip((0, 5, 2), found, strict=True):
        assert attention.shape == (2, 4, 7, 7)
        assert torch.equal(attention, next(pico.attentions(image, [layer])))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_small_patch14_reg4_dinov2", TINY),
        ("vit_small_patch16_dinov3", TINY),  # halves are rotated
        ("eva02_tiny_patch14_224", TINY),  # neighbours are
        ("vit_base_patch16_rope_mixed_224", TINY),  # angles of each layer's own
        ("vit_pe_core_tiny_patch16_384", TINY),
        ("vit_small_patch16_rope_224", {**TINY, "qk_norm": True}),
        ("vit_base_patch16_siglip_224", TINY),
        ("vit_base_patch16_radio_v3", TINY),  # eight tokens before the patches
        ("naflexvit_base_patch16_radio_v3", TINY),  # the same in one module
        ("vit_base_patch16_rpn_224", TINY),  # norms after the attention
        ("beit3_base_patch16_224", TINY),  # a norm within it
    ],
)
def test_attention_is_the_modules_own(name, arguments):
    """Values weighted with the attention and projected are what the module puts out."""
    net = create(name, **arguments).eval()
    backbone = TimmBackbone(net, name)
    assert backbone.info.attention
    module, seen = net.blocks[-1].attn, {}
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    image = torch.rand(2, 3, 3 * backbone.info.patch, 2 * backbone.info.patch)
    handle = module.register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))
    with torch.no_grad():
        (attention,) = backbone.attentions(image, [-1])
        backbone.dense(image)
        handle.remove()
        (value,) = backbone.tokens(backbone.normalise(image), [FeatureKey(backbone.info.depth - 1, "value", False)])
        mixed = attention @ value.unflatten(2, (backbone.info.heads, -1)).transpose(1, 2)
        out = module.proj(module.norm(mixed.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(out, seen["out"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


def test_keys_that_several_heads_share_give_attention_and_are_no_facet():
    net = create("vit_base_patch16_sapiens2", depth=2, embed_dim=48, num_heads=6, num_kv_heads=[6, 3]).eval()
    backbone = TimmBackbone(net, "shared")
    assert backbone.info.facets == ("token", "query")
    seen, module = {}, net.blocks[1].attn
    handle = module.register_forward_hook(lambda _, args, out: seen.update(x=args[0], out=out))
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        (attention,) = backbone.attentions(image, [1])
        backbone.dense(image)
        handle.remove()
        shared = module.v_proj(seen["x"]).unflatten(2, (3, -1)).transpose(1, 2)
        mixed = torch.stack([attention[:, head] @ shared[:, head // 2] for head in range(6)], dim=2)
        torch.testing.assert_close(module.proj(module.norm(mixed.flatten(2))), seen["out"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="no facet 'key'"):
        backbone.dense(image, [FeatureKey(facet="key")])


@pytest.mark.parametrize("name", ["vit_base_patch16_xp_224", "vit_small_patch16_18x2_224"])
def test_blocks_without_an_attention_of_their_own_give_tokens(name):
    """One projection for attention and MLP, or two attentions side by side."""
    backbone = TimmBackbone(create(name, **TINY).eval(), name)
    assert backbone.info.facets == ("token",)
    assert not backbone.has_attention
    assert backbone.dense(torch.rand(1, 3, 32, 48), [FeatureKey(0), FeatureKey(1)]).maps[0].shape == (1, 48, 2, 3)
    with pytest.raises(ModelError, match=r"attention of a kind \(Parallel\w+Block\)"):
        next(backbone.attentions(torch.rand(1, 3, 32, 32), [0]))


def test_attention_of_another_kind_is_declared_and_refused():
    net = create("vit_tiny_patch16_224", **TINY)
    for block in net.blocks:  # with a bias of relative position, say
        block.attn.__class__ = type("Biased", (type(block.attn),), {})
    backbone = TimmBackbone(net, "biased")
    assert backbone.info.attention is False
    with pytest.raises(ModelError, match=r"attention of a kind \(Biased\)"):
        next(backbone.attentions(torch.rand(1, 3, 32, 32), [0]))


def test_an_adapter_that_defines_attention_has_it_unless_it_says_otherwise():
    class Attentive(toys.ColorBackbone):
        def attention(self, pixels, layers):
            seen.append((pixels, layers))
            n = 1 + pixels.shape[2] * pixels.shape[3] // 64
            return (torch.eye(n).expand(len(pixels), 1, n, n) for _ in layers)

    seen, images, backbone = [], torch.rand(1, 3, 16, 16), Attentive()
    assert backbone.has_attention
    assert len(list(backbone.attentions(images, [0, -1]))) == 2
    ((pixels, layers),) = seen
    assert torch.equal(pixels, backbone.normalise(images))
    assert layers == [0, 1]
    next(backbone.attentions(images, [0], std=(1.0, 1.0, 1.0)))
    assert torch.equal(seen[1][0], backbone.normalise(images, (1.0, 1.0, 1.0)))
    assert not toys.ColorBackbone().has_attention
    with pytest.raises(ModelError, match="gives no attention maps"):
        next(toys.ColorBackbone().attentions(torch.rand(1, 3, 16, 16), [0]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: torch.eye(n).expand(2, 1, n, n), r"returned attention \(1, 5, 5\) for 16x16 pixels"),
        (lambda n: [], "returned attention NoneType for 16x16 pixels"),
        (lambda n: None, "returned attention NoneType for 16x16 pixels"),
        (lambda n: [torch.eye(n)[None, None, 1:, 1:]], r"\(1, 1, 4, 4\) .* \(2, heads, 5, 5\), where 5 = 1 prefix"),
    ],
    ids=["no list", "too few", "nothing", "patches only"],
)  # fmt: skip
def test_what_attention_must_not_return_is_said(answer, message):
    class Mistaken(toys.ColorBackbone):
        def attention(self, pixels, layers):
            return answer(1 + pixels.shape[2] * pixels.shape[3] // 64)

    with pytest.raises(ModelError, match=message):
        next(Mistaken().attentions(torch.rand(2, 3, 16, 16), [0]))
