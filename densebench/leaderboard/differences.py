"""What two numbers differ in beside the model, by name and in the order of its known effect (`effects.py`).

Two settings of a protocol, two records, or a record and what a paper prints. Nothing is computed here, and torch is not
imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from densebench.core.config import apply_overrides, as_json
from densebench.core.errors import UsageError
from densebench.core.text import plain
from densebench.leaderboard.effects import effect_of, place_of
from densebench.leaderboard.published import PublishedRow
from densebench.protocols import PROTOCOLS
from densebench.results.schema import Key, Record, SplitRecord, metric_label, setting_label

OPEN = (None, "auto")
"""Values that the model, the data or the machine decide."""
BY_DEFAULT = "by default"
"""What an open value is called: it follows from model and data."""
UNKNOWN = "not known"
"""What a paper does not say."""
SHORT = 12
"""Characters of a digest."""
LISTS = frozenset({"fractions", "clusters", "heads", "alphas"})
"""Settings that list what is measured, each by itself: a number at one of them does not depend on the others."""


@dataclass(frozen=True)
class Difference:
    """One thing that two numbers differ in, beside the model."""

    field: str
    """Of the config or the record, such as "input_size"."""
    a: str
    b: str
    """Both values in words."""

    @property
    def name(self) -> str:
        """What a reader calls it: "resolution"."""
        return effect_of(self.field).words

    @property
    def effect(self) -> str:
        """The largest effect that is known, with its source; "" where none is."""
        return effect_of(self.field).known

    @property
    def text(self) -> str:
        """The difference in words: "resolution (input_size): 448 against 518"."""
        field = "" if self.name.replace(" ", "_") == self.field else f" ({self.field})"
        return plain(f"{self.name}{field}: {self.a} against {self.b}")


class Setting(NamedTuple):
    """A preset of a protocol with what departs from it."""

    preset: str
    settings: Mapping[str, Any] = {}

    @property
    def label(self) -> str:
        """As tables have it: "paper + input_size=224"."""
        return setting_label(self.preset, self.settings)

    @classmethod
    def parse(cls, label: str) -> Setting:
        """Return the setting of a label such as published rows have: "paper + norm=false, fractions=[1, 8]"."""
        preset, _, rest = label.partition(" + ")
        pairs = (pair.partition("=") for pair in re.split(r", (?=\w+=)", rest) if pair)
        return cls(preset, {name: value for name, _, value in pairs})


def setting_differences(
    protocol: str,
    preset_a: str,
    settings_a: Mapping[str, Any],
    preset_b: str,
    settings_b: Mapping[str, Any],
) -> tuple[Difference, ...]:
    """Return the settings of a protocol that two presets with what departs from them differ in.

    Fields that cannot change a score are left out, and lists of what is measured (`LISTS`). A preset that this version
    does not have, as of a paper that does not print its settings, is one difference, `preset`.
    """
    pair = Setting(preset_a, settings_a), Setting(preset_b, settings_b)
    known = [_configured(protocol, setting) for setting in pair]
    return _ordered(_between(protocol, pair, known[0], known[1]))


def differences(a: Record, b: Record) -> tuple[Difference, ...]:
    """Return what two records differ in beside the model's name, by its known effect."""
    return _ordered(_of_records(a, b))


def published_differences(record: Record, row: PublishedRow, key: Key | None = None) -> tuple[Difference, ...]:
    """Return what sets a record apart from a paper's number, as far as the paper says; the rest is named as not known.

    Args:
        record: ours.
        row: theirs, whose preset is the one with the paper's setting.
        key: the metric of the record that stands beside it; None: the row's own.
    """
    return _ordered(_of_published(record, row, key or row.key))


def asked_differences(record: Record, asked: Setting) -> tuple[Difference, ...]:
    """Return what sets a record apart from a setting on whole splits."""
    ours = Setting(record.protocol.preset, record.protocol.settings)
    return _ordered([*_incomplete(record), *setting_differences(record.protocol.name, *ours, *asked)])


def _incomplete(record: Record) -> Iterable[Difference]:
    data = record.data
    for name, split in (("images", data.val), ("train", data.train)):
        if split and (missing := split.missing(data.limit)):
            yield Difference(name, missing, "the whole split")


def _between(
    protocol: str, pair: tuple[Setting, Setting], a: Mapping[str, Any] | None, b: Mapping[str, Any] | None
) -> Iterable[Difference]:
    if a is None or b is None:
        if pair[0].label != pair[1].label:
            yield Difference("preset", *(_preset_text(each, config) for each, config in zip(pair, (a, b), strict=True)))
        return
    yield from _mappings(a, b)


def _preset_text(setting: Setting, config: Mapping[str, Any] | None) -> str:
    return setting.label if config is not None else f"{setting.label} (whose settings are {UNKNOWN} here)"


def _configured(protocol: str, setting: Setting) -> dict[str, Any] | None:
    """Return every setting that can change a score as JSON has it, None where preset or protocol are not known."""
    found = PROTOCOLS.config(protocol) if protocol in PROTOCOLS else None
    presets = getattr(found, "presets", {})
    if found is None or setting.preset not in presets:
        return None
    own = {name: value for name, value in setting.settings.items() if name not in ("precision", "feature_dtype")}
    try:
        config = apply_overrides(found(), {**presets[setting.preset].settings, **own}, protocol)
    except UsageError:  # of a record or row of another version
        return None
    others = {name: setting.settings.get(name, default) for name, default in _FEATURES.items()}
    values: dict[str, Any] = json.loads(json.dumps(as_json(config)))
    return {name: value for name, value in values.items() if name not in _unscored(found)} | others


