from __future__ import annotations

import re

import pytest

from densebench.core.errors import UsageError
from densebench.datasets import DATASETS
from densebench.leaderboard import published_rows
from densebench.model_zoo.catalog import ENTRIES
from densebench.model_zoo.zoo import zoo_names
from densebench.ops import cbfe
from densebench.protocols import PROTOCOLS
from densebench.runner.foresee import foresee
from densebench.runner.request import Request
from densebench.runner.suite import requests_of
from densebench.suites import load_suite, suite_names
from densebench.suites.suite import OURS

NO_SUITE = {
    ("NeCo", "10"): "what training costs; its scores are rows of table 3",
    ("Positional effect", "figure 9"): "correlations over all models; suite positional-layers, then `leaderboard`",
    ("open-hummingbird-eval", "README"): "no table of a paper; a run with preset open-hummingbird-v2",
}
"""Tables of published rows that are not run as a suite, and why."""
UNMEASURED = {"coco_unstated": "DIP says COCO, not which classes"}

SUITES = [load_suite(name) for name in suite_names()]
OF_PAPERS = [suite for suite in SUITES if suite.paper]


def test_ours_are_listed_first_and_tables_in_the_order_of_their_numbers():
    names = suite_names()
    assert tuple(names[:2]) == OURS
    paka = [name for name in names if name.startswith("paka-")]
    assert [int(re.sub(r"\D", "", name)) for name in paka] == sorted(int(re.sub(r"\D", "", name)) for name in paka)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_suite_names_models_that_can_be_had_and_data_of_its_protocols(suite):
    assert set(suite.models) <= {*ENTRIES, *zoo_names()}
    for cell in suite.cells:
        protocol = PROTOCOLS[cell.protocol]()
        assert not cell.preset or cell.preset in protocol.presets
        for name in cell.datasets:
            assert not protocol.missing_targets(DATASETS[name.partition("->")[2] or name].info)


def test_quick_is_every_protocol_on_the_embedded_scenes():
    cells = load_suite("quick").cells
    assert {cell.protocol for cell in cells} == set(PROTOCOLS.names())
    assert {cell.datasets for cell in cells} == {("scenes",)}


@pytest.mark.parametrize("suite", OF_PAPERS, ids=lambda suite: suite.name)
def test_every_published_row_of_a_suite_stands_beside_a_cell_and_every_cell_beside_rows(suite):
    beside = [row for cell in suite.cells for row in suite.published(cell)]
    rows = [row for row in suite.published() if row.protocol in PROTOCOLS and row.dataset not in UNMEASURED]
    assert all(row in beside for row in rows)
    if suite.published():
        for cell in suite.cells:
            assert {row.dataset for row in suite.published(cell)} == set(cell.datasets)
    labels = {row.label for row in suite.published()}
    assert set(suite.models.values()) <= {*labels, ""}


def test_every_table_of_published_rows_that_can_be_measured_is_a_suite():
    served = {(suite.paper, table) for suite in OF_PAPERS for table in suite.tables}
    measurable = {
        (row.paper, table)
        for row in published_rows()
        for table in row.tables
        if row.protocol in PROTOCOLS and row.dataset not in UNMEASURED
    }
    assert measurable - served == set(NO_SUITE)


def test_zoo_names_of_published_rows_and_of_suites_agree():
    for suite in OF_PAPERS:
        for row in suite.published():
            if row.zoo_name:
                assert suite.model_of(row) == row.zoo_name, (suite.name, row.label)


OWN = """
title = "mine"
[models]
pico = ""
[[cells]]
protocol = "overclustering"
datasets = ["scenes"]
"""


