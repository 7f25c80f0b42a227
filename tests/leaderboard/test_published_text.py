"""Every number of the papers' tables is a row of the file, and every row a number of its table, read from their text.

Tables are read line by line and column by column: a value counts only beside those that are printed beside it, and with
those above and below it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from densebench.leaderboard import published_rows
from tests.conftest import SHARED

PAPERS = {"PaKA": "paka", "NeCo": "neco", "DIP": "dip", "Positional effect": "positional-effect"}
GAINS = re.compile(
    r"\$?\\(?:up|down)arrow *[\d.]+\\?%?\$?|\([+-]?[\d.]+%?\)|\\(?:row|cell)color(?:baselinecolor|white)"
)

Lines = list[list[str]]
"""The numbers of each line of a table, as printed but for a 0 before the point."""


@pytest.fixture(scope="module")
def texts():
    if not (SHARED / "papers").is_dir():
        pytest.skip("needs ../shared/papers (the papers as text), which is not beside this checkout")
    return {paper: (SHARED / "papers" / f"{file}.txt").read_text().splitlines() for paper, file in PAPERS.items()}


def number(cell: str) -> str | None:
    """Return a cell as the file has it: minutes of hours, seconds of "1:33"; None where it is not a number."""
    cell = GAINS.sub("", cell).strip()
    if found := re.fullmatch(r"(\d+) h (\d+) min", cell):
        return str(60 * int(found[1]) + int(found[2]))
    if found := re.fullmatch(r"([\d.]+)h", cell):
        return f"{60 * float(found[1]):g}"
    if found := re.fullmatch(r"(\d+):(\d+)", cell):
        return str(60 * int(found[1]) + int(found[2]))
    cell = cell.removesuffix(" GB per sample")
    return f"0{cell}" if cell.startswith(".") and cell[1:].isdigit() else cell if is_number(cell) else None


def is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def below(lines: list[str], caption: str, mark: str, first: int = 0, last: int | None = None, skip: int = 0) -> Lines:
    """Return the numbers of the block of lines with `mark` that follows the caption, of cells `first` to `last`.

    `skip` blocks are left out before it.
    """
    start = next(i for i, line in enumerate(lines) if line.startswith(caption))
    blocks: list[Lines] = [[]]
    for line in lines[start:]:
        if mark in line:
            cells = line.strip("| ").split("|") if mark == "|" else line.split(mark)
            blocks[-1].append([found for cell in cells[first:last] if (found := number(cell)) is not None])
        elif blocks[-1]:
            blocks.append([])
        if len(blocks) == skip + 2:
            break
    return [line for line in blocks[skip] if line]


def tabs(caption: str, first: int = 0, last: int | None = None, skip: int = 0) -> Callable[[list[str]], Lines]:
    return lambda lines: below(lines, caption, "\t", first, last, skip)


def pipes(caption: str, first: int = 1, last: int | None = None) -> Callable[[list[str]], Lines]:
    return lambda lines: below(lines, caption, "|", first, last)


def without(kept: Callable[[int], bool], read: Callable[[list[str]], Lines]) -> Callable[[list[str]], Lines]:
    """Read a table without some of its columns of numbers."""
    return lambda lines: [[text for i, text in enumerate(line) if kept(i)] for line in read(lines)]


def until(line: str, read: Callable[[list[str]], Lines]) -> Callable[[list[str]], Lines]:
    return lambda lines: read(lines[: next(i for i, text in enumerate(lines) if text.startswith(line))])


def components(lines: list[str]) -> Lines:
    start = next(i for i, line in enumerate(lines) if line.startswith("Table 6:"))
    return [[found for line in lines[start + 3 : start + 7] for found in re.findall(r"\s(\d+\.\d)", line)]]


def best_layers(lines: list[str]) -> Lines:
    start = next(i for i, line in enumerate(lines) if line.startswith("Table 3:"))
    read = [re.sub(r"\[\w+\]|\([^)]*\)", "", line).replace("/", " /").split() for line in lines[start + 3 : start + 21]]
    return [[cell for cell in line if is_number(cell)] for line in read]


def norms(caption: str) -> Callable[[list[str]], Lines]:
    """Return a reader of tables 4 and 5: a column per model, below each other before and after the norm."""

    def read(lines: list[str]) -> Lines:
        start = next(i for i, line in enumerate(lines) if line.startswith(caption))
        before, after = (lines[start + at].split()[1:] for at in (3, 4))
        return [[*pair] for pair in zip(before, after, strict=True)]

    return read


def correlations(lines: list[str]) -> Lines:
    return [[found] for line in lines for found in re.findall(r"\\rho=(-?[\d.]+)", line)]


TABLES: dict[tuple[str, str], Callable[[list[str]], Lines]] = {
    **{("PaKA", str(n)): tabs(f"Table {n}:") for n in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)},
    ("PaKA", "5a"): tabs("Table 5:", 0, 4),
    ("PaKA", "5b"): tabs("Table 5:", 4, 9),
    ("PaKA", "5c"): tabs("Table 5:", 9),
    ("NeCo", "1a"): tabs("Table 1:", 0, 7),
    ("NeCo", "1b"): tabs("Table 1:", 7),
    **{("NeCo", str(n)): tabs(f"Table {n}:") for n in (2, 3, 4, 7, 8)},
    ("NeCo", "5a"): tabs("Table 5:", 0, 5),
    ("NeCo", "5b"): tabs("Table 5:", 5),
    ("NeCo", "5c"): tabs("Table 5:", 0, 5, skip=1),
    ("NeCo", "5d"): tabs("Table 5:", 5, 10, skip=1),
    ("NeCo", "5e"): tabs("Table 5:", 10, skip=1),
    ("NeCo", "6"): components,
    ("NeCo", "9a"): tabs("Table 9:", 1, 6),
    ("NeCo", "9b"): tabs("Table 9:", 7),
    ("NeCo", "9c"): tabs("Table 9:", 0, 6, skip=1),
    ("NeCo", "9d"): tabs("Table 9:", 7, skip=1),
    ("NeCo", "10"): without(lambda i: i not in (1, 2), tabs("B.5 Computational Analysis")),  # epochs and batch size
    ("DIP", "1"): pipes("4.1 Experimental Setup"),
    ("DIP", "2"): pipes("| Method | Backbone | ADE20K", last=8),  # without the mean of gains
    ("DIP", "3"): pipes("| Method | DINOv2R"),
    ("DIP", "4"): pipes("Monocular depth prediction."),
    ("DIP", "5"): pipes("Post-training other base models."),
    ("DIP", "6a"): until("| Distractor", pipes("| Objective")),
    ("DIP", "6b"): until("| Positive example", pipes("| Distractor")),
    ("DIP", "6c"): until("| Segm. Labels", pipes("| Positive example")),
    ("DIP", "6d"): until("| #Pseudo-classes", pipes("| Segm. Labels")),
    ("DIP", "6e"): until("| Dataset |", pipes("| #Pseudo-classes")),
    ("DIP", "6f"): pipes("| Dataset |"),
    ("DIP", "7"): lambda lines: pipes("| Temperature")(lines)[1:],  # without the line of temperatures
    ("DIP", "8"): pipes("| Method | Backbone | COCO"),
    ("DIP", "9"): pipes("| Method | Backbone | PascalVOC | |||"),
    ("DIP", "10"): pipes("| PascalVOC | ADE20K | |||||||"),
    ("Positional effect", "3"): best_layers,
    ("Positional effect", "4"): norms("Table 4:"),
    ("Positional effect", "5"): norms("Table 5:"),
    ("Positional effect", "figure 9"): correlations,
}
"""How each table is read. The README of open-hummingbird-eval is no paper."""
SEVERAL = {("NeCo", "3"), ("NeCo", "6"), ("DIP", "3"), ("DIP", "7"), ("Positional effect", "figure 9")}
"""Tables whose lines are of several models: compared as a whole."""


def counted(groups: Iterable[Iterable[str]]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sorted(group)) for group in groups)


def test_every_table_is_read():
    known = {(row.paper, table) for row in published_rows() for table in row.tables if row.paper in PAPERS}
    assert known == set(TABLES)


@pytest.mark.parametrize(("paper", "table"), TABLES, ids="-".join)
def test_a_table_and_its_rows_have_the_same_values(texts, paper, table):
    lines = TABLES[paper, table](texts[paper])
    rows = [row for row in published_rows() if row.paper == paper and table in row.tables]
    if (paper, table) in SEVERAL:
        assert Counter(row.printed for row in rows) == Counter(text for line in lines for text in line)
        return
    by_model: dict[str, list[str]] = {}
    by_column: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        by_model.setdefault(row.label, []).append(row.printed)
        preset = row.preset if paper == "Positional effect" else ""  # else a line of one table may be another's setting
        by_column.setdefault((row.protocol, row.dataset, row.metric, preset), []).append(row.printed)
    assert counted(by_model.values()) == counted(lines)
    if len({len(line) for line in lines}) == 1:  # but where a cell is empty
        assert counted(by_column.values()) == counted(zip(*lines, strict=True))


def test_a_wrong_value_is_seen(texts):
    lines = TABLES["PaKA", "2"](texts["PaKA"])
    assert lines[-1] == ["82.2", "82.5", "62.6", "40.9"]
    assert counted([*lines[:-1], ["82.2", "82.5", "62.6", "40.8"]]) != counted(lines)
