from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from densebench.datasets import DATASETS
from densebench.leaderboard import leaderboard_rows, markdown, published_rows
from densebench.leaderboard.differences import Setting
from densebench.leaderboard.published import FILE
from densebench.model_zoo.catalog import ENTRIES
from densebench.protocols import PROTOCOLS
from densebench.results.schema import Metric, setting_label

SHARES = ("1/128", "1/64", "1/8", "1")


UNMATCHED = {
    ("protocol", "training"): "what a training costs, in PaKA's table 4 and NeCo's tables 9d and 10: no measurement",
    ("dataset", "coco_unstated"): "DIP's tables say COCO, not which classes; its code has VOC and ADE20K only",
    ("preset", "linear_segmentation: dip"): "DIP's table 8: the settings of its linear heads are not printed",
    ("quantity", "correspondence: layer"): "a record has the best layer in its facts",
    ("quantity", "positional_effect: rho_nmi_miou"): "of many models and layers: no record's",
    ("quantity", "positional_effect: rho_nmi_locality"): "of many models and layers: no record's",
}
"""Names in the file that the code does not have, and why."""
ROWS = {
    "PaKA": {"1": 64, "2": 32, "3": 42, "4": 4, "5a": 9, "5b": 9, "5c": 3, "6": 64, "7": 30, "8": 24, "9": 28,
             "10": 12, "11": 12},
    "NeCo": {"1b": 7, "2": 52, "3": 40, "4": 44, "5a": 12, "5b": 4, "5c": 4, "5d": 8, "5e": 4, "6": 1, "7": 78,
             "8": 120, "9a": 16, "9b": 16, "9c": 12, "9d": 20, "10": 10},
    "DIP": {"1": 128, "2": 24, "3": 3, "4": 8, "5": 6, "6a": 3, "6b": 2, "6c": 2, "6d": 4, "6e": 6, "6f": 2, "7": 2,
            "8": 12, "9": 8, "10": 6},
    "Positional effect": {"3": 90, "figure 9": 2, "4": 36, "5": 36},
    "open-hummingbird-eval": {"README": 18},
}  # fmt: skip
"""Rows of each table, a value that two tables print counted in the first alone."""
CELLS = {
    "PaKA": {"1": 64, "2": 32, "3": 42, "4": 16, "5a": 12, "5b": 12, "5c": 12, "6": 128, "7": 30, "8": 24, "9": 60,
             "10": 36, "11": 24},
    "NeCo": {"1a": 42, "1b": 7, "2": 52, "3": 60, "4": 44, "5a": 12, "5b": 8, "5c": 8, "5d": 12, "5e": 8, "6": 4,
             "7": 78, "8": 120, "9a": 20, "9b": 20, "9c": 16, "9d": 20, "10": 15},
    "DIP": {"1": 128, "2": 36, "3": 3, "4": 12, "5": 10, "6a": 6, "6b": 4, "6c": 4, "6d": 6, "6e": 8, "6f": 4, "7": 3,
            "8": 12, "9": 16, "10": 16},
    "Positional effect": {"3": 90, "figure 9": 2, "4": 36, "5": 36},
    "open-hummingbird-eval": {"README": 18},
}  # fmt: skip
"""Numbers that each table prints."""


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
    ("label", "head", "printed"),
    [
        ("DINO", "linear1", (0.996, 0.386, 0.464)),
        ("PaKA", "linear1", (0.443, 0.139, 0.834)),
        ("DINOv2", "linear4", (0.435, 0.137, 0.843)),
        ("PaKA", "linear4", (0.426, 0.131, 0.850)),
    ],
)
def test_depth_of_paka(label, head, printed):
    found = values("PaKA", label, "depth", "nyu", "paper")
    assert tuple(found[f"{name}@{head}"] for name in ("rmse", "abs_rel", "delta1")) == printed
    assert len(found) == 6


def test_dip():
    assert values("DIP", "DIP ViT-B/14", "hummingbird", "cityscapes") == {"miou@1": 59.5}
    assert values("DIP", "DIP ViT-S/14", "hummingbird", "voc")["miou@1"] == 81.0
    assert values("DIP", "NeCo ViT-S/14", "in_context_depth", "nyu") == {"rmse": 0.769}
    assert values("DIP", "DIP ViT-B/14", "hummingbird", "cityscapes->acdc") == {"miou@1": 52.1}


