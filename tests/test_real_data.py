"""Real images, a real ViT: it must beat its own architecture with random weights by a wide margin."""

import json

import numpy as np
import pytest

from densebench.cli import main
from densebench.datasets import load_dataset
from densebench.datasets.checks import check
from densebench.progress import Progress

SETTINGS = [
    "--set", "hummingbird.input_size=224", "--set", "hummingbird.fractions=[1]",
    "--set", "overclustering.input_size=224", "--set", "overclustering.clusters=[21]",
    "--set", "overclustering.seeds=[0, 1]", "--set", "positional_effect.input_size=224",
    "--set", "positional_effect.steps=500", "--limit", "100", "--workers", "0",
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
    for path in (tmp_path / "results" / "records").glob("*/*/*.json"):
        record = json.loads(path.read_text())
        for metric in record["metrics"]:
            values.setdefault(metric["name"], {})["random" if "random" in path.name else "real"] = metric["value"]
    assert values["miou@1"]["real"] > 20 > 10 > values["miou@1"]["random"]
    assert values["miou@K=21"]["real"] > 1.5 * values["miou@K=21"]["random"]
    assert values["miou"]["real"] > 1.5 * values["miou"]["random"]
    # NMI is no measure of quality: random features cluster colours, which are everywhere
    assert values["nmi"]["random"] < values["nmi_ground_truth"]["random"]


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
