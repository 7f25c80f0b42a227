"""From what the page holds to one HTML file: our template, style and scripts, and the data, with nothing to fetch.

The file forbids itself everything else: its content security policy names the digests of the one script and the one
style that are ours, and allows pictures that lie in the file. So no text in the data can run, and no request leaves.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densebench.core.errors import UsageError
from densebench.core.text import plain
from densebench.leaderboard.cells import Grid, footnote_of, title
from densebench.leaderboard.row import Row, tables

FOLDER = Path(__file__).parent
SCRIPTS = ("kit", "model", "view", "table", "chart", "plots", "panels", "copy", "main")
"""Files of `js/`, in the order they are joined in; together they are one function, so names are shared and hidden."""
STATIC_CELLS = 40_000
"""Cells of the tables that are shown where JavaScript is off; further tables are named alone."""


def page(payload: Mapping[str, Any], rows: Sequence[Row] = (), name: str = "Leaderboard") -> str:
    """Return the page as HTML.

    Args:
        payload: as `data.payload` gives it.
        rows: what the static tables are made of.
        name: the page's heading.

    Raises UsageError where jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise UsageError("--format html needs jinja2: pip install 'densebench[page]'.") from None
    style, script = _text("page.css"), _script()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    static, unseen = _static(rows)
    return environment.from_string(_text("page.html.j2")).render(
        name=plain(name),
        policy=_policy(script, style),
        style=style,
        script=script,
        data=as_script(payload),
        omitted=payload["omitted"],
        static=static,
        unseen=unseen,
    )


def as_script(value: Any) -> str:
    """Return JSON that may stand in a script element of HTML: no tag, comment or line end of JavaScript is in it.

    >>> as_script({"name": "</script><b>"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003cb\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: whatever is none is escaped
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(script: str, style: str) -> str:
    allowed = {
        "default-src": "'none'",
        "script-src": _digest(script),
        "style-src": _digest(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{what} {whence}" for what, whence in allowed.items())


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _script() -> str:
    parts = "\n".join(_text(f"js/{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _static(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return tables for readers without JavaScript, and the names of those that there was no room for."""
    shown: list[dict[str, Any]] = []
    unseen: list[str] = []
    left = STATIC_CELLS
    for table, members in tables(rows).items():
        named = f"{table[1]} on {table[0]}, preset {table[2]}"
        grid = Grid.of(members)
        left -= len(grid.lines) * (len(grid.columns) + 1)
        if left < 0:
            unseen.append(named)
            continue
        heads = [title(row.metric, row.unit, row.higher_is_better) for row in grid.columns]
        lines = [(first.label, cells) for first, cells in grid.lines]
        shown.append({"name": named, "heads": heads, "lines": lines, "foot": footnote_of(members)})
    return shown, unseen
