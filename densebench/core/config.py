"""Frozen dataclasses are the configuration: from TOML and `--set a.b=c` to typed values, and on to the score hash.

A field with `metadata={"score": False}` cannot change a score (a block size, say) and stays out of the hash.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from densebench.core.bounds import Auto, alternatives, bare, is_tuple, limits, words
from densebench.core.errors import UsageError
from densebench.core.paths import config_file
from densebench.core.registry import unknown_name
from densebench.core.regular import MOST_TOML, parse_toml, read, read_text

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named setting: what differs from a config's defaults, and where it is published."""

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


AS_PAPER = Preset(source="preset paper, which the embedded data needs no other setting than")
"""The preset `embedded` of a protocol that finishes in minutes as published."""


def default_preset(presets: Mapping[str, Preset], embedded: bool) -> str:
    """Return the preset where none is asked for: the paper's, cut down for embedded data; else the first."""
    wanted = "embedded" if embedded else "paper"
    return next((name for name in (wanted, "paper") if name in presets), next(iter(presets)))


def find_preset(owner: str, presets: Mapping[str, Preset], name: str) -> Preset:
    """Return the preset of a protocol or method (`owner`); raises UsageError for none of that name."""
    if name not in presets:
        said = str(unknown_name("preset", name, presets)).split(" Run ")[0]
        raise UsageError(f"{owner}: {said} It has {', '.join(presets)}.")
    return presets[name]


def no_score(default: Any) -> Any:
    """Return a dataclass field that cannot change a score and stays out of the hash."""
    return dataclasses.field(default=default, metadata={"score": False})


def later(default: Any) -> Any:
    """Return a dataclass field that came when there were results already: at its default it stays out of the hash.

    The default does what was done before the field was there, so those results are still found.
    """
    return dataclasses.field(default=default, metadata={"later": True})


