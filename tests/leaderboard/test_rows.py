from __future__ import annotations

import csv
import io
import json
import math
import random
from pathlib import Path

from densebench.leaderboard import leaderboard_rows, markdown, select, to_csv, to_json
from densebench.leaderboard.row import by_entry, tables
from densebench.results.schema import Metric

from .conftest import metric


def test_one_row_per_metric_with_its_facts(record):
    rows = leaderboard_rows([record()])
    assert [row.metric for row in rows] == ["miou@1", "miou@1/8", "miou@1/64", "miou@1/128", "miou_hungarian@1"]
    first = rows[0]
    assert (first.model, first.protocol, first.dataset, first.preset) == ("paka_vits14", "hummingbird", "voc", "paper")
    assert (first.value, first.ci95_low, first.ci95_high, first.unit) == (80.0, 79.0, 81.0, "%")
    assert (first.n_images, first.seed_count, first.date) == (1449, 1, "2026-11-20")
    assert (first.weights_sha256, first.densebench, first.main) == ("ab" * 6, "0.1.0", True)
    assert not rows[-1].main


def test_seeds_are_counted(record):
    repeated = Metric(name="miou", at={"clusters": 21}, value=20.0, seeds={"0": 19.0, "1": 21.0})
    assert leaderboard_rows([record(metrics=[repeated])])[0].seed_count == 2


def test_best_first_in_the_direction_of_the_metric(record):
    def nmi(value: float) -> Metric:
        return Metric(name="nmi", value=value, unit="1", higher_is_better=False, main=True)

    records = [record(name, [nmi(value)]) for name, value in (("a", 0.3), ("b", 0.1), ("c", 0.2))]
    assert [row.model for row in leaderboard_rows(records)] == ["b", "c", "a"]
    miou = [
        record(name, [Metric(name="miou", value=v, main=True)]) for name, v in (("a", 3), ("b", 1), ("d", 3), ("c", 2))
    ]
    assert [row.model for row in leaderboard_rows(miou)] == ["a", "d", "c", "b"]


def test_not_a_number_comes_last(record):
    records = [record(name, [Metric(name="m", value=v)]) for name, v in (("a", math.nan), ("b", 1.0), ("c", 2.0))]
    assert [row.model for row in leaderboard_rows(records)] == ["c", "b", "a"]


def test_sorted_by_dataset_protocol_preset(record):
    records = [
        record(dataset=dataset, protocol=protocol, preset=preset)
        for dataset in ("voc", "ade20k")
        for protocol in ("overclustering", "hummingbird")
        for preset in ("paper", "dip")
    ]
    assert list(tables(leaderboard_rows(records))) == sorted(record_table(r) for r in records)


def record_table(record):
    return record.data.name, record.protocol.name, record.protocol.preset


def test_limited_records_stay_off_unless_asked_for(record):
    records = [record(), record("quick", limit=32)]
    assert {row.model for row in leaderboard_rows(records)} == {"paka_vits14"}
    assert {row.limit for row in leaderboard_rows(records, limited=True)} == {None, 32}


def test_records_that_differ_stay_apart_and_say_in_what(record):
    records = [
        record(score_hash="a", config={"neighbours": 30, "head": {"lr": 0.1}}, created="2026-11-01"),
        record(score_hash="b", config={"neighbours": 50, "head": {"lr": 0.2}}, created="2026-11-02"),
        record(score_hash="b2", config={"neighbours": 50, "head": {"lr": 0.2}}, created="2026-11-03"),
        record("neco_vits14", score_hash="c"),
    ]
    top = [row for row in leaderboard_rows(records) if row.metric == "miou@1"]
    assert [(row.model, row.variant, row.score_hash) for row in top] == [
        ("neco_vits14", "", "c"),
        ("paka_vits14", "head.lr=0.2, neighbours=50", "b2"),  # the newest first
        ("paka_vits14", "head.lr=0.2, neighbours=50", "b"),
        ("paka_vits14", "head.lr=0.1, neighbours=30", "a"),
    ]
    assert top[1].label == "paka_vits14 (head.lr=0.2, neighbours=50)"
    assert len(by_entry(leaderboard_rows(records))) == 4


def test_variants_name_the_cause_before_its_effect(record):
    def variants(*changes):
        records = [record(score_hash=str(i)).model_copy(update=change) for i, change in enumerate(changes)]
        return {row.variant for row in leaderboard_rows(records)}

    small, large = ({"val": {"size": size}, "precision": "float32"} for size in (224, 448))
    assert variants({"features": small}, {"features": large}) == {"features.val.size=224", "features.val.size=448"}
    assert variants({"features": small, "seed": 1}, {"features": small}) == {""}  # a seed is no variant: a mean
    half = {**small, "precision": "float16"}
    assert variants({"features": small}, {"features": half}) == {"precision=float16", "precision=float32"}