_FEATURES = {"precision": "float32", "feature_dtype": "float16"}
"""What `settings` of a record names beside its protocol's own, with the defaults."""


def _unscored(config: type[Any] | None) -> frozenset[str]:
    """Return the fields that cannot change a score."""
    return frozenset(field.name for field in fields(config or _Nothing) if not field.metadata.get("score", True))


@dataclass(frozen=True)
class _Nothing:
    """The config of a protocol that says none without torch."""


def _of_records(a: Record, b: Record) -> Iterable[Difference]:
    yield from _unequal("protocol", a.protocol.name, b.protocol.name)
    yield from _unequal("dataset", a.data.name, b.data.name)
    yield from _splits("images", a, b, a.data.val, b.data.val)
    if a.data.train and b.data.train:
        yield from _splits("train", a, b, a.data.train, b.data.train)
    yield from _unequal("classes", a.data.n_classes, b.data.n_classes)
    yield from _unequal("ignored", list(a.data.ignored), list(b.data.ignored))
    if a.model.name == b.model.name:  # of two models it goes without saying
        yield from _unequal("weights", a.model.weights_sha256[:SHORT], b.model.weights_sha256[:SHORT])
        yield from _unequal("mean", list(a.model.mean), list(b.model.mean))
        if "std" not in a.protocol.config:
            yield from _unequal("std", list(a.model.std), list(b.model.std))
    if a.protocol.name == b.protocol.name:
        config = PROTOCOLS.config(a.protocol.name) if a.protocol.name in PROTOCOLS else None
        yield from _mappings(a.protocol.config, b.protocol.config, {"examples", *_unscored(config)})
        yield from _unequal("version", a.protocol.version, b.protocol.version)
    yield from _unequal("seed", a.seed, b.seed)
    yield from _unequal("recall", sorted(set(_recalls(a.facts))), sorted(set(_recalls(b.facts))))
    yield from _unequal("precision", a.features.get("precision"), b.features.get("precision"))
    yield from _unequal("feature_dtype", a.features.get("dtype"), b.features.get("dtype"))
    yield from _unequal("densebench", a.environment.get("densebench", ""), b.environment.get("densebench", ""))


def _of_published(record: Record, row: PublishedRow, key: Key) -> Iterable[Difference]:
    yield from _unequal("protocol", record.protocol.name, row.protocol)
    yield from _unequal("dataset", record.data.name, row.dataset)
    yield from _unequal("quantity", metric_label(key[0], dict(key[1])), row.metric)
    yield from _incomplete(record)
    if record.protocol.name != row.protocol:
        return
    theirs = Setting.parse(row.preset)
    ours = Setting(record.protocol.preset, record.protocol.settings)
    published, asked = _configured(row.protocol, theirs), _configured(row.protocol, ours)
    if published is None:
        if theirs.label != ours.label:
            yield Difference("preset", ours.label, _preset_text(theirs, None))
        return
    # of fields that the preset leaves open, a record holds what they came to: they differ where ours are not open
    measured = record.protocol.config | {
        "precision": record.features.get("precision", _FEATURES["precision"]),
        "feature_dtype": record.features.get("dtype", _FEATURES["feature_dtype"]),
    }
    for name, value in published.items():
        mine = measured.get(name, value)
        if value in OPEN and (asked is None or asked[name] in OPEN):
            continue
        yield from _mappings({name: json.loads(json.dumps(mine, default=str))}, {name: value})


def _mappings(a: Mapping[str, Any], b: Mapping[str, Any], without: Iterable[str] = ()) -> Iterable[Difference]:
    for name in dict.fromkeys((*a, *b)):
        one, other = a.get(name, UNKNOWN), b.get(name, UNKNOWN)
        if one != other and name not in without and not _are_lists(name, one, other):
            yield Difference(name, value_text(one), value_text(other))


def _are_lists(name: str, *values: Any) -> bool:
    return name in LISTS and all(isinstance(value, list | tuple) for value in values)


def _splits(field: str, a: Record, b: Record, one: SplitRecord, other: SplitRecord) -> Iterable[Difference]:
    if one.digest != other.digest and a.data.name == b.data.name:
        counts = [
            f"{split.split}, {split.missing(record.data.limit) or split.n_images} images"
            for record, split in ((a, one), (b, other))
        ]
        if counts[0] == counts[1]:  # as many others, or other files of the same
            counts = [f"{text} ({split.digest[:SHORT]})" for text, split in zip(counts, (one, other), strict=True)]
        yield Difference(field, *counts)


def _recalls(facts: Any) -> list[float]:
    """Return every number that facts call recall, rounded: of searches that are not exact."""
    found: list[float] = []
    if isinstance(facts, Mapping):
        for name, value in facts.items():
            if name == "recall" and isinstance(value, float):
                found.append(round(value, 4))
            else:
                found += _recalls(value)
    elif isinstance(facts, list | tuple):
        for value in facts:
            found += _recalls(value)
    return found


def _unequal(field: str, a: Any, b: Any) -> Iterable[Difference]:
    if a != b:
        yield Difference(field, value_text(a), value_text(b))


def value_text(value: Any) -> str:
    """Return the value of a setting in words."""
    if value in OPEN:
        return BY_DEFAULT
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _ordered(found: Iterable[Difference]) -> tuple[Difference, ...]:
    return tuple(sorted(found, key=lambda difference: place_of(difference.field)))