def own(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace("overclustering", "overclusterin"), "did you mean 'overclustering'?"),
        (OWN.replace("scenes", "scene"), "did you mean 'scenes'"),
        (OWN + 'preset = "papr"\n', "did you mean 'paper'"),
        (OWN + "settings = { seed = 3 }\n", "no field 'seed'; did you mean 'seeds'?"),
        (OWN + "settings = { eval_size = 0 }\n", "eval_size=0: expected"),
        (OWN + "colour = 3\n", "not a suite: cells.0.colour: Extra inputs"),
        (OWN + 'models = ["dino_vits16"]\n', "names dino_vits16, which [models] does not have"),
        (OWN + "metrics = [{ clusters = 21 }]\n", "a metric lacks its name"),
        (OWN + "seeds = [-1]\n", "cells.0.seeds.0"),
        ('title = "none"\ncells = []\n', "not a suite: cells"),
        (OWN + '[published]\npaper = "PaKA"\ntables = ["99"]\n', "no published rows of table 99"),
        ("= 3", "is not TOML"),
    ],
)
def test_a_file_that_describes_no_suite_is_refused_in_words(tmp_path, text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        load_suite(own(tmp_path, text))


def test_names_that_nobody_knows_and_files_that_are_not_there():
    with pytest.raises(UsageError, match="did you mean 'paka-1'"):
        load_suite("paka1")
    with pytest.raises(UsageError, match="does not exist"):
        load_suite("none.toml")


def test_a_request_of_a_suite_is_one_request_per_cell_and_training_data():
    found = requests_of(Request(suite="dip-2", model=("pico",)))
    assert [(each.protocol, each.dataset, each.train_dataset) for each in found] == [
        (("hummingbird",), ("voc", "ade20k", "pascal_context", "cityscapes"), ""),
        (("hummingbird",), ("acdc",), "cityscapes"),
    ]
    assert {each.preset for each in found} == {"dip"}
    assert {each.model for each in found} == {("pico",)}


def test_settings_of_a_suite_reach_the_request():
    raw, paper = requests_of(Request(suite="positional-5"))
    assert (raw.settings, paper.settings) == ({"correspondence": {"norm": False}}, {})
    assert "dinov3_vitl16" in raw.model


def test_protocols_and_datasets_choose_among_cells_and_seeds_replace(tmp_path):
    found = requests_of(Request(suite="neco-3", protocol=("overclustering",), dataset=("voc",), seed=(3,)))
    assert [(each.protocol, each.dataset, each.seed) for each in found] == [(("overclustering",), ("voc",), (3,))]
    with pytest.raises(UsageError, match="suite neco-3 has no cell of depth"):
        requests_of(Request(suite="neco-3", protocol=("depth",)))
    cells = requests_of(Request(suite=own(tmp_path, OWN + "seeds = [4, 5]\n")))
    assert cells[0].seed == (4, 5)
    ready = requests_of(Request(suite="dense", model=("pico",), dataset=("scenes",)))
    assert {each.dataset for each in ready} == {("scenes",)}
    assert {each.dataset for each in requests_of(Request(suite="dense", model=("pico",)))} == {()}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"preset": "paper"}, "--preset does not go with --suite"),
        ({"settings": {"hummingbird": {"neighbours": 3}}}, "--set does not go with --suite"),
        ({"train_dataset": "voc"}, "--train-dataset does not go with --suite"),
    ],
)
def test_what_a_suite_decides_is_not_asked_for_beside_it(asked, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        requests_of(Request(suite="paka-1", **asked))


def test_without_a_model_nothing_can_be_meant():
    with pytest.raises(UsageError, match="no model is named"):
        requests_of(Request(suite="dense"))
    with pytest.raises(UsageError, match="no model is named"):
        requests_of(Request())


def test_what_a_suite_takes_is_known_without_weights_and_data():
    found = foresee(load_suite("paka-3"))
    assert found.cells == 14
    assert not found.unknown
    patches = (1449 + 2000) * (4 * 28**2 + 3 * 32**2)  # at 448 pixels, of four models with patches of 16, three of 14
    assert found.cache_bytes == patches * 384 * 2
    assert found.flops > 1e14


@pytest.mark.parametrize("name", ["dip-5", "neco-1b"])
def test_models_of_every_adapter_are_known_without_their_weights(name, monkeypatch):
    monkeypatch.setattr(cbfe, "has_infomap", lambda: True)
    assert not foresee(load_suite(name)).unknown
