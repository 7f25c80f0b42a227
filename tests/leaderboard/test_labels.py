"""Rows that cannot be compared stand apart: other settings, other images, other versions. Seeds alone are averaged."""

from __future__ import annotations

import csv
import io
import re
import zlib

import pandas as pd
import pytest
from rich.console import Console

from densebench.core.errors import UsageError
from densebench.leaderboard import (
    console_table,
    is_current,
    leaderboard_rows,
    markdown,
    published_rows,
    to_csv,
    write_leaderboard,
    write_rows,
)
from densebench.leaderboard.drawing import Head, width_of
from densebench.leaderboard.plots import figures
from densebench.leaderboard.record import find_records, record_page
from densebench.leaderboard.row import tables
from densebench.results.schema import Metric
from densebench.results.store import ResultStore

from .conftest import hummingbird, save


def shown(records, width=120, encoding="utf-8"):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console_table(records, Console(file=out, width=width))
    out.flush()
    return out.buffer.getvalue().decode(encoding)


APART = [
    ({"settings": {"input_size": 224, "neighbours": 30}}, ("voc", "paper + input_size=224, neighbours=30")),
    ({"settings": {"precision": "bfloat16"}}, ("voc", "paper + precision=bfloat16")),
    ({"n_images": 120}, ("voc (120 of 1449)", "paper")),
    ({"n_train": 260}, ("voc (trained on 260 of 10582)", "paper")),
    ({"limit": 32}, ("voc (first 32 of 1449)", "paper")),
    ({"preset": "dip"}, ("voc", "dip")),
]


@pytest.mark.parametrize(("other", "label"), APART)
def test_rows_that_cannot_be_compared_are_never_in_one_table_plot_or_ranking(record, other, label):
    records = [record("high", hummingbird(99.0), score_hash="h", **other), record("low", hummingbird(10.0))]
    rows = leaderboard_rows(records, limited=True)
    assert list(tables(rows)) == sorted([("voc", "hummingbird", "paper"), (label[0], "hummingbird", label[1])])
    text = markdown(rows)
    assert "**" not in text.split("## voc", 1)[1]  # nothing is the best of one
    assert f"### hummingbird, preset {label[1]}" in text
    assert f"## {label[0]}\n" in text
    for table, found in figures(rows).items():
        for figure in found.values():
            names = [t.get_text() for axes in figure.axes for t in (*axes.texts, *axes.get_yticklabels())]
            assert ("high" in names) == (table != ("voc", "hummingbird", "paper"))
            assert ("low" in names) == (table == ("voc", "hummingbird", "paper"))
            head = " ".join(t.get_text().replace("\n", " ") for t in figure.texts)
            assert table[0] in head
            assert f"preset {table[2]}" in head
    printed = shown(records)
    assert f"hummingbird on {label[0]}, preset {label[1]}" in printed
    assert "hummingbird on voc, preset paper\n" in re.sub(" +\n", "\n", printed)


def test_rows_that_differ_in_nothing_share_a_table(record):
    settings = {"input_size": 224}
    rows = leaderboard_rows([record("a", settings=settings), record("b", hummingbird(70.0), settings=settings)])
    assert list(tables(rows)) == [("voc", "hummingbird", "paper + input_size=224")]
    assert "**80.0**" in markdown(rows)


def test_other_images_of_the_same_number_and_other_versions_are_apart(record):
    one, other = record("a", n_images=120, digest="1111111122"), record("b", n_images=120, digest="3333333344")
    assert {data for _, _, data in tables(leaderboard_rows([one, other]))} == {
        "paper (images 11111111)",
        "paper (images 33333333)",
    }
    assert [setting for _, _, setting in tables(leaderboard_rows([record("a"), record("b", version=8)]))] == [
        "paper (version 8)",
        "paper (version 9)",
    ]


def test_published_rows_stand_beside_every_setting_and_part_of_the_data(record):
    records = [record("whole"), record("part", n_images=120), record("other", settings={"neighbours": 1})]
    rows = leaderboard_rows(records)
    text = markdown(rows, published_rows())
    whole, part = text.split("## voc (120 of 1449)")
    for text in (whole, part):
        assert text.count("#### As printed by the papers") == 1
    assert "on the whole dataset" in part
    assert "on the whole dataset" not in whole
    grey = {
        table: sum(line.get_color() == "#b5b5b5" for axes in found[name].axes for line in axes.lines)
        for table, found in figures(rows, published_rows()).items()
        for name in found
        if name.endswith("--memory")
    }
    assert len(grey) == 3
    assert set(grey.values()) == {17}


