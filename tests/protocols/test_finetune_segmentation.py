"""Fine-tuning on data whose right answer is known, and what a kill, a full disk or an odd backbone does to it."""

import dataclasses
import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densebench.core.errors import DatasetError, FeatureError, ModelError, StorageError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.sets.voc import VOC
from densebench.features.source import FeatureSource
from densebench.figures import kit as figures
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone, BackboneInfo
from densebench.ops.heads import IGNORED
from densebench.protocols.common import checkpoint
from densebench.protocols.finetune_segmentation.network import (
    DropPath,
    SegmentationNetwork,
    SegmentationTrainer,
    build,
    layer_ids,
    make_optimiser,
)
from densebench.protocols.finetune_segmentation.protocol import FinetuneSegmentation
from densebench.protocols.finetune_segmentation.training import FinetunePlan
from densebench.protocols.protocol import Context, Data
from densebench.views.order import batches
from tests import toys

PROTOCOL = FinetuneSegmentation()
QUICK = {
    "input_size": 64, "mask_size": 64, "steps": 60, "batch": 4, "optimiser": "adamw", "learning_rates": (0.02,),
    "head_factor": 1.0, "evaluations": 2,
}  # fmt: skip
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = toys.write_voc(tmp_path_factory.mktemp("voc"), n_train=8, n_val=6)
    classes = {"classes": VOC.info.classes[:4], "palette": VOC.info.palette[:4]}
    four = type("Four", (VOC,), {"info": dataclasses.replace(VOC.info, **classes)})
    return Data(four(root, "trainaug"), four(root, "val"))


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Pictures take longer than these trainings."""
    if request.function is not test_pictures_are_drawn:
        monkeypatch.setattr(figures, "png", lambda figure: PNG)


class Plain(nn.Module):
    """What users have: a network that knows nothing of densebench."""

    def __init__(self, mix):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 8, stride=8)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.norm = nn.Identity()
        nn.init.zeros_(self.embed.bias)
        self.embed.weight.data = (torch.tensor(mix) / 64)[..., None, None].repeat(1, 1, 8, 8)
        for block in self.blocks:
            nn.init.eye_(block.weight)
            nn.init.zeros_(block.bias)

    def forward(self, x):
        return self.norm(self.blocks(self.embed(x).flatten(2).transpose(1, 2)))


SEES = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
BLIND = [[0.5, 0.5, 0.5]] * 4
"""Red, green and blue of the toys are equally bright: these weights show grey only."""


class Adapter(Backbone):
    info = BackboneInfo(name="adapter", patch=8, width=4, prefix=0, depth=2, mean=(0.4,) * 3, std=(0.3,) * 3)

    def __init__(self, mix=SEES):
        super().__init__()
        self.trunk = Plain(mix)

    def tokens(self, pixels, keys):
        return [self.trunk(pixels) for _ in keys]


class Wide(Adapter):
    info = dataclasses.replace(Adapter.info, width=32)

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk.norm = nn.Linear(4, 32)


class Noise(Adapter):
    def tokens(self, pixels, keys):
        tokens = super().tokens(pixels, keys)[0]
        generator = torch.Generator().manual_seed(int(pixels.double().sum().abs().item() * 1000) % 2**31)
        return [tokens * 0 + torch.randn(tokens.shape, generator=generator)]


def resolved(backbone, data, preset="paper", **settings):
    config = PROTOCOL.configure(preset, {**QUICK, **settings})
    return PROTOCOL.resolve(config, backbone.info, data.info)


def measure(backbone, data, workspace=None, precision="float32", batch_size=16, preset="paper", seed=0, **settings):
    said = []
    progress = Progress(quiet=True)
    progress.say = said.append
    source = FeatureSource(backbone, precision=precision, batch_size=batch_size)
    context = Context(source, progress, seed, workspace)
    result = PROTOCOL.run(resolved(backbone, data, preset, **settings), data, context)
    return {m.label: m for m in result.metrics}, result, said


def numbers(found):
    return {name: (m.value, m.ci95, m.per_class) for name, m in found.items()}


def test_a_backbone_that_can_tell_the_classes_scores_100(data):
    found, result, _ = measure(Adapter(), data, mask_size=8, absent="skip")
    assert found["miou"].value == pytest.approx(100.0)
    assert found["miou"].ci95 == (pytest.approx(100.0), pytest.approx(100.0))
    assert found["miou_best"].value == found["miou_present"].value == pytest.approx(100.0)
    assert list(found["miou"].per_class) == list(data.info.classes)
    assert [m.name for m in PROTOCOL.metrics] == ["miou", "miou_best", "miou_present"]
    assert set(found) == {m.name for m in PROTOCOL.metrics}
    assert [point["step"] for point in result.facts["curve"]] == [30, 60]
    assert result.facts["resumed_at_step"] is None
    json.dumps(result.facts)


def test_noise_scores_chance(data):
    found, _, _ = measure(Noise(), data)
    assert found["miou"].value < 35  # four classes: 25 % of the pixels, less in IoU
    low, high = found["miou"].ci95
    assert low < found["miou"].value < high


def test_fine_tuning_learns_what_the_frozen_features_hide(data):
    tuned, _, _ = measure(Adapter(BLIND), data)
    frozen, _, _ = measure(Adapter(BLIND), data, learning_rates=(1e-9,), head_factor=2e7)
    assert frozen["miou"].value < 55  # black is told apart, three colours are one
    assert tuned["miou"].value > 95


def test_segmenter_learns_too_and_reports_the_best_learning_rate(data):
    """Images are seen at 60 pixels, padded to 64, and compared at their own 64."""
    settings = {"input_size": 60, "stride": 40, "steps": 120, "sub_batch": 3, "decoder_drop_path": 0.0}
    found, result, _ = measure(Wide(), data, preset="segmenter", learning_rates=(1e-5, 3e-3), **settings)
    assert found["miou"].value > 95
    assert result.facts["learning_rate"] == 3e-3
    assert [(point["rate"], point["step"]) for point in result.facts["curve"]] == [
        (1e-5, 60), (1e-5, 120), (3e-3, 60), (3e-3, 120)
    ]  # fmt: skip
    assert found["miou"].value == result.facts["curve"][-1]["miou"]
    assert any("learning rates is reported, chosen on the validation images" in note for note in result.notes)
    assert any("drop path is not applied" in note for note in result.notes)


def test_pictures_are_drawn(data):
    _, result, _ = measure(Adapter(), data, steps=2)
    assert {name: content[:4] for name, content in result.artifacts.items()} == {"curve.png": PNG, "examples.png": PNG}


@pytest.mark.parametrize("preset", ["paper", "segmenter"])
def test_the_backbone_that_was_given_stays_as_it_is(preset, data):
    backbone = Adapter().requires_grad_(False)
    before = backbone.weights_digest()
    measure(backbone, data, preset=preset, steps=4)
    assert backbone.weights_digest() == before
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())


def test_scores_do_not_depend_on_the_batch_size_of_features_nor_on_the_run(data):
    first, _, _ = measure(Adapter(), data, steps=6, batch_size=1)
    second, _, _ = measure(Adapter(), data, steps=6, batch_size=9)
    other, _, _ = measure(Adapter(), data, steps=6, seed=1)
    assert numbers(first) == numbers(second)
    assert numbers(first) != numbers(other)


def test_a_step_is_that_of_one_loss_over_all_pixels(data):
    """Oracle: the whole batch upsampled by torch, one cross-entropy, one backward."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    target = torch.randint(0, 4, (5, 20, 20))
    target[torch.rand(5, 20, 20) < 0.4] = IGNORED
    for over in ("valid", "all"):
        config = resolved(Adapter(), data, sub_batch=2, loss_over=over, mask_size=20)
        trainer = SegmentationTrainer(config, build(config, Adapter(), 4, 0, "float32"), 0.1, 0, torch.device("cpu"))
        loss = trainer.step(0, 1.0, images, target, list("abcde"))
        network = build(config, Adapter(), 4, 0, "float32")
        logits = F.interpolate(network(images.float() / 255, list("abcde")), 20, mode="bilinear")
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        expected = total / (target.numel() if over == "all" else (target != IGNORED).sum())
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        for mine, theirs in zip(trainer.network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_padding_is_cut_off_the_logits():
    network = SegmentationNetwork(Adapter(), nn.Identity())
    rows, columns = network.upsampling((58, 61), (58, 61), torch.device("cpu"))
    maps = torch.rand(1, 2, 8, 8)
    expected = F.interpolate(maps, 64, mode="bilinear")[..., 3:61, 1:62]  # 6 and 3 pixels, the odd one below
    torch.testing.assert_close(rows @ maps[0] @ columns.T, expected[0])


def test_every_epoch_has_every_image_once_wherever_it_begins():
    keys = list(batches(7, 3, 0, range(14)))
    flat = [key for step in keys for key in step]
    for epoch in range(6):
        assert sorted(i for e, i in flat if e == epoch) == list(range(7))
    assert [i for e, i in flat if e == 0] != [i for e, i in flat if e == 1]
    assert list(batches(7, 3, 0, range(5, 14))) == keys[5:]


class Killed(BaseException):
    pass


class Mortal(Adapter):
    """Dies at the n-th forward pass of all its copies."""

    calls = []
    dies_at = -1

    def tokens(self, pixels, keys):
        self.calls.append(1)
        if len(self.calls) == self.dies_at:
            raise Killed
        return super().tokens(pixels, keys)


@pytest.fixture
def mortal(monkeypatch):
    monkeypatch.setattr(Mortal, "calls", [])
    return Mortal


@pytest.mark.parametrize(
    ("preset", "dies_at"),
    [("paper", 2), ("paper", 4), ("paper", 8), ("paper", 9), ("paper", 16), ("segmenter", 3), ("segmenter", 14),
     ("segmenter", 21), ("segmenter", 36)],
)  # fmt: skip
def test_a_killed_run_ends_with_the_numbers_of_an_unbroken_one(preset, dies_at, data, mortal, monkeypatch, tmp_path):
    """Killed in a step, in scoring the validation images, in either of two learning rates."""
    settings = {
        "preset": preset, "steps": 6, "optimiser": "adam", "learning_rates": (0.01, 0.03), "checkpoint_seconds": 0.0,
        "decoder_drop_path": 0.5,
    }  # fmt: skip
    whole, result, _ = measure(mortal(), data, **settings)
    assert len(Mortal.calls) == {"paper": 16, "segmenter": 36}[preset]
    monkeypatch.setattr(Mortal, "dies_at", len(Mortal.calls) + dies_at)
    with pytest.raises(Killed):
        measure(mortal(), data, tmp_path / "cell", **settings)
    found, again, said = measure(mortal(), data, tmp_path / "cell", **settings)
    assert numbers(found) == numbers(whole)
    assert again.facts["curve"] == result.facts["curve"]
    assert again.facts["resumed_at_step"] is not None
    assert any(line.startswith("going on from step") for line in said)


def test_a_torn_checkpoint_and_one_of_other_settings_are_left_aside(data, tmp_path):
    settings = {"steps": 4, "checkpoint_seconds": 0.0}
    whole, _, _ = measure(Adapter(), data, tmp_path, **settings)
    file = tmp_path / "training.pt"
    content = file.read_bytes()
    middle = len(content) // 2
    zeroed = content[:middle] + bytes(64) + content[middle + 64 :]
    assert zeroed != content
    torch.load(io.BytesIO(zeroed), weights_only=True)  # as if nothing was
    for torn in (content[: len(content) // 2], b"", b"\x80\x02.", zeroed):
        file.write_bytes(torn)
        found, result, said = measure(Adapter(), data, tmp_path, **settings)
        assert numbers(found) == numbers(whole)
        assert result.facts["resumed_at_step"] is None
        assert any("cannot be read" in line for line in said)
    file.write_bytes(content)
    _, result, said = measure(Adapter(), data, tmp_path, **{**settings, "weight_decay": 0.5})
    assert result.facts["resumed_at_step"] is None
    assert any("is of other settings" in line for line in said)


def test_a_full_disk_costs_the_resume_only(data, monkeypatch, tmp_path):
    def full(path, content):
        raise StorageError(f"cannot write {path} (No space left on device).")

    whole, _, _ = measure(Adapter(), data, steps=4)
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    found, _, said = measure(Adapter(), data, tmp_path, steps=4, checkpoint_seconds=0.0)
    assert numbers(found) == numbers(whole)
    assert sum("No space left" in line for line in said) == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_learns_as_well(precision, data):
    found, _, _ = measure(Adapter(), data, precision=precision)
    assert found["miou"].value > 90


def test_masks_may_be_compared_at_their_own_size(data):
    found, _, _ = measure(Adapter(), data, mask_size=None)
    assert found["miou"].value > 90


def test_layers_of_parameters_and_their_learning_rates(data):
    backbone = Adapter()
    assert layer_ids(backbone) == {
        "trunk.embed.weight": 0, "trunk.embed.bias": 0, "trunk.blocks.0.weight": 1, "trunk.blocks.0.bias": 1,
        "trunk.blocks.1.weight": 2, "trunk.blocks.1.bias": 2,
    }  # fmt: skip
    backbone.trunk.norm = nn.LayerNorm(4)
    config = resolved(backbone, data, layer_decay=0.5, freeze=1, learning_rates=(0.08,), head_factor=2.0)
    network = build(config, backbone, 4, 0, "float32")
    optimiser = make_optimiser(config, network, 0.08)
    rate = {id(p): group["peak"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: rate.get(id(p)) for name, p in network.named_parameters()}
    assert {name: value for name, value in found.items() if name.endswith("weight")} == {
        "backbone.trunk.embed.weight": None,
        "backbone.trunk.blocks.0.weight": None,
        "backbone.trunk.blocks.1.weight": 0.04,
        "backbone.trunk.norm.weight": 0.08,
        "head.weight": 0.16,
    }


def test_frozen_blocks_stay_and_the_others_move(data):
    backbone = Adapter()
    config = resolved(backbone, data, freeze=1)
    network = build(config, backbone, 4, 0, "float32")
    trainer = SegmentationTrainer(config, network, 0.1, 0, torch.device("cpu"))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    trainer.step(0, 1.0, images, torch.randint(0, 4, (2, 64, 64)), ["a", "b"])
    moved = {
        name for name, p in network.backbone.named_parameters() if not torch.equal(p, backbone.get_parameter(name))
    }
    assert moved == {"trunk.blocks.1.weight", "trunk.blocks.1.bias"}


def test_drop_path_goes_into_blocks_that_have_a_place_for_it(data):
    backbone = load_model("pico")
    config = resolved(backbone, data, drop_path=0.2)
    network = build(config, backbone, 4, 0, "float32")
    rates = [m.rate for m in network.backbone.modules() if isinstance(m, DropPath)]
    assert network.has_drop_path
    assert rates == pytest.approx([r for i in range(6) for r in [0.2 * i / 5] * 2])
    assert not any(isinstance(m, DropPath) for m in backbone.modules())
    assert not build(config, Adapter(), 4, 0, "float32").has_drop_path


class Listed(Adapter):
    """Keeps its network where torch does not see it."""

    def __init__(self):
        Backbone.__init__(self)
        self.trunk = [Plain(SEES)]

    def tokens(self, pixels, keys):
        return [self.trunk[0](pixels)]


class Detached(Adapter):
    def tokens(self, pixels, keys):
        with torch.no_grad():
            return super().tokens(pixels, keys)


class Broken(Adapter):
    def tokens(self, pixels, keys):
        tokens = super().tokens(pixels, keys)[0].clone()
        tokens[-1, 3] = float("nan")
        return [tokens]


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        (Listed, ModelError, "no parameters that could be trained"),
        (Detached, ModelError, "no gradient reaches the weights of adapter"),
        (Broken, FeatureError, r"not finite \(NaN or infinity\) for image 2007_trainaug_00"),
    ],
)
def test_backbones_that_cannot_be_tuned_say_why(backbone, error, message, data):
    with pytest.raises(error, match=message):
        measure(backbone(), data, steps=2)


def test_a_training_that_diverges_says_what_to_change(data):
    with pytest.raises(FeatureError, match="lower learning rate"):
        measure(Adapter(), data, steps=40, optimiser="sgd", learning_rates=(1e8,))


def test_layer_decay_needs_blocks(data):
    backbone = Adapter()
    backbone.trunk.blocks = nn.ModuleDict({"a": nn.Identity()})
    with pytest.raises(ModelError, match=r"no torch\.nn\.ModuleList or Sequential of 2 blocks"):
        layer_ids(backbone)


def test_masks_without_a_class_are_refused(data):
    nothing = dataclasses.replace(data.info, ignored=(0, 1, 2, 3, 255))
    void = type("Void", (type(data.val),), {"info": nothing})(data.val.root, "val")
    with pytest.raises(DatasetError, match="no pixel of any mask has a class to be evaluated"):
        measure(Adapter(), Data(data.train, void), steps=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": 2}, "finetune_segmentation.freeze=2: expected fewer than the 2 blocks"),
        ({"learning_rates": (0.1, -1)}, "learning_rates="),
        ({"steps": 3, "epochs": 4}, "set one of them, not both"),
        ({"steps": None, "epochs": None}, "epochs are none: set one of them"),
        ({"decoder_heads": 3}, "a number that divides the width, 4"),
        ({"input_size": 60}, "not a multiple of the patch size"),
        ({"steps": 0}, "steps=0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
    ],
)
def test_settings_that_cannot_work_say_why(settings, message, data):
    with pytest.raises(UsageError, match=message):
        resolved(Adapter(), data, **settings)


def test_published_settings(data):
    """PaKA A.2 and NeCo A.2, on VOC for a ViT-S/14."""
    small = dataclasses.replace(Adapter.info, patch=14, width=384, depth=12, prefix=5)
    paper = PROTOCOL.resolve(PROTOCOL.configure("paper"), small, VOC.info)
    assert (paper.input_size, paper.mask_size, paper.epochs, paper.steps, paper.batch) == (448, 100, 20, None, 128)
    assert (paper.optimiser, paper.momentum, paper.weight_decay) == ("sgd", 0.9, 1e-4)
    assert paper.learning_rates[0] * paper.head_factor == pytest.approx(0.01)
    assert FinetunePlan.of(paper, 10_582).steps == 1654
    neco = PROTOCOL.resolve(PROTOCOL.configure("segmenter"), small, VOC.info)
    assert (neco.input_size, neco.stride, neco.epochs, neco.steps, neco.batch) == (512, 480, None, 80_000, 8)
    assert neco.learning_rates == (8e-5, 3e-5, 1e-5, 8e-6)
    assert (neco.optimiser, neco.schedule, neco.final_rate, neco.decoder_heads) == ("adam", "poly", 0.1, 6)
    coco = dataclasses.replace(VOC.info, name="coco_things", family="coco")
    tenth = PROTOCOL.resolve(PROTOCOL.configure("paper"), small, coco)
    assert len(FinetunePlan.of(tenth, 118_287).images) == 11_828
    assert PROTOCOL.resolve(PROTOCOL.configure("segmenter"), small, coco).train_share == 1
    ade = dataclasses.replace(VOC.info, name="ade20k", family="ade20k")
    assert PROTOCOL.resolve(PROTOCOL.configure("segmenter"), small, ade).steps == 160_000
    assert PROTOCOL.resolve(PROTOCOL.configure("segmenter", {"epochs": 3}), small, ade).steps is None


def test_the_estimate_bounds_what_a_step_keeps(data):
    """Activations of a step of a real ViT: measured as what autograd holds, each storage once."""
    backbone = load_model("timm/vit_tiny_patch16_224?random")
    for preset in ("paper", "segmenter"):
        sizes = {"input_size": 160, "batch": 2, "sub_batch": 2, "steps": 1}
        config = PROTOCOL.resolve(PROTOCOL.configure(preset, sizes), backbone.info, VOC.info)
        network = build(config, backbone, 21, 0, "float32")
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        held = {}

        def keep(x, held=held, weights=weights):
            if x.untyped_storage().data_ptr() not in weights:
                held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            network(torch.rand(2, 3, 160, 160), ["a", "b"])
        one = PROTOCOL.estimate(config, backbone.info, data).bank_bytes
        none = PROTOCOL.estimate(dataclasses.replace(config, sub_batch=0), backbone.info, data).bank_bytes
        assert 0.7 * (one - none) < sum(held.values()) <= one - none


def test_the_estimate_counts_every_pass(data):
    config = resolved(Adapter(), data, steps=10, learning_rates=(0.1, 0.2))
    estimate = PROTOCOL.estimate(config, Adapter.info, data)
    assert estimate.features["train"][1] == 10 * 4 * 2
    assert estimate.features["val"][1] == 6 * 2 * 2
    assert estimate.search_flops > 0
