from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from densebench.figures.png import png
from densebench.leaderboard import leaderboard_rows, published_rows
from densebench.leaderboard.drawing import LABEL_GAP, short, spread, styles
from densebench.leaderboard.plots import figures
from densebench.results.schema import Metric

from .conftest import metric

TABLE = ("voc", "hummingbird", "paper")
STEM = "voc--hummingbird--paper"


def names_beside(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("count", [1, 2, 20])
def test_bars_and_lines_with_axis_labels(record, count):
    rows = leaderboard_rows([record(f"model_{i:02}", score_hash=str(i)) for i in range(count)])
    found = figures(rows)[TABLE]
    assert list(found) == [STEM, f"{STEM}--memory"]

    panels = found[STEM].axes
    assert [panel.get_xlabel() for panel in panels] == [f"miou@{s} (%) ↑" for s in ("1", "1/8", "1/64", "1/128")]
    assert all(len(panel.patches) == count for panel in panels)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [f"model_{i:02}" for i in range(count)]

    (axes,) = found[f"{STEM}--memory"].axes
    assert axes.get_xlabel() == "share of the training images in memory"
    assert axes.get_ylabel() == "mIoU (%)"
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1/128", "1/64", "1/8", "1"]
    assert len(axes.lines) == count
    assert len(axes.collections) == count, "an interval per model"
    assert sorted(names_beside(axes)) == [f"model_{i:02}" for i in range(count)]
    heights = sorted(text.xyann[1] for text in axes.texts)
    gap = LABEL_GAP / (axes.get_position().height * axes.figure.get_figheight())
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(heights)), "names must not touch"


def test_png_is_a_picture_and_the_same_twice(record):
    rows = leaderboard_rows([record("a"), record("b$x$")])
    contents = [png(figure) for figure in figures(rows)[TABLE].values()]
    assert contents == [png(figure) for figure in figures(rows)[TABLE].values()]
    for content in contents:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        assert min(pixels.shape) > 200
        assert 0.01 < (pixels < 200).mean() < 0.9


def test_lines_over_clusters(record):
    metrics = [
        Metric(name="miou", at={"clusters": k}, value=k / 10, ci95=(k / 10 - 1, k / 10 + 1), main=True)
        for k in (500, 21, 300)
    ]
    rows = leaderboard_rows([record(metrics=metrics, protocol="overclustering")])
    (axes,) = figures(rows)["voc", "overclustering", "paper"]["voc--overclustering--paper--clusters"].axes
    assert axes.get_xlabel() == "number of clusters K"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["21", "300", "500"]
    assert list(axes.lines[0].get_ydata()) == [2.1, 30.0, 50.0]


def test_no_lines_for_a_single_setting(record):
    rows = leaderboard_rows([record(metrics=[Metric(name="miou", at={"fraction": "1"}, value=5.0, main=True)])])
    assert list(figures(rows)[TABLE]) == [STEM]


def test_metrics_without_a_number_are_left_out(record):
    rows = leaderboard_rows(
        [record(metrics=[Metric(name="miou", at={"fraction": "1"}, value=float("nan"), main=True)])]
    )
    assert figures(rows) == {}


def test_published_lines_only_where_the_dataset_is_theirs(record):
    rows = leaderboard_rows([record(), record(dataset="scenes")])
    found = figures(rows, published_rows())
    (axes,) = found[TABLE][f"{STEM}--memory"].axes
    assert "PaKA ViT-S/14" in names_beside(axes)
    assert len([name for name in names_beside(axes) if "ViT" in name]) == 6
    grey = [line for line in axes.lines if line.get_color() == "#b5b5b5"]
    assert len(grey) == 16 + 1, "of what DIP quotes one line that PaKA has not"
    assert any("as printed" in text.get_text() for text in axes.figure.texts)
    (axes,) = found["scenes", "hummingbird", "paper"]["scenes--hummingbird--paper--memory"].axes
    assert names_beside(axes) == ["paka_vits14"]


