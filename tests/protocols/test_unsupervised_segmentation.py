"""Unsupervised segmentation where the answer is known: features that are the object find all, noise is at chance."""

import dataclasses
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from densebench.core.errors import ModelError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.sets.voc import VOC
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.features.spec import FeatureSpec
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone, BackboneInfo
from densebench.ops import cbfe
from densebench.protocols.protocol import Context, Data
from densebench.protocols.unsupervised_segmentation.foreground import one_background
from densebench.protocols.unsupervised_segmentation.protocol import UnsupervisedSegmentation
from tests import toys

GRID, PATCH = 8, 8
N_BACKGROUND = 10
"""Looks of background patches; each of three objects has two looks, a left and a right half of 2 x 2 patches."""
N_LOOKS = N_BACKGROUND + 6
COLORS = np.random.default_rng(0).permutation(np.stack(np.meshgrid(*[[10, 90, 170, 250]] * 3), -1).reshape(-1, 3))
COLORS = COLORS[:N_LOOKS].astype(np.uint8)
LABELS = np.array([0] * N_BACKGROUND + [1, 1, 2, 2, 3, 3], dtype=np.uint8)


class Objects(DenseDataset):
    """One object of 2 x 4 patches on a background of patches that differ."""

    info = DatasetInfo(
        name="objects",
        title="objects",
        classes=("background", "a", "b", "c"),
        palette=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
        splits={"train": 24, "val": 18},
    )

    def __init__(self, root=None, split="train", transforms=None):
        super().__init__(root, split, transforms)
        self.ids = [f"{split}{i:02d}" for i in range(self.info.splits[split])]

    def looks(self, index):
        rng = np.random.default_rng((self.split == "val", index))
        looks = rng.integers(0, N_BACKGROUND, (GRID, GRID))
        y, x = rng.integers(0, GRID - 1), rng.integers(0, GRID - 3)
        left = N_BACKGROUND + 2 * (index % 3)
        looks[y : y + 2, x : x + 2], looks[y : y + 2, x + 2 : x + 4] = left, left + 1
        return looks.repeat(PATCH, 0).repeat(PATCH, 1)

    def image(self, index):
        return Image.fromarray(COLORS[self.looks(index)])

    def mask(self, index):
        return LABELS[self.looks(index)]


