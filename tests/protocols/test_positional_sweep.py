"""The positional-effect study of a whole network, on layers whose answers are known: places, noise, classes."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from densebench.core.errors import ModelError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import DatasetInfo, DenseDataset
from densebench.datasets.sets.voc import VOC
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.model_zoo.backbone import BackboneInfo
from densebench.protocols.positional_effect.clusters import Positions, Tally
from densebench.protocols.positional_effect.protocol import PositionalEffect
from densebench.protocols.protocol import Context, Data
from tests import toys

SETTINGS = {"input_size": 64, "clusters": 4, "steps": 120, "batch": 8, "init_batches": 2, "groups": 3}
PLACE, NOISE, CLASS = range(3)


class Layered(toys.ColorBackbone):
    """Tokens of three layers: the band a patch lies in, noise, and its class; keys are the same the other way round.

    Without the final norm the last layer's tokens are noise. One head attends to itself, the other everywhere.
    """

    info = BackboneInfo(
        name="layered",
        patch=8,
        width=4,
        prefix=1,
        depth=3,
        heads=2,
        facets=("token", "key"),
        any_layer=True,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )

    def __init__(self):
        super().__init__()
        self.forwards = 0

    def tokens(self, pixels, keys):
        self.forwards += 1
        return [self._tokens(pixels, *key) for key in keys]

    def _tokens(self, pixels, layer, facet, norm):
        kind = layer if facet == "token" else CLASS - layer
        if layer == 2 and facet == "token" and not norm:
            kind = NOISE
        colors = F.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)
        if kind == PLACE:
            patches = torch.eye(4).repeat_interleave(16, 0).expand(len(pixels), -1, -1)
        elif kind == CLASS:
            patches = F.one_hot(torch.cdist(colors, torch.from_numpy(toys.COLORS / 255).float()).argmin(-1), 4).float()
        else:
            seeds = (pixels[:, 0, 0, 0] * 255).round().long().tolist()
            patches = torch.stack([torch.randn(64, 4, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return torch.cat([torch.ones(len(pixels), 1, 4), patches], dim=1)

    def attention(self, pixels, layers):
        local, even = torch.eye(65), torch.full((65, 65), 1 / 65)
        return (torch.stack([local, even]).expand(len(pixels), -1, -1, -1) for _ in layers)


class Halves(DenseDataset):
    """Two colours side by side: the left is of class 0 or 1, the right of class 2 or 3. No two images are equal."""

    info = DatasetInfo(
        name="halves",
        title="halves",
        classes=VOC.info.classes[:4],
        palette=tuple(map(tuple, toys.COLORS.tolist())),
        splits={"train": 16, "val": 40},
        targets=frozenset({"mask"}),
    )

    def __init__(self, root=None, split="train", transforms=None):
        super().__init__(root, split, transforms)
        self.ids = [f"{i:02d}" for i in range(self.info.splits[split])]

    def mask(self, index):
        mask = np.full((64, 64), index % 2, dtype=np.uint8)
        mask[:, 32:] = 2 + index // 2 % 2
        return mask

    def image(self, index):
        pixels = toys.COLORS[self.mask(index)]
        pixels[0, 0] = index + 50 * (self.split == "val")  # the seed of its noise
        return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def data():
    return Data(Halves(split="train"), Halves(split="val"))


def measure(backbone, data, preset="sweep", batch_size=5, seed=0, cache=None, pictures=0, **settings):
    protocol = PositionalEffect()
    source = FeatureSource(backbone, cache=cache, batch_size=batch_size)
    config = protocol.resolve(protocol.configure(preset, {**SETTINGS, **settings}), source.info, data.info)
    context = Context(source, Progress(quiet=True), seed, pictures=pictures)
    result = protocol.run(config, data, context)
    return {m.label: m for m in result.metrics}, result, context


@pytest.fixture(scope="module")
def study(data):
    return measure(Layered(), data, pictures=8)


def row(result, facet, layer, ablation=False):
    (found,) = (r for r in result.facts["reads"] if (r["facet"], r["layer"], r["ablation"]) == (facet, layer, ablation))
    return found


def test_places_are_all_position_and_no_class(study):
    for found in (row(study[1], "token", 0), row(study[1], "key", 2)):
        assert found["nmi"] == pytest.approx(1.0, abs=0.02)
        assert found["miou"] < 35


def test_classes_have_the_positional_effect_of_the_ground_truth(study):
    metrics, result, _ = study
    for found in (row(result, "token", 2), row(result, "key", 0)):
        assert found["miou"] == pytest.approx(100.0)
        assert found["nmi"] == pytest.approx(metrics["nmi_ground_truth"].value, abs=1e-6)
        assert found["nmi"] == pytest.approx(0.5)  # the side leaves one of two classes
        assert found["nmi_excess"] == pytest.approx(0, abs=1e-6)


def test_noise_has_no_more_than_the_bias(study, data):
    result = study[1]
    bias = result.facts["mi_bias"]
    assert bias == pytest.approx(3 / (2 * len(data.val)), rel=1e-3)  # (P - 1)(C - 1) / (2 n P)
    for found in (row(result, "token", 1), row(result, "key", 1), row(result, "token", 2, ablation=True)):
        assert found["mi"] == pytest.approx(bias, rel=0.35)
        assert (found["mi"] - bias) / math.log(4) == pytest.approx(0, abs=0.01)
        assert found["miou"] < 35


def test_the_best_layer_of_each_facet_is_reported(study):
    metrics, result, _ = study
    assert result.facts["best"] == {"token": {"layer": 2, "depth": "3/3"}, "key": {"layer": 0, "depth": "1/3"}}
    for facet in ("token", "key"):
        assert metrics[f"miou@{facet}"].value == pytest.approx(100.0)
        assert metrics[f"miou@{facet}"].ci95 == (pytest.approx(100.0), pytest.approx(100.0))
        assert metrics[f"nmi_excess@{facet}"].value == pytest.approx(0, abs=1e-6)
    assert result.facts["final_norm"]["miou"]["after"] == pytest.approx(100.0)
    assert result.facts["final_norm"]["miou"]["before"] < 35
    assert any("chosen on the validation split" in note for note in result.notes)


def test_locality_is_that_of_the_heads(study):
    locality = study[1].facts["locality"]
    assert locality["heads"] == [pytest.approx([math.log(64), 0.0], abs=1e-6)] * 3
    assert locality["mean_of_heads"] == pytest.approx([math.log(64) / 2] * 3, abs=1e-6)
    # without the class token a row of the even head weighs 64 / 65
    diagonal, other = (1 + 1 / 65) / 2, 1 / 130
    total = 64 * (diagonal + 63 * other)
    by_hand = sum(n * p / total * math.log(p / total * 64**2) for n, p in ((64, diagonal), (64 * 63, other)))
    assert locality["of_mean_head"] == pytest.approx([by_hand] * 3, abs=1e-5)
    assert locality["images"] == 40


def test_correlations_are_over_all_layers_and_facets(study):
    found = study[1].facts["correlations"]
    assert found["positional_log_miou"]["n"] == 6
    assert found["positional_log_miou"]["spearman"] < 0
    assert found["locality_positional"]["n"] == 3  # one locality for all layers: nothing to correlate
    assert found["locality_positional"]["pearson"] is None


def test_pictures_and_arrays_are_left(study):
    artifacts = study[1].artifacts
    pictures = {"curves", "correlations", "aggregate", "facets", "layers_token", "layers_key"}
    assert set(artifacts) == {f"{name}.png" for name in pictures} | {"reads.csv", "best.npz"}
    assert all(artifacts[f"{name}.png"].startswith(b"\x89PNG") for name in pictures)
    assert len(artifacts["reads.csv"].splitlines()) == 1 + 7
    with np.load(io.BytesIO(artifacts["best.npz"])) as arrays:
        assert arrays["classes_key"].shape == arrays["truth"].shape == (8, 64, 64)
        assert (arrays["classes_key"] == arrays["truth"]).mean() > 0.99
        assert arrays["aggregate_token"].shape == (64, 64, 3)
    assert {"features", "k-means", "assign", "score", "attention", "locality"} <= set(study[2].seconds)


def test_one_forward_pass_per_image_serves_all_reads(data):
    backbone = Layered()
    measure(backbone, data, steps=3, init_batches=1, locality="none", batch_size=8)
    assert backbone.forwards == 1 + 3 + 5  # 8 first images, 3 steps, 40 images in batches of 8


@pytest.mark.parametrize(("facet", "layer"), [("token", 2), ("key", 1), ("token", 0)])
def test_each_read_scores_what_the_protocol_scores_of_it_alone(facet, layer, study, data, tmp_path):
    alone, single, _ = measure(Layered(), data, "paper", facet=facet, layer=layer, cache=FeatureCache(tmp_path, 10**8))
    found = row(study[1], facet, layer)
    assert found["miou"] == round(alone["miou"].value, 4)
    for name in ("nmi", "nmi_excess", "mi"):
        assert found[name] == round(alone[name].value, 6)
    assert found["k_means_loss"] == round(single.facts["k_means_loss"], 6)
    one, _, _ = measure(Layered(), data, layers=(layer,), facets=(facet,), locality="none")
    if (facet, layer) != ("token", 2):  # which reads the ablation of the final norm too
        assert one[f"miou@{facet}"].value == alone["miou"].value
        assert one[f"nmi@{facet}"].value == alone["nmi"].value


def test_raw_is_the_last_layer_without_the_final_norm(study, data):
    alone, _, _ = measure(Layered(), data, "raw")
    assert round(alone["miou"].value, 4) == row(study[1], "token", 2, ablation=True)["miou"]


def test_scores_depend_on_neither_batch_size_nor_time(study, data):
    again, result, _ = measure(Layered(), data, batch_size=12)
    for mine, other in zip(result.facts["reads"], study[1].facts["reads"], strict=True):
        # one-hot features have equal principal components: which come first, and so the way there, is rounding's choice
        assert mine == {**other, "k_means_loss": mine["k_means_loss"]}
    for name, metric in again.items():
        assert metric.value == pytest.approx(study[0][name].value)


def test_overclustering_gives_each_cluster_its_best_class(data):
    protocol = PositionalEffect()
    for rule in ("precision", "hungarian"):
        config = protocol.configure("overclustering", {"input_size": 64, "matching": rule})
        config = protocol.resolve(config, Layered.info, data.info)
        assert config.clusters == 4 + 70
        tally = Tally(config, data.info, Positions.of(config), low_memory=False)
        masks = torch.stack([torch.from_numpy(data.val.mask(i)).long() for i in range(4)])
        clusters = masks + 10 * (torch.arange(64) % 4 == 0)  # a quarter of each class has a cluster of its own
        tally.update(range(4), clusters, masks)
        score = tally.score()
        assert score.used == 8
        if rule == "precision":
            assert score.miou == pytest.approx(100.0)
        else:  # clusters that are left over become class 0
            assert score.ious[1:].tolist() == pytest.approx([0.75] * 3)


def test_coarser_positions_say_less_and_need_less_memory(study, data):
    found, result, _ = measure(Layered(), data, cell=16)
    assert result.facts["mi_bias"] < study[1].facts["mi_bias"] / 200
    for r in study[1].facts["reads"]:
        coarse = row(result, r["facet"], r["layer"], r["ablation"])
        assert coarse["miou"] == r["miou"]
        assert coarse["mi"] <= r["mi"] + 2e-6  # what a function of the position knows, the position knows
    assert row(result, "token", 0)["nmi"] == pytest.approx(1.0, abs=0.02)
    assert row(result, "token", 1)["mi"] < row(study[1], "token", 1)["mi"] / 2
    assert found["nmi_ground_truth"].value == pytest.approx(study[0]["nmi_ground_truth"].value)
    protocol = PositionalEffect()
    info = dataclasses.replace(Layered.info, attention=True)
    sizes = []
    for cell in (1, 16):
        config = protocol.resolve(protocol.configure("sweep", {**SETTINGS, "cell": cell}), info, data.info)
        estimate = protocol.estimate(config, info, data)
        sizes.append(estimate.bank_bytes)
        assert estimate.features["train"][1] == 16 + 120 * 8
        assert estimate.features["val"][1] == 2 * 40
    assert sizes[1] < sizes[0]


def test_a_backbone_with_its_last_layer_only_is_a_study_of_one_read(data):
    found, result, _ = measure(toys.OneHotBackbone(), data)
    assert result.facts["best"] == {"token": {"layer": 1, "depth": "2/2"}}
    assert result.facts["locality"] == {}
    assert result.facts["final_norm"] == {}
    assert found["miou@token"].value == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (3,)}, r"layers=\[3\]: layered has layers 0 to 2"),
        ({"layers": ()}, r"layers=\[\]: expected .* one or more"),
        ({"facets": ("value",)}, "layered has the facets token, key"),
        ({"cell": 0}, "positional_effect.cell=0: expected at least 1"),
        ({"extra_clusters": -1}, "extra_clusters=-1"),
        ({"clusters": 9}, "exceeds twice the width"),
    ],
)
def test_settings_that_cannot_work_say_why(settings, message, data):
    with pytest.raises(UsageError, match=message):
        measure(Layered(), data, **settings)


def test_locality_of_a_backbone_without_attention_is_refused_only_when_asked_for(data):
    with pytest.raises(UsageError, match="one-hot gives no attention"):
        measure(toys.OneHotBackbone(), data, locality="patches")
    with pytest.raises(ModelError, match="gives its last layer after the final norm only"):
        measure(toys.OneHotBackbone(), data, layers=(0,))


def test_defaults_are_the_published_ones_but_for_the_sweep_of_embedded_data(data):
    protocol = PositionalEffect()
    embedded = dataclasses.replace(data.info, embedded=True)
    for preset, info, expected in (
        ("paper", data.info, (5000, 24, 96)),
        ("paper", embedded, (5000, 24, 96)),
        ("sweep", data.info, (5000, 24, 96)),
        ("sweep", embedded, (5000, 24, 96)),
        ("embedded-sweep", embedded, (100, 8, 24)),
    ):
        config = protocol.resolve(protocol.configure(preset), Layered.info, info)
        assert (config.steps, config.batch, config.init_batches) == expected
        assert config.layers == (None if preset == "paper" else (0, 1, 2))
