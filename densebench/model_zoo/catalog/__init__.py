"""The named models of the field: `models.toml` says who published what, where it lies, and how its keys read."""

from __future__ import annotations

from densebench.model_zoo.catalog.entry import CatalogEntry
from densebench.model_zoo.catalog.loader import read_entries
from densebench.model_zoo.files.published import Published

ENTRIES = read_entries()
"""Every model of the catalogue by name, in the order of the table."""

__all__ = ["ENTRIES", "CatalogEntry", "Published"]