class Perfect(Backbone):
    """Features name object and look, and the class token attends to objects alone."""

    info = BackboneInfo(
        name="perfect", patch=PATCH, width=4 * 8 + N_LOOKS, prefix=3, depth=2, heads=2, mean=(0,) * 3, std=(1,) * 3
    )

    def looks(self, images):
        pixels = images[:, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(2).transpose(1, 2) * 255
        return torch.cdist(pixels, torch.from_numpy(COLORS).float()).argmin(-1)

    def tokens(self, pixels, keys):
        looks = self.looks(pixels)
        objects = F.one_hot(torch.from_numpy(LABELS).long()[looks], 4)
        # k-means merges some looks, whatever its start: let those of objects be the dearest to merge
        lengths = torch.where(torch.arange(N_LOOKS) < N_BACKGROUND, 1.0, 2.0)
        found = torch.cat([objects.repeat(1, 1, 8), F.one_hot(looks, N_LOOKS) * lengths], -1)
        return [F.pad(found, (0, 0, 3, 0)) for _ in keys]

    def attention(self, pixels, layers):
        assert list(layers) == [self.info.depth - 1]
        weights = F.pad((self.looks(pixels) >= N_BACKGROUND).float() + 1e-6, (3, 0), value=0.5)
        weights = weights / weights.sum(1, keepdim=True)
        yield weights[:, None, None].expand(-1, 2, weights.shape[1], -1)


class Noise(Perfect):
    """Features and attention drawn anew for every image."""

    info = dataclasses.replace(Perfect.info, name="noise")

    def draw(self, images, width):
        seeds = (images.double().flatten(1).sum(1) * 1000).long().tolist()
        n = (images.shape[2] // PATCH) * (images.shape[3] // PATCH) + 3
        return torch.stack([torch.randn(n, width, generator=torch.Generator().manual_seed(s)) for s in seeds])

    def tokens(self, pixels, keys):
        return [self.draw(pixels, self.info.width) for _ in keys]

    def attention(self, pixels, layers):
        weights = self.draw(pixels, 1)[..., 0].softmax(1)
        yield weights[:, None, None].expand(-1, 2, weights.shape[1], -1)


SETTINGS = {
    "input_size": GRID * PATCH,
    "eval_size": GRID * PATCH,
    "pca": None,  # looks are told apart as they are; standardised, rare ones would outweigh objects
    "k_fg_extraction": N_LOOKS,
    "k_community": 6,
    "weight_threshold": 0.2,  # halves make up a quarter of each other's neighbours, a look a sixth of the background's
    "markov_time": 1.0,
    "n_iter": 20,
    "community_seeds": (1, 2),
    "object_seeds": (0, 1),
}


def connected(edges, n_clusters, *, seed, markov_time, preferred=None):
    """Stand in for Infomap, which is optional: communities are the parts that hang together."""
    found = torch.zeros(n_clusters, dtype=torch.int64)
    found[edges.nodes.flatten()] = edges.nodes.flatten() + 1
    for _ in range(n_clusters):
        for a, b in edges.nodes.tolist():
            found[a] = found[b] = min(int(found[a]), int(found[b]))
    numbered = found.unique(return_inverse=True)[1]
    return numbered if (found == 0).any() else numbered + 1


@pytest.fixture(params=["stand-in", "infomap"])
def graph(request):
    if request.param == "infomap":
        if not cbfe.has_infomap():  # importing it before faiss ends in a segmentation fault
            pytest.skip("needs infomap")
    else:
        request.getfixturevalue("stand_in")


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(cbfe, "communities", connected)
    monkeypatch.setattr(cbfe, "has_infomap", lambda: True)
    monkeypatch.setattr(cbfe, "load_infomap", lambda: SimpleNamespace(__version__="stand-in"))


DATA = Data(Objects(split="train"), Objects(split="val"))


def measure(backbone, data=DATA, cache=None, batch_size=5, preset="paper", **settings):
    protocol = UnsupervisedSegmentation()
    given = protocol.configure(preset, {**SETTINGS, **settings})
    config = protocol.resolve(given, backbone.info, data.info)
    source = FeatureSource(backbone, cache=FeatureCache(cache, 10**8) if cache else None, batch_size=batch_size)
    context = Context(source, Progress(quiet=True))
    result = protocol.run(config, data, context)
    return {m.label: m for m in result.metrics}, result, context


def test_perfect_features_score_100(graph):
    found, result, context = measure(Perfect())
    for name in ("miou", "miou_cbfe", "miou_bound"):
        assert found[name].value == pytest.approx(100.0)
        assert found[name].ci95 == (pytest.approx(100.0), pytest.approx(100.0))
    assert found["foreground_iou"].value == pytest.approx(100.0)
    assert {name for name, metric in found.items() if metric.main} == {"miou", "miou_cbfe"}
    assert set(found["miou"].seeds) == {"1", "2"}
    assert result.facts["foreground"]["clusters"] == {"train": 6, "val": 6}
    assert result.facts["foreground"]["iou_where_chosen"] == pytest.approx(1.0)
    assert result.facts["communities"]["communities"] == {"1": 3, "2": 3}
    assert result.facts["communities"]["unlinked_clusters"] == 1  # the background
    assert {"features", "attention", "k-means", "assign", "score", "graph"} <= set(context.seconds)
    assert result.artifacts["examples.png"][:4] == b"\x89PNG"


def test_noise_is_at_chance(stand_in):
    """All background would score a quarter of its share of the pixels, 22 %."""
    found, _, _ = measure(Noise())
    assert found["miou"].value < 25
    assert found["miou_cbfe"].value < 25
    low, high = found["miou_cbfe"].ci95
    assert low < found["miou_cbfe"].value < high


def test_attention_decides_what_is_foreground(stand_in):
    class Inverted(Perfect):
        def attention(self, pixels, layers):
            weights = F.pad((self.looks(pixels) < N_BACKGROUND).float() + 1e-6, (3, 0))
            yield (weights / weights.sum(1, keepdim=True))[:, None, None].expand(-1, 2, weights.shape[1], -1)

    found, _, _ = measure(Inverted(), k_community=3)
    assert found["foreground_iou"].value < 20
    assert found["miou"].value < 40


def test_the_record_says_where_labels_are_used(stand_in):
    _, result, _ = measure(Perfect())
    chosen, tuned, matched = result.facts["labels_used_for"]
    assert "chosen on the masks of 24 training images" in chosen
    assert "tuned on the masks of VOC train" in tuned
    assert "matched to classes on the validation masks" in matched
    assert f"labels: {chosen}" in result.notes
    _, result, _ = measure(Perfect(), threshold=0.5, community_detection=None)
    assert result.facts["labels_used_for"] == [matched]
    assert result.facts["foreground"]["threshold"] == 0.5


def test_without_community_detection_nothing_else_changes(stand_in):
    whole, _, _ = measure(Noise())
    part, _, _ = measure(Noise(), community_detection=None)
    assert set(part) == {"miou_cbfe", "foreground_iou"}
    assert part["miou_cbfe"] == whole["miou_cbfe"]
    assert part["foreground_iou"] == whole["foreground_iou"]


def test_scores_do_not_depend_on_batches_or_on_the_cache(stand_in, tmp_path):
    alone = measure(Noise(), batch_size=42)[0]
    assert measure(Noise(), cache=tmp_path, batch_size=5)[0] == alone
    assert measure(Noise(), cache=tmp_path, batch_size=4)[0] == alone
    assert len(list(tmp_path.glob("*/"))) == 4  # tokens and attention of two splits


def test_partly_cached_images_keep_their_attention(stand_in, tmp_path):
    measure(Noise(), Data(DATA.train.select(range(24)), DATA.val), cache=tmp_path)
    source = FeatureSource(Noise(), cache=FeatureCache(tmp_path / "some", 10**8), batch_size=5)
    protocol = UnsupervisedSegmentation()
    config = protocol.resolve(protocol.configure("paper", SETTINGS), Noise.info, DATA.info)
    for _ in source.stream(DATA.train, FeatureSpec(size=(64, 64)), [3, 4, 11]):
        pass
    result = protocol.run(config, DATA, Context(source, Progress(quiet=True)))
    assert {m.label: m for m in result.metrics} == measure(Noise())[0]


def test_other_numbers_of_objects_are_matched_by_precision(stand_in):
    found, _, _ = measure(Perfect(), objects=6, community_detection=None)
    assert found["miou_cbfe"].value == pytest.approx(100.0)


def test_presets_are_those_of_the_papers(stand_in):
    protocol = UnsupervisedSegmentation()
    settings = {
        name: [
            getattr(protocol.configure(name), field)
            for field in ("attention_mass", "k_community", "weight_threshold", "markov_time")
        ]
        for name in protocol.presets
    }
    assert settings == {
        "paper": [0.7, 189, 0.07, 1.2],
        "embedded": [0.7, 189, 0.07, 1.2],
        "neco": [0.65, 189, 0.07, 1.2],
        "leopart": [0.65, 149, 0.09, 2.0],
        "leopart_vitb8": [0.65, 109, 0.07, 0.4],
    }
    config = protocol.resolve(protocol.configure(), dataclasses.replace(Perfect.info, patch=14), VOC.info)
    assert (config.input_size, config.train_split, config.objects, config.kmeans) == (448, "train", 20, "torch")


def test_voc_is_clustered_on_the_images_of_train_with_the_masks_of_trainaug(stand_in, tmp_path):
    root = toys.write_voc(tmp_path, n_train=10, n_val=4)
    listed = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    listed.write_text("".join(f"2007_trainaug_{i:04d}\n" for i in (1, 4, 7)))
    data = Data(VOC(root, "trainaug"), VOC(root, "val"))
    backbone = load_model("pico?random")
    settings = {"k_fg_extraction": 20, "objects": 3, "community_detection": None}
    _, result, _ = measure(backbone, data, **settings)
    assert result.facts["images"] == {"train": 3, "val": 4, "train_split": "train"}
    _, result, _ = measure(backbone, data, train_split="trainaug", **settings)
    assert result.facts["images"]["train"] == 10
    limited = Data(data.train.select([0, 1, 2]), data.val)
    assert measure(backbone, limited, **settings)[1].facts["images"]["train"] == 1
    with pytest.raises(UsageError, match=r"none of the 1 training images is in voc's split train. Raise --limit"):
        measure(backbone, Data(data.train.select([0]), data.val), **settings)


class Blind(Perfect):
    attention = Backbone.attention


class Misshapen(Perfect):
    def attention(self, pixels, layers):
        return (found[:, :, :, 3:] for found in super().attention(pixels, layers))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Blind, r"perfect gives no attention maps. Its adapter would need a method `attention\(pixels, layers\)`"),
        (Misshapen, r"returned attention \(1, 2, 7, 4\) for 16x16 pixels; expected \(1, heads, 7, 7\)"),
    ],
)
def test_backbones_without_attention_are_told_what_it_takes(backbone, message, stand_in):
    with pytest.raises(ModelError, match=message):
        measure(backbone())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_fg_extraction": 5000}, "5000 clusters need as many patches; there are 2688"),
        ({"k_community": 100_000}, "100000 clusters of the foreground need as many pixels"),
        ({"attention_mass": 1.5}, "attention_mass=1.5: expected"),
        ({"community_seeds": (0, 1)}, r"community_seeds=\[0, 1\]: expected .* of at least 1"),
        ({"train_split": "trainaug"}, "objects has train, val"),
        ({"input_size": 60}, "not a multiple of the patch size"),
    ],
)
def test_settings_that_cannot_work_say_why(settings, message, stand_in):
    with pytest.raises(UsageError, match=message):
        measure(Perfect(), **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"has_class_token": False}, "needs a class token, which perfect does not have"),
        ({"prefix": 0}, "needs a class token, which perfect does not have"),
        ({"attention": False}, "needs attention maps, which perfect does not give: .* a method `attention`"),
    ],
)
def test_backbones_that_cannot_serve_are_unfit(change, message, stand_in):
    protocol = UnsupervisedSegmentation()
    lacking = dataclasses.replace(Perfect.info, **change)
    assert re.search(message, protocol.unsupported_reason(protocol.configure(), lacking))
    with pytest.raises(UsageError, match=message):
        protocol.resolve(protocol.configure(), lacking, DATA.info)