def test_neco_matches_by_hungarian():
    found = values("NeCo", "NeCo ViT-S/14", "hummingbird", "voc")
    assert tuple(found[f"miou_hungarian@{share}"] for share in SHARES) == (66.5, 70.3, 76.3, 78.9)


def test_table_of_the_hummingbird_code():
    rows = [r for r in published_rows("hummingbird", "voc") if r.paper == "open-hummingbird-eval"]
    assert [r.value for r in rows if r.label == "DINOv2 ViT-S/14"] == [70.2, 74.9, 77.0]
    assert rows[0].source == "open-hummingbird-eval, README"


def test_positional_effect():
    label = "DINOv3 ViT-B"
    best = values("Positional effect", label, "correspondence", "spair", "sweep")
    assert best["pck@0.10/token"] == 57.87
    assert len(best) == 5, "four facets and the best layer"
    assert values("Positional effect", label, "correspondence", "spair", "paper") == {"pck@0.10": 54.12}
    assert values("Positional effect", label, "correspondence", "spair", "paper + norm=false") == {"pck@0.10": 57.01}
    assert values("Positional effect", label, "positional_effect", "coco_stuff27", "raw") == {"miou": 1.45}
    assert values("Positional effect", label, "positional_effect", "coco_stuff27", "paper") == {"miou": 16.79}


def test_best_layers_and_correlations_of_the_positional_study():
    layers = {
        row.label: (row.value, row.note) for row in published_rows("correspondence", "spair") if row.quantity == "layer"
    }
    assert len(layers) == 18
    assert layers["MAE ViT-L"] == (17, "best layer of the best facet; printed as 17/24, counted from 1")
    assert layers["iBOT ViT-B"][0] == 12
    found = values("Positional effect", "all models and layers", "positional_effect", "coco_stuff27", "sweep")
    assert found == {"rho_nmi_miou": -0.59, "rho_nmi_locality": 0.70}


@pytest.mark.parametrize(
    ("model", "printed"),
    [
        ("PaKA, MMD instead of CKA", (19.6, 65.3, 76.8)),
        ("PaKA, HSIC instead of CKA", (17.5, 63.0, 78.5)),
        ("PaKA, Gram instead of CKA", (18.0, 76.0, 82.2)),
        ("PaKA, standard augmentation", (18.1, 75.0, 82.1)),
        ("PaKA, without the clean teacher", (18.7, 75.8, 82.0)),
        ("PaKA, without the greater overlap", (19.9, 75.5, 81.8)),
        ("NeCo, augmentation of PaKA", (17.8, 73.1, 81.5)),
    ],
)
def test_ablations_of_paka(model, printed):
    label = f"{model} ViT-S/14"
    clusters = values("PaKA", label, "overclustering", "voc", "paper")
    found = clusters["miou@K=21"], clusters["miou@K=500"], values("PaKA", label, "linear_segmentation", "voc")["miou"]
    assert found == printed
    assert {row.zoo_name for row in rows_of("PaKA") if row.label == label} == {""}


@pytest.mark.parametrize(
    ("model", "printed"),
    [
        ("NeCo, default of the ablations", (78.9, 62.0, 37.3, 21.7)),
        ("NeCo, without a teacher", (70.4, 42.6, 28.3, 15.9)),
        ("NeCo, trained on ImageNet-100", (76.7, 55.8, 34.9, 18.7)),
        ("NeCo, odd-even sorting", (78.9, 62.2, 37.0, 21.6)),
        ("NeCo, 8 neighbours", (76.8, 61.1, 36.3, 20.2)),
        ("NeCo, batches of 8", (76.8, 61.1, 36.3, 20.8)),
        ("NeCo, steepness 1000 of the student and 100 of the teacher", (74.5, 48.3, 27.8, 16.5)),
        ("NeCo, 8 epochs", (80.7, 65.9, 39.6, 23.2)),
    ],
)
def test_ablations_of_neco(model, printed):
    found = [
        values("NeCo", model, protocol, dataset, preset)[metric]
        for dataset in ("voc", "ade20k")
        for protocol, preset, metric in (
            ("linear_segmentation", "neco-text", "miou"),
            ("hummingbird", "paper + input_size=448", "miou_hungarian@1/128"),
        )
    ]
    assert tuple(found) == printed


