"""Linear heads where the right answer is known: features that are the classes score 100, noise scores chance."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from densebench.core.errors import DatasetError, FeatureError, UsageError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS
from densebench.datasets.dataset import DenseDataset
from densebench.datasets.sets.voc import VOC
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.model_zoo import load_model
from densebench.ops import heads
from densebench.ops.resize import resize_labels, resize_maps
from densebench.protocols.linear_segmentation.linear_head import LinearPlan, train
from densebench.protocols.linear_segmentation.protocol import LinearSegmentation, LinearSegmentationCached
from densebench.protocols.protocol import Context, Data
from densebench.views.segmentation import Mirror, SegmentationViews
from tests import toys

BOTH = [LinearSegmentation, LinearSegmentationCached]
FAST = {"input_size": 64, "epochs": 4, "batch": 4, "learning_rate": 1.0, "mask_size": 20}
INFO = dataclasses.replace(
    VOC.info, name="plain", classes=VOC.info.classes[:4], palette=VOC.info.palette[:4], splits={"train": 14, "val": 9}
)


class Plain(DenseDataset):
    """Every image is of one class and its colour, with a rim of void."""

    info = INFO

    def __init__(self, split, info=INFO, **masks):
        self.info = info
        super().__init__(None, split)
        self.ids = [f"{split}_{i}" for i in range(info.splits[split])]
        self.masks = masks

    def mask(self, index):
        mask = np.full((64, 64), index % 4, dtype=np.uint8)
        mask[0] = mask[:, 0] = 255
        return self.masks.get(self.ids[index], mask)

    def image(self, index):
        return Image.fromarray(np.broadcast_to(toys.COLORS[index % 4], (64, 64, 3)).copy())

    def digest(self):
        return f"plain-{self.split}"


@pytest.fixture(scope="module")
def plain():
    return Data(Plain("train"), Plain("val"))


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    root = toys.write_voc(tmp_path_factory.mktemp("voc"), n_train=16, n_val=12)
    four = type("Four", (VOC,), {"info": dataclasses.replace(INFO, splits=VOC.info.splits)})
    return Data(four(root, "trainaug"), four(root, "val"))


def measure(protocol, backbone, data, cache=None, seed=0, batch_size=5, workers=0, preset="paper", **settings):
    protocol = protocol()
    config = protocol.resolve(protocol.configure(preset, {**FAST, **settings}), backbone.info, data.info)
    cache = cache and FeatureCache(cache, 10**8)
    source = FeatureSource(backbone, cache=cache, batch_size=batch_size, workers=workers)
    context = Context(source, Progress(quiet=True), seed)
    result = protocol.run(config, data, context)
    return {m.label: m for m in result.metrics}, result, context


def numbers(measured):
    found, result, _ = measured
    return {name: (m.value, m.ci95) for name, m in found.items()}, result.facts["curve"]


@pytest.mark.parametrize("protocol", BOTH)
def test_features_that_are_the_classes_score_exactly_100(protocol, plain):
    found, result, context = measure(protocol, toys.OneHotBackbone(), plain, mask_size=100, absent="skip")
    assert list(found) == ["miou", "miou_best", "miou_input", "miou_present", "miou_hungarian"]
    for metric in found.values():
        assert metric.value == 100.0
        assert metric.ci95 == (100.0, 100.0)
    assert [name for name, m in found.items() if m.main] == ["miou"]
    assert set(found["miou"].per_class.values()) == {100.0}
    assert {name: content[:4] for name, content in result.artifacts.items()} == {
        "curve.png": b"\x89PNG",
        "examples.png": b"\x89PNG",
    }
    assert {"load", "features", "training", "score", "figures"} <= set(context.seconds)


@pytest.mark.parametrize("protocol", BOTH)
def test_edges_inside_an_image_are_nearly_perfect(protocol, halves):
    found, _, _ = measure(protocol, toys.OneHotBackbone(), halves, epochs=12)
    assert found["miou"].value > 95
    assert found["miou_input"].value > 95


@pytest.mark.parametrize("protocol", BOTH)
def test_noise_scores_chance(protocol, halves):
    found, _, _ = measure(protocol, toys.ShuffledBackbone(), halves, learning_rate=0.01)
    assert found["miou"].value < 25  # four classes: 25 % of the pixels, less in IoU
    low, high = found["miou"].ci95
    assert low <= found["miou"].value <= high


class RecoloredVal(Plain):
    """The colours of classes 0 and 1 have changed places since training."""

    def image(self, index):
        return super().image(index ^ 1 if index % 4 < 2 else index)


def test_matching_hides_a_mistake_that_identity_shows(plain):
    data = Data(plain.train, RecoloredVal("val", dataclasses.replace(INFO, splits={"val": 8})))
    found, _, _ = measure(LinearSegmentation, toys.OneHotBackbone(), data)
    assert found["miou"].value == 50.0
    assert found["miou_hungarian"].value == 100.0


@pytest.mark.parametrize(("absent", "expected"), [("zero", 80.0), ("skip", 100.0)])
def test_a_class_that_nobody_has_counts_as_asked(absent, expected, plain):
    five = dataclasses.replace(INFO, classes=VOC.info.classes[:5], palette=VOC.info.palette[:5])
    data = Data(Plain("train", five), Plain("val", five))
    found, _, _ = measure(LinearSegmentation, toys.OneHotBackbone(), data, absent=absent)
    assert found["miou"].value == pytest.approx(expected)
    assert found["miou_present"].value == pytest.approx(100.0)


def test_training_is_that_of_the_published_loop():
    """Upsample first, convolve, mean cross-entropy of the batch, torch's SGD and StepLR."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 4, 8, 8, generator=generator)
    masks = torch.randint(0, 4, (6, 64, 64), generator=generator, dtype=torch.uint8)
    masks[1, :40] = 255
    masks[5] = 255

    published = heads.linear_head(4, 4, seed=2)
    sgd = torch.optim.SGD(published.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.1)
    for _ in range(3):
        for some in (slice(0, 4), slice(4, 6)):
            logits = published(resize_maps(maps[some], 20))
            loss = F.cross_entropy(logits, resize_labels(masks[some], 20).long(), ignore_index=255)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        scheduler.step()

    protocol, backbone = LinearSegmentation(), toys.ColorBackbone()
    config = protocol.resolve(
        protocol.configure("paper", {**FAST, "epochs": 3, "learning_rate": 0.5, "shuffle": False}), backbone.info, INFO
    )
    plan = LinearPlan.of("linear_segmentation", config, 6)
    head = heads.linear_head(4, 4, seed=2)
    ours = torch.optim.SGD(head.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
    context = Context(FeatureSource(backbone), Progress(quiet=True))
    for rate in (0.5, 0.5, 0.05):
        ours.param_groups[0]["lr"] = rate
        train(config, plan, head, ours, zip(maps, masks, strict=True), INFO, context)
    torch.testing.assert_close(head.weight, published.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.bias, published.bias, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_drops_and_the_curve_says_all(plain):
    found, result, _ = measure(LinearSegmentation, toys.OneHotBackbone(), plain, epochs=5, drop_at=2, evaluations=3)
    curve = result.facts["curve"]
    assert [c["learning_rate"] for c in curve] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])
    assert [c["miou"] is not None for c in curve] == [False, True, True, False, True]
    assert curve[-1]["miou"] == found["miou"].value
    assert curve[0]["loss"] > curve[-1]["loss"] > 0
    assert result.facts["train_images"] == 14
    assert result.facts["steps"] == 5 * 4


