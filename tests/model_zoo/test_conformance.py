"""Every mistake an adapter can make is found by the check that is named after it, and a right adapter passes all."""

import dataclasses
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import load_model
from densebench.model_zoo.adapters.timm import TimmBackbone
from densebench.model_zoo.adapters.timm_nets import create
from densebench.model_zoo.backbone import Backbone, BackboneInfo, FeatureKey
from densebench.model_zoo.conformance import CHECKS, check, findings
from densebench.model_zoo.conformance.report import as_json, report

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
REGISTERS = "vit_small_patch14_reg4_dinov2"


class Right(TimmBackbone):
    """A ViT with a class token and four registers; every mistake below is one change of it."""

    changes = {}

    def __init__(self):
        super().__init__(create(REGISTERS, **SMALL), type(self).__name__, native_size=70, **self.changes)


class ManyTokens(Right):
    def tokens(self, pixels, keys):
        return [self.mistake(tokens) for tokens in super().tokens(pixels, keys)]


class RegistersNotDeclared(Right):
    def __init__(self):
        super().__init__()
        self.info = dataclasses.replace(self.info, prefix=1)

    def tokens(self, pixels, keys):
        return [self.net.forward_features(pixels) for _ in keys]


class RegistersKeptPatchesCut(ManyTokens):
    """As many tokens as expected, but the registers are among them."""

    def mistake(self, tokens):
        return torch.cat([tokens[:, :1]] * 4 + [tokens[:, :-4]], dim=1)


class PrefixLast(ManyTokens):
    def mistake(self, tokens):
        return torch.cat([tokens[:, 5:], tokens[:, :5]], dim=1)


class Rearranged(ManyTokens):
    def mistake(self, tokens):
        h, w = self.grid
        return torch.cat([tokens[:, :5], self.turn(tokens[:, 5:].unflatten(1, (h, w))).flatten(1, 2)], dim=1)

    def tokens(self, pixels, keys):
        self.grid = pixels.shape[2] // 14, pixels.shape[3] // 14
        return super().tokens(pixels, keys)


class Transposed(Rearranged):
    def turn(self, maps):
        return maps.transpose(1, 2)


class UpsideDown(Rearranged):
    def turn(self, maps):
        return maps.flip(1)


class Mirrored(Rearranged):
    def turn(self, maps):
        return maps.flip(2)


class Scrambled(Rearranged):
    def turn(self, maps):
        rows = maps.flatten(1, 2)
        return rows[:, torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(1)), None]


class NormalisesTwice(Right):
    def tokens(self, pixels, keys):
        return super().tokens(self.normalise(pixels), keys)


class BytesAgain(Right):
    def tokens(self, pixels, keys):
        return super().tokens(pixels * 255, keys)


class AttentionNormalisesTwice(Right):
    def attention(self, pixels, layers):
        return super().attention(self.normalise(pixels), layers)


class OtherMean(Right):
    changes = {"mean": (0.5, 0.5, 0.5)}


class Training(Right):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def tokens(self, pixels, keys):
        self.drop.train()
        return [self.drop(tokens) for tokens in super().tokens(pixels, keys)]


class Noise(ManyTokens):
    def mistake(self, tokens):
        return tokens + 0.01 * torch.randn_like(tokens)


class OfTheBatch(ManyTokens):
    def mistake(self, tokens):
        return tokens + tokens.mean(0)


class StrideWrong(Right):
    changes = {"patch": 28}


class InPlace(Right):
    def tokens(self, pixels, keys):
        return super().tokens(pixels.clamp_(-1, 1), keys)


class NaNOfFlatImages(Right):
    def tokens(self, pixels, keys):
        contrast = (pixels.amax((2, 3)) - pixels.amin((2, 3))).mean(1)[:, None, None]
        return [tokens * (contrast / contrast) for tokens in super().tokens(pixels, keys)]


class Huge(ManyTokens):
    def mistake(self, tokens):
        return tokens * 1e6


class OneLayer(Right):
    def tokens(self, pixels, keys):
        return super().tokens(pixels, [FeatureKey(1, key.facet, key.facet == "token") for key in keys])


class LayersInTheirOrder(Right):
    def tokens(self, pixels, keys):
        return super().tokens(pixels, sorted(keys))


class OneFacet(Right):
    def tokens(self, pixels, keys):
        return super().tokens(pixels, [k if k.facet == "token" else k._replace(facet="key") for k in keys])


class NormAlways(Right):
    def tokens(self, pixels, keys):
        return super().tokens(pixels, [key._replace(norm=key.layer == 1 and key.facet == "token") for key in keys])


class FacetsMixedUp(Right):
    def tokens(self, pixels, keys):
        found = super().tokens(pixels, keys)
        return found[::-1] if len({key.facet for key in keys}) > 1 else found


class AttentionOfColumns(Right):
    def attention(self, pixels, layers):
        return (a.transpose(2, 3) for a in super().attention(pixels, layers))


