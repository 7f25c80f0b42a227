"""Types and parsing that several verbs share."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import arg

Names = Annotated[str, arg(metavar="A[,B,...]")]
Debug = Annotated[bool, arg(help="Show the traceback of errors.")]
Quiet = Annotated[bool, arg(help="No progress.")]
Device = Annotated[str, arg(help="auto, cpu, cuda, cuda:1, ...")]


def split_names(text: str | None) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []
