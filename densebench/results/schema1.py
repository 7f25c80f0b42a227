"""Records of schema 1, whose metrics had coordinates in their names ("miou@1/8"): the one place that parses them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from densebench.results.schema import SCHEMA, Coordinate, metric_label

OLD = 1
SPELLINGS: tuple[re.Pattern[str], ...] = tuple(
    map(
        re.compile,
        (
            r"(?P<name>pck\w*)@(?P<alpha>\d+(\.\d+)?(e-\d+)?)(/(?P<facet>\w+))?",
            r"(?P<name>\w+)@K=(?P<clusters>\d+)",
            r"(?P<name>\w+)@(?P<fraction>1(/\d+)?)",
            r"(?P<name>\w+)@(?P<head>linear\d+)",
            r"(?P<name>\w+)@(?P<facet>token|key|query|value)",
        ),
    )
)
TYPES = {"alpha": float, "clusters": int}


def upgrade(state: Any) -> Any:
    """Return what a record's file holds as schema 2 has it; anything but a record of schema 1 as it is."""
    if not is_old(state) or not isinstance(state.get("metrics"), list):
        return state
    return {**state, "schema_version": SCHEMA, "metrics": [_upgraded(metric) for metric in state["metrics"]]}


def is_old(state: Any) -> bool:
    """Whether what a file holds calls itself a record of schema 1."""
    return isinstance(state, Mapping) and type(state.get("schema_version")) is int and state["schema_version"] == OLD


def parse_name(text: str) -> tuple[str, dict[str, Coordinate]]:
    """Return the name and the coordinates that a metric's name of schema 1 means; of an unknown spelling all is name.

    >>> parse_name("pck@0.10/key")
    ('pck', {'alpha': 0.1, 'facet': 'key'})
    """
    for spelling in SPELLINGS:
        if match := spelling.fullmatch(text):
            name, *at = ((key, found) for key, found in match.groupdict().items() if found is not None)
            coordinates = {key: TYPES.get(key, str)(found) for key, found in at}
            if metric_label(name[1], coordinates) == text:  # what tables call it stays
                return name[1], coordinates
    return text, {}


def _upgraded(metric: Any) -> Any:
    if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
        return metric  # which validation refuses
    name, at = parse_name(metric["name"])
    return {**metric, "name": name, "at": at}
