from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

from densebench.cli.listing import page
from densebench.cli.settings_page import meanings, preset_lines, setting_lines
from densebench.core.bounds import Count
from densebench.core.config import Preset
from densebench.methods import METHODS
from densebench.protocols import PROTOCOLS


@dataclass(frozen=True)
class Base:
    size: Count | None = None
    """Side in
    pixels."""
    mode: Literal["a", "b"] = "a"
    """Which of two."""


@dataclass(frozen=True)
class Own(Base):
    mode: Literal["a", "b"] = "b"
    names: tuple[str, ...] = ("x",)
    """Of things."""


def test_each_field_has_its_default_what_it_takes_and_the_sentence_below_it():
    assert list(setting_lines(Own)) == [
        "size = none: a whole number of at least 1, or none",
        "    Side in pixels.",
        "mode = b: 'a' or 'b'",
        "    Which of two.",
        'names = ["x"]: any number of texts',
        "    Of things.",
    ]
    assert list(preset_lines({"one": Preset(source="me", settings={"size": None, "names": ("y", "z")})})) == [
        '  one: size=none, names=["y", "z"]. Source: me'
    ]


@pytest.mark.parametrize(("registry", "name"), [(r, name) for r in (PROTOCOLS, METHODS) for name in r.names()])
def test_every_setting_has_a_sentence(registry: Any, name: str):
    config = registry.config(name)
    assert {f.name for f in fields(config)} - meanings(config).keys() == set()


def test_pages_list_settings_and_presets():
    protocol, method = page("protocol", "hummingbird"), page("method", "paka")
    assert "  neighbours = 30: a whole number of at least 1\n      Rows of the memory" in protocol
    assert "  similarity = cosine: 'cosine' or 'l2'\n" in protocol
    assert "  min_intersection = 0.9: a number of at least 0 and at most 1\n" in method
    assert "\n  embedded: images=1600, cache=160," in method
