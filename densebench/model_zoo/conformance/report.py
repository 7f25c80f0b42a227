"""What `densebench check-model` prints: a table of findings and what to do about them, or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from densebench.model_zoo.conformance import NO_SIZE, Finding, Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES: dict[Outcome, str] = {"ok": "green", "note": "yellow", "failed": "bold red", "not applicable": "dim"}


def report(name: str, found: Iterable[Finding]) -> list[RenderableType]:
    """Return a table of all findings, what to do about those that are not ok, and a last line that counts."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    found = list(found)
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"check-model {name}", title_justify="left")
    for head in ("check", "outcome", "found"):
        table.add_column(head, overflow="fold", no_wrap=head != "found")
    left = [each for each in found if (each.outcome, each.found) == NO_SIZE[:2]]
    for each in found:
        if each not in left:
            table.add_row(Text(each.check), Text(each.outcome, STYLES[each.outcome]), Text(each.found))
    parts: list[RenderableType] = [table]
    if left:
        parts.append(Text(f"The {len(left)} other checks need a size that works.", STYLES[left[0].outcome]))
    for each in found:
        if each.outcome in ("failed", "note"):
            parts.append(Text(f"\n{each.outcome}: {each.check}", STYLES[each.outcome]))
            fix = f"\nto fix: {each.fix}" if each.fix else ""
            parts.append(Padding(Text(f"expected: {each.expected}{fix}"), (0, 0, 0, 2)))
    counts = Counter(each.outcome for each in found)
    return [*parts, Text("\n" + ", ".join(f"{counts[outcome]} {outcome}" for outcome in STYLES if counts[outcome]))]


def as_json(name: str, found: Iterable[Finding]) -> str:
    """Return all findings as a JSON object."""
    found = list(found)
    ok = not any(each.outcome == "failed" for each in found)
    return json.dumps({"model": name, "ok": ok, "findings": [dataclasses.asdict(each) for each in found]}, indent=1)
