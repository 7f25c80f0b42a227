"""What `list suites`, `show suite` and `leaderboard --suite` print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from densebench.cli.ready import dataset_status, model_status
from densebench.core.paths import write_atomically
from densebench.core.text import plain
from densebench.results.schema import setting_label
from densebench.suites import Suite, load_suite, suite_names
from densebench.suites.suite import TABLES

if TYPE_CHECKING:
    from densebench.results.schema import Record
    from densebench.suites.table import SuiteTable


def rows(root: Path | None) -> Iterator[tuple[str, str]]:
    """Yield (name, summary) of the built-in suites: what they are, how many cells, and how much of them is ready."""
    ready: dict[str, bool] = {}
    for name in suite_names():
        suite = load_suite(name)
        data = [each for each in suite.datasets if ready.setdefault(each, dataset_status(each, root) == "ready")]
        models = [each for each in suite.models if ready.setdefault(each, model_status(each) == "ready")]
        said = (
            f"{n_cells(suite)} cells; ready: {len(models)} of {len(suite.models)} models, {len(data)} of "
            f"{len(suite.datasets)} datasets"
        )
        yield name, f"{suite.title} ({suite.source or 'ours'}): {said}"


def n_cells(suite: Suite) -> int:
    """Return how many results the suite asks for, datasets that are ready counted as one."""
    return sum(len(cell.models) * max(1, len(cell.datasets)) * len(cell.seeds) for cell in suite.cells)


def page(name: str, root: Path | None, toml: bool = False) -> str:
    """Return a page on a suite: cells, models, data, published values, and what it takes on this machine."""
    suite = load_suite(name)
    if toml:
        return (Path(name) if name.endswith(".toml") else TABLES / f"{name}.toml").read_text(encoding="utf-8")
    lines = [f"{suite.title} ({suite.source or 'ours'})", f"  densebench run --suite {name}"]
    if suite.note:
        lines += ["", suite.note]
    lines += ["", f"Cells ({n_cells(suite)}):", *(f"  {line}" for line in _cells(suite))]
    lines += ["", "Models:", *(f"  {line}" for line in _models(suite, root))]
    lines += ["", "Datasets:", *(f"  {line}" for line in _datasets(suite, root))]
    lines += ["", "What it takes:", *(f"  {line}" for line in _cost(suite))]
    return plain_lines([*lines, *_published(suite)])


def plain_lines(lines: list[str]) -> str:
    """Return lines as text, without control characters in any."""
    return "\n".join(map(plain, lines))


def _cells(suite: Suite) -> Iterator[str]:
    for cell in suite.cells:
        setting = setting_label(cell.preset or "its default", cell.settings)
        own = f"; only {', '.join(cell.models)}" if len(cell.models) < len(suite.models) else ""
        seeds = f"; seeds {', '.join(map(str, cell.seeds))}" if len(cell.seeds) > 1 else ""
        yield f"{cell.protocol}, preset {setting}, on {', '.join(cell.datasets) or 'all that are ready'}{own}{seeds}"


def _models(suite: Suite, root: Path | None) -> Iterator[str]:
    from densebench.cli.ways import training_lines
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.empty import weights_size

    wide = max(map(len, suite.models), default=0)
    for name, label in suite.models.items():
        status, here = model_status(name), name not in ENTRIES or model_status(name) == "ready"
        size = "" if here else f", {weights_size(ENTRIES[name])}"
        yield f"{name:<{wide}}  {status}{size}" + (f"; the paper's row {label}" if label else "")
        if not here and ENTRIES[name].make:
            yield from (f"{'':<{wide}}    {line}" for line in training_lines(ENTRIES[name], root))
    if not suite.models:
        yield "those that --model names"
    missing = dict.fromkeys(row.label for row in suite.published() if suite.model_of(row) not in suite.models)
    if missing:
        yield f"printed, but nobody published the weights: {', '.join(missing)}"


def _datasets(suite: Suite, root: Path | None) -> Iterator[str]:
    from densebench.datasets.tools.fetch import REMOTES

    wide = max(map(len, suite.datasets), default=0)
    for name in suite.datasets:
        status, size = dataset_status(name, root), sum(remote.size for remote in REMOTES.get(name, ()))
        how = {
            "fetchable": f", {size / 1e9:.1f} GB: densebench data fetch {name}",
            "by hand": f": densebench data where {name}",
        }
        yield f"{name:<{wide}}  {status}{how.get(status, '')}"
    if not suite.datasets:
        yield "all that are ready, scenes where none is"


def _cost(suite: Suite) -> Iterator[str]:
    from densebench.core.environment import pick_device
    from densebench.core.progress import duration
    from densebench.runner.foresee import foresee
    from densebench.runner.plan import GPU, measured_flops

    found, device = foresee(suite), pick_device("auto")
    yield (
        f"about {duration(found.flops / measured_flops(device))} on this machine ({device})"
        + (f", {duration(found.flops / GPU)} on a GPU of {GPU / 1e12:.0f} TFLOP/s" if device == "cpu" else "")
        + f", for all {found.cells} cells on data as published"
    )
    yield f"features {found.cache_bytes / 1e9:.1f} GB (the cache keeps what --cache-size allows)"
    yield f"memory of the largest bank {found.bank_bytes / 1e9:.2f} GB"
    if found.unknown:
        yield f"not known of {len(found.unknown)} cells: {', '.join(found.unknown[:3])}" + (
            " and others" if len(found.unknown) > 3 else ""
        )


def _published(suite: Suite) -> Iterator[str]:
    from densebench.suites.table import suite_tables
    from densebench.suites.text import Footnotes, text_tables

    if not suite.paper:
        return
    yield from ("", "Published:")
    for table in text_tables(suite_tables(suite, ()), Footnotes()):
        yield from ("", f"  {table.title}")
        cells = [table.heads, *([text.removeprefix("- / ") for text in line] for line in table.lines)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(table.heads))]
        for line in cells:
            texts = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
            yield f"  {line[0]:<{widths[0]}}  {'  '.join(texts)}".rstrip()


def print_leaderboard(name: str, results: Path, limited: bool) -> Path:
    """Print a suite's results beside the published values, write them as Markdown, and return the file."""
    from densebench.leaderboard import select
    from densebench.results.store import slug
    from densebench.suites.text import suite_markdown

    selection = select(results)
    suite, tables = print_tables(name, selection.records + (selection.limited if limited else ()), limited)
    path = results / f"suite-{slug(Path(suite.name).stem)}.md"
    write_atomically(path, suite_markdown(suite, tables))
    return path


