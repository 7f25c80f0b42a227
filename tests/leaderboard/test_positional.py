"""Sweeps of several models side by side, from records made by hand."""

import io

import numpy as np
import pytest

from densebench.core.errors import UsageError
from densebench.leaderboard import leaderboard_rows, write_leaderboard
from densebench.leaderboard.drawing import styles
from densebench.leaderboard.layers import correlation, figure
from densebench.leaderboard.positional import (
    Sweep,
    best_rows,
    correlations,
    find_sweeps,
    model_grid,
    points,
    shared_facet,
)
from densebench.leaderboard.studies import studies
from densebench.results.schema import Metric
from densebench.results.store import ResultStore

SCENES = ("scenes", "positional_effect", "sweep")


def row(layer, facet, nmi, miou, ablation=False):
    return {"layer": layer, "facet": facet, "nmi": nmi, "nmi_excess": nmi - 0.1, "miou": miou, "ablation": ablation}


def sweep_record(record, model, shift=0.0, dataset="scenes", local=(0.5, 1.5), **other):
    reads = [row(0, "token", 0.4 + shift, 10.0), row(1, "token", 0.2, 100.0), row(0, "key", 0.9, 1.0)]
    reads += [row(1, "key", 0.8 - shift, 0.0), row(1, "token", 0.1, 50.0, ablation=True)]
    metrics = [Metric(name="miou", at={"facet": facet}, value=1.0, main=True) for facet in ("token", "key")]
    metrics += [Metric(name="nmi", at={"facet": "token"}, value=0.2, unit="1", higher_is_better=False, main=True)]
    made = record(model, metrics, protocol="positional_effect", dataset=dataset, preset="sweep", **other)
    facts = {
        "reads": reads,
        "best": {"token": {"layer": 1, "depth": "2/2"}, "key": {"layer": 0, "depth": "1/2"}},
        "locality": {"mean_of_heads": list(local)} if local else {},
    }
    return made.model_copy(update={"facts": facts, "artifacts": (f"{model}/best.npz",)})


def arrays(n=2):
    rng = np.random.default_rng(0)
    maps = {f"{kind}_token": rng.integers(0, 3, (n, 8, 8), dtype=np.uint8) for kind in ("classes",)}
    pictures = {f"aggregate_{kind}": rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for kind in ("token", "truth")}
    return {
        **maps,
        **pictures,
        "truth": maps["classes_token"],
        "images": rng.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8),
        "palette": np.array([[0, 0, 0], [9, 9, 9], [99, 9, 9]], dtype=np.uint8),
        "classes": np.array(["a", "b", "c"]),
    }


def test_points_and_correlations_are_of_all_models_together(record):
    sweeps = [Sweep(sweep_record(record, "a")), Sweep(sweep_record(record, "b", 0.1, local=None))]
    found = points(sweeps)
    assert found["positional_log_miou"]["a"] == [(0.4, 1.0), (0.2, 2.0), (0.9, 0.0)]  # mIoU 0 has no logarithm
    assert found["locality_positional"] == {"a": [(0.5, 0.9), (1.5, 0.8)]}
    pooled = correlations(sweeps)
    xy = [p for series in found["positional_log_miou"].values() for p in series]
    assert pooled["positional_log_miou"].n == 6
    assert pooled["positional_log_miou"].pearson == pytest.approx(np.corrcoef(np.array(xy).T)[0, 1])
    assert np.isnan(pooled["locality_positional"].pearson)  # of two points


def test_a_chart_per_correlation_with_names_in_the_models_colors(record):
    records = [sweep_record(record, "a"), sweep_record(record, "b", 0.1, local=None)]
    rows = leaderboard_rows(records)
    looks = styles(rows)
    drawn = correlation([Sweep(made) for made in records], rows, looks)
    assert [axes.get_xlabel() for axes in drawn.axes] == ["NMI", "I(K, Q) [nat], mean of heads"]
    assert "n = 6, Pearson -" in drawn.axes[0].get_title(loc="left")
    assert {"a", "b"} <= {text.get_text() for text in drawn.texts}
    alone = correlation([Sweep(records[1])], rows, looks)
    assert [axes.get_xlabel() for axes in alone.axes] == ["NMI"], "without attention there is no locality"