def test_a_published_setting_that_is_no_preset_meets_its_records(record):
    metrics = [
        Metric(name="pck", at={"alpha": 0.1}, value=60.0, main=True),
        Metric(name="pck", at={"alpha": 0.05}, value=50.0),
    ]
    made = record(metrics=metrics, protocol="correspondence", dataset="spair", settings={"norm": False})
    (found,) = figures(leaderboard_rows([made]), published_rows()).values()
    (axes,) = found["spair--correspondence--paper-norm=false--alpha"].axes
    assert any(line.get_color() == "#b5b5b5" for line in axes.lines)


def seeds(record, values=(80.0, 82.0, 84.0), model="a", **other):
    return [
        record(model, [Metric(name="miou", value=value, ci95=(value - 2, value + 1), main=True)], seed=i, **other)
        .model_copy(update={"score_hash": f"{model}{i}"})
        for i, value in enumerate(values)
    ]  # fmt: skip


def test_seeds_of_one_model_are_one_row_with_mean_and_spread_and_its_members_behind_it(record):
    rows = leaderboard_rows([*seeds(record), record("b", [Metric(name="miou", value=81.0, main=True)])])
    assert [(row.model, row.value, row.records) for row in rows] == [("a", 82.0, 3), ("b", 81.0, 1)]
    mean = rows[0]
    assert (mean.seed, mean.seed_count, mean.score_hash) == ("0,1,2", 3, "a0,a1,a2")
    assert mean.seed_sd == pytest.approx(2.0)
    assert (mean.ci95_low, mean.ci95_high) == (80.0, 83.0)  # of the images, as each of them has
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [(line["model"], line["seed"], line["records"], line["value"]) for line in lines] == [
        ("a", "0,1,2", "3", "82"), ("a", "0", "1", "80"), ("a", "1", "1", "82"), ("a", "2", "1", "84"),
        ("b", "0", "1", "81"),
    ]  # fmt: skip
    text = markdown(rows)
    assert "| a | **82.0** [80.0, 83.0] (sd 2.0) | `a0` `a1` `a2` |" in text
    assert "1 or 3 seeds per value; 95 % intervals, sd over seeds." in text
    assert "82.0 [80.0, 83.0] (sd 2.0)" in shown(seeds(record))
    (bars,) = figures(rows)["voc", "hummingbird", "paper"].values()
    dots = next(line for line in bars.axes[0].lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == [80.0, 82.0, 84.0]


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"neighbours": 1}},
        {"config": {"neighbours": 31}},
        {"n_images": 120},
        {"version": 2},
        {"digest": "other"},
        {"preset": "dip"},
    ],
)
def test_only_rows_equal_in_everything_but_the_seed_are_averaged(record, other):
    first, second, third = seeds(record)
    changed = seeds(record, (0.0, 0.0, 0.0), **other)[2]
    rows = leaderboard_rows([first, second, changed])
    assert sorted((row.value, row.records) for row in rows) == [(0.0, 1), (81.0, 2)]
    heavier = third.model_copy(update={"model": third.model.model_copy(update={"weights_sha256": "cd" * 32})})
    rows = leaderboard_rows([first, second, heavier])
    assert sorted((row.value, row.records, row.variant) for row in rows) == [
        (81.0, 2, "weights=" + "ab" * 6),
        (84.0, 1, "weights=" + "cd" * 6),
    ]


def test_seeds_within_a_record_have_their_spread_beside_the_interval_of_the_images(record):
    metric = Metric(
        name="miou", at={"clusters": 21}, value=20.0, ci95=(19.0, 21.0), seeds={"0": 19.0, "1": 21.0}, main=True
    )
    text = markdown(leaderboard_rows([record(metrics=[metric])]))
    assert "| 20.0 ± 1.0 (sd 1.4) |" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_tables_degrade_to_what_the_stream_carries(record, encoding):
    records = [*seeds(record), record("x" * 90, hummingbird(70.0)), record("日本", hummingbird(60.0))]
    text = shown(records, 80, encoding)
    assert max(map(len, text.splitlines())) <= 80
    assert ("±" in text) == (encoding != "ascii")
    assert ("↑" in text) == (encoding == "utf-8")
    assert "miou" in text
    assert "80.0" in text


HOSTILE = '=cmd|"x"!A1\n| a | b |\n<script>alert(1)</script>[link](http://evil) \x1b[31m*x*'


def test_texts_of_others_do_nothing_in_files_and_on_terminals(record):
    rows = leaderboard_rows([record(HOSTILE, settings={"subset_dir": "[click](http://evil)<b>"})])
    text = markdown(rows)
    assert "\x1b" not in text
    assert "<script>" not in text
    assert "<b>" not in text
    assert not re.search(r"(?<!\\)\[(link|click)", text)
    assert len([line for line in text.splitlines() if "cmd" in line]) == 1  # one row, no line of its making
    table = to_csv(rows)
    line = next(csv.DictReader(io.StringIO(table)))
    assert line["model"].startswith("'=cmd")
    assert "\n" not in line["model"]
    assert "\x1b" not in table
    assert "\x1b[31m" not in shown([record(HOSTILE)])
    for start in "=+-@":
        assert next(csv.DictReader(io.StringIO(to_csv(leaderboard_rows([record(f"{start}1+1")])))))["model"][0] == "'"
    assert "-0.5" in to_csv(leaderboard_rows([record(metrics=[Metric(name="m", value=-0.5)])]))  # a number stays one


