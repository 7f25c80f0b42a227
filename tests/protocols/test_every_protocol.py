"""What holds for every protocol: what it declares is what it does, and nothing but the question changes the answer."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from densebench import protocols
from densebench.core.config import as_dict, score_hash
from densebench.core.progress import Progress
from densebench.datasets import DATASETS
from densebench.datasets.scenes.dataset import Scenes
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.figures import kit as figures
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import FACETS, BackboneInfo
from densebench.ops import cbfe
from densebench.ops.confusion import Counts, mean_iou_left_out
from densebench.ops.jackknife import GroupSums, jackknife_interval
from densebench.protocols import PROTOCOLS
from densebench.protocols.protocol import Context, Data, Estimate
from densebench.results import counts

NAMES = PROTOCOLS.names()
SMALL = {
    "hummingbird": {"input_size": 64, "memory_size": 400, "fractions": (1, 2), "subset_seeds": (1, 2)},
    "in_context_depth": {"input_size": 64, "memory_size": 400},
    "overclustering": {"input_size": 64, "clusters": ("classes", 30), "seeds": (0, 1), "n_iter": 5, "n_redo": 1},
    "linear_segmentation": {"input_size": 64, "epochs": 2},
    "linear_segmentation_cached": {"input_size": 64, "epochs": 2, "mirror": True},
    "finetune_segmentation": {"input_size": 64, "steps": 2, "batch": 2, "evaluations": 2},
    "positional_effect": {"input_size": 64, "steps": 4, "batch": 4, "init_batches": 2, "groups": 3},
    "correspondence": {"input_size": 64, "pairs": 12},
    "depth": {"steps": 2, "batch": 2, "crop": (64, 64), "bins": 16, "learning_rates": (1e-3, 5e-3)},
    "unsupervised_segmentation": {
        "input_size": 64, "k_fg_extraction": 8, "k_community": 6, "object_seeds": (0, 1), "community_seeds": (1,),
        "threshold": 0.2, "n_iter": 5, "n_redo": 1,
    },
}  # fmt: skip
SWEEP = {"layers": (0, 3), "facets": ("key", "token")}
CASES = [*((name, {}) for name in NAMES), ("positional_effect", SWEEP), ("correspondence", SWEEP)]
COORDINATES = {
    "fraction": r"1(/\d+)?",
    "clusters": r"\d+",
    "alpha": r"0\.\d+",
    "facet": "|".join(FACETS),
    "head": r"linear\d",
}
"""What coordinates of metrics may be."""
WITHOUT_STATISTICS = {
    ("finetune_segmentation", "miou_best"),  # of whichever look was the best
    *(("positional_effect", name) for name in ("nmi", "nmi_ground_truth", "nmi_excess", "mi")),  # a map per image
}
VITS14 = BackboneInfo(
    name="vits14", patch=14, width=384, prefix=5, depth=12, heads=6, facets=FACETS, any_layer=True, attention=True
)


@pytest.fixture(scope="module")
def pico():
    return load_model("pico")


@pytest.fixture(scope="module")
def data():
    return Data(Scenes(None, "train", length=9), Scenes(None, "val", length=7))


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Pictures take longer than these measurements."""
    monkeypatch.setattr(figures, "png", lambda figure: b"\x89PNG")


def resolved(name, backbone, data, **settings):
    protocol = PROTOCOLS[name]()
    if name == "unsupervised_segmentation" and not cbfe.has_infomap():
        settings["community_detection"] = None
    config = protocol.configure("paper", {**SMALL.get(name, {}), **settings})
    return protocol, protocol.resolve(config, backbone.info, data)


def measure(name, settings, backbone, data, cache=None, batch_size=3):
    protocol, config = resolved(name, backbone, data.info, **settings)
    context = Context(FeatureSource(backbone, cache=cache, batch_size=batch_size), Progress(quiet=True))
    return protocol.run(config, data, context)


def comparable(measurement):
    metrics = [metric.model_dump() for metric in measurement.metrics]
    return json.dumps([metrics, dict(measurement.facts), measurement.notes])


def check_statistics(name, measurement, data):
    """What images add gives each metric again, from the file too; a metric without it is one that is named here."""
    kept = counts.read_npz(counts.to_npz(data.val.ids, measurement.statistics))
    assert kept.ids == tuple(data.val.ids)
    for metric in measurement.metrics:
        entries = kept.of(metric.name, metric.at)
        if (name, metric.name) in WITHOUT_STATISTICS:
            assert not entries
            continue
        assert {entry.seed for entry in entries} == (set(metric.seeds) or {""})
        assert counts.value(entries) == pytest.approx(metric.value, rel=1e-9, abs=1e-9)
        for entry in entries:
            assert counts.value([entry]) == pytest.approx(metric.seeds.get(entry.seed, metric.value), rel=1e-9)
        if name != "positional_effect" and entries[0].kind == "segmentation":  # whose groups are others
            left_out = torch.stack([left_out_of(entry) for entry in entries]).mean(0)
            ends = jackknife_interval(metric.value, left_out, bounds=(0.0, 100.0))
            assert metric.ci95 == pytest.approx(ends.tolist(), rel=1e-9), "all that the interval is made from is there"