def test_a_model_keeps_its_color(record):
    rows = leaderboard_rows(
        [record(m, dataset=d, score_hash=m + d) for m, d in (("a", "voc"), ("b", "voc"), ("b", "ade20k"))]
        + [record("b", score_hash="other", config={"neighbours": 50})]
    )
    looks = styles(rows)
    assert looks["b"].color == looks["b (neighbours=50)"].color == looks["b (neighbours=30)"].color
    assert looks["a"].color != looks["b"].color
    assert looks["b (neighbours=50)"] != looks["b (neighbours=30)"]
    for table, found in figures(rows).items():
        (axes,) = found["--".join(table) + "--memory"].axes
        assert looks["b"].color in {line.get_color() for line in axes.lines}


def correspondence(top):
    return [
        Metric(name="pck", at={"alpha": a}, value=top * a * 10, ci95=None, main=a == 0.1) for a in (0.1, 0.05, 0.01)
    ]


def test_pck_over_alpha_though_only_one_of_them_is_main(record):
    rows = leaderboard_rows([record(metrics=correspondence(60.0), protocol="correspondence", dataset="spair")])
    found = figures(rows, published_rows())["spair", "correspondence", "paper"]
    assert [panel.get_xlabel() for panel in found["spair--correspondence--paper"].axes] == ["pck@0.10 (%) ↑"]
    (axes,) = found["spair--correspondence--paper--alpha"].axes
    assert axes.get_ylabel() == "PCK (%)"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "0.05", "0.1"]
    ours = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    assert list(ours.get_ydata()) == pytest.approx([6.0, 30.0, 60.0])
    grey = [list(line.get_xydata()[0]) for line in axes.lines if line is not ours]
    assert [0.1, 58.84] in grey
    assert [0.1, 56.66] not in grey, "without the final norm: another setting"


@pytest.mark.parametrize(
    ("names", "coordinate", "places", "order"),
    [
        ("rmse delta1", "head", "linear1 linear4", "rmse@linear1 rmse@linear4"),
        ("rmse abs delta1", "head", "1 4", "rmse@1 abs@1 delta1@1"),
        ("miou nmi", "facet", "token key value", "miou@token miou@key miou@value"),
        ("miou nmi", "", "", "miou nmi"),
    ],
)
def test_panels_of_quantities_and_coordinates_make_a_grid(record, names, coordinate, places, order):
    ats = [{coordinate: place} for place in places.split()] or [{}]
    metrics = [Metric(name=name, at=at, value=1.0, main=True) for at in ats for name in names.split()]
    rows = leaderboard_rows([record(metrics=metrics)])
    panels = figures(rows)[TABLE][STEM].axes
    top = max(panel.get_position().y0 for panel in panels)
    first = [panel.get_xlabel().split()[0] for panel in panels if panel.get_position().y0 == top]
    assert first == order.split()
    assert len(panels) == len(metrics)


def test_a_variant_keeps_its_end_beside_a_long_name():
    assert short("a" * 40 + " (neighbours=50, seed=1)") == "a" * 10 + "…" + "a" * 9 + " (neighbours=50, seed=1)"
    assert len(short("a" * 99 + " (" + "b" * 99 + ")")) == 20 + 2 + 34


def test_long_names_are_elided_in_the_middle(record):
    rows = leaderboard_rows([record("adapters/" + "x" * 80 + ":MyBackbone")])
    (label, *_) = figures(rows)[TABLE][STEM].axes[0].get_yticklabels()
    assert label.get_text().startswith("adapters/")
    assert "…" in label.get_text()
    assert label.get_text().endswith(":MyBackbone")


def test_spread():
    assert spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert spread([0.0, 0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1, 0.2])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    assert spread([0.3] * 5, 0.5) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert spread([], 0.1) == []
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = sorted(rng.random(rng.integers(1, 12)))
        places = spread(wanted, 0.08)
        assert min(np.diff(places), default=1.0) >= 0.08 - 1e-9
        assert min(places) >= -1e-9
        assert max(places) <= 1 + 1e-9


def test_a_coordinate_that_is_no_number_is_no_place_on_an_axis(record):
    metrics = [metric("miou", 50.0, fraction=part) for part in ("half", "all", "1/0")]
    assert list(figures(leaderboard_rows([record(metrics=metrics)]))[TABLE]) == [STEM]
    metrics = [metric("miou", v, fraction=part) for v, part in ((50.0, "1"), (40.0, "1/8"), (30.0, "half"))]
    (axes,) = figures(leaderboard_rows([record(metrics=metrics)]))[TABLE][f"{STEM}--memory"].axes
    assert list(axes.lines[0].get_ydata()) == [40.0, 50.0]
