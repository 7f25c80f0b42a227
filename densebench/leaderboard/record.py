"""One record as a page of text: scores with intervals, per class, what departs from the preset, notes, pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from densebench.core.errors import UsageError
from densebench.leaderboard.cells import number
from densebench.results.schema import Metric, Record, settings_text
from densebench.results.store import ResultStore, hash_of
from densebench.results.withdrawn import withdrawal

LONGEST = 160
"""Characters of a fact or an environment's value before its end is left out: curves and lists are in the record."""


def find_records(results: str | Path, name: str) -> list[tuple[Path, Record]]:
    """Return the records of a score hash, of the beginning of one, or at a path, with their paths.

    Several are of one hash: a score under several names of its model, or presets. Raises UsageError for a name that is
    of none, or of several hashes, and StorageError for a file that cannot be read.
    """
    store = ResultStore(results)
    if os.path.isfile(name):  # which no text is too long for
        return [(Path(name), store.read(Path(name)))]
    hashes = {path: hash_of(path) for path in store.paths()}
    found = [path for path, score_hash in hashes.items() if name and score_hash.startswith(name)]
    if not found:
        raise UsageError(f"no record in {results} has a hash that begins with {name!r}: `densebench list results`.")
    if len({hashes[path] for path in found}) > 1:
        some = ", ".join(dict.fromkeys(hashes[path] for path in found))
        raise UsageError(f"{name!r} is the beginning of several hashes: {some}.")
    return [(path, store.read(path)) for path in found]


def record_page(path: Path, record: Record) -> str:
    """Return everything worth reading of a record as text."""
    protocol, data = record.protocol, record.data
    sections: list[tuple[str, Iterable[str]]] = [
        (
            "",
            [
                record.title,
                f"record {record.score_hash}, seed {record.seed}, {record.created}: {path}",
                f"{protocol.name} version {protocol.version}; {protocol.source}",
            ],
        ),
        ("Withdrawn", [withdrawal(record)] if withdrawal(record) else []),
        ("Scores, 95 % intervals over images", _scores(record.metrics)),
        ("Per class", _classes(record.metrics)),
        ("Departs from the preset", [settings_text({k: v}) for k, v in protocol.settings.items()]),
        ("Settings", [settings_text({k: v}) for k, v in protocol.config.items()]),
        ("Features", _pairs(record.features)),
        (
            "Data",
            [
                data.label,
                *(
                    f"{split.split}: {split.n_images} images, digest {split.digest[:16]}"
                    for split in (data.train, data.val)
                    if split
                ),
                *([f"left out as corrupt: {', '.join(data.skipped)}"] if data.skipped else []),
            ],
        ),
        ("Model", _pairs(record.model.model_dump())),
        ("Notes", record.notes),
        ("Facts", _pairs(record.facts)),
        ("Files", _files(path, record)),
        ("Environment", _pairs(record.environment)),
        ("Cost", _pairs(record.cost.model_dump())),
    ]
    lines: list[str] = []
    for heading, content in sections:
        listed = list(content)
        if listed and heading:
            lines += ["", f"{heading}:", *(f"  {line}" for line in listed)]
        elif listed:
            lines += listed
    return "\n".join(lines)


def _files(path: Path, record: Record) -> Iterator[str]:
    """Yield what lies beside a record, with the size of what it keeps of its images."""
    for name in record.artifacts:
        kept = record.statistics if record.statistics and record.statistics.file == name else None
        what = f": {kept.n_bytes / 1e6:.3f} MB, what each image adds to the scores" if kept else ""
        yield f"{path.parent / name}{what}"


def _scores(metrics: Iterable[Metric]) -> Iterator[str]:
    listed = list(metrics)
    wide = max((len(metric.label) for metric in listed), default=0)
    for metric in sorted(listed, key=lambda metric: not metric.main):
        text = f"{metric.label:<{wide}}  {number(metric.value, metric.unit)}"
        text += "" if metric.unit == "1" else f" {metric.unit}"
        if metric.ci95:
            text += " [" + ", ".join(number(end, metric.unit) for end in metric.ci95) + "]"
        if len(metric.seeds) > 1:
            values = (f"{seed}: {number(value, metric.unit)}" for seed, value in metric.seeds.items())
            text += f"; seeds {', '.join(values)}"
        yield text + (f"; {metric.ci_method}" if metric.ci_method else "")


def _classes(metrics: Iterable[Metric]) -> Iterator[str]:
    """Yield a line per class, a column per metric that has them."""
    having = [metric for metric in metrics if metric.per_class]
    if not having:
        return
    names = list(dict.fromkeys(name for metric in having for name in metric.per_class))
    wide = max(map(len, names))
    columns = [max(len(metric.label), 6) for metric in having]
    yield " " * wide + "".join(f"  {metric.label:>{width}}" for metric, width in zip(having, columns, strict=True))
    for name in names:
        cells = [metric.per_class.get(name) for metric in having]
        texts = ["-" if cell is None else number(cell, metric.unit) for cell, metric in zip(cells, having, strict=True)]
        yield f"{name:<{wide}}" + "".join(f"  {text:>{width}}" for text, width in zip(texts, columns, strict=True))


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        if text not in ("", "null"):
            yield f"{name}: {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"
