"""A request: what records say of it, what it takes in the cache, and that it leaves score hashes alone."""

from dataclasses import replace

from densebench.core.progress import Progress
from densebench.features.spec import FeatureSpec
from densebench.model_zoo import parse_spec
from densebench.model_zoo.backbone import BackboneInfo, FeatureKey
from densebench.runner.models import Models
from densebench.runner.plan import Notes, Planner
from densebench.runner.request import Request
from densebench.runner.splits import Splits
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
    """As they were before requests had keys: another hash orphans every result, so raise the `version` instead."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path))
    quiet = Progress(quiet=True)
    request = Request(model=("pico",), protocol=("correspondence",), dataset=("scenes",), limit=12, device="cpu")
    planner, spec = Planner(request, Splits(None, 12, False, quiet), Notes()), parse_spec("pico")
    (job,) = planner.jobs(spec, Models(request, quiet).build(spec))
    assert job.score_hash == "53e0e643bb2cfed8"
    ((asked, _),) = job.estimate.features.values()
    assert asked.as_record() == {**SPEC.as_record(), "size": [160, 160]}