def test_a_model_without_a_name_costs_nothing(record, tmp_path):
    store = ResultStore(tmp_path)
    for name in ("", " ", "a"):
        save(store, record(name))
    told = []
    write_leaderboard(tmp_path, report=told.append)
    assert told == []
    assert "(no name)" in (tmp_path / "leaderboard.md").read_text()
    assert width_of([], 8) == width_of(["", " "], 8) == 0.0


@pytest.mark.parametrize("error", [zlib.error("bad"), EOFError(), KeyError("x"), NotImplementedError("method 99")])
def test_what_cannot_be_drawn_is_told_and_costs_the_picture_only(record, results, error, monkeypatch):
    monkeypatch.setattr("densebench.leaderboard.plots.bars", lambda *_: (_ for _ in ()).throw(error))
    told = []
    written = write_leaderboard(results, report=told.append)
    assert {path.name for path in written} == {"leaderboard.csv", "leaderboard.md"}
    assert sum("no plots" in line for line in told) == 3


def test_limited_records_are_shown_when_asked_for_and_marked(results):
    told = []
    write_leaderboard(results, ["csv", "md"], limited=True, report=told.append)
    text = (results / "leaderboard.md").read_text()
    assert "## voc (first 32 of 1449)" in text
    assert "quick" in text
    assert len(told) == 1, "the torn one"
    with (results / "leaderboard.csv").open() as file:
        limited = {(line["data"], line["limit"]) for line in csv.DictReader(file) if line["model"] == "quick"}
    assert limited == {("voc (first 32 of 1449)", "32")}


def test_rows_alone_are_those_of_the_whole_leaderboard_which_is_then_not_current(results):
    assert not is_current(results)
    write_rows(results)
    alone = pd.read_csv(results / "leaderboard.csv")
    assert alone["rank"].isna().all()
    assert not is_current(results)
    write_leaderboard(results)
    whole = pd.read_csv(results / "leaderboard.csv")
    ranks = ["rank", "rank_by"]
    assert set(whole["rank"]) == {1, 2}
    assert whole.drop(columns=ranks).equals(alone.drop(columns=ranks))
    assert is_current(results)
    record = next(results.glob("records/*/*/*.json"))
    record.write_bytes(record.read_bytes())
    assert not is_current(results)


def test_heads_of_figures_fit(record):
    settings = dict.fromkeys(("input_size", "neighbours", "temperature", "memory_size"), 10**6)
    rows = leaderboard_rows([record(settings=settings, n_images=120, n_train=260)])
    for figure in (figure for found in figures(rows).values() for figure in found.values()):
        figure.canvas.draw()
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x1 <= figure.bbox.x1
        top = max(axes.get_window_extent().y1 for axes in figure.axes)
        assert min(text.get_window_extent().y0 for text in figure.texts) >= top
    head = Head.of(rows, 4.6)
    assert "voc (120 of 1449, trained on 260 of 10582)" in " ".join(head.title)
    assert head.extra > 0


def test_a_record_is_found_by_its_hash_the_beginning_of_it_or_its_path(record, tmp_path):
    store = ResultStore(tmp_path)
    metric = Metric(name="miou", value=50.0, ci95=(49.0, 52.0), main=True, per_class={"cat": 60.0, "dog": None})
    made = record("m", [metric], score_hash="abcd1234", settings={"neighbours": 1}, n_images=120)
    made = made.model_copy(update={"notes": ("a note",), "artifacts": ("x/curve.png",)})
    save(store, made)
    save(store, record("m2", score_hash="abff"))
    for name in ("abcd1234", "abcd", str(store.place(made))):
        ((path, found),) = find_records(tmp_path, name)
        assert found == made
        page = record_page(path, found)
        for text in ("voc (120 of 1449)", "paper + neighbours=1", "50.0 % [49.0, 52.0]", "cat    60.0", "dog       -"):
            assert text in page
        for text in ("a note", "curve.png", str(path), "seed 0"):
            assert text in page
    for name, said in (
        ("ab", "several hashes: abcd1234, abff"),
        ("zz", "no record"),
        ("", "no record"),
        ("z" * 999, "no record"),
    ):
        with pytest.raises(UsageError, match=said):
            find_records(tmp_path, name)
