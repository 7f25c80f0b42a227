"""What a label says of a config: the fewest settings that lead to it from its preset, and nothing else."""

import dataclasses

import pytest

from densebench.core.config import score_hash
from densebench.core.errors import UsageError
from densebench.datasets import DATASETS
from densebench.model_zoo.backbone import FACETS, BackboneInfo
from densebench.protocols import PROTOCOLS
from densebench.runner.departures import departures

SMALL = BackboneInfo(
    name="small", patch=14, width=384, prefix=5, depth=12, heads=6, facets=FACETS, any_layer=True, attention=True
)
LARGE = dataclasses.replace(SMALL, name="large", patch=16, depth=24, attention=False)
WITHOUT = {"unsupervised_segmentation": {"community_detection": None}}
"""What needs no package that may be missing."""


def found(name, preset="paper", backbone=SMALL, dataset="voc", **settings):
    protocol, info = PROTOCOLS[name](), DATASETS[dataset].info
    return departures(protocol, preset, protocol.configure(preset, settings), backbone, info)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("hummingbird", {}, {}),
        ("hummingbird", {"input_size": "224", "neighbours": 1}, {"input_size": 224, "neighbours": 1}),
        ("hummingbird", {"neighbours": 30, "fractions": (1, 8, 64, 128)}, {}),  # the preset's own
        ("hummingbird", {"input_size": 504, "neighbours": 31}, {"neighbours": 31}),  # what it resolves to
        ("hummingbird", {"backend": "torch"}, {}),  # changes no score
        ("overclustering", {"clusters": (21, 300, 500)}, {}),  # "classes" of voc
        ("overclustering", {"clusters": (22,)}, {"clusters": (22,)}),
        ("positional_effect", {"extra_clusters": 70}, {"extra_clusters": 70}),  # clusters follow from it
        ("positional_effect", {"extra_clusters": 70, "clusters": 91}, {"extra_clusters": 70}),
        ("positional_effect", {"extra_clusters": 70, "clusters": 21}, {"extra_clusters": 70, "clusters": 21}),
        ("positional_effect", {"layers": "all"}, {"layers": "all"}),
        ("positional_effect", {"clusters": "auto"}, {}),
        ("positional_effect", {"layers": "all", "locality": "patches"}, {"layers": "all"}),
        ("positional_effect", {"layers": "all", "locality": "none"}, {"layers": "all", "locality": "none"}),
        ("finetune_segmentation", {"steps": 2}, {"steps": 2}),  # and no epochs, which that replaces
        ("finetune_segmentation", {"epochs": 5}, {"epochs": 5}),
        ("finetune_segmentation", {"batch": 128, "evaluations": 20, "train_share": 1.0}, {}),
        ("finetune_segmentation", {"decoder_heads": 6, "input_size": "auto"}, {}),
        ("linear_segmentation", {"epochs": 3, "batch": 128}, {"epochs": 3}),
        ("linear_segmentation", {"epochs": 30}, {"epochs": 30}),  # evaluations follow from it
        ("linear_segmentation", {"evaluations": 20, "shuffle": True, "drop_last": "auto"}, {}),
        ("linear_segmentation", {"shuffle": False}, {"shuffle": False}),
        ("unsupervised_segmentation", {"objects": 20, "train_split": "train", "background": (0,)}, {}),
    ],
)
def test_the_fewest_settings_are_named(name, settings, named):
    assert found(name, **settings) == named


def test_steps_and_epochs_replace_each_other_in_a_preset_and_in_its_label():
    protocol = PROTOCOLS["finetune_segmentation"]()
    for preset in protocol.presets:
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            for value in (7, "7"):
                config = protocol.configure(preset, {one: value})
                assert (getattr(config, one), getattr(config, other)) == (7, None)
                assert found(protocol.name, preset, **{one: value}) == {one: 7}
    for name, steps in (("voc", 80_000), ("pascal_context", 80_000), ("ade20k", 160_000)):
        assert found(protocol.name, "segmenter", dataset=name, steps=steps) == {}
        assert found(protocol.name, "segmenter", dataset=name, steps="published", epochs=None) == {}
        assert found(protocol.name, "segmenter", dataset=name, steps=steps // 2) == {"steps": steps // 2}


def test_depth_names_what_differs_from_what_backbone_and_dataset_make_of_auto():
    same = {"heads": (1, 4), "norm": False, "class_token": True, "crop": (416, 544), "nyu_crops": True}
    assert found("depth", dataset="nyu", **same) == {}
    assert found("depth", dataset="nyu", **dict.fromkeys(same, "auto")) == {}
    for name, value in {
        "heads": (4,),
        "norm": True,
        "class_token": False,
        "crop": (96, 96),
        "nyu_crops": False,
    }.items():
        assert found("depth", dataset="nyu", **{name: value}) == {name: value}


def test_a_label_is_the_same_for_models_of_other_depths():
    for settings in ({"layers": "all"}, {"facets": ("key",)}, {"input_size": 224}):
        assert found("positional_effect", **settings) == found("positional_effect", backbone=LARGE, **settings)


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_every_setting_that_changes_the_hash_is_named_and_no_other(name):
    protocol, preset = PROTOCOLS[name](), "paper"
    info = next(DATASETS[d].info for d in ("voc", "nyu", "spair") if not protocol.missing_targets(DATASETS[d].info))
    base = WITHOUT.get(name, {})

    def resolved(settings):
        return protocol.resolve(protocol.configure(preset, {**base, **settings}), SMALL, info)

    own = resolved({})
    tried = 0
    for field in dataclasses.fields(protocol.config):
        value = getattr(own, field.name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        for other in (value, value * 2):
            settings = {**base, field.name: int(other) if isinstance(value, int) else other}
            try:
                differs = score_hash({"config": resolved(settings)}) != score_hash({"config": own})
            except UsageError:
                continue
            said = departures(protocol, preset, protocol.configure(preset, settings), SMALL, info)
            assert (field.name in said) == differs, (field.name, other)
            assert set(said) <= {field.name, *base}
            tried += 1
    assert tried > 5


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_embedded_data_has_a_preset_of_its_own_and_none_changes_what_paper_is(name):
    protocol = PROTOCOLS[name]()
    served = [
        DATASETS[d].info for d in ("voc", "nyu", "spair", "scenes") if not protocol.missing_targets(DATASETS[d].info)
    ]
    assert {protocol.default_preset(info) for info in served if not info.embedded} == {"paper"}
    scenes = DATASETS["scenes"].info
    assert protocol.default_preset(scenes) == "embedded"
    for preset in protocol.presets:
        config = protocol.configure(preset, WITHOUT.get(name))
        for info in served:
            one, other = (
                protocol.resolve(config, SMALL, dataclasses.replace(info, embedded=embedded))
                for embedded in (True, False)
            )
            assert one == other, f"{name} does another thing on embedded data under the name {preset}"
