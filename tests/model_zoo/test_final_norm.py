"""Which norm ends the tokens: timm's `norm`, a norm that its authors apply and timm does not, or none."""

import pytest
import torch
from torch import nn

from densebench.model_zoo.adapters.building import build
from densebench.model_zoo.adapters.capi import Capi
from densebench.model_zoo.adapters.timm import TimmBackbone
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.backbone import FACETS, FeatureKey
from densebench.model_zoo.catalog import ENTRIES
from densebench.model_zoo.conformance import check

TINY = {"depth": 2, "embed_dim": 48, "num_heads": 3}
MILLIONTH, HUNDRED_THOUSANDTH = ("LayerNorm", 1e-6), ("LayerNorm", 1e-5)
NORMS = {
    # by the first word of a name; source: where the net is defined in the code that `page` or the citation names
    **dict.fromkeys(("dino", "ibot", "mugs", "mocov3", "mae", "augreg", "deit", "deit3"), MILLIONTH),
    **dict.fromkeys(("leopart", "timet", "croc", "cribo", "neco", "paka", "dip"), MILLIONTH),
    **dict.fromkeys(("dinov2", "dinov2r", "dinov2xr", "franca", "siglip", "siglip2"), MILLIONTH),
    **dict.fromkeys(("openclip", "clip", "dinov3"), HUNDRED_THOUSANDTH),  # DINOv3: its `layernormbf16`
    **dict.fromkeys(("radio", "selfpatch"), ("Identity", None)),  # RADIO's loader takes `norm` out
}


def shaken(name, **arguments):
    """Return a small net of timm in which no two norms are the same."""
    net = create(name, **{**TINY, **arguments})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return net.eval()


def tokens(backbone, norm=True):
    pixels = torch.rand(2, 3, 3 * backbone.info.patch, 2 * backbone.info.patch)
    with torch.no_grad():
        return pixels, backbone.tokens(pixels, [FeatureKey(backbone.info.depth - 1, norm=norm)])[0]


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.adapter == "timm"])
def test_nets_of_the_catalogue_end_in_the_norm_of_their_authors_and_give_everything(name):
    with torch.device("meta"):
        backbone = TimmBackbone(build(ENTRIES[name].architecture), name)
    norm = backbone.net.norm
    family = "clip" if "_clip_" in name else name.partition("_")[0]  # DIP on CLIP has CLIP's net
    assert (type(norm).__name__, getattr(norm, "eps", None)) == NORMS[family]
    assert backbone.final == "norm"
    assert backbone.info.facets == FACETS
    assert backbone.has_attention


def test_capi_ends_in_a_norm_without_weights():
    with torch.device("meta"):
        norm = Capi().enc_norm
    assert isinstance(norm, nn.RMSNorm)
    assert (norm.eps, norm.weight) == (1e-5, None)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_small_patch16_dinov3", "norm (LayerNorm)"),
        ("vit_base_patch16_siglip_gap_224", "norm (LayerNorm)"),
        ("naflexvit_base_patch16_radio_v3", "none"),
        ("vit_base_patch16_reg4_gap_256", "none; fc_norm (LayerNorm) belongs to the mean over patches"),
        ("beit3_base_patch16_224", "none; fc_norm (LayerNorm) belongs to the mean over patches"),
    ],
)
def test_tokens_are_those_that_timm_gives_and_the_page_says_after_what(name, told):
    net = shaken(name)
    backbone = TimmBackbone(net, name)
    pixels, found = tokens(backbone)
    with torch.no_grad():
        torch.testing.assert_close(found, net.forward_features(pixels))
    assert backbone.info.notes == {"final norm": told}


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "eva02_base_patch14_448", "eva_large_patch14_196"])
def test_eva_ends_in_the_norm_that_timm_keeps_for_the_mean(name):
    """By the authors' `return_patch_tokens`, and by `norm` of masked pretraining, which timm loads as `fc_norm`."""
    net = shaken(name)
    backbone = TimmBackbone(net, name)
    pixels, found = tokens(backbone)
    with torch.no_grad():
        raw = net.forward_features(pixels)
        mean, variance = raw.mean(-1, keepdim=True), raw.var(-1, keepdim=True, unbiased=False)
        expected = (raw - mean) / (variance + 1e-6).sqrt() * net.fc_norm.weight + net.fc_norm.bias
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backbone.tokens(pixels, [FeatureKey(1, norm=False)])[0], raw)
    assert "fc_norm (LayerNorm)" in backbone.info.notes["final norm"]
    assert not [f for f in check(backbone) if f.outcome == "failed"]


def test_a_norm_that_timm_does_not_apply_enters_the_digest():
    net = shaken("eva02_tiny_patch14_224")
    backbone = TimmBackbone(net, "eva")
    digest = backbone.weights_digest()
    net.pretrained_cfg["architecture"] = "vit"
    other = TimmBackbone(net, "vit")
    assert other.state_dict().keys() == backbone.state_dict().keys()
    assert other.weights_digest() != digest


def test_what_else_is_noted_of_a_model_stays():
    net = create("vit_tiny_patch16_224")
    model = TimmBackbone(net, "noted", mean=(0.5,) * 3, std=(0.5,) * 3, notes={"loading": ["a line"]})
    assert model.info.notes == {"final norm": "norm (LayerNorm)", "loading": ["a line"]}