class AttentionLate(Right):
    def attention(self, pixels, layers):
        return (a.roll((3, 3), (2, 3)) for a in super().attention(pixels, layers))


class AttentionOfOneLayer(Right):
    def attention(self, pixels, layers):
        return super().attention(pixels, [0 for _ in layers])


class AttentionOfPatches(Right):
    def attention(self, pixels, layers):
        return (a[:, :, 5:, 5:].softmax(-1) for a in super().attention(pixels, layers))


class ConstantClassToken(ManyTokens):
    def mistake(self, tokens):
        return torch.cat([torch.ones_like(tokens[:, :1]), tokens[:, 1:]], dim=1)


class CutOff(Right):
    @torch.no_grad()
    def tokens(self, pixels, keys):
        return super().tokens(pixels, keys)


class HiddenWeights(Right):
    """One layer of many lies in a plain list."""

    def __init__(self):
        super().__init__()
        self.parts = [nn.Linear(48, 48)]

    def tokens(self, pixels, keys):
        return [self.parts[0](tokens) for tokens in super().tokens(pixels, keys)]


class HiddenAndFrozen(Right):
    def __init__(self):
        super().__init__()
        net = self._modules.pop("net").requires_grad_(False)
        object.__setattr__(self, "net", net)
        self.scale = nn.Parameter(torch.ones(()))


class GrowingState(Right):
    def tokens(self, pixels, keys):
        self.register_buffer("size", torch.tensor(pixels.shape))
        return super().tokens(pixels, keys)


class NotCopied(Right):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle a file")


class FixedSize(Right):
    def tokens(self, pixels, keys):
        assert pixels.shape[2:] == (70, 70), f"expected 70 x 70 pixels, got {tuple(pixels.shape[2:])}"
        return super().tokens(pixels, keys)


class Raises(Right):
    def attention(self, pixels, layers):
        raise RuntimeError("no such kernel")


def failed(found):
    return {f.check: f for f in found if f.outcome == "failed"}


@pytest.mark.parametrize(
    ("adapter", "checks", "words"),
    [
        (RegistersNotDeclared, {"sizes"}, "registers?"),
        (RegistersKeptPatchesCut, {"order"}, "late by 4"),
        (PrefixLast, {"order"}, "early by 5"),
        (Transposed, {"order"}, "transposed"),
        (UpsideDown, {"order"}, "upside down"),
        (Mirrored, {"order"}, "mirrored"),
        (Scrambled, {"order"}, "wherever"),
        (NormalisesTwice, {"normalisation"}, "net.patch_embed.proj gets -2.0"),
        (BytesAgain, {"normalisation"}, "255"),
        (AttentionNormalisesTwice, {"normalisation"}, "of `attention`"),
        (
            Training,
            {"eval mode", "determinism", "batch", "layers", "one pass", "copies"},
            "training mode",
        ),
        (Noise, {"determinism", "batch", "layers", "one pass", "copies"}, "features differ by"),
        (OfTheBatch, {"batch"}, "features differ by"),
        (StrideWrong, {"sizes"}, "4x6 patches"),
        (InPlace, {"untouched"}, "`tokens` changed its input"),
        (NaNOfFlatImages, {"finite"}, "black image"),
        (OneLayer, {"layers", "final norm", "facets"}, "layers 1 equal"),
        (LayersInTheirOrder, {"layers", "one pass"}, "depend on which others"),
        (OneFacet, {"facets"}, "query of layer 0 equals key of layer 0"),
        (NormAlways, {"final norm"}, "net.norm (LayerNorm)"),
        (FacetsMixedUp, {"one pass"}, "keys differ"),
        (AttentionOfColumns, {"attention"}, "rows miss the sum"),
        (AttentionLate, {"attention"}, "late by 3"),
        (AttentionOfOneLayer, {"attention"}, "layers 0 and 1 are the same"),
        (AttentionOfPatches, {"attention"}, "expected (2, heads, 29, 29)"),
        (ConstantClassToken, {"class token"}, "the same for two images"),
        (HiddenWeights, {"weights"}, "state_dict() does not hold"),
        (HiddenAndFrozen, {"copies"}, "when all weights are 0"),
        (GrowingState, {"copies"}, "digest changes"),
        (NotCopied, {"copies"}, "TypeError: cannot pickle"),
        (FixedSize, {"sizes"}, "works for 70x70 only"),
        (
            Raises,
            {"normalisation", "untouched", "attention"},
            "RuntimeError: no such kernel (test_conformance.py, line ",
        ),
    ],
)
def test_each_mistake_is_found_by_its_checks_and_no_others_fail(adapter, checks, words):
    found = failed(check(adapter()))
    assert found.keys() == checks, {name: f.found for name, f in found.items()}
    first = next(iter(found.values()))
    assert words in first.found
    assert first.expected