def test_ablations_of_dip():
    label = "DIP, direct prediction of classes ViT-S/14"
    assert values("DIP", label, "hummingbird", "ade20k", "dip") == {"miou@1": 39.9}
    assert values("DIP", label, "in_context_depth", "nyu", "paper") == {"rmse": 0.776}
    assert values("DIP", "DIP, 2000 pseudo-classes ViT-S/14", "hummingbird", "ade20k") == {"miou@1": 39.8}
    assert values("DIP", "DIP, temperature 0.09 ViT-S/14", "hummingbird", "voc") == {"miou@1": 80.8}
    crops = values("DIP", "DIP, positives are two crops ViT-S/14", "hummingbird", "voc", "dip")
    assert tuple(crops[f"miou@{share}"] for share in SHARES) == (61.2, 67.7, 75.1, 79.5)


def test_costs_of_trainings():
    cost = {(row.table, row.label, row.quantity): row.value for row in published_rows("training")}
    assert cost["4", "PaKA ViT-S/14", "train_minutes"] == 14 * 60 + 4
    assert cost["4", "NeCo ViT-S/14", "train_gb_per_image"] == 1.9
    assert cost["9d", "NeCo, 8 epochs", "train_minutes"] == 300
    assert cost["10", "CrIBo + NeCo ViT-S/16", "epoch_seconds"] == 4 * 60 + 48
    assert cost["10", "TimeT + NeCo ViT-S/16", "train_minutes"] == 96
    assert len(cost) == 4 + 4 + 10


def test_k_is_21_where_it_is_printed_so():
    found = values("NeCo", "TimeT + NeCo ViT-S/16", "overclustering", "coco_things")
    assert found == {"miou@K=21": 20.6, "miou@K=500": 54.3}


@pytest.mark.parametrize(
    ("paper", "protocol", "dataset", "presets"),
    [
        ("NeCo", "linear_segmentation", "voc", {"neco-text"}),  # 20 epochs
        ("NeCo", "overclustering", "voc", {"paper"}),  # preset neco is another name of it
        ("NeCo", "hummingbird", "voc", {"paper", "paper + input_size=448"}),
        ("NeCo", "finetune_segmentation", "ade20k_150", {"segmenter"}),
        ("NeCo", "finetune_segmentation", "ade20k", set()),  # mmsegmentation counts 150 classes
        ("DIP", "hummingbird", "voc", {"dip", "paper"}),
        ("open-hummingbird-eval", "hummingbird", "voc", {
            "open-hummingbird-v2 + search=scann",
            "open-hummingbird-v2 + memory_size=102400, search=scann",
            "open-hummingbird-v2 + memory_size=1024000, search=scann",
        }),
    ],
)  # fmt: skip
def test_rows_stand_where_the_settings_are_those_of_the_paper(paper, protocol, dataset, presets):
    assert {row.preset for row in published_rows(protocol, dataset) if row.paper == paper} == presets


def test_what_dip_quotes_is_not_in_its_setting():
    low_shot = [row for row in rows_of("DIP") if row.tables[0] in ("1", "9") and row.at["fraction"] != "1"]
    assert len(low_shot) == 102
    assert Counter(row.preset for row in low_shot) == {"paper": 60, "dip": 42}
    assert {row.label for row in low_shot if row.preset == "dip"} == {
        f"{model} {backbone}"
        for backbone in ("ViT-S/14", "ViT-B/14", "ViT-L")
        for model in ("DINOv2R", "NeCo", "DIP")
        if (model, backbone) != ("NeCo", "ViT-L")
    }
    assert set(PROTOCOLS["hummingbird"]().configure("dip").fractions) == {1, 8, 64, 128}


def test_unsupervised_segmentation():
    assert values("NeCo", "NeCo ViT-S/14", "unsupervised_segmentation", "voc") == {"miou": 55.1, "miou_cbfe": 41.3}


