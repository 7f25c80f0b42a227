"""Sweeps of several models side by side, from records made by hand."""

import io

import numpy as np
import pytest

from densebench.errors import StorageError, UsageError
from densebench.leaderboard.positional import (
    Sweep,
    best_rows,
    correlation_picture,
    correlations,
    find_sweeps,
    model_grid,
    points,
)
from densebench.results import ResultStore


def row(layer, facet, nmi, miou, ablation=False):
    return {"layer": layer, "facet": facet, "nmi": nmi, "nmi_excess": nmi - 0.1, "miou": miou, "ablation": ablation}


def sweep_record(record, model, shift=0.0, dataset="scenes", local=(0.5, 1.5), **other):
    reads = [row(0, "token", 0.4 + shift, 10.0), row(1, "token", 0.2, 100.0), row(0, "key", 0.9, 1.0)]
    reads += [row(1, "key", 0.8 - shift, 0.0), row(1, "token", 0.1, 50.0, ablation=True)]
    made = record(model, protocol="positional_effect", dataset=dataset, preset="sweep", **other)
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
    assert correlation_picture(sweeps).startswith(b"\x89PNG")


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


def test_sweeps_are_found_with_their_arrays(record, tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(StorageError, match="holds no sweep of positional_effect on scenes"):
        find_sweeps(tmp_path, "scenes")
    out = io.BytesIO()
    np.savez(out, **arrays())
    paths = {}
    for name, dataset in (("b", "scenes"), ("a", "scenes"), ("c", "voc")):
        made = sweep_record(record, name, dataset=dataset)
        where = {"protocol": "positional_effect", "preset": "sweep", "score_hash": made.score_hash}
        paths[name] = store.path(dataset=dataset, model=name, **where)
        store.write(paths[name], made, {made.artifacts[0]: out.getvalue()})
    found = find_sweeps(tmp_path, "scenes")
    assert [sweep.model for sweep in found] == ["a", "b"]
    assert np.array_equal(found[0].arrays["truth"], arrays()["truth"])
    (paths["a"].parent / "a/best.npz").write_bytes(b"torn")
    with pytest.raises(StorageError, match="run the sweep again"):
        find_sweeps(tmp_path, "scenes")
