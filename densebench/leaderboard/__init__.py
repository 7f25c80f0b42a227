"""The leaderboard: pure functions of result records, written as CSV, Markdown, JSON and pictures.

`rows.py` makes flat rows (`row.py`) of records; `markdown.py`, `console.py`, `plots.py` and `curves.py` show rows;
`layers.py` and `positional.py` show studies of whole networks, which `studies.py` finds; `page` is one HTML file of
everything; `published.py` holds what papers print, `beside.py` sets it beside ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from densebench.core.errors import UsageError
from densebench.core.paths import write_atomically
from densebench.leaderboard.console import console_table
from densebench.leaderboard.latex import latex
from densebench.leaderboard.markdown import markdown
from densebench.leaderboard.published import FILE, PublishedRow, published_rows
from densebench.leaderboard.row import Row, Table, tables, to_csv, to_json
from densebench.leaderboard.rows import Selection, leaderboard_rows, select
from densebench.results.schema import Record
from densebench.results.store import ResultStore, slug

FORMATS = ("csv", "md", "json", "latex", "models", "png", "html")
TABLES = ("csv", "md")
"""What `run` writes by itself."""
ROWS = "leaderboard.csv"


def write_leaderboard(
    results: str | Path,
    formats: Sequence[str] = ("csv", "md", "png"),
    *,
    published: bool = False,
    limited: bool = False,
    protocols: Iterable[str] | None = None,
    datasets: Iterable[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write `leaderboard.csv`, `.md`, `.json`, `.html` and `plots/*.png` into a results folder; return those written.

    Sweeps of `positional_effect` add `positional_study.csv` and pictures of all models together.

    With `published`, the papers' values stand below ours, in grey in the plots, and as `published.csv` beside. With
    `limited`, records of --limit runs have tables of their own, which say so. `report` is told, a line each, what is
    left off: such records otherwise, files that cannot be read, and pictures that cannot be drawn (by default they are
    logged). Each file is written whole or not at all, so two processes may do this at once.

    Raises UsageError for an unknown format, and StorageError where the folder holds no records or cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"no leaderboard format {name!r}; there are {', '.join(FORMATS)}.")
    results = Path(results)
    ResultStore(results).check()
    report = report or logging.getLogger(__name__).warning
    selection = select(results, protocols, datasets)
    for problem in selection.unreadable:
        report(problem)
    records = selection.records
    if limited:
        records += selection.limited
    elif selection.limited:
        count = len(selection.limited)
        report(
            f"{count} record{'s' if count > 1 else ''} of --limit runs left off the leaderboard; "
            "`densebench leaderboard --limited` shows them."
        )
    from densebench.leaderboard.ranked import ranked  # SciPy takes a while to import

    rows = ranked(leaderboard_rows(records, limited=limited), results, records)
    printed = published_rows() if published else ()

    files: dict[str, str | bytes] = {}
    pictures: dict[Table, list[str]] = {}
    if "png" in formats:
        from densebench.figures.png import png  # matplotlib takes a second to import
        from densebench.leaderboard import drawing, plots

        for table, figures in plots.figures(rows, printed, records, report).items():
            for name, figure in figures.items():
                files[f"plots/{name}.png"] = png(figure, drawing.DPI)
                pictures.setdefault(table, []).append(f"plots/{name}.png")
    for table, name, content in _study(results, records, rows, formats, report):
        files[name] = content
        if name.endswith(".png"):
            pictures.setdefault(table, []).append(name)
    if "csv" in formats:
        files[ROWS] = to_csv(rows)
    if "json" in formats:
        files["leaderboard.json"] = to_json(rows)
    if "latex" in formats:
        files["leaderboard.tex"] = latex(rows, printed)
    if "models" in formats:
        for name in dict.fromkeys(slug(row.model) for row in rows):  # one file each: contributions do not conflict
            files[f"models/{name}.csv"] = to_csv([row for row in rows if slug(row.model) == name])
    if "html" in formats:
        from densebench.leaderboard.page import folder_page

        files["leaderboard.html"] = folder_page(results, rows, records, report)
    if "md" in formats:
        files["leaderboard.md"] = markdown(rows, printed, pictures)
    if published:
        files["published.csv"] = FILE.read_bytes()
    for name, content in files.items():
        write_atomically(results / name, content)
    return [results / name for name in files]


def write_rows(results: str | Path) -> None:
    """Write `leaderboard.csv` alone, of the complete records so far, without ranks: cheap enough after every cell."""
    write_atomically(Path(results) / ROWS, to_csv(leaderboard_rows(select(results).records)))


def is_current(results: str | Path) -> bool:
    """Whether the tables are there, and newer than every record."""
    results = Path(results)
    made = [results / ROWS, results / "leaderboard.md"]  # the last one written
    if not all(path.exists() for path in made):
        return False
    written = min(path.stat().st_mtime_ns for path in made)
    return all(path.stat().st_mtime_ns <= written for path in ResultStore(results).paths())


def _study(
    results: Path,
    records: Iterable[Record],
    rows: Sequence[Row],
    formats: Sequence[str],
    report: Callable[[str], None],
) -> Iterator[tuple[Table, str, str | bytes]]:
    """Yield (table, file, content) of the sweeps of `positional_effect`; the CSV file is of all tables."""
    if not {"csv", "png"} & set(formats):
        return
    from densebench.leaderboard import positional  # NumPy

    found = positional.find_sweeps(results, records, report)
    best = [row for sweeps in found.values() for row in positional.best_rows(sweeps)]
    if best and "csv" in formats:
        yield ("", "", ""), "positional_study.csv", to_csv(best)
    if not found or "png" not in formats:
        return
    from densebench.figures.png import png
    from densebench.leaderboard import drawing, layers

    styles = drawing.styles(rows)
    looks = {row.model: styles[row.label] for row in rows}
    members = tables(rows)
    for table, sweeps in found.items():
        stem = f"plots/{slug('--'.join(table))}"
        yield table, f"{stem}--correlation.png", png(layers.correlation(sweeps, members[table], looks), drawing.DPI)
        facet = positional.shared_facet(sweeps)
        if facet is None:
            continue
        try:
            yield table, f"{stem}--models.png", positional.model_grid(sweeps, facet)
        except UsageError as error:
            report(f"{table[0]}: no grid of models; {error}")
        except Exception as error:  # arrays that are there, but of other shapes than a sweep leaves
            report(
                f"{table[0]}: no grid of models; best.npz of one of them is damaged ({type(error).__name__}: {error})."
            )


__all__ = [
    "FORMATS",
    "TABLES",
    "PublishedRow",
    "Row",
    "Selection",
    "console_table",
    "is_current",
    "leaderboard_rows",
    "markdown",
    "published_rows",
    "select",
    "to_csv",
    "to_json",
    "write_leaderboard",
    "write_rows",
]
