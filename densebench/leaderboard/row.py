"""A row of the leaderboard: one metric of one record, or of several that differ in the seed alone.

Rows are flat: tables, plots and files are made of nothing else. `docs/results.md` explains each column.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from densebench.results.schema import Coordinate, Key, metric_key

FORMULA = ("=", "+", "-", "@")
"""How a text begins that a spreadsheet would compute."""

Table = tuple[str, str, str]
"""What rows of one table share: data, protocol, setting."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one record, or its mean over seeds; the fields are the columns of `leaderboard.csv`, in order."""

    model: str
    protocol: str
    dataset: str
    data: str
    """The dataset, with how its splits are not whole: "voc (120 of 1449)"."""
    preset: str
    settings: str
    """What departs from the preset: "input_size=224, neighbours=1"; mostly empty."""
    metric: str
    """What tables call it: "miou@1/8"."""
    quantity: str
    """Its name alone: "miou"."""
    at: Mapping[str, Coordinate]
    """Its coordinates, {"fraction": "1/8"}; each is a column of its own, `at_fraction`."""
    value: float
    unit: str
    ci95_low: float | None
    ci95_high: float | None
    n_images: int
    n_published: int | None
    n_train: int | None
    n_train_published: int | None
    seed_count: int
    seed_sd: float | None
    """Standard deviation over the seeds: of the run where there are several, else of what the protocol repeats."""
    score_hash: str
    """Of all records where there are several, separated by commas."""
    date: str
    """Day the cell finished, UTC."""
    main: bool
    higher_is_better: bool
    variant: str
    """What else sets records of one model in one table apart: "weights=ab01"; mostly empty."""
    limit: int | None
    """Empty on a leaderboard but for --limited; a number in what `run` shows of a --limit run."""
    seed: int | str
    """Several, separated by commas, where the row is a mean."""
    records: int
    """How many records the row is of; those of a mean follow it."""
    weights_sha256: str
    protocol_version: int
    densebench: str
    withdrawn: str
    """Why the record is not ranked any more; mostly empty."""
    rank: int | None = None
    """1 + how many models of the table are better (`ranks.py`); None where nothing was ranked yet, or is."""
    rank_by: str = ""
    """What ranks come from: "images" both saw, "intervals" that do not overlap, "some" of both."""
    apart: str = field(default="", metadata={"column": False})
    """What sets the table apart from another of the same name: other images, another version of the protocol."""
    members: tuple[Row, ...] = field(default=(), metadata={"column": False}, repr=False)
    """The rows that this one is the mean of."""

    @property
    def key(self) -> Key:
        """Which metric it is."""
        return metric_key(self.quantity, self.at)

    @property
    def label(self) -> str:
        """The model, with what sets it apart from its other records."""
        apart = ", ".join(filter(None, (self.variant, "withdrawn" if self.withdrawn else "")))
        return f"{self.model} ({apart})" if apart else self.model

    @property
    def setting(self) -> str:
        """The preset and what departs from it: "paper + neighbours=1"."""
        return f"{self.preset} + {self.settings}" if self.settings else self.preset

    @property
    def table(self) -> Table:
        """Rows of the same images, protocol and setting belong in one table, and no others."""
        return table_name(self.data, self.protocol, self.setting, self.apart)

    @property
    def each(self) -> tuple[Row, ...]:
        """The row of each record: this one, or those that it is the mean of."""
        return self.members or (self,)


def tables(rows: Iterable[Row]) -> dict[Table, list[Row]]:
    """Return rows grouped by (data, protocol, setting), in order of appearance."""
    grouped: dict[Table, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.table, []).append(row)
    return grouped


def by_entry(rows: Iterable[Row]) -> list[dict[Key, Row]]:
    """Return the rows of one table as one {metric: row} per model and variant, best first by the first metric."""
    entries: dict[tuple[str, str], dict[Key, Row]] = {}
    for row in rows:
        entries.setdefault((row.label, row.score_hash), {})[row.key] = row
    return list(entries.values())


def to_csv(rows: Iterable[Any]) -> str:
    """Return rows (dataclasses of one type) as CSV text; numbers with six significant digits, None empty.

    Rows behind a mean follow it. A coordinate is a column, there where any row has it. A text that a spreadsheet would
    compute begins with an apostrophe.
    """
    listed = list(_with_members(rows))
    coordinates = dict.fromkeys(f"at_{name}" for row in listed for name in getattr(row, "at", ()))
    names = _columns(listed[0] if listed else Row)
    if "at" in names:
        names[names.index("at") : names.index("at") + 1] = coordinates
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in listed:
        values = vars(row) | {f"at_{name}": value for name, value in getattr(row, "at", {}).items()}
        writer.writerow([_text(values.get(name)) for name in names])
    return out.getvalue()


def to_json(rows: Iterable[Row]) -> str:
    """Return rows as a JSON list of objects; a value that is not finite becomes null."""
    listed = [{name: _finite(getattr(row, name)) for name in _columns(row)} for row in _with_members(rows)]
    return json.dumps(listed, indent=1) + "\n"


def table_name(data: str, protocol: str, setting: str, apart: str) -> Table:
    """Return the table of what is called so, and is set apart so from others."""
    return data, protocol, f"{setting} ({apart})" if apart else setting


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _columns(row: Any) -> list[str]:
    return [each.name for each in fields(row) if each.metadata.get("column", True)]


def _with_members(rows: Iterable[Any]) -> Iterator[Any]:
    for row in rows:
        yield row
        yield from getattr(row, "members", ())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
