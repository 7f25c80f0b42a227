"""The lines of the page: one per model and table, and the values that stand in it; published ones are lines too."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from densebench.core.text import plain
from densebench.leaderboard.beside import Beside, beside
from densebench.leaderboard.cells import DIGITS, footnote_of
from densebench.leaderboard.page.columns import Columns, Once, clipped, short
from densebench.leaderboard.page.facts import pretraining, printed_size, size_of
from densebench.leaderboard.published import PublishedRow
from densebench.leaderboard.row import Row, by_entry, tables
from densebench.results.schema import Record

STATUSES = ("measured here", "measured elsewhere", "published", "withdrawn")
HERE, ELSEWHERE, PUBLISHED, WITHDRAWN = range(len(STATUSES))
INFINITE = (math.inf, -math.inf)
Named = tuple[str, ...]


@dataclass
class Lines:
    """What is embedded of lines and values, and the record behind each line."""

    tables: list[dict[str, Any]] = field(default_factory=list)
    metrics: Once = field(default_factory=Once)
    models: Once = field(default_factory=Once)
    texts: Once = field(default_factory=Once)
    lines: Columns = field(
        default_factory=lambda: Columns(
            *("table", "model", "variant", "status", "hash", "date", "images", "seeds", "speed", "seconds"),
            *("memory", "gpu", "setting", "about", "notes", "withdrawn"),
        )
    )
    values: Columns = field(
        default_factory=lambda: Columns("line", "metric", "value", "low", "high", "sd", "rank", "printed")
    )
    records: dict[int, Record] = field(default_factory=dict)
    """Of each measured line; of a mean over seeds the newest."""
    runs: dict[int, list[Record]] = field(default_factory=dict)
    """Of each measured line all, which differ in the seed."""
    rows: dict[int, list[Row]] = field(default_factory=dict)
    """Of each measured line, one per metric."""
    places: dict[int, int] = field(default_factory=dict)
    """The metric's number by the id of its row."""


def collect(
    rows: Sequence[Row], records: Iterable[Record], published: Sequence[PublishedRow], here: str | None = None
) -> Lines:
    """Return the lines of rows, and after all of them those that papers print of the same protocols and datasets.

    Those are at whatever setting; `beside` of each table says what sets theirs apart from it. No ablations.

    Args:
        rows: as `leaderboard_rows` gives them, ranked or not.
        records: those that the rows were made of.
        published: any; those without a measured row of their protocol and dataset are left out.
        here: what this machine's processor is called; None: no line was measured elsewhere.
    """
    made = Lines()
    behind = {_named_record(record): record for record in sorted(records, key=lambda record: record.created)}
    for table, members in tables(rows).items():
        first = members[0]
        place = len(made.tables)
        made.tables.append(
            {
                **dict(zip(("data", "protocol", "setting"), table, strict=True)),
                "version": first.protocol_version,
                "dataset": first.dataset,
                "foot": footnote_of(members),
                "beside": {},
            }
        )
        for entry in by_entry(members):
            own = list(entry.values())
            runs = [behind[named] for named in map(_named_row, own[0].each) if named in behind]
            _measured(made, place, own, runs, _status(own[0], runs, here))
    behind_task: dict[tuple[str, str], int] = {}
    for place, members in enumerate(tables(rows).values()):
        near = beside(members, published) if published else ()
        made.tables[place]["beside"] = {group.setting: plain(group.text) for group in near}
        task = members[0].protocol, members[0].data
        if behind_task.setdefault(task, place) == place:
            _published(made, place, members, near)
    return made


def _measured(made: Lines, table: int, own: list[Row], runs: list[Record], status: int) -> None:
    row, record = own[0], max(runs, key=lambda run: run.created, default=None)
    costs = [run.cost for run in runs]
    line = made.lines.add(
        {
            "table": table,
            "model": _model(made, row.model, record),
            "variant": made.texts(row.variant),
            "status": status,
            "hash": row.score_hash,
            "date": row.date,
            "images": row.n_images,
            "seeds": max(each.seed_count for each in own),
            "speed": _mean(cost.images_per_second for cost in costs),
            "seconds": _mean(cost.seconds.get("total") for cost in costs),
            "memory": max((cost.peak_memory_bytes for cost in costs), default=None),
            "gpu": max((cost.peak_gpu_bytes for cost in costs), default=0) or None,
            "setting": made.texts(made.tables[table]["setting"]),
            "about": made.texts(clipped(_about(record))) if record else None,
            "notes": [made.texts(clipped(plain(note))) for note in record.notes] if record else [],
            "withdrawn": made.texts(row.withdrawn) if row.withdrawn else None,
        }
    )
    if record is not None:
        made.records[line], made.runs[line] = record, runs
    made.rows[line] = own
    for each in own:
        made.places[id(each)] = _metric(made, each)
        made.values.add(
            {
                "line": line,
                "metric": made.places[id(each)],
                "value": short(each.value),
                "low": short(each.ci95_low),
                "high": short(each.ci95_high),
                "sd": short(each.seed_sd, 3),
                "rank": each.rank,
            }
        )