def test_the_best_epoch_is_kept_where_the_last_is_worse(halves):
    # a learning rate that grows after two epochs ruins the head
    settings = {"epochs": 4, "learning_rate": 0.05, "drop_at": 2, "drop_factor": 4000.0}
    found, result, _ = measure(LinearSegmentation, toys.ShuffledBackbone(), halves, **settings)
    mious = [c["miou"] for c in result.facts["curve"]]
    assert found["miou_best"].value == max(mious)
    assert result.facts["best_epoch"] == 1 + mious.index(max(mious))
    assert found["miou"].value == mious[-1] < max(mious)
    low, high = found["miou_best"].ci95
    assert low <= found["miou_best"].value <= high


@pytest.mark.parametrize("protocol", BOTH)
def test_batches_workers_and_the_cache_change_nothing(protocol, halves, tmp_path):
    settings = {"epochs": 2, "learning_rate": 0.1}
    backbone = toys.ColorBackbone()
    reference = numbers(measure(protocol, backbone, halves, **settings))
    assert numbers(measure(protocol, backbone, halves, batch_size=3, **settings)) == reference
    assert numbers(measure(protocol, backbone, halves, batch_size=16, workers=2, **settings)) == reference
    for _ in ("cold", "warm"):  # a second run after a kill
        assert numbers(measure(protocol, backbone, halves, tmp_path, **settings)) == reference
    assert numbers(measure(protocol, backbone, halves, seed=1, **settings)) != reference


