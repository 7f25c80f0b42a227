"""Every protocol on data whose right answer is known: perfect features score 100, noise scores chance."""

import dataclasses

import pytest

from densebench.core.errors import FeatureError, UsageError
from densebench.core.progress import Progress
from densebench.datasets.sets.voc import VOC
from densebench.features.cache import FeatureCache
from densebench.features.source import FeatureSource
from densebench.protocols import PROTOCOLS
from densebench.protocols.protocol import Context, Data
from tests import toys

EXACT = {
    "hummingbird": {"input_size": 64, "augmentation_epochs": 0, "fractions": (1,), "neighbours": 5, "absent": "skip"},
    "overclustering": {"input_size": 64, "clusters": (4,), "seeds": (0, 1), "absent": "skip", "n_redo": 10},
    "positional_effect": {"input_size": 64, "clusters": 4, "steps": 300, "init_batches": 4, "groups": 3},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = toys.write_voc(tmp_path_factory.mktemp("voc"), n_train=16, n_val=12)
    classes = {"classes": VOC.info.classes[:4], "palette": VOC.info.palette[:4]}
    four = type("Four", (VOC,), {"info": dataclasses.replace(VOC.info, **classes)})
    return Data(four(root, "trainaug"), four(root, "val"))


def measure(name, backbone, data, tmp_path, **settings):
    protocol = PROTOCOLS[name]()
    config = protocol.resolve(protocol.configure("paper", {**EXACT[name], **settings}), backbone.info, data.info)
    source = FeatureSource(backbone, cache=FeatureCache(tmp_path, 10**8), batch_size=5)
    context = Context(source, Progress(quiet=True))
    result = protocol.run(config, data, context)
    return {m.label: m for m in result.metrics}, result, context


@pytest.mark.parametrize(("name", "metric"), [("hummingbird", "miou@1"), ("overclustering", "miou@K=4")])
def test_perfect_features_score_100_and_noise_does_not(name, metric, data, tmp_path):
    found, _, _ = measure(name, toys.ColorBackbone(), data, tmp_path)
    assert found[metric].value == pytest.approx(100.0)
    assert found[metric].ci95 == (pytest.approx(100.0), pytest.approx(100.0))
    noise, _, _ = measure(name, toys.ShuffledBackbone(), data, tmp_path)
    assert noise[metric].value < 35  # four classes: 25 % of the pixels, less in IoU
    low, high = noise[metric].ci95
    assert low < noise[metric].value < high


def test_hummingbird_reports_both_variants_and_all_fractions(data, tmp_path):
    found, result, _ = measure(
        "hummingbird", toys.ColorBackbone(), data, tmp_path, fractions=(1, 2), subset_seeds=(1, 2, 3)
    )
    assert set(found) == {f"{n}@{f}" for n in ("miou", "miou_hungarian", "miou_present") for f in ("1", "1/2")}
    assert set(found["miou@1/2"].seeds) == {"1", "2", "3"}
    assert found["miou@1/2"].value == pytest.approx(sum(found["miou@1/2"].seeds.values()) / 3)
    assert result.facts["banks"]["1/1:0"]["images"] == 16


def test_hummingbird_with_augmentation_is_still_nearly_perfect(data, tmp_path):
    found, _, _ = measure("hummingbird", toys.ColorBackbone(), data, tmp_path, augmentation_epochs=2)
    assert found["miou@1"].value > 95


def test_a_bounded_memory_holds_the_rows_it_was_given(data, tmp_path):
    found, result, _ = measure("hummingbird", toys.ColorBackbone(), data, tmp_path, memory_size=160)
    assert result.facts["banks"]["1/1:0"]["rows"] == 160
    assert found["miou@1"].value == pytest.approx(100.0)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_exact_backends_agree(backend, data, tmp_path):
    pytest.importorskip("faiss")
    found, _, _ = measure("hummingbird", toys.ShuffledBackbone(), data, tmp_path, backend=backend)
    reference, _, _ = measure("hummingbird", toys.ShuffledBackbone(), data, tmp_path)
    assert {k: m.value for k, m in found.items()} == {k: m.value for k, m in reference.items()}


def test_scann_states_its_recall(data, tmp_path):
    pytest.importorskip("scann")
    found, result, _ = measure("hummingbird", toys.ColorBackbone(), data, tmp_path, search="scann", absent="zero")
    bank = result.facts["banks"]["1/1:0"]
    assert bank["backend"] == "scann"
    assert 0.2 < bank["recall"] <= 1.0  # colours are so alike that many neighbours tie
    assert found["miou@1"].value > 95


def test_scann_needs_more_rows_than_it_has_centres(data, tmp_path):
    pytest.importorskip("scann")
    few = {"search": "scann", "fractions": (8,), "subset_seeds": (0,)}
    with pytest.raises(UsageError, match=r"search=scann needs 16 rows; a memory of 3 images has 12\. Use search=exact"):
        measure("hummingbird", toys.ColorBackbone(), data, tmp_path, memory_size=14, **few)
    assert measure("hummingbird", toys.ColorBackbone(), data, tmp_path, memory_size=18, **few)


class DarkBackbone(toys.ColorBackbone):
    """One patch of every image is the zero vector."""

    def tokens(self, pixels, keys):
        tokens = super().tokens(pixels, keys)[0].clone()
        tokens[:, 7] = 0
        return [tokens for _ in keys]


def test_a_patch_of_length_zero_names_its_image(data, tmp_path):
    with pytest.raises(FeatureError, match="image 2007_trainaug_0000 a patch of length zero"):
        measure("hummingbird", DarkBackbone(), data, tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hummingbird", {"search": "scann", "similarity": "l2"}, "similarity=cosine only"),
        ("hummingbird", {"void_to": 9}, "is not a class"),
        ("overclustering", {"clusters": (5000,)}, "5000 clusters need as many patches; 12 images have 768"),
        ("positional_effect", {"clusters": 9}, "exceeds twice the width"),
    ],
)
def test_settings_that_cannot_work_say_why(name, settings, message, data, tmp_path):
    with pytest.raises(UsageError, match=message):
        measure(name, toys.ColorBackbone(), data, tmp_path, **settings)


