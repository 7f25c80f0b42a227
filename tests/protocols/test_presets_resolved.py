"""What every preset comes to: a change of its settings is a change of scores, and has to be meant.

A hash is that of a resolved config alone. Where a test fails because a setting was given another name or spelling,
records on disk no longer count as this measurement: keep the spelling. Where a value is meant to change, the protocol's
`version` is raised and the hash written anew.
"""

import pytest

from densebench.core.config import score_hash
from densebench.datasets import DATASETS
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import FACETS, BackboneInfo
from densebench.ops import cbfe
from densebench.protocols import PROTOCOLS

VITS14 = BackboneInfo(
    name="vits14", patch=14, width=384, prefix=5, depth=12, heads=6, facets=FACETS, any_layer=True, attention=True
)
PUBLISHED = ("voc", "nyu", "spair")
"""Of these, the one that a protocol can read is paired with VITS14; the embedded scenes with `pico`."""
HASHES = {
    "hummingbird": {
        "paper": ("b198ea6c1f6770b1", "522080474d79df2b"),
        "embedded": ("b198ea6c1f6770b1", "522080474d79df2b"),
        "paper-scann": ("2b147a694e57eac4", "504cd785d9edcacc"),
        "open-hummingbird-v2": ("7db6e6820d45fe10", "aa50ce8700ae5fd2"),
        "dip": ("fdd7579aff75cdc7", "99e155f967efbe4b"),
    },
    "in_context_depth": {
        "paper": ("b3b53208797908d8", "468a55258a7d5214"),
        "embedded": ("21558226ee86f8da", "82ed04002316f64d"),
        "dip": ("bb9816edabe255be", "8c121f25af99d118"),
    },
    "overclustering": {
        "paper": ("0ea918380b3e02c9", "f873a9d13af8296e"),
        "embedded": ("0ea918380b3e02c9", "f873a9d13af8296e"),
        "text": ("207c670cdb143acf", "6fa3cd13c91c23a5"),
        "neco": ("0ea918380b3e02c9", "f873a9d13af8296e"),
        "leopart": ("e74fc86bb842e692", "1cf93bb617bdf91c"),
    },
    "linear_segmentation": {
        "paper": ("220de1a9fb633667", "7bbf501ec6bd0dea"),
        "embedded": ("2c43fdc3a45771a5", "151effd1f614bf9e"),
        "neco": ("6fed35f6491a63f2", "b3b0f20eb4f97e26"),
        "neco-text": ("0ad2d2e1d34f4c73", "fa4769780b1fda46"),
        "leopart": ("60f2b223aa16a3eb", "2bc916919923c1c7"),
    },
    "linear_segmentation_cached": {
        "paper": ("f9fb364bbbf0cb26", "89a2b165f752d9c3"),
        "embedded": ("e0641ab33a48f0be", "8eb21826552c46dd"),
    },
    "finetune_segmentation": {
        "paper": ("a2b18ab6e695bb1f", "3b2cef8479855fdf"),
        "embedded": ("b41892ef421dfa40", "cb7adf69e0eeab62"),
        "segmenter": ("7205120372cd407a", "6a7f5ac609b218f4"),
        "embedded-segmenter": ("98f7dbc99410eeb3", "908cd5c7021c9094"),
    },
    "positional_effect": {
        "paper": ("ba2ff4642520f9e7", "b90b93814b0704f2"),
        "embedded": ("ba2ff4642520f9e7", "b90b93814b0704f2"),
        "sweep": ("d3520e6d2788945f", "6b04a81b3e3464e4"),
        "embedded-sweep": ("d58fa2736fa9514b", "9c350fcf63dc5067"),
        "overclustering": ("0737283549a56fda", "77f961ce4c4f3895"),
        "raw": ("7201e5b2291af423", "db50b5ec4638ca02"),
    },
    "correspondence": {
        "paper": ("654e0c87d79b0cd8", "f5485fd44310aee0"),
        "embedded": ("654e0c87d79b0cd8", "f5485fd44310aee0"),
        "sweep": ("79003604b1a5aba3", "33641f0849ec83df"),
        "embedded-sweep": ("f6448e727a601e51", "7f0d6b6303ec4486"),
    },
    "depth": {
        "paper": ("de92bba645cb6ca6", "1b129526aa4e321a"),
        "text": ("2fc83508b0fca2c5", "7011a3602ec1a154"),
        "embedded": ("08838e423d7aea2e", "6aa6daeca13335c4"),
        "dinov2": ("4c31af44ca392119", "aed031494e6ff213"),
        "dinov3": ("1996968e9ad798ec", "5a154d46c7dd0293"),
    },
    "unsupervised_segmentation": {
        "paper": ("908afd31679fcaac", "594c4412c30daa70"),
        "embedded": ("e4f040c9fdde268d", "594c4412c30daa70"),
        "neco": ("5715081d6eb789ee", "c7d2c80d2a8001bb"),
        "leopart": ("5184a791b083dbb0", "dfbfc5e3d6511214"),
        "leopart_vitb8": ("84d72d286e86a02c", "dd1b8886b8974028"),
    },
}


def preset_hashes(name, preset):
    protocol = PROTOCOLS[name]()
    published = next(info for d in PUBLISHED if not protocol.missing_targets(info := DATASETS[d].info))
    config = protocol.configure(preset)
    pairs = ((load_model("pico").info, DATASETS["scenes"].info), (VITS14, published))
    return tuple(score_hash({"config": protocol.resolve(config, *pair)}) for pair in pairs)


@pytest.fixture(autouse=True)
def _with_infomap(monkeypatch):
    monkeypatch.setattr(cbfe, "has_infomap", lambda: True)


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_a_preset_comes_to_the_settings_it_always_came_to(name):
    found = {preset: preset_hashes(name, preset) for preset in PROTOCOLS[name].presets}
    assert found == HASHES[name]
