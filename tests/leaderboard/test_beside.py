"""Published rows beside runs of every setting: marked, told what differs, and never ordered with another setting's."""

from __future__ import annotations

import pytest

from densebench.leaderboard import leaderboard_rows, markdown, published_rows
from densebench.leaderboard.beside import beside, marks
from densebench.leaderboard.differences import Setting
from densebench.leaderboard.plots import figures
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import tables

from .conftest import MakeRecord, metric, overclustering


def near(record, **asked):
    (members,) = tables(leaderboard_rows([record(**asked)])).values()
    return {each.setting: each for each in beside(members, published_rows())}


def test_a_run_of_another_preset_has_the_published_rows_with_what_differs(record: MakeRecord):
    found = near(record, metrics=[metric("miou", 50.0)], protocol="linear_segmentation", preset="neco")
    assert set(found) == {"paper", "neco-text"}
    assert found["neco-text"].text == "published at preset neco-text: epochs=20"
    assert found["paper"].text == "published at preset paper: epochs=20, loaders=shuffled"
    assert list(found) == ["neco-text", "paper"], "the nearest first"
    assert not any(each.alike for each in found.values())
    assert {row.paper for row in found["paper"].rows} == {"PaKA"}


def test_another_name_of_the_same_settings_says_so(record: MakeRecord):
    (paper,) = near(record, metrics=overclustering(50.0), protocol="overclustering", preset="neco").values()
    assert paper.text == "published at preset paper: the same settings"
    assert (paper.alike, paper.same) == (False, True)
    (twice,) = near(record, metrics=overclustering(50.0), protocol="overclustering", preset="text").values()
    assert twice.text == "published at preset paper: matching=by_count"


def test_settings_of_a_run_count_too(record: MakeRecord):
    found = near(record, settings={"input_size": 448, "fractions": [1, 8]})
    assert found["paper + input_size=448"].text == "published at preset paper + input_size=448: the same settings"
    assert found["paper"].text == "published at preset paper: input_size by default"
    assert "std=(0.229, 0.224, 0.255)" in found["dip"].text


def test_the_same_setting_on_the_whole_data_has_nothing_to_be_told(record: MakeRecord):
    paper = near(record)["paper"]
    assert paper.alike
    assert paper.caption == "as printed by the papers"
    part = near(record, n_images=120)["paper"]
    assert not part.alike
    assert part.caption == part.text == "published at preset paper on the whole dataset: the same settings"


def test_a_preset_whose_settings_are_not_printed_is_named_so(record: MakeRecord):
    found = near(record, metrics=[metric("miou", 5.0)], protocol="linear_segmentation", dataset="ade20k")
    assert found["dip"].text == "published at preset dip: dip (whose settings are not known here)"


def test_other_data_has_no_published_rows_beside_it(record: MakeRecord):
    assert near(record, dataset="scenes") == {}
    assert near(record, protocol="mine") == {}


def test_ablations_are_no_entries_and_quoted_values_stand_once(record: MakeRecord):
    names = near(record)["paper"].entries
    assert sum("DINO ViT-S/16" in name for name in names) == 1 + 1  # of NeCo its Hungarian-matched ones
    assert "TimeT ViT-S/16 (DIP)" in names
    assert not any(", " in name for name in names)
    assert "PaKA ViT-S/14" in near(record, metrics=overclustering(50.0), protocol="overclustering")["paper"].entries


def test_marks_are_numbers_in_the_order_of_the_file(record: MakeRecord):
    both = [tuple(near(record, preset=preset).values()) for preset in ("paper", "dip")]
    found = marks(both, published_rows())
    assert [*found.values()] == ["¹", "²", "³", "⁴", "⁵", "⁶"]
    assert list(found)[:2] == ["paper", "paper + input_size=448"]
    assert "paper" not in marks(both[:1], published_rows())
    assert marks([], published_rows()) == {}


def test_tables_mark_rows_of_other_settings_and_name_the_differences(record: MakeRecord):
    asked = {"metrics": [metric("miou", 50.0)], "protocol": "linear_segmentation"}
    text = markdown(leaderboard_rows([record("a", preset="neco", **asked)]), published_rows())
    ours, theirs = text.split("#### As printed by the papers")
    assert "- ¹ published at preset paper: epochs=20, loaders=shuffled\n" in ours
    assert "- ² published at preset neco-text: epochs=20\n" in ours
    printed, ablations = theirs.split("#### Ablations of the papers")
    assert "| PaKA ViT-S/14 | 82.2 | PaKA, table 2 | paper ¹ |" in printed
    assert "| NeCo ViT-S/14 | 81.3 | NeCo, table 2 | neco-text ² |" in printed
    assert "HSIC" not in printed
    assert "| PaKA, HSIC instead of CKA ViT-S/14 | 78.5 | PaKA, table 5a | paper ¹ |" in ablations
    assert "**" not in theirs, "printed values are not ranked"


