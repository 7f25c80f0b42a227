from __future__ import annotations

import csv
import io

import pytest

from densebench.core.errors import UsageError
from densebench.leaderboard import leaderboard_rows, published_rows, write_leaderboard
from densebench.leaderboard.card import bibtex, card
from densebench.leaderboard.latex import latex, literal
from densebench.results.store import ResultStore
from tests.leaderboard.conftest import hummingbird, metric


def one(value, half=1.0):
    return (metric("miou", value, half, fraction="1"),)


def test_best_is_bold_second_underlined_and_ties_share_the_mark(record):
    models = {"best": 80.0, "close": 79.5, "next": 70.0, "its_tie": 69.5, "last": 50.0}
    text = latex(leaderboard_rows([record(name, one(value)) for name, value in models.items()]))
    lines = {line.split(" & ")[0]: line for line in text.splitlines() if " & " in line}
    for name in ("best", "close"):
        assert r"\textbf{" in lines[name]
    for name in ("next", r"its\_tie"):
        assert r"\underline{" in lines[name]
    assert "textbf" not in lines["last"]
    assert "underline" not in lines["last"]
    assert r"{\scriptsize $\pm$ 1.0}" in lines["last"]
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"miou@1 $\uparrow$" in text


def test_of_two_the_other_is_second_and_of_one_nothing_is_marked(record):
    text = latex(leaderboard_rows([record("a", one(80.0)), record("b", one(50.0))]))
    assert r"\textbf{80.0}" in text
    assert r"\underline{50.0}" in text
    alone = latex(leaderboard_rows([record("a", one(80.0))]))
    assert "textbf" not in alone
    assert "underline" not in alone


def test_published_values_follow_in_grey_and_are_not_ranked(record):
    text = latex(leaderboard_rows([record("mine", hummingbird(60.0))]), published_rows())
    (line,) = [line for line in text.splitlines() if "PaKA ViT-S/14" in line]
    assert line.count(r"\textcolor{gray}{") == 5
    assert r"\textcolor{gray}{80.5}" in line
    assert "textbf" not in line


def test_names_cannot_run_commands(record):
    name = r"\input{/etc/passwd} & 50% $x$ #_{}~^"
    text = latex(leaderboard_rows([record(name, one(80.0))]))
    assert literal(name) in text
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\} \& 50\% \$x\$ \#\_\{\}\textasciitilde{}\textasciicircum{}" in text


def test_latex_and_a_file_per_model_are_written(tmp_path, record):
    store = ResultStore(tmp_path)
    for each in (record("a b", one(80.0)), record("a-b", one(70.0)), record("c", one(60.0))):
        store.write(store.place(each).with_name(f"{each.score_hash}--p--{each.score_hash}.json"), each)
    files = {path.relative_to(tmp_path).as_posix(): path for path in write_leaderboard(tmp_path, ["latex", "models"])}
    assert set(files) == {"leaderboard.tex", "models/a-b.csv", "models/c.csv"}
    found = list(csv.DictReader(io.StringIO(files["models/a-b.csv"].read_text())))
    assert {row["model"] for row in found} == {"a b", "a-b"}


def test_a_card_has_numbers_settings_cost_licence_and_citation(record):
    own = record("mine", hummingbird(60.0), settings={"neighbours": 5})
    cited = own.model.model_copy(
        update={"citation": "Caron et al., Emerging Properties, ICCV 2021", "licence": "MIT", "parameters": 21_000_000}
    )
    text = card("mine", [own.model_copy(update={"model": cited}), record("other", hummingbird(70.0))])
    for said in (
        "# mine",
        "21.0 M",
        "| licence | MIT |",
        "## hummingbird on voc, preset paper + neighbours=5",
        "| miou@1 | 60.0 % | 59.0 to 61.0 | 1 | 1449 |",
        "@inproceedings{mine,",
        "  author = {Caron and others},",
        "  booktitle = {ICCV},",
        "  year = {2021},",
    ):
        assert said in text
    assert "70.0" not in text
    with pytest.raises(UsageError, match="did you mean 'mine'"):
        card("mene", [own])
    with pytest.raises(UsageError, match="no record is of"):
        card("mene", [])


@pytest.mark.parametrize(
    ("citation", "said"),
    [
        ("", "note = {m, weights abababababab}"),
        ("see our web page", "note = {see our web page}"),
        ("A and B, T, 2022", "@misc{m,\n  author = {A and B},\n  title = {{T}},\n  year = {2022},\n}"),
        ("x}, @misc{evil, title={", "note = {x, @misc evil, title=}"),
    ],
)
def test_citations_of_any_kind_are_an_entry(record, citation, said):
    model = record("m").model.model_copy(update={"citation": citation})
    text = bibtex(model).replace("@miscevil", "@misc evil")
    assert said in text
    assert text.count("{") == text.count("}")


def test_hostile_texts_are_text_in_a_card(record):
    own = record("<script>|\x1b[31m", one(60.0))
    text = card("<script>|\x1b[31m", [own])
    assert "<script>" not in text
    assert "\x1b" not in text
