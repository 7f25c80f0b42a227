"""Which published rows stand beside a table of ours, and what their settings differ in from ours.

They are of the same protocol and dataset, at whatever setting; each setting is named with its differences, and numbers
of two settings are never ordered together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from densebench.leaderboard.differences import BY_DEFAULT, Difference, Setting, setting_differences
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row
from densebench.results.schema import Key

MARKS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Beside:
    """The published rows of one setting, beside one table of ours."""

    setting: str
    """Theirs: a preset with what departs from it."""
    rows: tuple[PublishedRow, ...]
    differences: tuple[Difference, ...]
    """What sets our setting (`a`) apart from theirs (`b`)."""
    alike: bool
    """Whether both are called the same and our data is the whole dataset: nothing to be said."""
    whole: bool
    """Whether our data is the whole dataset, as theirs."""

    @property
    def same(self) -> bool:
        """Whether neither settings nor data differ, whatever the names."""
        return self.whole and not self.differences

    @property
    def text(self) -> str:
        """What a footnote says: "published at preset neco: epochs=25, loaders=neco"."""
        data = "" if self.whole else " on the whole dataset"
        said = ", ".join(_said(difference) for difference in self.differences)
        return f"published at preset {self.setting}{data}: {said or 'the same settings'}"

    @property
    def caption(self) -> str:
        """What a picture says of them."""
        return "as printed by the papers" if self.alike else self.text

    @property
    def entries(self) -> dict[str, dict[Key, PublishedRow]]:
        """Their models by name, each as {metric: row}; no ablations, and once what two papers print alike."""
        found: dict[tuple[str, str], dict[Key, PublishedRow]] = {}
        for row in self.rows:
            if not row.variant:
                found.setdefault((row.label, row.paper), {}).setdefault(row.key, row)
        named: dict[str, dict[Key, PublishedRow]] = {}
        seen: list[tuple[str, dict[Key, float]]] = []
        for (label, paper), entry in found.items():
            values = label, {key: row.value for key, row in entry.items()}
            if values not in seen:
                seen.append(values)
                named[f"{label} ({paper})" if label.split()[0] != paper else label] = entry
        return named


def beside(members: Sequence[Row], published: Sequence[PublishedRow]) -> tuple[Beside, ...]:
    """Return the published rows of a table's protocol and dataset, by setting, that with least differences first.

    `members` are the rows of the table, which share data, protocol and setting.
    """
    first = members[0]
    settings: dict[str, list[PublishedRow]] = {}
    for row in published:
        if (row.protocol, row.dataset) == (first.protocol, first.dataset):
            settings.setdefault(row.preset, []).append(row)
    whole = first.data == first.dataset
    found = []
    for setting, rows in settings.items():
        differ = _differences(first.protocol, first.setting, setting)
        found.append(Beside(setting, tuple(rows), differ, whole and setting == first.setting, whole))
    return tuple(sorted(found, key=lambda each: (len(each.differences), each.setting != first.setting)))


def marks(tables: Iterable[Sequence[Beside]], published: Sequence[PublishedRow]) -> Mapping[str, str]:
    """Return a small number for each published setting that is to be told from that of any of some tables, in order."""
    told = {each.setting for table in tables for each in table if not each.alike}
    ordered = dict.fromkeys(row.preset for row in published if row.preset in told)
    return {setting: str(number).translate(MARKS) for number, setting in enumerate(ordered, 1)}


@lru_cache(maxsize=1024)
def _differences(protocol: str, ours: str, theirs: str) -> tuple[Difference, ...]:
    a, b = Setting.parse(ours), Setting.parse(theirs)
    return setting_differences(protocol, a.preset, a.settings, b.preset, b.settings)


def _said(difference: Difference) -> str:
    """Return their side of a difference: "epochs=25"; a preset whose settings nobody knows in words."""
    if difference.field == "preset":
        return difference.b
    if difference.b == BY_DEFAULT:
        return f"{difference.field} {BY_DEFAULT}"
    return f"{difference.field}={f'({difference.b})' if ', ' in difference.b else difference.b}"
