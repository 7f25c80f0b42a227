"""Correspondence where the answer is known: features that are the part find all of them, noise is at chance."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from densebench.core.errors import DatasetError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.dataset import DatasetInfo, DenseDataset, Keypoints
from densebench.datasets.pairs import PairedDataset
from densebench.datasets.scenes.dataset import Scenes
from densebench.datasets.sets.spair import SPair
from densebench.datasets.sets.voc import VOC
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.features.spec import FeatureSpec
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.protocols.correspondence import matches as correspondence_matches
from densebench.protocols.correspondence.protocol import Correspondence
from densebench.protocols.protocol import Context, Data
from tests import toys

COLORS = toys.COLORS[1:]
"""A part is a colour, two by two patches large."""


class Parts(DenseDataset):
    """Three coloured squares on black at random places; every second image is twice as wide as it is fed in."""

    info = DatasetInfo(
        name="parts",
        title="parts",
        classes=("flag", "kite"),
        palette=((0, 0, 0), (255, 255, 255)),
        splits={"test": 12},
        train="test",
        val="test",
        targets=frozenset({"keypoints"}),
    )

    def __init__(self, root=None, split="test", transforms=None):
        super().__init__(root, split, transforms)
        self.ids = [f"{i:02d}" for i in range(12)]

    def corners(self, index):
        cells = np.random.default_rng(index).choice(9, len(COLORS), replace=False)
        return np.stack([cells % 3, cells // 3], axis=1) * 16 + 8  # off the rim, outside of which its patches go on

    def stretch(self, index):
        return 1 + index % 2

    def image(self, index):
        pixels = np.zeros((64, 64, 3), dtype=np.uint8)
        for color, (x, y) in zip(COLORS, self.corners(index), strict=True):
            pixels[y : y + 16, x : x + 16] = color
        return Image.fromarray(pixels.repeat(self.stretch(index), axis=1))

    def keypoints(self, index):
        wide = self.stretch(index)
        xy = (self.corners(index) + 8) * [wide, 1] - 0.5
        visible = np.array([True, index != 5, True])
        return (Keypoints(self.info.classes[index // 6], xy.astype(np.float32), visible, (0, 0, 64 * wide, 64)),)


class Listed(Parts, PairedDataset):
    """The same with a list of pairs."""

    listed = ((0, 1), (1, 0), (3, 2), (7, 6))

    def pairs(self):
        return self.listed


def measure(backbone, data, tmp_path=None, batch_size=5, **settings):
    protocol = Correspondence()
    config = protocol.resolve(protocol.configure("paper", {"input_size": 64, **settings}), backbone.info, data.info)
    cache = FeatureCache(tmp_path, 10**8) if tmp_path else None
    context = Context(FeatureSource(backbone, cache=cache, batch_size=batch_size), Progress(quiet=True))
    result = protocol.run(config, Data(data, data), context)
    return {m.label: m for m in result.metrics}, result, context


@pytest.mark.parametrize("upsampling", ["image", "input", "grid"])
def test_features_that_are_the_part_reach_100(upsampling, tmp_path):
    found, result, context = measure(toys.ColorBackbone(), Parts(), tmp_path, upsampling=upsampling)
    assert list(found) == ["pck@0.10", "pck@0.05", "pck@0.01", "pck_image@0.10", "pck_image@0.05", "pck_image@0.01"]
    for name in ("pck@0.10", "pck_image@0.10"):
        assert found[name].value == pytest.approx(100.0)
        assert found[name].ci95 == (pytest.approx(100.0), pytest.approx(100.0))
        assert found[name].per_class == {"flag": 100.0, "kite": 100.0}
    assert found["pck@0.10"].main
    assert result.facts["pairs_by_category"] == {"flag": 30, "kite": 30}
    assert result.facts["key_points"] == 60 * 3 - 10  # one point of one of six images is hidden, in ten pairs
    assert result.artifacts["matches.png"].startswith(b"\x89PNG")
    assert {"features", "match", "score"} <= set(context.seconds)


def test_noise_is_at_chance():
    found, result, _ = measure(toys.ShuffledBackbone(), Parts())
    chance = result.facts["pck_of_guessing"]
    assert chance["0.10"] == pytest.approx(100 * np.pi * 0.1**2, rel=0.6)  # wide boxes let in more, wide images less
    assert abs(found["pck@0.10"].value - chance["0.10"]) < 5
    low, high = found["pck@0.10"].ci95
    assert low <= found["pck@0.10"].value <= high < 15


def test_scores_depend_on_neither_batches_nor_blocks_nor_the_cache(tmp_path, monkeypatch):
    runs = [measure(toys.ColorBackbone(), Parts(), batch_size=size)[0] for size in (5, 12)]
    assert 0 < runs[0]["pck@0.05"].value < 100
    runs += [measure(toys.ColorBackbone(), Parts(), tmp_path)[0] for _ in range(2)]
    monkeypatch.setattr(correspondence_matches, "BLOCK", 2)
    runs.append(measure(toys.ColorBackbone(), Parts())[0])
    for run in runs[1:]:
        for name, metric in run.items():
            assert metric.value == pytest.approx(runs[0][name].value)
            assert metric.ci95 == pytest.approx(runs[0][name].ci95)  # sums in another order


def test_drawn_pairs_are_a_function_of_their_seed():
    one, other, third = (measure(toys.ShuffledBackbone(), Parts(), pairs=20, seed=s)[1] for s in (1, 1, 2))
    assert one.facts["pairs"] == 20
    assert one.metrics == other.metrics
    assert one.facts["key_points_by_category"] != third.facts["key_points_by_category"]


def test_listed_pairs_are_taken_as_they_are():
    _, result, _ = measure(toys.ColorBackbone(), Listed())
    assert result.facts["pairs_by_category"] == {"flag": 3, "kite": 1}
    assert result.facts["pairs_from"] == "list of the dataset"
    _, result, _ = measure(toys.ColorBackbone(), Listed().select([0, 1, 2]))
    assert result.facts["pairs"] == 2
    _, result, _ = measure(toys.ColorBackbone(), Listed(), pairs=2)
    assert result.facts["pairs"] == 2


def test_pairs_that_cannot_be_matched_say_so(monkeypatch):
    with pytest.raises(DatasetError, match=r"no pair among 2 images of split test .* --limit"):
        measure(toys.ColorBackbone(), Listed().select([0, 2]))
    with pytest.raises(DatasetError, match="no pair among 1 images"):
        measure(toys.ColorBackbone(), Parts().select([0]))
    monkeypatch.setattr(Listed, "listed", ((0, 7),))
    with pytest.raises(DatasetError, match=r"pairs 00 .flag. with 07 .kite."):
        measure(toys.ColorBackbone(), Listed())


def test_pairs_without_a_common_point_are_left_out_and_counted(monkeypatch):
    visible = {0: [True, False, False], 1: [False, True, True]}
    keypoints = Parts.keypoints

    def hidden(self, index):
        (thing,) = keypoints(self, index)
        return (Keypoints(thing.category, thing.xy, np.array(visible.get(index, thing.visible)), thing.bbox),)

    monkeypatch.setattr(Parts, "keypoints", hidden)
    _, result, _ = measure(toys.ColorBackbone(), Listed())
    assert result.facts["pairs"] == 2
    assert "2 listed pairs without a common visible keypoint are left out" in result.notes


def test_tolerances_are_parts_of_the_box_or_of_the_image(monkeypatch):
    monkeypatch.setattr(
        Parts,
        "keypoints",
        lambda self, i, old=Parts.keypoints: [
            Keypoints(k.category, k.xy, k.visible, (0, 0, 1, 1)) for k in old(self, i)
        ],
    )
    box, _, _ = measure(toys.ColorBackbone(), Parts(), alphas=(0.1, 0.125))
    assert list(box) == ["pck@0.10", "pck@0.125", "pck_image@0.10", "pck_image@0.125"]
    assert box["pck@0.10"].value < 50
    image, _, _ = measure(toys.ColorBackbone(), Parts(), threshold="image")
    assert image["pck@0.10"].value == pytest.approx(100.0)


def test_a_dataset_without_key_points_is_refused(tmp_path):
    with pytest.raises(UsageError, match="voc has no keypoints"):
        measure(toys.ColorBackbone(), VOC(toys.write_voc(tmp_path), "val"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": ()}, "expected one or more numbers"),
        ({"alphas": (0.1, -1.0)}, "above 0"),
        ({"pairs": 0}, "expected at least 1"),
        ({"input_size": 60}, "not a multiple of the patch size"),
        ({"upsampling": "pixels"}, "upsampling='pixels'"),
    ],
)
def test_settings_that_cannot_work_say_why(settings, message):
    with pytest.raises(UsageError, match=message):
        measure(toys.ColorBackbone(), Parts(), **settings)


def test_spair_scores_are_those_of_the_public_rule_written_out(shared_data):
    """Both maps upsampled whole, the source read at the pixel: DIFT `eval_spair.py`, from the pair files."""
    data, backbone = SPair(shared_data, "test"), toys.ColorBackbone()
    source = FeatureSource(backbone, batch_size=1)
    maps = {data.ids[b.indices[0]]: b.maps for b in source.stream(data, FeatureSpec(size=(160, 160)))}
    hits = []
    for path in sorted((shared_data / "SPair-71k" / "PairAnnotation" / "test").iterdir()):
        pair = json.loads(path.read_text())
        start, end = (
            F.interpolate(maps[f"cat/{pair[f'{side}_imname'][:-4]}"], pair[f"{side}_imsize"][1::-1], mode="bilinear")[0]
            for side in ("src", "trg")
        )
        unit = F.normalize(end.flatten(1), dim=0)
        x1, y1, x2, y2 = pair["trg_bndbox"]
        found = [divmod(int((start[:, y, x] @ unit).argmax()), end.shape[2]) for x, y in pair["src_kps"]]
        away = [math.dist((x, y), truth) for (y, x), truth in zip(found, pair["trg_kps"], strict=True)]
        hits.append([d / max(x2 - x1, y2 - y1) <= 0.1 for d in away])
    ours, _, _ = measure(backbone, data, input_size=160)
    assert ours["pck@0.10"].value == pytest.approx(100 * np.mean([hit for pair in hits for hit in pair]))
    assert ours["pck_image@0.10"].value == pytest.approx(100 * np.mean([np.mean(pair) for pair in hits]))


def test_scenes_have_pairs_and_an_estimate():
    backbone, data = toys.ColorBackbone(), Scenes(None, "val", length=10, size=64)
    found, result, _ = measure(backbone, data, pairs=30)
    assert result.facts["pairs"] == 30
    assert 0 <= found["pck@0.10"].value <= 100
    protocol = Correspondence()
    config = protocol.resolve(protocol.configure("paper"), backbone.info, data.info)
    assert config.input_size == 160
    estimate = protocol.estimate(config, backbone.info, Data(data, data))
    assert estimate.features["val"][1] == 10
    assert estimate.bank_bytes > 0
    assert estimate.search_flops > 0


class Layered(toys.ColorBackbone):
    """Tokens know the part in layer 1 alone, keys in layer 0 alone; everything else is noise."""

    info = BackboneInfo(name="layered", patch=8, width=4, prefix=1, depth=3, facets=("token", "key"), any_layer=True)

    def __init__(self):
        super().__init__()
        self.forwards = 0

    def tokens(self, pixels, keys):
        self.forwards += 1
        return [self._read(pixels, *key) for key in keys]

    def _read(self, pixels, layer, facet, norm):
        (known,) = super().tokens(pixels, [FeatureKey(layer, facet, norm)])
        if (facet, layer) in {("token", 1), ("key", 0)}:
            return known
        seed = 10 * layer + (facet == "key") + 100 * norm
        return torch.randn(known.shape[1:], generator=torch.Generator().manual_seed(seed)) + 0.1 * known


def test_a_sweep_finds_the_best_layer_of_each_facet():
    backbone = Layered()
    found, result, _ = measure(backbone, Parts(), batch_size=12, layers="all", facets="all")
    assert backbone.forwards == 2  # twelve sources, twelve targets
    assert result.facts["best"] == {"token": {"layer": 1, "depth": "2/3"}, "key": {"layer": 0, "depth": "1/3"}}
    assert list(found) == [f"pck@{a}/{facet}" for facet in ("token", "key") for a in ("0.10", "0.05", "0.01")]
    assert [m.label for m in found.values() if m.main] == ["pck@0.10/token", "pck@0.10/key"]
    assert found["pck@0.10/key"].value == pytest.approx(100.0)
    assert found["pck@0.10/key"].per_class == {"flag": 100.0, "kite": 100.0}
    assert result.facts["best_of_all"] == "token 2/3"
    assert set(result.facts["final_norm"]) == {"before", "after"}
    assert any("chosen on the validation split" in note for note in result.notes)
    assert set(result.artifacts) == {"matches.png", "curves.png", "reads.csv"}
    assert len(result.artifacts["reads.csv"].splitlines()) == 1 + 7


def test_each_read_of_a_sweep_scores_what_it_scores_alone(monkeypatch):
    _, sweep, _ = measure(Layered(), Parts(), layers="all", facets="all")
    monkeypatch.setattr(correspondence_matches, "BLOCK_BYTES", 1)  # one source at a time
    _, again, _ = measure(Layered(), Parts(), layers="all", facets="all")
    assert again.facts["reads"] == sweep.facts["reads"]
    assert len(sweep.facts["reads"]) == 7
    for read in sweep.facts["reads"]:
        norm = not read["ablation"]
        alone, _, _ = measure(Layered(), Parts(), layer=read["layer"], facet=read["facet"], norm=norm)
        for name, metric in alone.items():
            assert read[name] == round(metric.value, 4), read


def test_a_sweep_of_one_read_has_its_interval():
    alone, _, _ = measure(Layered(), Parts(), layer=1, facet="key")
    one, _, _ = measure(Layered(), Parts(), layers=(1,), facets=("key",))
    assert one["pck@0.10/key"].value == alone["pck@0.10"].value
    assert one["pck@0.10/key"].ci95 == alone["pck@0.10"].ci95
    assert one["pck@0.10/key"].per_class == alone["pck@0.10"].per_class


def test_a_sweep_is_estimated_and_that_of_embedded_data_draws_fewer_pairs():
    protocol, backbone, data = Correspondence(), Layered(), Scenes(None, "val", length=10, size=64)
    one, many = (protocol.resolve(protocol.configure(p), backbone.info, data.info) for p in ("paper", "embedded-sweep"))
    assert (one.pairs, many.pairs) == (None, 500)
    assert protocol.resolve(protocol.configure("sweep"), backbone.info, data.info).pairs is None
    small, large = (protocol.estimate(c, backbone.info, Data(data, data)) for c in (one, many))
    assert large.bank_bytes == 7 * small.bank_bytes
    assert large.features["val"][1] == 20
    with pytest.raises(UsageError, match=r"layers=\[9\]: layered has layers 0 to 2"):
        measure(backbone, Parts(), layers=(9,))
