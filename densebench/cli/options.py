"""Types and parsing that several verbs share."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import arg

from densebench.errors import UsageError

Names = Annotated[str, arg(metavar="A[,B,...]")]
Debug = Annotated[bool, arg(help="Show the traceback of errors.")]
Quiet = Annotated[bool, arg(help="No progress.")]
Device = Annotated[str, arg(help="auto, cpu, cuda, cuda:1, ...")]


def split_names(text: str | None) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def split_pair(setting: str) -> tuple[str, str]:
    """Return (field, value) of FIELD=VALUE; raises UsageError for anything else."""
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes FIELD=VALUE; got {setting!r}.")
    return key, value
