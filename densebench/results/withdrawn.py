"""Versions of protocols whose scores are not to be compared any more, and why: `withdrawn.csv`."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path

from densebench.results.schema import Record

FILE = Path(__file__).with_name("withdrawn.csv")


def withdrawn(protocol: str, version: int) -> str:
    """Return why a version of a protocol was withdrawn; "" where it was not.

    >>> withdrawn("positional_effect", 3)
    'NMI of images that show one label was up to 2 by rounding; it is 0'
    """
    return _reasons().get((protocol, version), "")


def withdrawal(record: Record) -> str:
    """Return why a record is not to be compared any more: taken back, or of a withdrawn version; "" where it is."""
    version = record.protocol.version
    reason = withdrawn(record.protocol.name, version)
    return record.withdrawn or (f"version {version} of the protocol: {reason}" if reason else "")


@functools.cache
def _reasons() -> Mapping[tuple[str, int], str]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return {(line["protocol"], int(line["version"])): line["reason"] for line in csv.DictReader(file)}