COORDINATES = {
    "fraction": r"1(/\d+)?",
    "clusters": r"\d+",
    "head": "linear[14]",
    "alpha": r"0\.\d+",
    "facet": "key|query|value|token",
}


def test_rows_of_every_table():
    assert {paper: Counter(row.table for row in rows_of(paper)) for paper in ROWS} == ROWS
    assert {paper: Counter(table for row in rows_of(paper) for table in row.tables) for paper in CELLS} == CELLS
    assert sum(map(sum, (tables.values() for tables in ROWS.values()))) == len(published_rows())


def rows_of(paper):
    return [row for row in published_rows() if row.paper == paper]


def exists(metric, protocol):
    """Whether a protocol has a metric, at coordinates that there can be."""
    possible = all(re.fullmatch(COORDINATES[name], str(value)) for name, value in metric.at.items())
    return possible and any((metric.quantity, set(metric.at)) == (i.name, set(i.at)) for i in protocol.metrics)


def test_coordinates_have_their_types():
    rows = {row.metric: row.at for row in published_rows()}
    assert rows["rmse@linear4"] == {"head": "linear4"}
    assert rows["pck@0.10/key"] == {"alpha": 0.1, "facet": "key"}
    assert rows["miou@K=151"] == {"clusters": 151}
    assert rows["miou@1/8"] == {"fraction": "1/8"}
    assert rows["miou"] == {}


def test_names_of_the_file_are_those_of_the_code():
    """Protocol, dataset, preset and metric of every row; what the code lacks is listed above with the reason."""
    lacking = []
    for row in published_rows():
        for dataset in row.dataset.split("->"):
            if dataset not in DATASETS:
                lacking.append((row, "dataset", dataset))
        if row.protocol not in PROTOCOLS:
            lacking.append((row, "protocol", row.protocol))
            continue
        protocol, setting = PROTOCOLS[row.protocol], Setting.parse(row.preset)
        if not exists(row, protocol):
            lacking.append((row, "quantity", f"{row.protocol}: {row.quantity}"))
        if setting.preset not in protocol.presets:
            lacking.append((row, "preset", f"{row.protocol}: {setting.preset}"))
        else:
            config = protocol().configure(setting.preset, setting.settings)
            assert setting_label(setting.preset, {n: getattr(config, n) for n in setting.settings}) == row.preset
    assert all(row.note for row, _, _ in lacking)
    assert {name[1:] for name in lacking} == set(UNMATCHED)


def test_models_of_the_catalogue_have_the_backbone_that_is_printed():
    named = {(row.backbone, row.zoo_name) for row in published_rows() if row.zoo_name}
    assert len(named) > 40
    for backbone, name in named:
        entry = ENTRIES[name]
        size, _, patch = backbone.removeprefix("ViT-").partition("/")
        assert f"_vit{size.lower()}" in name, (backbone, name)
        assert patch in ("", str(entry.patch)), (backbone, name)


@pytest.mark.parametrize(
    ("paper", "label", "name"),
    [
        ("PaKA", "PaKA ViT-S/14", "paka_vits14"),
        ("PaKA", "DINOv2R ViT-S/14", ""),  # so it also calls what it begins with, which has no registers
        ("PaKA", "NeCo ViT-S/14", ""),  # trained anew there
        ("PaKA", "iBOT ViT-B/16", ""),  # of block-wise or of random masks
        ("NeCo", "NeCo ViT-S/14", "neco_vits14"),
        ("NeCo", "CrOC ViT-S/16", ""),  # of ImageNet-1k, COCO or COCO+
        ("DIP", "DINOv2R ViT-S/14", "dinov2r_vits14"),
        ("DIP", "CLIP + DIP ViT-B/16", "dip_clip_vitb16"),
        ("Positional effect", "DINOv2+reg ViT-B", "dinov2r_vitb14"),
        ("Positional effect", "DINO ViT-B", ""),  # of which patch
        ("open-hummingbird-eval", "DINOv2 ViT-G/14", "dinov2_vitg14"),
    ],
)
def test_only_the_very_model_has_a_name_of_the_catalogue(paper, label, name):
    assert {row.zoo_name for row in published_rows() if (row.paper, row.label) == (paper, label)} == {name}


