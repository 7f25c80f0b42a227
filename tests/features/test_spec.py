"""A request: what records say of it, what it takes in the cache, and that it leaves score hashes alone."""

from dataclasses import replace

import densebench
from densebench.features.spec import FeatureSpec
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.views.augment import Augment

SPEC = FeatureSpec(size=(32, 48))


def test_one_key_is_recorded_as_in_records_of_any_age():
    found = replace(SPEC, keys=(FeatureKey(3, "key", False),), std=(0.5, 0.5, 0.5), augment=Augment(seed=1)).as_record()
    assert list(found) == ["size", "layer", "facet", "norm", "interpolation", "std", "augment"]
    assert found["augment"]["seed"] == 1
    assert SPEC.as_record() == {
        "size": [32, 48], "layer": -1, "facet": "token", "norm": True, "interpolation": "bilinear", "std": None,
        "augment": None,
    }  # fmt: skip


def test_several_keys_and_attention_are_recorded_as_such():
    found = replace(SPEC, keys=(FeatureKey(0), FeatureKey(1, "key")), attention=(0, 1)).as_record()
    assert found["keys"] == [[0, "token", True], [1, "key", True]]
    assert found["attention"] == [0, 1]
    assert "layer" not in found


def test_room_in_the_cache_grows_with_the_keys():
    info = BackboneInfo(name="any", patch=16, width=10)
    assert SPEC.nbytes(info, 5) == 5 * 2 * 3 * 10 * 2
    assert replace(SPEC, keys=(FeatureKey(), FeatureKey(0))).nbytes(info, 5, "float32") == 5 * 2 * 3 * 10 * 4 * 2


def test_the_hash_and_the_request_of_an_embedded_job_are_those_of_records_that_exist(monkeypatch, tmp_path):
    """As they were before requests had keys; another hash orphans every result, so `version` is raised instead."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    (record,) = densebench.run(
        model="pico",
        protocol="correspondence",
        dataset="scenes",
        limit=6,
        workers=0,
        device="cpu",
        out=tmp_path,
        settings={"correspondence": {"input_size": 64, "pairs": 5}},
    ).records
    assert record.protocol.version == 2
    assert record.score_hash == "4ec52078942e0b71"
    assert record.features == {
        "precision": "float32",
        "dtype": "float16",
        "val": {**SPEC.as_record(), "size": [64, 64]},
    }