def test_datasets_without_background_are_not_served(stand_in):
    protocol = UnsupervisedSegmentation()
    stuff = dataclasses.replace(DATA.info, background=())
    said = "unsupervised_segmentation needs a background class, which objects lacks"
    assert protocol.missing_targets(stuff) == said
    assert protocol.missing_targets(dataclasses.replace(DATA.info, ignored=(0,))) == said  # as ADE20K's 0
    assert "needs mask" in protocol.missing_targets(dataclasses.replace(DATA.info, targets=frozenset({"depth"})))
    assert protocol.missing_targets(DATA.info) == ""
    with pytest.raises(UsageError, match=said):
        protocol.resolve(protocol.configure(), Perfect.info, stuff)


def test_without_infomap_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "infomap", None)  # as if it were not installed
    protocol = UnsupervisedSegmentation()
    message = r"run `pip install 'densebench\[communities\]'`.*community_detection=none"
    assert re.search(message, protocol.unsupported_reason(protocol.configure(), Perfect.info))
    with pytest.raises(UsageError, match=message):
        protocol.resolve(protocol.configure(), Perfect.info, DATA.info)
    config = protocol.configure(overrides={"community_detection": None})
    assert protocol.unsupported_reason(config, Perfect.info) == ""
    assert protocol.resolve(config, Perfect.info, DATA.info).objects == 3