def test_both_copies_are_the_same():
    copy = Path(__file__).parents[2] / "results" / "published.csv"
    assert copy.read_bytes() == FILE.read_bytes()


def measured(name, value, unit="%", *, higher_is_better=True, main=True, **at):
    return Metric(name=name, at=at, value=value, unit=unit, higher_is_better=higher_is_better, main=main)


def depth(*ats):
    for at in ats:
        yield measured("rmse", 0.5, "m", higher_is_better=False, **at)
        yield measured("abs_rel", 0.2, "1", higher_is_better=False, **at)
        yield measured("delta1", 0.8, "1", **at)


FACETS = ("token", "key", "query", "value")


@pytest.mark.parametrize(
    ("protocol", "dataset", "preset", "metrics", "head", "line"),
    [
        (
            "depth",
            "nyu",
            "paper",
            list(depth({"head": "linear1"}, {"head": "linear4"})),
            "| rmse@linear1 | abs_rel@linear1 | delta1@linear1 | rmse@linear4 | abs_rel@linear4 | delta1@linear4 |",
            "| PaKA | 0.443 | 0.139 | 0.834 | 0.426 | 0.131 | 0.850 | PaKA, table 7 | paper | backbone not printed |",
        ),
        (
            "in_context_depth",
            "nyu",
            "paper",
            list(depth({})),
            "| model | rmse | source |",
            "| NeCo ViT-S/14 | 0.769 | DIP, table 3 | paper |",
        ),
        (
            "correspondence",
            "spair",
            "sweep",
            [measured("pck", 50.0, alpha=0.1, facet=facet) for facet in FACETS],
            "| pck@0.10/token | pck@0.10/key | pck@0.10/query | pck@0.10/value |",
            "| DINOv3 ViT-L | 60.28 | 50.76 | 52.74 | 61.95 | 22 | Positional effect, table 3 | sweep |",
        ),
        (
            "linear_segmentation",
            "voc",
            "paper",
            [measured("miou", 80.0), measured("miou_best", 81.0, main=False)],
            "| model | miou | source |",
            "| PaKA ViT-S/14 | 82.2 | PaKA, table 2 | paper |",
        ),
        (
            "finetune_segmentation",
            "ade20k",
            "paper",
            [measured("miou", 80.0)],
            "| model | miou | source |",
            "| PaKA ViT-B/14 | 48.4 | PaKA, table 10 | paper |",
        ),
        (
            "finetune_segmentation",
            "voc",
            "segmenter",
            [measured("miou", 80.0)],
            "| model | miou | source |",
            "| NeCo ViT-S/14 | 86.3 | NeCo, table 4 | segmenter |",
        ),
        (
            "hummingbird",
            "cityscapes->acdc",
            "dip",
            [measured("miou", 40.0, fraction="1")],
            "| model | miou@1 | source |",
            "| DIP ViT-B/14 | 52.1 | DIP, table 2 | dip |",
        ),
    ],
)
def test_ours_stand_beside_theirs(record, protocol, dataset, preset, metrics, head, line):
    declared = PROTOCOLS[protocol].metrics
    assert all(any(info.describes(metric) for info in declared) for metric in metrics), "metrics the protocol has"
    ours = record(metrics=metrics, protocol=protocol, dataset=dataset, preset=preset)
    text = markdown(leaderboard_rows([ours]), published_rows())
    mine, theirs = text.split("#### As printed by the papers")
    assert f"### {protocol}, preset {preset}" in mine
    assert head in theirs
    assert line in theirs


def test_file_is_clean():
    with FILE.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [
        "paper",
        "table",
        "also",
        "model",
        "backbone",
        "zoo_name",
        "protocol",
        "dataset",
        "preset",
        "quantity",
        *(f"at_{name}" for name in COORDINATES),
        "value",
        "note",
    ]
    assert all(value == value.strip() for line in lines for value in line.values())
    assert all(float(line["value"]) >= 0 or line["quantity"].startswith("rho_") for line in lines)
    facts = [tuple(line[name] for name in line if name != "value") for line in lines]
    assert len(set(facts)) == len(facts), "a value stands twice"
    assert len(published_rows()) == len(lines)
    assert all(row.value <= 100 for row in published_rows() if row.protocol != "training")