def print_tables(name: str, records: Iterable[Record], limited: bool) -> tuple[Suite, list[SuiteTable]]:
    """Print what records have of a suite beside the published values; return it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from densebench.core.text import degrade
    from densebench.leaderboard.console import blocks_of
    from densebench.suites.table import suite_tables
    from densebench.suites.text import LEGEND, Footnotes, text_tables

    suite, console, notes = load_suite(name), Console(), Footnotes()
    tables = suite_tables(suite, records, limited)
    head = f"{suite.title} ({suite.source or 'ours'})" + (f": {LEGEND}" if suite.paper else "")
    console.print(Text(degrade(head, console.encoding)), soft_wrap=True)
    for each in text_tables(tables, notes):
        cells = [[degrade(text, console.encoding) for text in line] for line in (each.heads, *each.lines)]
        widths = [max(len(line[at]) for line in cells) + 2 for at in range(len(each.heads))]
        console.print(Text(degrade(each.title, console.encoding), "bold"), soft_wrap=True)
        for block in blocks_of(widths[1:], console.width - widths[0]):
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for at in (0, *(at + 1 for at in block)):
                table.add_column(Text(cells[0][at]), justify="right" if at else "left", no_wrap=True)
            for line in cells[1:]:
                table.add_row(*(Text(line[at]) for at in (0, *(at + 1 for at in block))))
            console.print(table)
    for note in notes.lines():
        console.print(Text(degrade(note, console.encoding)), soft_wrap=True)
    return suite, tables
