"""The named models of the field, as data: who published what, where it lies, and how its keys read.

Sources: the projects' READMEs, hub files and loading code, and timm's table of weights. **No file was opened to
write this down**; what loading code or a README states is taken as it stands, and what had to be inferred says so in
`inferred`. Loading is strict either way: a wrong inference is an error that lists keys, never a wrong number.
"""

from __future__ import annotations

from densebench.model_zoo.catalog import dense, foundation, pretrained
from densebench.model_zoo.catalog.entry import Entry
from densebench.model_zoo.files.published import Published

ENTRIES: dict[str, Entry] = {
    entry.name: entry for part in (pretrained, dense, foundation) for family in part.FAMILIES for entry in family()
}
"""Every model of the catalogue by name, in the order of families."""

__all__ = ["ENTRIES", "Entry", "Published"]
