"""Python files of the user's, with adapters or datasets: how they are imported, and what is said when they raise."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType


def import_file(path: Path) -> ModuleType:
    """Return a user's Python file as a module; raises whatever the file raises."""
    spec = importlib.util.spec_from_file_location(f"densebench_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickling an object for a worker process looks its class up here
    spec.loader.exec_module(module)
    return module


def raised(error: BaseException, file: Path) -> str:
    """Return what was raised, in a line, and which line of a user's file it came through."""
    lines = lines_in(file, error)
    where = f" ({file.name}, line {lines[-1]})" if lines else ""
    return f"raised {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}{where}"


def lines_in(file: Path, error: BaseException) -> list[int | None]:
    """Return the lines of a file that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if Path(frame.filename).absolute() == file.absolute()]