def left_out_of(entry):
    """Return the mIoU in percent without each group of images in turn, from what images add."""
    tables, settings = torch.from_numpy(counts.pixel_counts(entry)), entry.settings
    sums = GroupSums((3, settings["n_classes"]))
    for image, table in zip(entry.arrays["image"].tolist(), tables, strict=True):
        sums.update(image, table)
    found, rest = Counts(*sums.total()), Counts(*sums.left_out().unbind(1))
    missing = torch.nonzero(found.tp + found.fn == 0).flatten().tolist() if settings["present"] else []
    return 100 * mean_iou_left_out(found, rest, settings["absent"], missing)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_metrics_are_declared_and_nothing_but_the_question_changes_them(name, settings, pico, data, tmp_path):
    cache = FeatureCache(tmp_path, 10**9)
    cold = measure(name, settings, pico, data, cache)
    assert comparable(measure(name, settings, pico, data, cache)) == comparable(cold)
    # products of other shapes round otherwise, in the last bits of float32
    other = measure(name, settings, pico, data, batch_size=5)
    for one, two in zip(cold.metrics, other.metrics, strict=True):
        assert two.key == one.key
        assert two.value == pytest.approx(one.value, rel=1e-6)
        assert two.ci95 == (one.ci95 and pytest.approx(one.ci95, rel=1e-6))
    check_statistics(name, cold, data)
    for one, two in zip(cold.statistics, other.statistics, strict=True):
        assert (one.key, one.seed) == (two.key, two.seed)
        assert counts.value([one]) == pytest.approx(counts.value([two]), rel=1e-6)
    protocol = PROTOCOLS[name]()
    for metric in cold.metrics:
        (info,) = [info for info in protocol.metrics if info.describes(metric)]
        assert all(re.fullmatch(COORDINATES[name], str(value)) for name, value in metric.at.items())
        assert (metric.unit, metric.higher_is_better) == (info.unit, info.higher_is_better)
        assert metric.ci95 is None or metric.ci95[0] <= metric.ci95[1]
    assert 1 <= len({metric.name for metric in cold.metrics if metric.main}) <= 4
    assert len({metric.key for metric in cold.metrics}) == len({m.label for m in cold.metrics}) == len(cold.metrics)


@pytest.mark.parametrize("name", NAMES)
def test_resolving_twice_changes_nothing_and_the_estimate_says_something(name, pico, data):
    protocol, config = resolved(name, pico, data.info)
    assert protocol.resolve(config, pico.info, data.info) == config
    estimate = protocol.estimate(config, pico.info, data)
    assert isinstance(estimate, Estimate)
    assert estimate.bank_bytes > 0
    assert estimate.search_flops > 0
    assert estimate.features["val"][1] >= len(data.val) - 1
    assert set(estimate.uncached) <= set(estimate.features)
    assert protocol.unsupported_reason(config, pico.info) == ""


@pytest.mark.parametrize("name", NAMES)
def test_all_presets_resolve_on_the_published_datasets(name):
    protocol = PROTOCOLS[name]()
    served = [DATASETS[d].info for d in ("voc", "ade20k", "coco_things", "nyu", "spair", "scenes")]
    served = [info for info in served if not protocol.missing_targets(info)]
    assert len(served) >= 2
    assert "paper" in protocol.presets
    for preset, published in protocol.presets.items():
        assert published.source
        config = protocol.configure(preset, {"community_detection": None} if name.startswith("unsup") else {})
        for info in served:
            found = protocol.resolve(config, VITS14, info)
            assert protocol.resolve(found, VITS14, info) == found
            assert len(score_hash({"config": found})) == 16


@pytest.mark.parametrize("name", NAMES)
def test_how_it_is_computed_is_no_part_of_the_score(name):
    config = PROTOCOLS[name].config()
    for field in ("checkpoint_seconds", "backend"):
        if field in as_dict(config):
            other = dataclasses.replace(config, **{field: "torch" if field == "backend" else 1})
            assert score_hash({"config": other}) == score_hash({"config": config})


def test_no_field_of_a_config_is_without_a_reader():
    code = "".join(path.read_text() for path in Path(protocols.__file__).parent.rglob("*.py"))
    for name in NAMES:
        for field in as_dict(PROTOCOLS[name].config()):
            assert re.search(rf"(config|self)\.{field}\b", code), f"{name}.{field} is never read"