def test_scores_over_layers(record):
    short = sweep_record(record, "a")
    deep = sweep_record(record, "b")
    deep = deep.model_copy(update={"model": deep.model.model_copy(update={"depth": 24})})
    rows = leaderboard_rows([short, deep])
    found = studies(rows, [deep, short, record("c")])
    ((table, members),) = found.items()
    assert table == ("scenes", "positional_effect", "sweep")
    assert [study.label for study in members] == ["a", "b"]
    assert members[0].lines == {
        ("miou", "token"): ((1, 10.0), (2, 100.0)),  # not the ablation
        ("miou", "key"): ((1, 1.0), (2, 0.0)),
        ("nmi", "token"): ((1, 0.4), (2, 0.2)),
    }
    assert members[0].best == {"token": 2, "key": 1}

    drawn = figure(rows, members, styles(rows))
    labels = {axes.get_ylabel() for axes in drawn.axes} - {""}
    assert labels == {"miou (%) ↑", "nmi ↓"}
    assert [axes.get_title(loc="left") for axes in drawn.axes][:2] == ["key", "token"]  # names stand beside the last
    last = drawn.axes[1]
    assert sorted(text.get_text() for text in last.texts) == ["a", "b"]
    assert {tuple(line.get_xdata()) for line in last.lines} >= {(1 / 12, 2 / 12), (1 / 24, 2 / 24)}, "in parts"
    assert drawn.axes[3].get_xlabel() == "layer, as a share of the depth"


@pytest.mark.parametrize("reads", [None, 3, [], [1], [{"layer": 0}], [{"layer": 0, "facet": "token", "miou": 1.0}]])
def test_records_of_other_forms_have_no_layers(record, reads):
    made = sweep_record(record, "a")
    made = made.model_copy(update={"facts": {"reads": reads}})
    assert studies(leaderboard_rows([made]), [made]) == {}


def test_best_layers_are_listed_best_first(record):
    better = sweep_record(record, "b")
    better.facts["reads"][2]["miou"] = 3.0
    rows = best_rows([Sweep(sweep_record(record, "a")), Sweep(better)])
    assert [(r.facet, r.model, r.layer, r.miou) for r in rows] == [
        ("token", "a", "2/2", 100.0),
        ("token", "b", "2/2", 100.0),
        ("key", "b", "1/2", 3.0),
        ("key", "a", "1/2", 1.0),
    ]
    assert rows[-1].nmi == 0.9


def test_a_grid_has_the_same_images_for_all_models(record):
    one, other = Sweep(sweep_record(record, "a"), arrays()), Sweep(sweep_record(record, "b"), arrays())
    assert model_grid([one, other], "token").startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="none of a, b has a sweep with pictures of facet 'value'"):
        model_grid([one, other], "value")
    for wrong in (Sweep(sweep_record(record, "b", dataset="voc"), arrays()), Sweep(other.record, arrays(3))):
        with pytest.raises(UsageError, match="a grid shows the same images"):
            model_grid([one, wrong], "token")


def test_a_grid_needs_the_same_split(record):
    one, other = Sweep(sweep_record(record, "a"), arrays()), Sweep(sweep_record(record, "b"), arrays())
    data = other.record.data.model_copy(update={"val": other.record.data.val.model_copy(update={"digest": "else"})})
    with pytest.raises(UsageError, match="a grid shows the same images"):
        model_grid([one, Sweep(other.record.model_copy(update={"data": data}), arrays())], "token")


def test_the_facet_of_a_grid(record):
    made = sweep_record(record, "a")
    assert shared_facet([Sweep(made), Sweep(made, arrays())]) == "token"
    assert shared_facet([Sweep(made, {"classes_key": arrays()["truth"]})]) == "key"
    assert shared_facet([Sweep(made)]) is None


def save(store, made, content):
    path = store.path(
        dataset=made.data.name,
        protocol=made.protocol.name,
        model=made.model.name,
        preset=made.protocol.preset,
        score_hash=made.score_hash,
    )
    store.write(path, made, {made.artifacts[0]: content})
    return path


def packed(**changes):
    out = io.BytesIO()
    np.savez(out, **{name: value for name, value in {**arrays(), **changes}.items() if value is not None})
    return out.getvalue()


@pytest.fixture
def store(record, tmp_path):
    """Two models on one dataset and one on another, each with its pictures."""
    store = ResultStore(tmp_path)
    for name, dataset in (("b", "scenes"), ("a", "scenes"), ("c", "voc")):
        save(store, sweep_record(record, name, dataset=dataset), packed())
    return store


