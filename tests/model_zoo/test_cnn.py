"""Maps of convolutional networks: the stage asked for, as timm itself gives it, with its stride for a patch."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo import ModelSpec, load_model
from densebench.model_zoo.adapters import cnn
from densebench.model_zoo.adapters.cnn import StageBackbone
from densebench.model_zoo.conformance import check


def load(name, seed=0, weights=None):
    return cnn.load(ModelSpec(f"timm/{name}?random", "timm", name, None if weights else seed, weights)).eval()


@pytest.mark.parametrize(
    ("name", "patch", "width", "stage"),
    [
        ("resnet18", 32, 512, 4),
        ("resnet18:-2", 16, 256, 3),
        ("resnet18:1", 4, 64, 1),
        ("convnext_atto", 32, 320, 3),
        ("mobilenetv3_small_050:3", 16, 24, 3),
        ("swin_tiny_patch4_window7_224:1", 8, 192, 1),
    ],
)
def test_a_stage_is_what_timm_gives_as_features(name, patch, width, stage):
    backbone = load(name)
    assert (backbone.info.patch, backbone.info.width, backbone.info.prefix) == (patch, width, 0)
    architecture = name.partition(":")[0]
    extra = {"strict_img_size": False} if "swin" in architecture else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = timm.create_model(architecture, num_classes=0, **extra).eval()
    reference = timm.create_model(architecture, features_only=True, out_indices=(stage,), **extra).eval()
    wanted = reference.state_dict()  # some of whose parts are named stages_0 rather than stages.0
    own = {re.sub(r"^(stages|layers|stem)\.(\d)", r"\1_\2", k): v for k, v in whole.state_dict().items()}
    own |= whole.state_dict()
    reference.load_state_dict({k: own[k] for k in wanted})
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = backbone.dense(images).maps[0]
        expected = reference(backbone.normalise(images))[0]
    torch.testing.assert_close(found, expected if expected.shape == found.shape else expected.permute(0, 3, 1, 2))
    assert found.shape == (2, width, 64 // patch, 96 // patch)
    assert backbone.dense(images).class_tokens == (None,)


def test_preprocessing_is_that_of_the_weights():
    info = load("tf_efficientnet_b0.ns_jft_in1k").info
    assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert load("mobilenetv3_large_100").info.interpolation == "bicubic"


def test_stages_after_the_one_asked_for_are_no_part_of_the_model():
    first, last = load("resnet18:1"), load("resnet18")
    assert len(first.state_dict()) < len(last.state_dict()) / 3
    assert not any(name.startswith("net.layer2") for name in first.state_dict())
    assert first.weights_digest() != last.weights_digest()


def test_random_weights_come_from_the_seed_and_files_fit_by_every_key(tmp_path):
    assert load("resnet18", 1).weights_digest() == load("resnet18", 1).weights_digest()
    assert load("resnet18", 1).weights_digest() != load("resnet18", 2).weights_digest()
    file = tmp_path / "w.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(timm.create_model("resnet18").state_dict(), file)  # with its classifier
    images = torch.rand(1, 3, 64, 64)
    assert load("resnet18:2", weights=file).dense(images).maps[0].shape == (1, 128, 8, 8)
    with pytest.raises(ModelError, match="Is it a checkpoint of another architecture"):
        load("resnet34", weights=file)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("resnet18:5", UsageError, r"has no stage 5; it has 0: 64 channels, stride 2, .*4: 512 channels, stride 32"),
        ("resnet18:last", UsageError, "expected the number of a stage"),
        ("resnet19", UsageError, "did you mean 'timm/resnet1"),
    ],
)
def test_wrong_names_say_what_there_is(name, error, words):
    with pytest.raises(error, match=words):
        load_model(f"timm/{name}?random")


def test_a_network_of_one_size_says_so_when_it_is_given_another():
    backbone = load("maxvit_tiny_rw_224")
    with pytest.raises(ModelError, match=r"cannot encode \(128, 192\) pixels: .*divisible by window"):
        backbone.dense(torch.rand(1, 3, 128, 192))


def test_networks_without_stages_are_refused():
    with pytest.raises(ModelError, match="is a ViT, whose blocks are layers"):
        load("vit_tiny_patch16_224:3")
    with pytest.raises(ModelError, match="names no stages"):
        StageBackbone(nn.Conv2d(3, 8, 8, 8), "convolution")


@pytest.mark.parametrize("name", ["resnet18:2", "convnext_atto:1"])
def test_stages_pass_check_model(name):
    found = check(load(name), (64, 96))
    assert not [f for f in found if f.outcome in ("failed", "note")], found
    assert {f.check for f in found if f.outcome == "not applicable"} >= {"layers", "facets", "attention", "class token"}


@pytest.mark.parametrize(
    "name", ["hiera_tiny_224", "pit_ti_224", "levit_128s", "volo_d1_224", "efficientformer_l1", "gcvit_xxtiny"]
)
def test_networks_of_one_size_say_so_whatever_timm_raises(name):
    """And at their native size they work, but for one whose last stage that size does not fit."""
    backbone = load_model(f"timm/{name}?random")
    fits = "levit" not in name
    then = (
        r"native one is .*input_size=224\." if fits else "native 224 px are not a multiple of this stage's stride, 64"
    )
    with pytest.raises(ModelError, match=rf"cannot encode \(128, 128\) pixels: .*{then}"):
        backbone.dense(torch.rand(1, 3, 128, 128))
    if fits:
        assert backbone.dense(torch.rand(1, 3, 224, 224)).maps[0].shape[1] == backbone.info.width


def test_a_vit_of_one_size_is_not_sent_in_circles():
    with pytest.raises(ModelError, match=r"no stages, and takes one input size only; wrap it in an adapter"):
        load_model("timm/cait_xxs24_224?random")
    with pytest.raises(ModelError, match=r"no stages\. Name it without a stage"):
        load_model("timm/vit_tiny_patch16_224:1?random")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224.nope", "resnet18.nope", "vit_tiny_patch16_224.nope?random"])
def test_a_tag_that_does_not_exist_is_answered_with_those_that_do(name):
    with pytest.raises(UsageError, match=rf"unknown model 'timm/{re.escape(name)}'; did you mean 'timm/"):
        load_model(f"timm/{name}")
