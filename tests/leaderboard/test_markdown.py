from __future__ import annotations

import io

import pytest
from rich.console import Console

from densebench.core.text import elide
from densebench.leaderboard import console_table, leaderboard_rows, markdown, published_rows
from densebench.leaderboard.cells import ties
from densebench.leaderboard.published import PublishedRow
from densebench.results.schema import Metric


def miou(value, low, high):
    return Metric(name="miou", at={"fraction": "1"}, value=value, ci95=(low, high), main=True)


def test_snapshot(record):
    records = [
        record(
            "a", [miou(80.0, 79.0, 81.0), Metric(name="nmi", value=0.2, unit="1", higher_is_better=False, main=True)]
        ),
        record("b|c", [miou(79.5, 78.6, 80.5)]),
        record("d", [miou(70.0, 69.0, 71.0)]),
    ]
    rows = leaderboard_rows(records)
    hashes = {row.model: row.score_hash[:8] for row in rows}
    assert markdown(rows).split("\n\n", 2)[2] == (
        "## voc\n\n### hummingbird, preset paper\n\n"
        "| model | miou@1 (%) ↑ | nmi ↓ | record |\n| --- | ---: | ---: | --- |\n"
        f"| a | **80.0** ± 1.0 | 0.200 | `{hashes['a']}` |\n"
        f"| b\\|c | 79.5 ± 1.0 ≈ |  | `{hashes['b|c']}` |\n"
        f"| d | 70.0 ± 1.0 |  | `{hashes['d']}` |\n\n"
        "1449 validation images; 1 seed per value; 95 % intervals.\n"
    )


def test_uneven_intervals_are_written_out(record):
    text = markdown(leaderboard_rows([record("a", [miou(80.0, 79.9, 83.0)])]))
    assert "| 80.0 [79.9, 83.0] |" in text
    assert "**" not in text.split("## voc")[1]  # one model is not the best of anything


def test_lower_is_better_where_it_is(record):
    nmi = [
        record(name, [Metric(name="nmi", value=v, unit="1", higher_is_better=False, main=True)])
        for name, v in (("a", 0.3), ("b", 0.2))
    ]
    text = markdown(leaderboard_rows(nmi))
    assert "**0.200**" in text
    assert "**0.300**" not in text


def test_metrics_that_are_not_main_stay_out(record):
    assert "hungarian" not in markdown(leaderboard_rows([record()]))
    only = record(metrics=[Metric(name="other", value=1.0)])
    assert "other" in markdown(leaderboard_rows([only]))  # unless there is nothing else


def test_nothing_to_show():
    assert "No complete results yet" in markdown([])


def test_a_section_per_dataset(record):
    rows = leaderboard_rows([record(dataset=d, preset=p) for d in ("voc", "ade20k") for p in ("paper", "dip")])
    text = markdown(rows)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## ade20k", "## voc"]
    assert text.count("### hummingbird, preset dip") == 2


def test_published_block_follows_once(record):
    rows = leaderboard_rows([record(preset="paper"), record(preset="dip"), record(dataset="scenes")])
    text = markdown(rows, published_rows())
    assert text.count("#### As printed by the papers") == 1
    assert "| PaKA ViT-S/14 | 80.5 | 77.3 | 72.4 | 68.1 | PaKA, table 1 | paper ¹ | backbone from table 6 |" in text
    assert "| miou_hungarian@1 | miou_hungarian@1/8 |" in text
    assert text.index("preset paper") < text.index("As printed")


def test_published_metrics_that_stand_together_share_a_table(record):
    def printed(model, note="", **values):
        shared = {"paper": "P", "table": "1", "backbone": "", "protocol": "depth", "dataset": "nyu", "preset": "paper"}
        return [
            PublishedRow(model=model, quantity=name, at={}, value=value, printed=str(value), note=note, **shared)
            for name, value in values.items()
        ]

    rows = [*printed("a", rmse=1.0, delta=0.5), *printed("b", "odd", other=3.0), *printed("c", delta=0.6)]
    ours = [Metric(name=name, value=1.0, main=True) for name in ("delta", "rmse")]
    text = markdown(leaderboard_rows([record(metrics=ours, protocol="depth", dataset="nyu")]), rows)
    assert text.split("papers\n\n")[1] == (
        "| model | delta | rmse | source | preset | note |\n| --- | ---: | ---: | --- | --- | --- |\n"
        "| a | 0.5 | 1.0 | P, table 1 | paper |  |\n| c | 0.6 |  | P, table 1 | paper |  |\n\n"
        "| model | other | source | preset | note |\n| --- | ---: | --- | --- | --- |\n"
        "| b | 3.0 | P, table 1 | paper | odd |\n"
    )


def test_pictures_are_linked(record):
    rows = leaderboard_rows([record()])
    text = markdown(rows, pictures={rows[0].table: ["plots/x.png"]})
    assert "](plots/x.png)" in text


def test_ties_need_intervals_that_overlap(record):
    column = leaderboard_rows(
        [
            record("best", [miou(80, 79, 81)]),
            record("close", [miou(78, 77, 79)]),
            record("far", [miou(70, 69, 71)]),
            record("bare", [Metric(name="miou", at={"fraction": "1"}, value=79.9, main=True)]),
        ]
    )
    best, close = ties(column)
    assert best.model == "best"
    assert [row.model for row in close] == ["close"]


def test_elide():
    assert elide("short") == "short"
    assert len(elide("x" * 100, 30)) == 30
    assert elide("abcdef", 5) == "ab…ef"


def shown(records, width):
    console = Console(file=io.StringIO(), width=width)
    console_table(records, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_console_table_fits(record, width):
    names = ["paka_vits14", "timm/vit_small_patch14_reg4_dinov2.lvd142m", "hf/facebook/dinov2-small@0123456789abcdef"]
    text = shown([record(name) for name in names], width)
    assert max(map(len, text.splitlines())) <= width
    for head in ("miou@1 ↑", "miou@1/8 ↑", "miou@1/64 ↑", "miou@1/128 ↑"):
        assert head in text
    assert "80.0" in text
    assert "± 1.0" in text
    assert "hungarian" not in text


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_console_splits_tables_that_are_too_wide(record, width):
    metrics = [
        Metric(name=name, at={"head": f"linear{n}"}, value=0.5, ci95=(0.4, 0.6), unit="1", main=True)
        for n in (1, 4)
        for name in ("rmse", "abs_rel", "delta1")
    ]
    names = [metric.label for metric in metrics]
    assert names[-1] == "delta1@linear4"
    text = shown([record(metrics=metrics, protocol="depth")], width)
    assert max(map(len, text.splitlines())) <= width
    assert all(text.count(f"{name} ↑") == 1 for name in names)
    assert text.count("± 0.100") == 6
    assert text.count("depth on voc") == text.count("1449 validation images") == 1
    assert text.count("\n model") == {40: 6, 80: 2, 120: 2, 200: 1}[width]


def test_console_marks_limited_runs(record):
    text = shown([record("quick", limit=32)], 80)
    assert "hummingbird on voc (first 32 of 1449), preset paper" in text
    assert "quick" in text


def test_console_takes_names_literally(record):
    assert "[bold]x" in shown([record("[bold]x")], 100)


def test_console_prints_nothing_for_nothing():
    assert shown([], 80) == ""
