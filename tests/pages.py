"""What the pages of the documentation tell readers to type: commands and blocks of Python.

A comment that readers do not see says what is not executed, and why:

    <!-- not run: needs weights from the network -->
    <!-- not run (dinov2): needs weights from the network -->

The first is about the whole of the block that follows, the second about its lines that contain the text in brackets;
several may stand above one block. What is not executed is still parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
MARK = re.compile(r"<!-- not run(?: \(([^)]+)\))?: (.+?) -->")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)


@dataclass(frozen=True)
class Snippet:
    """A command, or a block of Python."""

    page: str
    language: str
    text: str
    reason: str = ""
    """Why it is not executed; empty where it is."""

    @property
    def id(self) -> str:
        shown = self.text.splitlines()[0][:70]
        return f"{self.page}: {shown}" + (f" [{self.reason}]" if self.reason else "")


def snippets(text: str, page: str) -> list[Snippet]:
    """Return the commands and the Python blocks of a page, in its order."""
    found, end = [], 0
    for fence in FENCE.finditer(text):
        marks = MARK.findall(_above(text[end : fence.start()]))
        end = fence.end()
        language, content = fence.groups()
        if language == "bash":
            lines = content.replace("\\\n", " ").splitlines()
            texts = [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]
        else:
            texts = [content]
        found += [Snippet(page, language, each, _reason(marks, each)) for each in texts]
    return found


def _above(text: str) -> str:
    """Return the comments that stand right above a block."""
    lines = text.rstrip().splitlines()
    first = len(lines)
    while first and lines[first - 1].startswith("<!--"):
        first -= 1
    return "\n".join(lines[first:])


def _reason(marks: list[tuple[str, str]], text: str) -> str:
    return next((reason for part, reason in marks if part in text), "")


def all_snippets() -> list[Snippet]:
    """Return those of all pages."""
    made = []
    for path in PAGES:
        made += snippets(path.read_text(), path.relative_to(REPOSITORY / "docs").as_posix())
    return made