@pytest.mark.parametrize("protocol", BOTH)
def test_features_that_are_not_numbers_name_the_image(protocol, plain):
    with pytest.raises(FeatureError, match="not finite for image train_"):
        measure(protocol, toys.NaNBackbone(), plain)


def test_void_is_not_trained_on_and_not_scored(plain):
    void = np.full((64, 64), 255, dtype=np.uint8)
    data = Data(Plain("train", train_1=void), Plain("val", val_0=void))
    found, _, _ = measure(LinearSegmentation, toys.OneHotBackbone(), data)
    assert found["miou"].value == 100.0
    nothing = Data(Plain("train", **{f"train_{i}": void for i in range(14)}), plain.val)
    with pytest.raises(DatasetError, match="no pixel of 14 training images has a class"):
        measure(LinearSegmentation, toys.OneHotBackbone(), nothing)


def plan(n_images=10, seed=0, name="plain", preset="paper", **settings):
    protocol = LinearSegmentation()
    info = dataclasses.replace(INFO, name=name, family=name.split("_")[0])
    config = protocol.resolve(protocol.configure(preset, settings), toys.ColorBackbone.info, info)
    return LinearPlan.of("linear_segmentation", config, n_images, seed)


def test_orders_follow_the_loaders_of_the_codes():
    shuffled = plan()
    assert sorted(shuffled.order(0)) == list(range(10))
    assert shuffled.order(0) != shuffled.order(1)
    assert shuffled.order(1) == plan().order(1) != plan(seed=1).order(1)
    assert plan(300, name="voc", preset="neco").order(3) == list(range(256))
    assert plan(300, name="voc", preset="neco-text").order(3) == list(range(256))
    assert (plan(300, preset="neco").epochs, plan(300, preset="neco-text").epochs) == (25, 20)
    assert plan(300, name="ade20k_150", preset="neco").order(3) == list(range(300))
    assert sorted(plan(300, name="cityscapes", preset="neco").order(3)) == list(range(300))
    assert plan(300, name="cityscapes", preset="neco").order(3) != list(range(300))
    coco = plan(3000, name="coco_things", preset="neco")
    assert (len(coco.images), len(coco.order(0))) == (300, 256)
    assert coco.order(0) != sorted(coco.order(0))
    leopart = plan(300, name="voc", preset="leopart")
    assert (leopart.epochs, leopart.batch, len(leopart.order(0)), leopart.shuffle) == (25, 120, 240, True)


def test_a_share_of_the_images_is_drawn_once_and_by_the_seed():
    share = plan(100, train_share=0.1)
    assert len(share.images) == 10
    assert sorted(share.order(0)) == list(share.images) == sorted(share.order(5))
    assert share.images != plan(100, train_share=0.1, seed=1).images
    assert len(plan(2357, name="coco_stuff").images) == 235


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "linear_segmentation.epochs=0: expected at least 1"),
        ({"train_share": 1.5}, "linear_segmentation.train_share=1.5"),
        ({"scale": (0.9, 0.8)}, r"linear_segmentation.scale=\(0.9, 0.8\)"),
        ({"drop_last": True, "batch": 64}, "leaves nothing of 14 training images in batches of 64"),
        ({"input_size": 60}, "input_size=60 is not a multiple"),
    ],
)
def test_settings_that_cannot_work_say_why(settings, message, plain):
    with pytest.raises(UsageError, match=message):
        measure(LinearSegmentation, toys.ColorBackbone(), plain, **settings)


def test_the_preset_of_embedded_data_is_cheap_and_that_of_the_paper_the_papers_whatever_the_data():
    protocol = LinearSegmentation()
    published = protocol.resolve(protocol.configure(), toys.ColorBackbone.info, INFO)
    assert (published.input_size, published.epochs, published.batch) == (448, 20, 128)
    assert (published.learning_rate, published.momentum, published.weight_decay) == (0.01, 0.9, 1e-4)
    assert (published.mask_size, published.drop_at, published.scale) == (100, 20, (0.8, 1.0))
    scenes = dataclasses.replace(INFO, embedded=True, input_size=160)
    cheap, whole = (
        protocol.resolve(protocol.configure(preset), toys.ColorBackbone.info, scenes)
        for preset in ("embedded", "paper")
    )
    assert (cheap.input_size, cheap.epochs, cheap.batch, cheap.learning_rate, cheap.drop_at) == (160, 3, 8, 0.3, 2)
    assert whole == dataclasses.replace(published, input_size=160)


