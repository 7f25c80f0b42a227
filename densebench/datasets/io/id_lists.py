"""Lists of image ids as people have them, read in one way: splits, curated lists, subsets, memories, a user's own.

A list is text, one image per line: UTF-8 with or without a byte order mark, UTF-16 with one, or Latin-1; any line
ends; blank lines and lines that begin with `#` are left out. A line is an id, be there blanks in it, or begins with
one; or with a file of it, as in `/JPEGImages/2007_000033.jpg /SegmentationClassAug/2007_000033.png`, also with the
slashes of Windows.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from densebench.core.errors import DatasetError
from densebench.core.regular import MOST_TEXT, read
from densebench.datasets.io.archive_index import holder
from densebench.datasets.io.archives import read_member

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".mat", ".json")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Known = Callable[[str], bool]


def read_lines(path: Path, where: str) -> list[str]:
    """Return the lines of a list that say something, stripped; the file may lie in an archive.

    Raises DatasetError, which begins with `where`, for a file that cannot be read, is too large, or is not text.
    """
    try:
        data = read_member(path) if holder(path) else read(path, MOST_TEXT)
    except OSError as error:
        raise DatasetError(f"{where} cannot be read ({error.strerror}).") from error
    lines = (line.strip() for line in re.split(r"\r\n|\r|\n", _text(data, where)))
    return [line for line in lines if line]


def _text(data: bytes, where: str) -> str:
    """Return the text of a list, whatever it is stored in."""
    try:
        text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # no byte is wrong in it; an id that it gets wrong is not found
    if "\0" in text:
        raise DatasetError(f"{where} is not text; expected one image id per line, saved as UTF-8.")
    return text


def ids_of(lines: Iterable[str], known: Known | None = None) -> list[str]:
    """Return the id that each line means, in their order, comments left out; an id that is not `known` as it stands.

    Without `known`, ids have neither blanks nor slashes nor endings of files: an id is the first word of its line, and
    of a file its name.
    """
    if known is None:
        words = (line.split()[0].replace("\\", "/") for line in lines if not line.startswith("#"))
        return [_stem(word.rpartition("/")[2]) for word in words]
    meant = ((line, next(filter(known, _meanings(line)), None)) for line in lines)
    return [line.split()[0] if id_ is None else id_ for line, id_ in meant if id_ or not line.startswith("#")]


def _meanings(line: str) -> Iterator[str]:
    """Yield what a line may mean, the plainest first: itself, its first word, that without comma, folders, ending.

    Accents may be composed in the list and not in the files, as on a Mac, or the other way round.
    """
    word = line.split()[0]
    texts = (line, word, line.partition(",")[0].strip(), word.partition(",")[0])
    for text in dict.fromkeys((*texts, *(text.replace("\\", "/") for text in texts))):
        parts = text.strip("/").split("/")
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            for plain in dict.fromkeys((end, _stem(end))):
                yield from dict.fromkeys((plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))))


def _stem(name: str) -> str:
    """Return a name without the ending of an image, an annotation or a mask; dots in an id stay."""
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending.lower()}" in ENDINGS else name


def read_ids(path: Path, where: str, known: Known | None = None) -> list[str]:
    """Return the sorted ids of a list; raises DatasetError as `read_lines` does, for no ids, and for one twice."""
    ids = ids_of(read_lines(path, where), known)
    if not ids:
        raise DatasetError(f"{where} is empty; expected one image id per line.")
    twice = repeated(ids)
    if twice:
        raise DatasetError(f"{where} lists {len(twice)} ids twice (first: {twice[0]}); list each once.")
    return sorted(ids)


def repeated(ids: Iterable[str]) -> list[str]:
    """Return the ids that are there more than once, sorted."""
    return sorted(id_ for id_, count in Counter(ids).items() if count > 1)