def test_two_tables_of_one_dataset_share_the_marks(record: MakeRecord):
    text = markdown(leaderboard_rows([record("a"), record("b", preset="dip")]), published_rows())
    dip, paper = text.split("### hummingbird, preset paper")
    assert "- ¹ published at preset paper: similarity=cosine" in dip
    assert "- ¹ published at preset paper: the same settings" in paper
    assert text.count("#### As printed by the papers") == 1


def test_rows_in_the_only_setting_there_is_are_not_marked(record: MakeRecord):
    rows = leaderboard_rows([record(metrics=overclustering(50.0), protocol="overclustering")])
    text = markdown(rows, published_rows())
    assert "| PaKA, table 3 | paper |" in text
    assert "published at" not in text


def grey(figure):
    return [line for axes in figure.axes for line in axes.lines if line.get_color() == "#b5b5b5"]


@pytest.mark.parametrize(
    ("asked", "said", "style"),
    [
        ({}, "grey: as printed by the papers", "-"),
        ({"n_images": 120}, "grey: published at preset paper on the whole dataset: the same settings", "--"),
        ({"settings": {"neighbours": 1}}, "grey: published at preset paper: neighbours=30", "--"),
        ({"preset": "open-hummingbird-v2"}, "published at preset paper: std by default, augmentation_epochs=1", "--"),
    ],
)
def test_plots_have_the_nearest_setting_and_say_what_differs(record: MakeRecord, asked, said, style):
    ((found,),) = [figures(leaderboard_rows([record(**asked)]), published_rows()).values()]
    (memory,) = (figure for name, figure in found.items() if name.endswith("--memory"))
    assert said in " ".join(text.get_text().replace("\n", " ") for text in memory.texts)
    drawn = [line for line in grey(memory) if line.get_linestyle() != "None"]
    assert len(drawn) == 6
    assert {line.get_linestyle() for line in drawn} == {style}
    names = {text.get_text() for axes in memory.axes for text in axes.texts}
    assert "PaKA ViT-S/14" in names
    assert not any("DIP" in name for name in names), "values of another setting are not ordered with these"


def test_bars_have_published_ones_below_ours_in_grey(record: MakeRecord):
    asked = {"protocol": "linear_segmentation", "metrics": [metric("miou", 90.0)]}
    ((figure,),) = [
        found.values() for found in figures(leaderboard_rows([record("a", **asked)]), published_rows()).values()
    ]
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == ["a", "PaKA ViT-B/14", "NeCo ViT-B/14 (PaKA)"], "all of the nearest setting, and below ours"
    assert len(labels) == 1 + 6
    heights = [bar.get_width() for bar in axes.patches]
    assert heights == [90.0, 84.4, 84.3, 82.2, 81.4, 80.2, 74.2]
    assert "82.2" in {text.get_text() for text in axes.texts}


def test_bars_of_errors_have_the_lowest_first(record: MakeRecord):
    ours = [metric("rmse", 0.5, 0.1, unit="m", higher_is_better=False, head="linear1")]
    asked = record(metrics=ours, protocol="depth", dataset="nyu")
    ((figure,),) = [found.values() for found in figures(leaderboard_rows([asked]), published_rows()).values()]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.5, 0.443, 0.452, 0.455, 0.461, 0.996]


def test_a_setting_is_read_as_tables_write_it():
    assert Setting.parse("paper + fractions=[1, 8], norm=false") == ("paper", {"fractions": "[1, 8]", "norm": "false"})
    assert Setting.parse("paper") == ("paper", {})


def test_hostile_names_stay_text(record: MakeRecord):
    row = PublishedRow(
        paper="P", table="1", model="m", backbone="", protocol="hummingbird", dataset="voc", preset="<b>x</b>",
        quantity="miou", at={}, value=1.0, printed="1.0", note="",
    )  # fmt: skip
    ours = markdown(leaderboard_rows([record()]), [row]).split("#### As printed")[0]
    assert "<b>" not in ours
    assert "&lt;b&gt;" in ours