def test_overclustering_with_more_clusters_is_matched_by_precision(data, tmp_path):
    found, result, _ = measure("overclustering", toys.ColorBackbone(), data, tmp_path, clusters=(4, 7))
    assert result.facts["matching"] == {"K=4": "hungarian", "K=7": "precision"}
    assert found["miou@K=7"].value == pytest.approx(100.0)


def test_overclustering_as_the_papers_write_matches_any_number_twice(data, tmp_path):
    found, result, _ = measure(
        "overclustering", toys.ColorBackbone(), data, tmp_path, clusters=(4, 7), matching="greedy_hungarian"
    )
    assert [found[f"miou@K={k}"].value for k in (4, 7)] == pytest.approx([100.0, 100.0])
    assert result.facts["matching"] == dict.fromkeys(("K=4", "K=7"), "precision, then hungarian")
    noise = [
        measure("overclustering", toys.ShuffledBackbone(), data, tmp_path, clusters=(40,), matching=matching)[0]
        for matching in ("by_count", "greedy_hungarian")
    ]
    by_count, twice = (one["miou@K=40"].seeds for one in noise)
    assert all(twice[seed] >= by_count[seed] for seed in by_count), "the second matching never lowers the sum of IoU"


def test_positional_effect_of_the_classes_is_that_of_the_ground_truth(data, tmp_path):
    found, result, _ = measure("positional_effect", toys.OneHotBackbone(), data, tmp_path)
    assert found["miou"].value == pytest.approx(100.0)
    assert found["nmi"].value == pytest.approx(found["nmi_ground_truth"].value, rel=1e-6)
    assert found["nmi_excess"].value == pytest.approx(0.0, abs=1e-9)
    assert {name: content[:4] for name, content in result.artifacts.items()} == {
        "aggregate.png": b"\x89PNG",
        "examples.png": b"\x89PNG",
    }


class PositionBackbone(toys.ColorBackbone):
    """Features say where the patch is and nothing else."""

    def tokens(self, pixels, keys):
        import torch

        tokens = super().tokens(pixels, keys)[0]
        corners = torch.eye(4).repeat_interleave(16, 0)  # 8 x 8 patches in four bands
        tokens = torch.cat([tokens[:, :1], corners.expand(len(pixels), -1, -1)], dim=1)
        return [tokens for _ in keys]


def test_positional_effect_of_positions_is_complete(data, tmp_path):
    found, _, _ = measure("positional_effect", PositionBackbone(), data, tmp_path)
    assert found["nmi"].value == pytest.approx(1.0, abs=0.02)
    assert found["nmi_excess"].value > 0.5


@pytest.mark.parametrize("name", list(EXACT))
def test_stages_are_timed_and_estimates_are_of_the_right_order(name, data, tmp_path):
    backbone = toys.ColorBackbone()
    _, _, context = measure(name, backbone, data, tmp_path)
    assert {"features", "score"} <= set(context.seconds)
    protocol = PROTOCOLS[name]()
    config = protocol.resolve(protocol.configure("paper", EXACT[name]), backbone.info, data.info)
    estimate = protocol.estimate(config, backbone.info, data)
    assert estimate.features["val"][1] == 12
    assert estimate.bank_bytes > 0
    assert estimate.search_flops > 0


@pytest.mark.parametrize("name", list(EXACT))
@pytest.mark.parametrize("batch_size", [3, 12])
def test_scores_do_not_depend_on_the_batch_size(name, batch_size, data, tmp_path):
    backbone = toys.ColorBackbone()
    protocol = PROTOCOLS[name]()
    config = protocol.resolve(protocol.configure("paper", {**EXACT[name]}), backbone.info, data.info)
    values = []
    for size in (5, batch_size):
        context = Context(FeatureSource(backbone, batch_size=size), Progress(quiet=True))
        if name == "positional_effect":
            config = dataclasses.replace(config, steps=20)
        values.append([(m.label, m.value, m.ci95) for m in protocol.run(config, data, context).metrics])
    assert values[0] == values[1]