def test_mirror_images_are_read_in_every_second_epoch(halves):
    protocol, backbone = LinearSegmentationCached(), toys.ColorBackbone()
    settings = {**FAST, "epochs": 2, "mirror": True, "shuffle": False}
    config = protocol.resolve(protocol.configure("paper", settings), backbone.info, halves.info)
    context = Context(FeatureSource(backbone), Progress(quiet=True))
    plain, mirrored = (
        list(epoch) for epoch in protocol.pairs_by_epoch(config, LinearPlan.of("p", config, 16), halves.train, context)
    )
    for (features, mask), (flipped, flipped_mask) in zip(plain, mirrored, strict=True):
        torch.testing.assert_close(features.flip(-1), flipped, rtol=0, atol=2e-3)
        assert torch.equal(mask.flip(-1), flipped_mask)  # edges of these masks lie at the middle
    assert protocol.passes(config, LinearPlan.of("p", config, 16)) == 32


def test_the_mirror_has_cached_features_of_its_own(halves, tmp_path):
    alone = numbers(measure(LinearSegmentationCached, toys.ColorBackbone(), halves, mirror=True))
    measure(LinearSegmentationCached, toys.ColorBackbone(), halves, tmp_path, mirror=False)
    assert numbers(measure(LinearSegmentationCached, toys.ColorBackbone(), halves, tmp_path, mirror=True)) == alone
    assert alone != numbers(measure(LinearSegmentationCached, toys.ColorBackbone(), halves, mirror=False))
    assert dataclasses.asdict(Mirror())["mirror"] is True


def test_crops_are_those_of_the_views(plain):
    protocol, backbone = LinearSegmentation(), toys.ColorBackbone()
    config = protocol.resolve(protocol.configure("paper", {**FAST, "epochs": 2}), backbone.info, plain.info)
    schedule = LinearPlan.of("p", config, 14, seed=3)
    context = Context(FeatureSource(backbone, batch_size=4), Progress(quiet=True), seed=3)
    views = SegmentationViews(data=plain.train, size=(64, 64), seed=3)
    for epoch, pairs in enumerate(protocol.pairs_by_epoch(config, schedule, plain.train, context)):
        found = [mask for _, mask in pairs]
        assert all(torch.equal(mask, views[epoch, i][2]) for mask, i in zip(found, schedule.order(epoch), strict=True))


@pytest.mark.parametrize("protocol", BOTH)
def test_the_estimate_is_of_the_right_order(protocol, plain):
    config = protocol().resolve(protocol().configure("paper", FAST), toys.ColorBackbone.info, plain.info)
    estimate = protocol().estimate(config, toys.ColorBackbone.info, plain)
    passes = 4 if protocol is LinearSegmentation else 1
    assert {split: n for split, (_, n) in estimate.features.items()} == {"train": 14 * passes, "val": 9}
    assert estimate.bank_bytes > 3 * 1000 * 4 * 16
    # at least the product with the weights, forward and twice back
    assert estimate.search_flops > 3 * 4 * 14 * 2 * 4 * 4 * 64


def test_the_backbone_is_left_alone(plain):
    backbone = toys.OneHotBackbone()
    before = backbone.weights_digest()
    measure(LinearSegmentation, backbone, plain)
    assert backbone.weights_digest() == before
    assert all(p.grad is None for p in backbone.parameters())
    assert isinstance(backbone.scale, nn.Parameter)


def test_recipes_go_by_family_and_not_by_the_name_of_a_dataset():
    protocol, info = LinearSegmentation(), DATASETS["coco_things"].info
    backbone = load_model("pico").info
    asked = protocol.configure("paper", {"input_size": 224, "loaders": "neco"})
    published = protocol.resolve(asked, backbone, info)
    assert (published.train_share, published.drop_last) == (0.1, True)
    own = protocol.resolve(asked, backbone, dataclasses.replace(info, name="coco_mini", family=""))
    assert (own.train_share, own.drop_last) == (1.0, False)
