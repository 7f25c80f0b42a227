"""The system's viewer of pictures, where there is one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"


def find_viewer() -> list[str]:
    """Return the command that opens a file with what the user has chosen for it, [] where there is none."""
    if sys.platform == "darwin":
        return ["open"]
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    found = shutil.which("xdg-open") if has_screen else None
    return [found] if found else []


def pictures_beside(record: Path, names: Sequence[str]) -> list[Path]:
    """Return the pictures beside a record, of the `names` that it states, that are there and are PNG files.

    A record of others may name anything: what lies outside of its folder is left out.
    """
    found = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):  # which no file has, or which cannot be read
            folder = record.parent.resolve()
            path = (folder / name).resolve()
            if path.suffix == ".png" and path.is_relative_to(folder) and path.is_file() and _is_png(path):
                found.append(path)
    return found


def open_pictures(paths: Sequence[Path]) -> str:
    """Open pictures, and return in words what hinders it, "" where nothing does."""
    if not paths:
        return "no picture lies beside it; `densebench run --pictures N --overwrite` draws some."
    viewer = find_viewer()
    if not viewer and not hasattr(os, "startfile"):
        return "this machine has no viewer of pictures (no screen, or no xdg-open); their paths are above."
    for path in paths:
        if viewer:
            subprocess.Popen(
                [*viewer, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        else:
            os.startfile(path)  # type: ignore[attr-defined]  # Windows only
    return ""


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG
