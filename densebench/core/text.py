"""Words of others on a terminal and in files: without what would act there, in letters that the stream can carry."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from typing import TextIO

ASCII = {
    "↑": "^", "↓": "v", "→": "->", "←": "<-", "±": "+-", "≈": "~", "–": "-", "—": "-", "−": "-", "·": "-", "…": "~",
    "×": "x", "─": "-", "━": "-", "│": "|", "█": "#", "▇": "#", "▒": "+", "░": ".", "✓": "+", "✗": "x", "“": '"',
    "”": '"', "’": "'",
}  # fmt: skip
"""What stands for the characters that our own words use; of as few characters, since tables are laid out by them."""


def plain(text: str) -> str:
    """Return one line without characters that act: line breaks become spaces, escapes "?", marks of direction nothing.

    >>> plain("a\\nb \\x1b[31mred")
    'a b ?[31mred'
    """
    return "".join(_plain(letter) for letter in text) if not text.isprintable() else text


def degrade(text: str, encoding: str | None) -> str:
    """Return `text` with what `encoding` cannot carry in ASCII; as it is where it can carry everything.

    >>> degrade("miou ↑ 80.5 ± 1.0", "ascii")
    'miou ^ 80.5 +- 1.0'
    >>> degrade("miou ↑ 80.5 ± 1.0", "latin-1")
    'miou ^ 80.5 ± 1.0'
    """
    known = _known(encoding)
    return "".join(letter if _carried(letter, known) else ASCII.get(letter, "?") for letter in text)


def elide(text: str, longest: int = 40) -> str:
    """Return `text` with its middle left out where it is longer than `longest` characters.

    >>> elide("timm/vit_small_patch14_reg4_dinov2.lvd142m", 20)
    'timm/vit_s…2.lvd142m'
    """
    if len(text) <= longest:
        return text
    head = longest // 2
    return f"{text[:head]}…{text[len(text) - (longest - head - 1) :]}"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines as they may be shown: to stdout unless another stream is given, without what it cannot carry."""
    stream = stream or sys.stdout
    for line in text.split("\n"):
        print(degrade(plain(line), stream.encoding), file=stream)


def _plain(letter: str) -> str:
    kind = unicodedata.category(letter)
    if letter in "\t\n\v\f\r" or kind in ("Zl", "Zp"):
        return " "
    return {"Cc": "?", "Cs": "?", "Cf": ""}.get(kind, letter)


def _known(encoding: str | None) -> str:
    try:
        return codecs.lookup(encoding or "utf-8").name
    except LookupError:
        return "ascii"


def _carried(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