def test_a_number_of_pictures_is_named_only_where_nothing_else_differs(record):
    def variants(**other):
        configs = {"examples": 3}, {"examples": 6, **other}
        return {row.variant for row in leaderboard_rows([record(score_hash=str(c), config=c) for c in configs])}

    assert variants() == {"examples=3", "examples=6"}
    assert variants(size=1) == {"size=-", "size=1"}


def test_the_same_hash_twice_counts_once_the_newest(record):
    old, new = record(created="2026-11-01T00:00:00Z"), record(created="2026-11-02T00:00:00Z")
    for order in ([old, new], [new, old]):
        assert {row.date for row in leaderboard_rows(order)} == {"2026-11-02"}


def test_same_records_same_bytes_in_any_order(record):
    records = [record(f"m{i % 7}", protocol=f"p{i % 3}", score_hash=str(i), seed=i % 2) for i in range(40)]
    first = to_csv(leaderboard_rows(records))
    for seed in range(3):
        random.Random(seed).shuffle(records)
        assert to_csv(leaderboard_rows(records)) == first


def test_csv_snapshot(record):
    rows = leaderboard_rows([record(metrics=[Metric(name="nmi", value=1 / 3, unit="1", higher_is_better=False)])])
    assert to_csv(rows) == (
        "model,protocol,dataset,data,preset,settings,metric,quantity,value,unit,ci95_low,ci95_high,n_images,n_published,"
        "n_train,n_train_published,seed_count,seed_sd,score_hash,date,main,higher_is_better,variant,limit,seed,"
        "records,weights_sha256,protocol_version,densebench,withdrawn,rank,rank_by\n"
        "paka_vits14,hummingbird,voc,voc,paper,,nmi,nmi,0.333333,1,,,1449,1449,10582,10582,1,,"
        f"{rows[0].score_hash},2026-11-20,false,false,,,0,1,abababababab,9,0.1.0,,,\n"
    )
    assert to_csv([]).startswith("model,protocol,dataset,data,preset,settings,metric,quantity,value,")


def test_csv_quotes_names_with_commas(record):
    text = to_csv(leaderboard_rows([record('odd,"name"')]))
    assert next(csv.DictReader(io.StringIO(text)))["model"] == 'odd,"name"'


def test_json_holds_no_nan(record):
    rows = leaderboard_rows([record(metrics=[Metric(name="m", value=math.nan, ci95=(math.nan, 1.0))])])
    (entry,) = json.loads(to_json(rows), parse_constant=lambda name: 1 / 0)
    assert entry["value"] is None
    assert entry["ci95_high"] == 1.0


def test_select_keeps_limited_and_torn_apart(results: Path):
    selection = select(results)
    assert len(selection.records) == 6
    assert [record.model.name for record in selection.limited] == ["quick"]
    assert len(selection.unreadable) == 1
    assert "torn--paper--00.json" in selection.unreadable[0]
    assert {r.protocol.name for r in select(results, protocols=["overclustering"]).records} == {"overclustering"}
    assert {r.data.name for r in select(results, datasets=["scenes"]).records} == {"scenes"}


def test_coordinates_are_columns_of_their_own_those_of_plugins_too(record):
    metrics = [metric("miou", 5.0, fraction="1/8"), metric("hits", 6.0, threshold=3, strict=True), metric("nmi", 0.5)]
    lines = list(csv.DictReader(io.StringIO(to_csv(leaderboard_rows([record(metrics=metrics)])))))
    names = [name for name in lines[0] if name.startswith("at_")]
    assert [(line["metric"], line["quantity"], *map(line.get, names)) for line in lines] == [
        ("miou@1/8", "miou", "1/8", "", ""),
        ("hits@threshold=3/strict=True", "hits", "", "3", "true"),
        ("nmi", "nmi", "", "", ""),
    ]
    assert json.loads(to_json(leaderboard_rows([record(metrics=metrics)])))[1]["at"] == {"threshold": 3, "strict": True}


def test_metrics_are_told_apart_by_coordinates_not_by_what_they_are_called(record):
    metrics = [metric("miou", 50.0, fraction="1"), metric("miou", 40.0, head="1")]
    rows = leaderboard_rows([record("a", metrics), record("b", metrics, score_hash="b")])
    assert [row.metric for row in rows] == ["miou@1"] * 4
    (first, _) = by_entry(rows)
    assert [(dict(row.at), row.value) for row in first.values()] == [({"fraction": "1"}, 50.0), ({"head": "1"}, 40.0)]
    assert "| a | 50.0 ± 1.0 | 40.0 ± 1.0 |" in markdown(rows).replace("**", "").replace(" ≈", "")
