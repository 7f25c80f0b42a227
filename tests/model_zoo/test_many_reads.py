"""Several layers and facets of one forward pass, and attention layer by layer."""

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


def test_all_reads_come_from_exactly_one_forward_pass_and_are_those_of_dense(pico):
    images = torch.rand(2, 3, 32, 40)
    calls = counted(pico.net)
    found = pico.dense_many(images, EVERYTHING)
    assert len(calls) == 1
    assert len(found) == len(EVERYTHING)
    for read, maps in zip(EVERYTHING, found, strict=True):
        assert torch.equal(maps, pico.dense(images, (read.layer,), read.facet, read.norm).maps[0]), read
    assert not torch.equal(found[5], found[-1])  # with the final norm and without


def test_reads_keep_their_order_and_may_repeat(pico):
    image = torch.rand(1, 3, 16, 16)
    reads = [FeatureKey(3, "key"), FeatureKey(-1), FeatureKey(0), FeatureKey(3, "key"), FeatureKey(-3, "key")]
    found = pico.dense_many(image, reads)
    assert torch.equal(found[0], found[3])
    assert torch.equal(found[0], found[4])
    assert torch.equal(found[2], pico.dense(image, (0,)).maps[0])
    assert pico.dense_many(image, []) == ()


def test_a_forward_pass_ends_with_the_last_layer_asked_for(pico):
    calls = []
    handle = pico.net.blocks[3].register_forward_hook(lambda *_: calls.append(1))
    pico.dense_many(torch.rand(1, 3, 16, 16), [FeatureKey(0), FeatureKey(2, "key")])
    handle.remove()
    assert not calls


class Counting(toys.ColorBackbone):
    """An adapter with `tokens` alone, which writes down what it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def tokens(self, pixels, layers, facet, norm):
        self.asked.append((tuple(layers), facet, norm))
        scale = {"token": 1, "key": 2, "query": 3, "value": 4}[facet]
        return [tokens * scale + layer + 10 * (not norm) for layer, tokens in zip(layers, super().tokens(
            pixels, layers, facet, norm), strict=True)]  # fmt: skip


class OneAnswer(toys.ColorBackbone):
    """An adapter that forgets all layers but one."""

    def tokens(self, pixels, layers, facet, norm):
        return super().tokens(pixels, layers[:1], facet, norm)


def test_an_adapter_without_the_hook_is_asked_once_per_facet_and_norm():
    backbone = Counting()
    reads = [
        FeatureKey(0),
        FeatureKey(1),
        FeatureKey(0, "key"),
        FeatureKey(1, "token", False),
        FeatureKey(1, "key", False),
        FeatureKey(0, "token", False),
    ]
    images = torch.rand(2, 3, 16, 16)
    found = backbone.dense_many(images, reads)
    assert backbone.asked == [((0, 1), "token", True), ((0, 1), "key", True), ((1,), "token", False)]
    assert torch.equal(found[0], found[5])  # the final norm has no say before the last layer
    assert torch.equal(found[3], backbone.dense(images, (1,), norm=False).maps[0])
    assert torch.equal(found[4], backbone.dense(images, (1,), "key").maps[0])


def test_wrong_requests_and_answers_say_why(pico):
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ModelError, match=r"layers 0\.\.5"):
        pico.dense_many(image, [FeatureKey(0), FeatureKey(6)])
    with pytest.raises(ModelError, match="no facet 'key'"):
        toys.OneHotBackbone().dense_many(image, [FeatureKey(-1, "key")])
    with pytest.raises(ModelError, match="its last layer after the final norm only"):
        toys.OneHotBackbone().dense_many(image, [FeatureKey(0)])
    with pytest.raises(ModelError, match=r"registers\?"):
        toys.ForgetfulBackbone().dense_many(image, [FeatureKey()])
    with pytest.raises(ModelError, match="returned 1 layers; 2 were asked for"):
        OneAnswer().dense_many(image, [FeatureKey(0), FeatureKey(1)])


def test_attention_of_several_layers_comes_from_one_forward_pass_layer_by_layer(pico):
    image = torch.rand(2, 3, 16, 24)
    calls = counted(pico.net)
    stream = pico.attentions(image, [0, -1, 2])
    found = [next(stream), next(stream), next(stream)]
    assert len(calls) == 1
    for layer, attention in zip((0, 5, 2), found, strict=True):
        assert attention.shape == (2, 4, 7, 7)
        assert torch.equal(attention, pico.attention(image, layer))


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
        attention = backbone.attention(image, -1)
        backbone.dense(image)
        handle.remove()
        value = backbone.tokens(backbone.normalise(image), [backbone.info.depth - 1], "value", True)[0]
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
        attention = backbone.attention(image, 1)
        backbone.dense(image)
        handle.remove()
        shared = module.v_proj(seen["x"]).unflatten(2, (3, -1)).transpose(1, 2)
        mixed = torch.stack([attention[:, head] @ shared[:, head // 2] for head in range(6)], dim=2)
        torch.testing.assert_close(module.proj(module.norm(mixed.flatten(2))), seen["out"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="no facet 'key'"):
        backbone.dense(image, facet="key")


@pytest.mark.parametrize("name", ["vit_base_patch16_xp_224", "vit_small_patch16_18x2_224"])
def test_blocks_without_an_attention_of_their_own_give_tokens(name):
    """One projection for attention and MLP, or two attentions side by side."""
    backbone = TimmBackbone(create(name, **TINY).eval(), name)
    assert backbone.info.facets == ("token",)
    assert not backbone.has_attention
    assert backbone.dense(torch.rand(1, 3, 32, 48), (0, 1)).maps[0].shape == (1, 48, 2, 3)
    with pytest.raises(ModelError, match=r"attention of a kind \(Parallel\w+Block\)"):
        backbone.attention(torch.rand(1, 3, 32, 32), 0)


def test_attention_of_another_kind_is_declared_and_refused():
    net = create("vit_tiny_patch16_224", **TINY)
    for block in net.blocks:  # with a bias of relative position, say
        block.attn.__class__ = type("Biased", (type(block.attn),), {})
    backbone = TimmBackbone(net, "biased")
    assert backbone.info.attention is False
    with pytest.raises(ModelError, match=r"attention of a kind \(Biased\)"):
        backbone.attention(torch.rand(1, 3, 32, 32), 0)


def test_an_adapter_that_defines_attention_has_it_unless_it_says_otherwise():
    class Attentive(toys.ColorBackbone):
        def attention(self, images, layer):
            n = 1 + images.shape[2] * images.shape[3] // 64
            return torch.eye(n).expand(len(images), 1, n, n)

    assert Attentive().has_attention
    assert len(list(Attentive().attentions(torch.rand(1, 3, 16, 16), [0, 1]))) == 2
    assert not toys.ColorBackbone().has_attention
    with pytest.raises(ModelError, match="gives no attention maps"):
        next(toys.ColorBackbone().attentions(torch.rand(1, 3, 16, 16), [0]))
