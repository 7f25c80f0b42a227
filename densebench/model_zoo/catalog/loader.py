"""From the table of models, `models.toml`, to entries; the head of that file says how it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from densebench.core.regular import parse_toml, read_text
from densebench.model_zoo.architecture import Architecture
from densebench.model_zoo.catalog.entry import CatalogEntry
from densebench.model_zoo.files.published import Published

FILE = Path(__file__).with_name("models.toml")
OF_THE_BASE = ("architecture", "patch", "prefix", "embedding")
WORDS = ("path", "after")
"""What other texts of a model name; no facts themselves."""

Facts = dict[str, Any]


def read_entries(file: Path = FILE) -> dict[str, CatalogEntry]:
    """Return the models of a table by name, in its order.

    Raises ValueError, with the model and the key, for a key that no entry has, a value of another type than an entry's,
    and a family, base or word that is named and not there.
    """
    families = parse_toml(read_text(file))
    models: dict[str, Facts] = {}
    for family in families.values():
        for name, row in family.get("models", {}).items():
            if name in models:
                raise ValueError(f"{file.name}: {name} is there twice")
            try:
                models[name] = _facts(name, _merged(_shared(family, families), _shared(row, families)), models)
            except KeyError as error:
                raise ValueError(f"{file.name}: {name} names {error}, and there is none above") from None
    for kind in (CatalogEntry, Architecture, Published):
        with_config(ConfigDict(extra="forbid", strict=True))(kind)
    try:
        return TypeAdapter(dict[str, CatalogEntry]).validate_json(json.dumps(models))
    except ValidationError as error:
        first = error.errors()[0]
        said = "there is no such key" if first["type"] == "unexpected_keyword_argument" else first["msg"]
        raise ValueError(f"{file.name}: {'.'.join(map(str, first['loc']))}: {said}") from None


def _shared(table: Facts, families: Facts) -> Facts:
    """Return what a family or a row says, and what the families say that it is like."""
    facts: Facts = {}
    for other in table.get("like", []):
        facts = _merged(facts, _shared(families[other], families))
    return _merged(facts, {key: value for key, value in table.items() if key not in ("like", "models")})


def _merged(facts: Facts, others: Facts) -> Facts:
    """Return facts with others in their place, table by table."""
    both = {key: _merged(facts[key], others[key]) for key in facts.keys() & others if isinstance(others[key], dict)}
    return facts | others | both


def _facts(name: str, row: Facts, models: dict[str, Facts]) -> Facts:
    """Return the fields of an entry: the net of its base, and its texts with what they name."""
    base = models[row["base"]] if "base" in row else {}
    words = {"name": name, "base": base, **{key: row[key] for key in WORDS if key in row}}
    own = {key: _text(value, words) for key, value in row.items() if key not in ("base", *WORDS)}
    return _merged({key: base[key] for key in OF_THE_BASE if key in base}, {"name": name, **own})


def _text(value: Any, words: Facts) -> Any:
    """Return a value with what its texts name in place."""
    if isinstance(value, dict):
        return {key: _text(each, words) for key, each in value.items()}
    if isinstance(value, list):
        return [_text(each, words) for each in value]
    return value if not isinstance(value, str) else None if value == "none" else value.format(**words)
