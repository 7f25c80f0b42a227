from __future__ import annotations

import csv

import pytest

from densebench.leaderboard import published_rows
from densebench.leaderboard.published import FILE

SHARES = ("1/128", "1/64", "1/8", "1")


def values(paper, label, protocol, dataset, preset=None):
    return {
        row.metric: row.value
        for row in published_rows(protocol, dataset)
        if (row.paper, row.label) == (paper, label) and preset in (None, row.preset)
    }


@pytest.mark.parametrize(
    ("label", "dataset", "printed"),
    [
        ("DINOv2R ViT-S/14", "voc", (60.1, 65.7, 74.5, 78.8)),
        ("DINOv2R ViT-S/14", "ade20k", (23.7, 27.1, 33.9, 39.5)),
        ("NeCo ViT-S/14", "voc", (65.5, 69.0, 75.1, 78.8)),
        ("NeCo ViT-S/14", "ade20k", (23.9, 27.2, 34.3, 39.8)),
        ("PaKA ViT-S/14", "voc", (68.1, 72.4, 77.3, 80.5)),
        ("PaKA ViT-S/14", "ade20k", (24.3, 27.3, 34.7, 39.9)),
    ],
)
def test_hummingbird_of_paka(label, dataset, printed):
    found = values("PaKA", label, "hummingbird", dataset)
    assert tuple(found[f"miou@{share}"] for share in SHARES) == printed


@pytest.mark.parametrize(
    ("label", "dataset", "printed"),
    [
        ("DINOv2R ViT-S/14", "voc", (12.2, 46.7, 49.5)),
        ("NeCo ViT-S/14", "voc", (20.7, 68.6, 71.3)),
        ("PaKA ViT-S/14", "voc", (21.3, 74.5, 76.5)),
        ("PaKA ViT-S/14", "ade20k", (12.1, 17.4, 21.4)),
    ],
)
def test_overclustering_of_paka(label, dataset, printed):
    assert tuple(values("PaKA", label, "overclustering", dataset).values()) == printed


@pytest.mark.parametrize(
    ("protocol", "label", "printed"),
    [
        ("linear_segmentation", "DINOv2R ViT-S/14", (74.2, 75.3, 56.0, 35.0)),
        ("linear_segmentation", "NeCo ViT-S/14", (81.4, 81.1, 61.4, 39.9)),
        ("linear_segmentation", "PaKA ViT-S/14", (82.2, 82.5, 62.6, 40.9)),
        ("finetune_segmentation", "DINOv2R ViT-S/14", (81.5, 82.2, 61.9, 42.5)),
        ("finetune_segmentation", "PaKA ViT-S/14", (83.0, 83.1, 63.3, 45.1)),
    ],
)
def test_segmentation_of_paka(protocol, label, printed):
    found = [values("PaKA", label, protocol, d)["miou"] for d in ("voc", "coco_things", "coco_stuff", "ade20k")]
    assert tuple(found) == printed


@pytest.mark.parametrize(
    ("label", "preset", "printed"),
    [
        ("DINO", "lin1", (0.996, 0.386, 0.464)),
        ("PaKA", "lin1", (0.443, 0.139, 0.834)),
        ("DINOv2", "lin4", (0.435, 0.137, 0.843)),
        ("PaKA", "lin4", (0.426, 0.131, 0.850)),
    ],
)
def test_depth_of_paka(label, preset, printed):
    assert tuple(values("PaKA", label, "depth", "nyud", preset).values()) == printed


def test_dip():
    assert values("DIP", "DIP ViT-B/14", "hummingbird", "cityscapes") == {"miou@1": 59.5}
    assert values("DIP", "DIP ViT-S/14", "hummingbird", "voc")["miou@1"] == 81.0
    assert values("DIP", "NeCo ViT-S/14", "hummingbird", "nyud") == {"rmse@1": 0.769}


def test_neco_matches_by_hungarian():
    found = values("NeCo", "NeCo ViT-S/14", "hummingbird", "voc")
    assert tuple(found[f"miou_hungarian@{share}"] for share in SHARES) == (66.5, 70.3, 76.3, 78.9)


def test_table_of_the_hummingbird_code():
    rows = [r for r in published_rows("hummingbird", "voc") if r.paper == "open-hummingbird-eval"]
    assert [r.value for r in rows if r.label == "DINOv2 ViT-S/14"] == [70.2, 74.9, 77.0]
    assert rows[0].source == "open-hummingbird-eval, README"


def test_positional_effect():
    rows = [r for r in published_rows("correspondence") if r.label == "DINOv3 ViT-B" and r.preset == "token"]
    assert [r.value for r in rows] == [57.87]


def test_file_is_clean():
    with FILE.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "paper",
        "table",
        "model",
        "backbone",
        "protocol",
        "dataset",
        "preset",
        "metric",
        "value",
        "note",
    ]
    assert all(value == value.strip() for line in lines for value in line.values())
    assert all(float(line["value"]) >= 0 for line in lines)
    facts = [tuple(line[name] for name in line if name != "value") for line in lines]
    assert len(set(facts)) == len(facts), "a value stands twice"
    assert len(published_rows()) == len(lines)
    assert all(row.value <= 100 for row in published_rows())
