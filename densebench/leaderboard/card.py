"""All that a results folder knows of one model, as Markdown: numbers, settings, cost, licence, citation as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from densebench.core.errors import UsageError
from densebench.core.progress import duration
from densebench.core.registry import unknown_name
from densebench.core.text import plain
from densebench.leaderboard.cells import number
from densebench.leaderboard.markdown import literal, table_line
from densebench.leaderboard.row import Row, tables
from densebench.leaderboard.rows import leaderboard_rows
from densebench.results.schema import ModelRecord, Record

CITED = re.compile(r"(?P<authors>.+?), (?P<title>.+?), (?:(?P<venue>[^,]+?) )?(?P<year>(?:19|20)\d\d)")
"""How citations of the catalogue read: "Caron et al., Emerging Properties in ..., ICCV 2021"."""


def card(model: str, records: Iterable[Record]) -> str:
    """Return the card of a model by the name that tables show; raises UsageError where no record is of it."""
    listed = list(records)
    own = [record for record in listed if record.model.name == model]
    if not own:
        names = sorted({record.model.name for record in listed})
        found = f" It has {', '.join(names)}." if names else ""
        raise UsageError(
            f"no record is of {model!r}: {str(unknown_name('model', model, names)).split(' Run ')[0]}{found}"
        )
    newest = max(own, key=lambda record: record.created)
    lines = [f"# {literal(plain(model))}", "", *_facts(newest.model, own)]
    for members in tables(leaderboard_rows(own, limited=True)).values():
        lines += ["", *_table(members)]
    lines += ["", "## Cost", "", *_cost(own)]
    return "\n".join([*lines, "", "## Citation", "", "```bibtex", bibtex(newest.model), "```"]) + "\n"


def bibtex(model: ModelRecord) -> str:
    """Return a BibTeX entry of what a model's record cites; as a note where the text does not read as usual."""
    key = re.sub(r"\W+", "_", model.name).strip("_") or "model"
    text = _braced(" ".join(model.citation.split()) or f"{model.name}, weights {model.weights_sha256[:12]}")
    found = CITED.match(text)
    if not found:
        return f"@misc{{{key},\n  note = {{{text}}}\n}}"
    authors = found["authors"].replace(" et al.", " and others")
    fields = {"author": authors, "title": f"{{{found['title']}}}", "booktitle": found["venue"], "year": found["year"]}
    kind = "inproceedings" if found["venue"] else "misc"
    return "\n".join(
        [f"@{kind}{{{key},", *(f"  {name} = {{{value}}}," for name, value in fields.items() if value), "}"]
    )


def _braced(text: str) -> str:
    """Return a text that closes no brace of the entry it stands in, nor the block of code around that."""
    return re.sub(r"[{}\\`<>]", "", plain(text))


def _facts(model: ModelRecord, records: Sequence[Record]) -> Iterator[str]:
    parameters = "" if model.parameters is None else f"{model.parameters / 1e6:.1f} M"
    digests = sorted({record.model.weights_sha256 for record in records})
    yield "| | |"
    yield "| --- | --- |"
    for name, value in {
        "parameters": parameters,
        "patch, width, depth": f"{model.patch} px, {model.width}, {model.depth}",
        "tokens before the patches": str(model.prefix),
        "mean, deviation": f"{_numbers(model.mean)}; {_numbers(model.std)}",
        "weights (SHA-256)": ", ".join(digest[:16] for digest in digests),
        "licence": model.licence,
        "citation": model.citation,
    }.items():
        if value:
            yield table_line([name, _cell(value)])


def _table(members: Sequence[Row]) -> Iterator[str]:
    data, protocol, setting = (literal(text) for text in members[0].table)
    yield f"## {protocol} on {data}, preset {setting}"
    yield ""
    yield "| metric | value | 95 % interval | seeds | images | record |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for row in members:
        unit = "" if row.unit == "1" else f" {row.unit}"
        low, high = row.ci95_low, row.ci95_high
        interval = "" if low is None or high is None else f"{number(low, row.unit)} to {number(high, row.unit)}"
        name = f"{row.metric} (withdrawn: {row.withdrawn})" if row.withdrawn else row.metric
        marks = " ".join(f"`{each.score_hash[:8]}`" for each in row.each)
        cells = [_cell(name), f"{number(row.value, row.unit)}{unit}", interval, row.seed_count, row.n_images, marks]
        yield table_line(map(str, cells))


def _cost(records: Sequence[Record]) -> Iterator[str]:
    yield "| protocol | data | time | peak memory | bank | images/s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for record in sorted(records, key=lambda each: (each.protocol.name, each.data.label, each.seed)):
        cost = record.cost
        speed = "" if cost.images_per_second is None else f"{cost.images_per_second:.1f}"
        memory = f"{max(cost.peak_memory_bytes, cost.peak_gpu_bytes) / 1e9:.2f} GB"
        time, bank = duration(cost.seconds.get("total", 0.0)), f"{cost.bank_bytes / 1e9:.2f} GB"
        yield table_line((record.protocol.name, _cell(record.data.label), time, memory, bank, speed))


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _cell(text: str) -> str:
    return literal(plain(" ".join(text.split())))
