from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from densebench.core.config import apply_overrides, read_tables
from densebench.core.errors import UsageError
from densebench.methods import METHODS, train
from densebench.methods.configs.dip import DipConfig
from densebench.methods.configs.hog import HogConfig
from densebench.methods.configs.paka import PakaConfig
from densebench.methods.settings import check_settings, fitted
from densebench.model_zoo.backbone import BackboneInfo

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ["paka", "neco", "dip"])
def test_the_settings_of_the_shipped_checkpoints_are_the_preset_of_embedded_data(name: str) -> None:
    kind: Any = METHODS.config(name)
    table = read_tables(ROOT / "benchmarks" / "pico.toml", "method")[name]
    preset = kind.presets["embedded"].settings
    assert preset.keys() == table.keys()  # so that the file means the same over either preset
    config = apply_overrides(kind(), preset)
    assert apply_overrides(kind(), table) == config
    card = json.loads((ROOT / "densebench" / "model_zoo" / "weights" / f"{name}_pico" / "card.json").read_text())
    assert {**card["config"], "labels": None} == {**json.loads(json.dumps(dataclasses.asdict(config))), "labels": None}


@pytest.mark.parametrize("name", METHODS.names())
def test_methods_settings_are_where_the_registry_says_and_have_presets(name: str) -> None:
    kind: Any = METHODS[name].Config
    assert METHODS.config(name) is kind
    assert "embedded" in kind.presets
    first = next(iter(kind.presets.values()))
    assert not first.settings
    for preset in kind.presets.values():
        apply_overrides(kind(), preset.settings)


@pytest.mark.parametrize(
    ("patch", "native", "sides"),
    [(14, 518, (518, 98)), (14, 224, (518, 98)), (16, 224, (224, 96)), (8, 96, (96, 48)), (32, 224, (224, 96))],
)
def test_sizes_that_nobody_asked_for_follow_the_base(patch: int, native: int, sides: tuple[int, int]) -> None:
    base = BackboneInfo(name="base", patch=patch, width=8, native_size=native)
    config = fitted(PakaConfig(), base, 9, ())
    assert (config.global_size, config.local_size) == sides
    assert dataclasses.replace(config, global_size=518, local_size=98) == PakaConfig()
    assert fitted(PakaConfig(global_size=20), base, 9, {"global_size"}).global_size == 20  # is refused later, in words
    for other in (HogConfig(), DipConfig()):  # whose local crops nobody cuts
        assert fitted(other, base, 10**6, ()).local_size == other.local_size


def test_images_that_nobody_asked_for_are_at_most_all() -> None:
    base = BackboneInfo(name="base", patch=8, width=8)
    assert fitted(HogConfig(), base, 9, ()).images is None
    assert fitted(HogConfig(), base, 30_000, ()).images == 20_000
    assert fitted(HogConfig(images=10), base, 9, {"images"}).images == 10


def test_settings_that_one_preset_cannot_have_may_go_with_another() -> None:
    assert check_settings("dip", "", {"global_size": "160", "split": "val"}) == "val"
    assert check_settings("dip", "", {"global_size": "200"}) is None  # of images resized to 256, not to 160
    with pytest.raises(UsageError, match="resize=160: expected global_size=200 or more"):
        check_settings("dip", "embedded", {"global_size": "200"})
    with pytest.raises(
        UsageError, match=r"paka: unknown preset 'embeded'; did you mean 'embedded'\? It has paper, emb"
    ):
        check_settings("paka", "embeded", {})


def test_a_base_is_trained_on_embedded_data_with_nothing_set(tmp_path: Path) -> None:
    few = {"images": 16, "cache": None}
    done = train(
        method="paka", base="pico", data="scenes:val", name="x", out=tmp_path, overrides=few, workers=0, progress=False
    )
    assert done.card["preset"] == "embedded"
    assert done.card["config"]["global_size"] == 112
    assert "--preset embedded" in done.card["command"]
    assert "paka, preset embedded, on scenes/val" in str(done)
    assert json.loads((done.folder / "log.jsonl").read_text().splitlines()[0])["preset"] == "embedded"
