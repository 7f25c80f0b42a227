"""Real images, a real ViT: it must beat its own architecture with random weights by a wide margin."""

import json

import numpy as np
import pytest

from densebench.cli import main
from densebench.core.progress import Progress
from densebench.datasets import load_dataset
from densebench.datasets.tools.checks import check
from densebench.features.source import FeatureSource
from densebench.model_zoo import load_model
from densebench.protocols.depth.protocol import Depth
from densebench.protocols.protocol import Context, Data
from densebench.results.store import ResultStore

SETTINGS = [
    "--set", "hummingbird.input_size=224", "--set", "hummingbird.fractions=[1]",
    "--set", "overclustering.input_size=224", "--set", "overclustering.clusters=[21]",
    "--set", "overclustering.seeds=[0, 1]", "--set", "positional_effect.input_size=224",
    "--set", "positional_effect.steps=500", "--set", "linear_segmentation_cached.input_size=224",
    "--set", "linear_segmentation_cached.batch=16", "--limit", "100", "--workers", "0",
    "--protocol", "hummingbird,overclustering,positional_effect,linear_segmentation_cached",
]  # fmt: skip


@pytest.mark.slow
def test_the_real_vit_beats_random_weights_on_voc(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = shared_data / "weights" / "vit_tiny_patch16_224.safetensors"
    common = ["--dataset", "voc", "--data-root", str(shared_data), *SETTINGS]
    for model in (["timm/vit_tiny_patch16_224", "--weights", str(weights)], ["timm/vit_tiny_patch16_224?random"]):
        with pytest.raises(SystemExit) as end:
            main(["run", "--model", *model, *common])
        assert not end.value.code
    values: dict[str, dict[str, float]] = {}
    for record in ResultStore(tmp_path / "results").records():
        for metric in record.metrics:
            of = values.setdefault(f"{record.protocol.name} {metric.label}", {})
            of["random" if "random" in record.model.name else "real"] = metric.value
    assert values["hummingbird miou@1"]["real"] > 20 > 10 > values["hummingbird miou@1"]["random"]
    linear = values["linear_segmentation_cached miou"]
    assert linear["real"] > 20 > 10 > linear["random"]
    for name in ("overclustering miou@K=21", "positional_effect miou"):
        assert values[name]["real"] > 1.5 * values[name]["random"]
    # NMI is no measure of quality: random features cluster colours, which are everywhere
    assert values["positional_effect nmi"]["random"] < values["positional_effect nmi_ground_truth"]["random"]


def read_all(name, split, root):
    """Check a split, which reads everything once, and return dataset and report."""
    data = load_dataset(name, split, root)
    report = check(data, Progress(quiet=True))
    assert report.problems == []
    assert report.n_images == len(data)
    return data, report


def test_voc_has_the_classes_that_were_counted(shared_data):
    """Images per class as `data/README.md` counts them, and as many images as the lists name."""
    _, val = read_all("voc", "val", shared_data)
    counted = {"bicycle": 3, "car": 6, "cat": 26, "chair": 16, "dog": 27, "person": 58, "sofa": 18, "boat": 0}
    assert {name: val.images[name] for name in counted} == counted
    assert val.n_images == 120
    assert read_all("voc", "trainaug", shared_data)[1].n_images == 260


def test_camvid_is_whole(shared_data):
    for split, count in (("train", 367), ("val", 101)):
        data, report = read_all("camvid", split, shared_data)
        assert report.n_images == report.n_published == count
        assert sum(report.pixels.values()) == count * 480 * 360
        assert 0.01 < report.pixels["ignored"] / sum(report.pixels.values()) < 0.05
        assert max(report.pixels, key=report.pixels.get) == "road"
        assert data.mask(0).max() in (*range(11), 255)


def test_ade20k_is_the_same_with_and_without_other(shared_data):
    with_other, report = read_all("ade20k", "val", shared_data)
    without, _ = read_all("ade20k_150", "val", shared_data)
    assert report.images["sky"] == 3
    for i in range(3):
        a, b = with_other.mask(i), without.mask(i)
        np.testing.assert_array_equal(b, np.where(a == 0, 255, a - 1))


def test_coco_things_from_panoptic_masks(shared_data):
    """Areas as the annotation file states them, per category."""
    folder = shared_data / "coco_panoptic_sample"
    data, report = read_all("coco_things", "val", folder)
    state = json.loads((folder / "annotations" / "panoptic_val2017.json").read_bytes())
    segments = [s for annotation in state["annotations"] for s in annotation["segments_info"]]
    for name, category in (("person", (1,)), ("animal", (19,)), ("sports", (37,)), ("vehicle", (8,))):
        assert report.pixels[name] == sum(s["area"] for s in segments if s["category_id"] in category)
    assert set(np.unique(data.mask(0))) == {9, 10, 255}


def test_coco_things_from_instances(shared_data):
    data, report = read_all("coco_things_instances", "val", shared_data)
    assert report.n_images == 138
    state = json.loads((shared_data / "coco" / "annotations" / "instances_val2017.json").read_bytes())
    areas = sum(a["area"] for a in state["annotations"])
    drawn = sum(n for name, n in report.pixels.items() if name != "ignored")
    assert 0.85 * areas < drawn < areas  # what lies under something else is drawn over
    fine = load_dataset("coco_things80_instances", "val", shared_data)
    for i in range(0, 138, 17):
        np.testing.assert_array_equal(data.mask(i) == 255, fine.mask(i) == 255)


@pytest.mark.parametrize(
    ("protocol", "dataset", "place", "settings"),
    [
        ("overclustering", "ade20k", ".", ("clusters=[8]", "seeds=[0]", "n_redo=1", "input_size=64")),
        (
            "overclustering",
            "coco_things",
            "coco_panoptic_sample",
            ("clusters=[4]", "seeds=[0]", "pca=8", "input_size=64"),
        ),
        ("hummingbird", "camvid", ".", ("fractions=[1]", "input_size=64")),
        ("hummingbird", "coco_things_instances", ".", ("fractions=[1]", "input_size=64")),
        ("depth", "seven_scenes", ".", ("steps=1", "batch=2", "learning_rates=[5e-3]")),
        ("correspondence", "spair", ".", ("input_size=64",)),
        ("correspondence", "pf_willow", ".", ("input_size=64", "pairs=20")),
    ],
)
def test_an_evaluation_reads_every_real_sample(protocol, dataset, place, settings, shared_data, tmp_path, monkeypatch):
    """A pass over a few images, with the smallest model: that it runs, not how well."""
    monkeypatch.chdir(tmp_path)
    limit = "30" if protocol == "correspondence" else "3"
    small = [part for setting in settings for part in ("--set", f"{protocol}.{setting}")]
    where = ["--dataset", dataset, "--data-root", str(shared_data / place), "--limit", limit, "--workers", "0"]
    with pytest.raises(SystemExit) as end:
        main(["run", "--model", "pico", "--protocol", protocol, *where, *small])
    assert not end.value.code
    (path,) = (tmp_path / "results" / "records").glob("*/*/*.json")
    assert json.loads(path.read_text())["data"]["name"] == dataset


def test_depth_heads_read_the_labelled_frames_of_nyu(shared_data):
    """Two frames: heads of 7-Scenes are applied to them."""
    backbone, protocol = load_model("pico"), Depth()
    data = Data(load_dataset("seven_scenes", "train", shared_data), load_dataset("nyu", "labeled", shared_data))
    settings = {"steps": 1, "batch": 2, "learning_rates": (5e-3,)}
    config = protocol.resolve(protocol.configure("paper", settings), backbone.info, data.info)
    result = protocol.run(config, data, Context(FeatureSource(backbone), Progress(quiet=True)))
    assert config.nyu_crops
    assert 0 < result.facts["constant"]["rmse"] < 10
    assert all(0 < metric.value < 10 for metric in result.metrics if metric.name.startswith("rmse"))