@pytest.mark.parametrize(
    ("adapter", "name", "words"),
    [
        (OtherMean, "normalisation", "itself states (0.485"),
        (Huge, "half precision", "float16 ends at"),
        (CutOff, "gradients", "cut off"),
    ],
)
def test_what_may_be_meant_is_noted_and_does_not_fail(adapter, name, words):
    found = check(adapter())
    (note,) = [f for f in found if f.outcome == "note"]
    assert (note.check, words in note.found) == (name, True), note
    assert not failed(found)


@pytest.mark.parametrize(
    "build",
    [
        Right,
        lambda: load_model("pico?random"),
        lambda: TimmBackbone(create("vit_small_patch16_dinov3", **SMALL), "rope", native_size=64),
        lambda: TimmBackbone(create("vit_base_patch16_siglip_224", **SMALL), "no prefix", native_size=64),
    ],
    ids=["registers", "pico", "rope", "no prefix"],
)
def test_right_adapters_pass_every_check(build):
    found = check(build())
    assert [f.check for f in found] == list(CHECKS)
    assert all(f.outcome in ("ok", "not applicable") for f in found), [f for f in found if f.outcome != "ok"]


class Colors(Backbone):
    """No weights, no layers, pixels as they are: much does not apply, nothing fails."""

    info = BackboneInfo(name="colours", patch=8, width=3, prefix=0, native_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)

    def tokens(self, pixels, keys):
        return [nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)]


def test_what_is_not_declared_is_not_applicable():
    found = {f.check: f.outcome for f in check(Colors())}
    skipped = {"normalisation", "layers", "final norm", "facets", "attention", "class token", "construction"}
    assert {name for name, outcome in found.items() if outcome == "not applicable"} == skipped
    assert {name for name, outcome in found.items() if outcome == "note"} == {"weights"}
    assert "failed" not in found.values()


def test_a_size_of_ones_own_is_used_and_must_fit():
    found = check(Right(), (28, 70))
    assert not failed(found)
    assert next(f for f in found if f.check == "sizes").found == "28x70 pixels"
    with pytest.raises(UsageError, match="multiples of the patch of 14"):
        next(findings(Right(), (30, 70)))


class Undeclared(Colors):
    info = None


class Misdeclared(Colors):
    info = dataclasses.replace(Colors.info, mean=(123.0, 117.0, 104.0), std=(58.0, 57.0, 57.0), interpolation="area")


def test_declarations_that_cannot_be():
    with pytest.raises(ModelError, match="declares no `info`"):
        check(Undeclared())
    found = failed(check(Misdeclared()))["declaration"].found
    assert found == "the mean is that of images in [0, 1], not in 0..255; interpolation 'area'"


def test_checks_leave_the_backbone_as_it_was():
    backbone = Right().requires_grad_(False)
    backbone.net.norm.requires_grad_(True)
    digest = backbone.weights_digest()
    check(backbone)
    assert backbone.weights_digest() == digest
    assert {n for n, p in backbone.named_parameters() if p.requires_grad} == {"net.norm.weight", "net.norm.bias"}
    assert all(p.grad is None for p in backbone.parameters())


def test_the_report_names_what_to_do():
    found = check(Mirrored())
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(*report("mine", found))
    text = capture.get()
    assert "check-model mine" in text
    assert "expected: The feature that moves most is that of the patch" in text
    assert "to fix: Return tokens as (B, prefix + h*w, D)" in text
    assert "1 failed" in text.splitlines()[-1]
    read = json.loads(as_json("mine", found))
    assert read["ok"] is False
    assert [f["check"] for f in read["findings"]] == list(CHECKS)


class NeverRuns(Colors):
    def tokens(self, pixels, keys):
        return [pixels / 0, 1 / 0]


class GivesAMap(Colors):
    def tokens(self, pixels, keys):
        return [nn.functional.avg_pool2d(pixels, 8)]


@pytest.mark.parametrize(
    ("adapter", "found", "fix"),
    [
        (NeverRuns, r"ZeroDivisionError: division by zero (test_conformance.py, line", "run for one image first"),
        (GivesAMap, "returned features (1, 3, 4, 6)", "flatten(2).transpose(1, 2)"),
    ],
)
def test_where_no_size_works_one_line_stands_for_all_other_checks(adapter, found, fix):
    every = check(adapter())
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(*report("mine", every))
    text = capture.get()
    assert len(every) == len(CHECKS)
    assert "no size works" in text
    assert found in text
    assert fix in text
    assert text.count("not applicable") == 1  # in the last line, which counts
    assert f"The {len(CHECKS) - 2} other checks need a size that works." in text


class HiddenInADict(Colors):
    """Nothing but hidden weights, and cut off from them: no gradient could tell."""

    def __init__(self):
        super().__init__()
        self.parts = {"mean": nn.Conv2d(3, 3, 8, 8)}

    def tokens(self, pixels, keys):
        with torch.no_grad():
            return [self.parts["mean"](pixels).flatten(2).transpose(1, 2)]


def test_modules_in_a_plain_dict_are_found_without_gradients():
    finding = failed(check(HiddenInADict()))["weights"]
    assert finding.found == "state_dict() does not hold the modules in HiddenInADict.parts, a dict"
