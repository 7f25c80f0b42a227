"""The leaderboard: pure functions of result records, written as CSV, Markdown, JSON and pictures.

`rows.py` makes flat rows of records; `markdown.py` and `plots.py` show rows; `published.py` holds what papers print.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from densebench.errors import StorageError, UsageError
from densebench.leaderboard.markdown import console_table, markdown
from densebench.leaderboard.published import FILE, PublishedRow, published_rows
from densebench.leaderboard.rows import Row, Selection, leaderboard_rows, select, to_csv, to_json
from densebench.paths import write_atomically

FORMATS = ("csv", "md", "json", "png")


def write_leaderboard(
    results: str | Path,
    formats: Sequence[str] = ("csv", "md", "png"),
    *,
    published: bool = False,
    protocols: Iterable[str] | None = None,
    datasets: Iterable[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write `leaderboard.csv`, `.md`, `.json` and `plots/*.png` into a results folder; return the files written.

    With `published`, the papers' values stand below ours, as grey marks in the line plots, and as `published.csv`
    beside. `report` is told, a line each, what is left off: records of --limit runs and files that cannot be read
    (by default they are logged). Each file is written whole or not at all, so two processes may do this at once.

    Raises UsageError for an unknown format, and StorageError where the folder holds no records or cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"no leaderboard format {name!r}; there are {', '.join(FORMATS)}.")
    results = Path(results)
    if not (results / "records").is_dir():
        raise StorageError(f"{results} holds no records; `densebench run --out {results}` makes some.")
    report = report or logging.getLogger(__name__).warning
    selection = select(results, protocols, datasets)
    for problem in selection.unreadable:
        report(problem)
    if selection.limited:
        count = len(selection.limited)
        report(f"{count} record{'s' if count > 1 else ''} of --limit runs left off the leaderboard.")
    rows = leaderboard_rows(selection.records)
    printed = published_rows() if published else ()

    files: dict[str, str | bytes] = {}
    pictures: dict[tuple[str, str, str], list[str]] = {}
    if "png" in formats:
        from densebench.leaderboard import plots  # matplotlib takes a second to import

        for table, figures in plots.figures(rows, printed).items():
            for name, figure in figures.items():
                files[f"plots/{name}.png"] = plots.png(figure)
                pictures.setdefault(table, []).append(f"plots/{name}.png")
    if "csv" in formats:
        files["leaderboard.csv"] = to_csv(rows)
    if "json" in formats:
        files["leaderboard.json"] = to_json(rows)
    if "md" in formats:
        files["leaderboard.md"] = markdown(rows, printed, pictures)
    if published:
        files["published.csv"] = FILE.read_bytes()
    for name, content in files.items():
        write_atomically(results / name, content)
    return [results / name for name in files]


__all__ = [
    "FORMATS",
    "PublishedRow",
    "Row",
    "Selection",
    "console_table",
    "leaderboard_rows",
    "markdown",
    "published_rows",
    "select",
    "to_csv",
    "to_json",
    "write_leaderboard",
]
