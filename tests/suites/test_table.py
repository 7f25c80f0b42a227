from __future__ import annotations

import pytest

from densebench.suites import load_suite
from densebench.suites.table import suite_tables
from densebench.suites.text import Footnotes, cell_text, suite_markdown
from tests.leaderboard.conftest import hummingbird, overclustering, record  # noqa: F401  (a fixture)

PAKA_1 = load_suite("paka-1")


def test_measured_stands_beside_published_with_the_difference(record):  # noqa: F811
    voc, ade = suite_tables(PAKA_1, [record("paka_vits14", hummingbird(80.0), settings={}, config={})])
    lines = dict(voc.lines)
    assert [name for name, _ in voc.keys] == ["miou"] * 4
    pair = lines["paka_vits14"][voc.keys.index(("miou", (("fraction", "1"),)))]
    assert (pair.measured.value, pair.printed.value) == (80.0, 80.5)
    assert pair.gap == pytest.approx(-0.5)
    assert cell_text(pair, Footnotes()) == "80.0 / 80.5 / -0.5"
    other = lines["dino_vits16"][0]
    assert cell_text(other, Footnotes()) == "- / 26.4"
    assert list(lines) == list(PAKA_1.models)
    assert all(pair.measured is None for _, pairs in ade.lines for pair in pairs)


def test_every_difference_has_a_footnote(record):  # noqa: F811
    mine = record("paka_vits14", hummingbird(80.0), n_images=120, settings={"neighbours": 5}, config={"neighbours": 5})
    voc, _ = suite_tables(PAKA_1, [mine])
    notes = Footnotes()
    text = cell_text(dict(voc.lines)["paka_vits14"][3], notes)
    assert text.startswith("80.0 / 80.5 / -0.5 a,")
    said = " ".join(notes.lines())
    assert "120 of 1449" in said
    assert "neighbours" in said
    assert "5 against 30" in said


def test_of_several_results_the_one_that_differs_least_stands_in_the_table(record):  # noqa: F811
    other = record(
        "paka_vits14", hummingbird(90.0), settings={"neighbours": 5}, config={"neighbours": 5}, score_hash="aa"
    )
    asked = record("paka_vits14", hummingbird(70.0), score_hash="bb")
    for records in ([other, asked], [asked, other]):
        voc, _ = suite_tables(PAKA_1, records)
        assert {pair.measured.score_hash for pair in dict(voc.lines)["paka_vits14"]} == {"bb"}


def test_models_that_the_suite_does_not_know_stand_below(record):  # noqa: F811
    voc, _ = suite_tables(PAKA_1, [record("mine", hummingbird(80.0))])
    assert [model for model, _ in voc.lines][-1] == "mine"
    assert cell_text(dict(voc.lines)["mine"][0], Footnotes()).count("/") == 0


def test_records_of_limited_runs_stand_there_only_when_asked_for(record):  # noqa: F811
    limited = record("paka_vits14", hummingbird(80.0), limit=16)
    assert not any(p.measured for t in suite_tables(PAKA_1, [limited]) for _, pairs in t.lines for p in pairs)
    shown = suite_tables(PAKA_1, [limited], limited=True)
    pair = dict(shown[0].lines)["paka_vits14"][0]
    assert "first 16 of 1449" in " ".join(each.text for each in pair.differences)


def test_without_published_rows_the_main_metrics_are_shown(record):  # noqa: F811
    quick = load_suite("quick")
    found = suite_tables(quick, [record("pico", overclustering(30.0), protocol="overclustering", dataset="scenes")])
    (table,) = [table for table in found if table.lines]
    assert [at for _, at in table.keys] == [(("clusters", 21),), (("clusters", 300),), (("clusters", 500),)]


def test_markdown_holds_no_live_html(record):  # noqa: F811
    text = suite_markdown(PAKA_1, suite_tables(PAKA_1, [record("<script>|x", hummingbird(80.0))]))
    assert "<script>" not in text
    assert "&lt;script&gt;\\|x" in text
    assert "26.4" in text