def test_sweeps_are_found_with_their_arrays(record, store):
    told = []
    older = sweep_record(record, "a", score_hash="older", created="2026-11-01T00:00:00Z")
    fewer = sweep_record(record, "d", n_images=5).model_copy(update={"artifacts": ()})
    other = record("e", protocol="positional_effect")
    records = [*store.records(), older, fewer, other]
    found = find_sweeps(store.root, records, told.append)
    assert {key: [sweep.model for sweep in sweeps] for key, sweeps in found.items()} == {
        SCENES: ["a", "b"],
        ("voc", "positional_effect", "sweep"): ["c"],
        ("scenes (5 of 1449)", "positional_effect", "sweep"): ["d"],
    }
    assert np.array_equal(found[SCENES][0].arrays["truth"], arrays()["truth"])
    assert found[SCENES][0].record.score_hash != "older"
    assert told == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"torn", "a/best.npz cannot be read"),
        (packed(palette=None), "a/best.npz lacks palette"),
        (packed(aggregate_token=None), "lacks aggregate_token"),
    ],
)
def test_pictures_of_another_form_cost_the_pictures_only(record, store, content, message):
    told = []
    save(store, sweep_record(record, "a"), content)
    found = find_sweeps(store.root, store.records(), told.append)[SCENES]
    assert [bool(sweep.arrays) for sweep in found] == [False, True]
    assert len(told) == 1
    assert message in told[0]
    assert len(best_rows(found)) == 4


@pytest.mark.parametrize("at", range(0, 100, 9))
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_file_of_pictures_never_costs_the_leaderboard(record, store, at, damage):
    whole = packed()
    place = len(whole) * at // 100
    content = whole[:place] if damage == "cut" else whole[:place] + bytes(b ^ 0x55 for b in whole[place : place + 40])
    save(store, sweep_record(record, "a"), content + whole[place + 40 :] * (damage == "flip"))
    told = []
    found = find_sweeps(store.root, store.records(), told.append)[SCENES]
    assert [sweep.model for sweep in found] == ["a", "b"]
    assert told or found[0].arrays


def test_pictures_of_other_shapes_cost_the_grid_only(record, store):
    told = []
    save(store, sweep_record(record, "a"), packed(palette=np.zeros(3), truth=np.zeros((2, 3, 3, 3, 3))))
    names = {path.name for path in write_leaderboard(store.root, report=told.append)}
    assert {"leaderboard.csv", "leaderboard.md", "positional_study.csv"} <= names
    assert "voc--positional_effect--sweep--models.png" in names
    assert len(told) == 1
    assert "scenes: no grid of models; best.npz of one of them is damaged" in told[0]


@pytest.mark.parametrize("gone", ["best", "locality", "ablation"])
def test_sweeps_of_another_form_are_left_off(record, store, gone):
    told = []
    made = sweep_record(record, "a")
    made.facts.pop(gone, None)
    for read in made.facts["reads"]:
        read.pop(gone, None)
    found = find_sweeps(store.root, [made], told.append)
    assert found == {}
    assert len(told) == 1
    assert "a--sweep--" in told[0]
    assert "is not a sweep of this version" in told[0]


def test_the_leaderboard_has_the_study(record, store):
    told = []
    written = write_leaderboard(store.root, report=told.append)
    names = sorted(path.relative_to(store.root).as_posix() for path in written if "leaderboard" not in path.name)
    stems = [f"plots/{dataset}--positional_effect--sweep" for dataset in ("scenes", "voc")]
    ends = ("--correlation.png", "--layers.png", "--models.png", ".png")
    assert names == sorted(["positional_study.csv", *(stem + end for stem in stems for end in ends)])
    assert (store.root / "positional_study.csv").read_text() == (
        "dataset,data,preset,settings,model,facet,layer,miou,nmi,nmi_excess\n"
        "scenes,scenes,sweep,,a,token,2/2,100,0.2,0.1\nscenes,scenes,sweep,,b,token,2/2,100,0.2,0.1\n"
        "scenes,scenes,sweep,,a,key,1/2,1,0.9,0.8\nscenes,scenes,sweep,,b,key,1/2,1,0.9,0.8\n"
        "voc,voc,sweep,,c,token,2/2,100,0.2,0.1\nvoc,voc,sweep,,c,key,1/2,1,0.9,0.8\n"
    )
    assert f"]({stems[0]}--models.png)" in (store.root / "leaderboard.md").read_text()
    assert told == []
    first = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in write_leaderboard(store.root)} == first
    assert [path.name for path in write_leaderboard(store.root, ["json"])] == ["leaderboard.json"]


def test_models_with_other_pictures_cost_the_grid_only(record, store):
    told = []
    save(store, sweep_record(record, "a"), packed(**arrays(3)))
    written = {path.name for path in write_leaderboard(store.root, ["png"], report=told.append)}
    assert "scenes--positional_effect--sweep--models.png" not in written
    assert "scenes--positional_effect--sweep--correlation.png" in written
    assert len(told) == 1
    assert "scenes: no grid of models; a grid shows the same images" in told[0]