def _published(made: Lines, place: int, members: Sequence[Row], near: Sequence[Beside]) -> None:
    """Append the papers' lines that stand beside a table of ours, the first of its protocol and data."""
    units = {row.quantity: row for row in members}
    for group in near:
        setting = group.setting if group.whole else f"{group.setting}, on the whole dataset"
        for label, entry in group.entries.items():
            kept = [row for row in entry.values() if row.quantity in units]
            if not kept:
                continue
            first = kept[0]
            notes = filter(None, dict.fromkeys(row.note for row in kept))
            model = {"name": label, "size": printed_size(first.backbone), **pretraining(first.zoo_name)}
            line = made.lines.add(
                {
                    "table": place,
                    "model": made.models({**model, "parameters": None}, f"published {label} {first.zoo_name}"),
                    "variant": made.texts(""),
                    "status": PUBLISHED,
                    "hash": "; ".join(dict.fromkeys(row.source for row in kept)),
                    "setting": made.texts(setting),
                    "notes": [made.texts(note) for note in notes],
                }
            )
            for row in kept:
                value = {"value": short(row.value), "printed": row.printed}
                made.values.add({"line": line, "metric": _metric(made, row, units[row.quantity]), **value})


def _metric(made: Lines, row: Row | PublishedRow, like: Row | None = None) -> int:
    """Return the number of a metric; a published one has unit and direction of ours."""
    ours = like or row
    assert isinstance(ours, Row)
    described = {
        "label": row.metric,
        "quantity": row.quantity,
        "at": {name: str(value) if value != value or value in INFINITE else value for name, value in row.at.items()},
        "unit": ours.unit,
        "up": ours.higher_is_better,
        "digits": DIGITS.get(ours.unit, 3),
        "main": ours.main,
    }
    place = made.metrics(described, (row.protocol, row.key, ours.unit, ours.higher_is_better))
    if isinstance(row, Row) and row.main:
        made.metrics.values[place]["main"] = True
    return place


def _model(made: Lines, name: str, record: Record | None) -> int:
    if record is None:
        return made.models({"name": name, "size": "not known", **pretraining(name), "parameters": None}, name)
    model = record.model
    described = {
        "name": name,
        "size": size_of(model),
        **pretraining(name),
        "parameters": model.parameters,
        "patch": model.patch,
        "width": model.width,
        "depth": model.depth,
        "licence": clipped(plain(model.licence)),
        "citation": clipped(plain(model.citation)),
        "weights": model.weights_sha256[:12],
    }
    return made.models(described, (name, model.weights_sha256, model.parameters))


def _about(record: Record) -> str:
    """Return in one text what a record was measured with: source of the protocol's setting, versions, device."""
    said = [f"{record.protocol.name} version {record.protocol.version}", record.protocol.source]
    versions = (f"{name} {record.environment[name]}" for name in ("densebench", "torch") if name in record.environment)
    device = record.environment.get("gpu") or record.environment.get("cpu", "")
    return plain("; ".join(filter(None, (*said, ", ".join(versions), device))))


def _status(row: Row, runs: Iterable[Record], here: str | None) -> int:
    if row.withdrawn:
        return WITHDRAWN
    where = {run.environment.get("cpu", here) for run in runs}
    return ELSEWHERE if here is not None and where - {here} else HERE


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return short(statistics.fmean(known), 4) if known else None


def _named_record(record: Record) -> Named:
    named = record.data.label, record.protocol.name, record.protocol.label, record.model.name or "(no name)"
    return *map(plain, named), record.score_hash


def _named_row(row: Row) -> Named:
    return row.data, row.protocol, row.setting, row.model, row.score_hash
