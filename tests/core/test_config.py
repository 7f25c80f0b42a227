from dataclasses import dataclass, fields, replace
from typing import Literal

import pytest

from densebench.core.config import apply_overrides, known, later, no_score, score_hash, split_settings
from densebench.core.errors import UsageError
from densebench.protocols import PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class Config:
    """For tests."""

    size: int | None = None
    rate: float = 0.1
    mode: Literal["a", "b"] = "a"
    seeds: tuple[int, ...] = (1, 2)
    facets: tuple[str, ...] | Literal["all"] = "all"
    chunk: int = no_score(3)


@dataclass(frozen=True, kw_only=True)
class Grown(Config):
    """The same with a field that came later."""

    rule: Literal["old", "new"] = later("old")


def test_strings_become_typed_values():
    config = apply_overrides(Config(), {"size": "5", "rate": "1e-3", "mode": "b", "seeds": "[3, 4, 5]"})
    assert config == Config(size=5, rate=1e-3, mode="b", seeds=(3, 4, 5))
    assert apply_overrides(Config(size=5), {"size": "none"}).size is None
    assert apply_overrides(Config(), {"seeds": "7", "facets": "key"}) == Config(seeds=(7,), facets=("key",))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sise": "5"}, "no field 'sise'; did you mean 'size'"),
        ({"size": "five"}, "^size='five': expected a whole number, or none\\.$"),
        ({"mode": "c"}, "mode='c': expected 'a' or 'b'"),
        ({"seeds": "some"}, r"seeds='some': expected any number of whole numbers\. A list is written as '\[1"),
        ({"facets": "[1]"}, r"facets=\[1\]: expected any number of texts, or 'all'\.$"),
        ({"size": "true"}, "size=True: expected a whole number"),
        ({"rate": "true"}, "rate=True: expected a number"),
        ({"rate": "inf"}, "rate=inf: expected a finite number"),
        ({"seeds": "[1, true]"}, r"seeds=\[1, True\]: expected any number of whole numbers"),
    ],
)
def test_wrong_settings_are_usage_errors(overrides, message):
    with pytest.raises(UsageError, match=message):
        apply_overrides(Config(), overrides)


def test_hash_ignores_key_order_and_fields_without_effect():
    assert score_hash({"a": 1, "b": Config()}) == score_hash({"b": Config(chunk=9), "a": 1})
    assert score_hash({"b": Config()}) != score_hash({"b": Config(rate=0.2)})


def test_a_field_that_came_later_leaves_the_hash_as_it_was_at_its_default():
    assert score_hash({"b": Grown()}) == score_hash({"b": Config()}) == score_hash({"b": Grown(rule="old")})
    assert score_hash({"b": Grown(rule="new")}) != score_hash({"b": Grown()})
    assert apply_overrides(Grown(), {"rule": "new"}).rule == "new"


def test_lists_count_by_what_they_hold_wherever_they_lie(tmp_path):
    hashes = []
    for place, ids in (("here", "a\nb\n"), ("there", "a\nb\n"), ("there", "a\nc\n")):
        (tmp_path / place / "1_div_2").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "1_div_2" / "train_2_7.txt").write_text(ids)
        hashes.append(score_hash({"subset_dir": tmp_path / place}))
    assert hashes[0] == hashes[1] != hashes[2]
    assert score_hash({"subset_dir": tmp_path / "gone"}) != score_hash({"subset_dir": tmp_path / "gone too"})


@pytest.mark.parametrize("name", ["hummingbird", "overclustering", "positional_effect"])
def test_every_scoring_field_of_a_protocol_changes_the_hash_and_no_other_does(name):
    config = PROTOCOLS[name]().configure()
    for field in fields(config):
        value = getattr(config, field.name)
        other = (9,) if isinstance(value, tuple) else not value if isinstance(value, bool) else f"not {value}"
        changed = score_hash({"c": replace(config, **{field.name: other})}) != score_hash({"c": config})
        assert changed == field.metadata.get("score", True), field.name


def test_settings_split_by_protocol():
    assert split_settings(["a.b=1", "a.c=x=y", "d.e=2"]) == {"a": {"b": "1", "c": "x=y"}, "d": {"e": "2"}}
    with pytest.raises(UsageError, match=r"PROTOCOL\.FIELD=VALUE"):
        split_settings(["neighbours=5"])


def test_what_was_not_resolved_is_an_error_and_not_a_value():
    assert [known(value, "cell") for value in (0, False, (), "patches")] == [0, False, (), "patches"]
    for still in ("auto", None):
        with pytest.raises(ValueError, match=f"cell is still {still}: the config was not resolved"):
            known(still, "cell")


def test_a_choice_called_none_is_that_choice():
    @dataclass(frozen=True, kw_only=True)
    class Choices:
        tokens: Literal["auto", "none"] | None = "auto"
        size: int | None = 3

    config = apply_overrides(Choices(), {"tokens": "none", "size": "none"})
    assert config == Choices(tokens="none", size=None)
    assert apply_overrides(Choices(), {"tokens": None}).tokens is None