def apply_overrides(config: C, overrides: Mapping[str, Any], room: str = "") -> C:
    """Return `config` with some fields replaced, typed and checked against their annotations and the bounds in these.

    Strings that are a choice of the field stay; others are read as TOML values where they are one (`5`, `0.1`, `true`,
    `[1, 2]`), `none` as None, else as text; one value is taken for a tuple of one. No number is NaN or infinite. Raises
    UsageError for unknown fields (with the nearest) and for values that a field cannot have; `room` is the protocol
    that messages name before the field.
    """
    from pydantic import ValidationError

    assert dataclasses.is_dataclass(config)
    known = [f.name for f in dataclasses.fields(config)]
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}."
            raise UsageError(f"{room or type(config).__name__} has no field {key!r}{hint}")
    kind: Any = type(config)
    hints = field_types(kind)
    given = {**as_dict(config), **{k: _parse(v, hints[k]) for k, v in overrides.items()}}
    for name, value in given.items():
        inside = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(each, bool) for each in inside) and "bool" not in str(hints[name]):  # would become 0 or 1
            raise _refused(room, name, value, hints[name])
    values = {name: _one_in_tuple(value, hints[name]) for name, value in given.items()}
    try:
        return _validator(kind).validate_python(values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        found = {e["type"]: e["msg"] for e in error.errors() if e["loc"][0] == name}
        raise _refused(room, name, given[name], hints[name], found) from None


@lru_cache(maxsize=64)
def _validator(config: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(config))


def type_error(value: Any, hint: Any) -> str:
    """Return in words what a type of numbers takes that `value` does not fit, "" where it does.

    No number is NaN or infinite, text, or a switch.
    """
    from pydantic import ValidationError

    if isinstance(value, (bool, str)):
        return words(hint)
    try:
        taken = _type_validator(hint).validate_python(value)
    except ValidationError as error:
        return _expected(hint, {e["type"]: e["msg"] for e in error.errors()})
    return words(hint) if isinstance(value, float) and isinstance(taken, int) else ""  # 16.0 stays what it is


@lru_cache(maxsize=64)
def _type_validator(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


@lru_cache(maxsize=64)
def field_types(config: type) -> dict[str, Any]:
    """Return the types of a config's fields, with their bounds."""
    return get_type_hints(config, include_extras=True)


def _one_in_tuple(value: Any, hint: Any) -> Any:
    """Return a tuple of one where a single value is given for one; what another type of the field takes stays."""
    others = [each for each in alternatives(hint) if not is_tuple(each)]
    if isinstance(value, (list, tuple)) or value is None or len(others) == len(alternatives(hint)):
        return value
    return value if any(value in get_args(bare(each)) for each in others) else (value,)


def _refused(room: str, name: str, value: Any, hint: Any, found: Mapping[str, str] | None = None) -> UsageError:
    """Return the error for a value that a field cannot have; `found` is what pydantic says is wrong."""
    shown = list(value) if isinstance(value, tuple) else value
    several = any(is_tuple(each) for each in alternatives(hint))
    lists = " A list is written as '[1, 2]' or '[\"a\"]'." if several and isinstance(value, str) else ""
    expected = _expected(hint, found or {})
    return UsageError(f"{f'{room}.' if room else ''}{name}={shown!r}: expected {expected}.{lists}")


def _expected(hint: Any, found: Mapping[str, str]) -> str:
    """Return in words what a type takes: of a number out of bounds these alone, for the rest is as it should be."""
    bounds = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
    out_of_bounds = found.keys() & bounds and found.keys() <= {*bounds, "literal_error"}
    if out_of_bounds and not any(is_tuple(each) for each in alternatives(hint)):
        return next((limits(each) for each in alternatives(hint) if limits(each)), next(iter(found.values())))
    expected = words(hint)
    if "finite_number" in found:
        expected = expected.replace("a number", "a finite number").replace("numbers", "finite numbers")
    return expected


def _parse(value: Any, hint: Any) -> Any:
    if not isinstance(value, str) or any(value in get_args(each) for each in alternatives(hint)):  # one of its choices
        return value
    if value.lower() in ("none", "null"):
        return None
    try:
        return parse_toml(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value


def as_dict(config: Any) -> dict[str, Any]:
    """Return the fields of a config, shallow."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def as_json(config: Any) -> dict[str, Any]:
    """Return the fields of a config as JSON holds them, nested ones too."""
    from pydantic import TypeAdapter

    found: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return found


def known(value: T | Auto | None, name: str) -> T:
    """Return a setting that `Protocol.resolve` filled in; raises ValueError where it is still open."""
    if value is None or value == "auto":
        raise ValueError(f"the setting {name} is still {value}: the config was not resolved")
    return value


def score_fields(config: Any) -> dict[str, Any]:
    """Return the fields that can change a score."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata.get("score", True)}


def score_hash(state: Mapping[str, Any]) -> str:
    """Return the hash of everything in `state`, independent of key order: 16 hexadecimal digits.

    The caller puts in all that can change a score and nothing else.
    """
    text = json.dumps(state, sort_keys=True, default=_plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {
            f.name for f in dataclasses.fields(value) if f.metadata.get("later") and getattr(value, f.name) == f.default
        }
        return {name: own for name, own in score_fields(value).items() if name not in old}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return _lists_in(value) or str(value)
    raise TypeError(f"{type(value).__name__} cannot enter a score hash")


def _lists_in(folder: Path) -> dict[str, str]:
    """Return a digest of each list in the folders of a folder: they decide a score, wherever they lie."""
    found = sorted(folder.glob("*/*.txt"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(read(path)).hexdigest() for path in found}


def split_settings(settings: list[str]) -> dict[str, dict[str, str]]:
    """Turn `--set hummingbird.neighbours=50` arguments into {"hummingbird": {"neighbours": "50"}}."""
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        room, dot, name = key.partition(".")
        if not (equals and dot and room and name):
            raise UsageError(f"--set takes PROTOCOL.FIELD=VALUE, such as hummingbird.neighbours=50; got {setting!r}.")
        found.setdefault(room, {})[name] = value
    return found


def split_pair(setting: str) -> tuple[str, str]:
    """Return (field, value) of FIELD=VALUE; raises UsageError for anything else."""
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes FIELD=VALUE; got {setting!r}.")
    return key, value


def user_settings() -> dict[str, Any]:
    """Return the user's settings file, {} where there is none; a broken one raises UsageError."""
    return read_toml(config_file()) if config_file().exists() else {}


def read_tables(path: Path, of: str) -> dict[str, dict[str, Any]]:
    """Read a TOML file of tables, one per protocol or method (`of`); raises UsageError for any other shape."""
    found = read_toml(path)
    for name, table in found.items():
        if not isinstance(table, dict):
            raise UsageError(
                f"{path}: {name} = {table!r} stands outside a table; expected [{of.upper()}] and the settings below it."
            )
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; one that is missing, no regular file, absurdly large or broken raises UsageError."""
    try:
        return parse_toml(read_text(path, MOST_TOML))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from None