def test_several_background_classes_become_one(stand_in):
    info, relabel = one_background(dataclasses.replace(DATA.info, ignored=(3, 255)), (2, 0))
    assert info.classes == ("background", "a")
    assert info.palette == (DATA.info.palette[2], DATA.info.palette[1])
    assert (info.background, info.ignored) == ((0,), (255,))
    assert relabel[[0, 1, 2, 3, 255]].tolist() == [0, 1, 0, 255, 255]
    same, nothing = one_background(DATA.info, (0,))
    assert (same.classes, same.palette) == (DATA.info.classes, DATA.info.palette)
    assert nothing[:4].tolist() == [0, 1, 2, 3]


class Stuff(Objects):
    """Half of the looks of the background are a class of their own."""

    info = dataclasses.replace(
        Objects.info, classes=("background", "a", "b", "c", "stuff"), palette=(*Objects.info.palette, (9, 9, 9))
    )

    def mask(self, index):
        return np.where(self.looks(index) < N_BACKGROUND // 2, np.uint8(4), super().mask(index))


def test_what_is_background_is_a_setting(stand_in):
    data = Data(Stuff(split="train"), Stuff(split="val"))
    found, result, _ = measure(Perfect(), data, background=(0, 4))
    assert found["miou"].value == pytest.approx(100.0)
    assert found["foreground_iou"].value == pytest.approx(100.0)
    assert list(found["miou"].per_class) == result.facts["classes"] == ["background", "a", "b", "c"]
    apart, _, _ = measure(Perfect(), data)
    assert apart["miou"].value < 80
    with pytest.raises(UsageError, match=r"background=\(0, 9\): objects has no class 9"):
        measure(Perfect(), data, background=(0, 9))


def test_stuff_is_background_by_the_preset_of_embedded_data(stand_in):
    protocol, scenes = UnsupervisedSegmentation(), Scenes.info
    assert protocol.resolve(protocol.configure("paper"), Perfect.info, scenes).background == (0,)
    config = protocol.resolve(protocol.configure("embedded"), Perfect.info, scenes)
    info, _ = one_background(scenes, config.background)
    assert info.classes[:3] == ("background", "house", "tree")
    assert config.objects == len(info.classes) - 1 == 15


def test_the_record_says_what_needs_no_look(stand_in):
    _, result, _ = measure(Perfect())
    share = 1 - 8 / GRID**2  # an object covers 2 x 4 patches
    assert result.facts["without_looking"]["miou"] == pytest.approx(100 * share / 4)
    assert result.facts["without_looking"]["foreground_iou"] == pytest.approx(100 * (1 - share))


def test_the_estimate_is_of_the_right_order(stand_in):
    protocol = UnsupervisedSegmentation()
    config = protocol.resolve(protocol.configure("paper", SETTINGS), Perfect.info, DATA.info)
    estimate = protocol.estimate(config, Perfect.info, DATA)
    assert {split: n for split, (_, n) in estimate.features.items()} == {"train": 24, "val": 18}
    assert estimate.bank_bytes > 0
    assert estimate.search_flops > 0
