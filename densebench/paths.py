"""Where densebench keeps things on this machine, and how it writes them: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from densebench.errors import StorageError


def cache_dir() -> Path:
    """Return the folder of things that can be made again (features, digests): DENSEBENCH_CACHE or the user's."""
    return Path(os.environ.get("DENSEBENCH_CACHE") or platformdirs.user_cache_dir("densebench"))


def zoo_dir() -> Path:
    """Return the folder of checkpoints trained or fetched here: DENSEBENCH_ZOO or the user's data folder."""
    return Path(os.environ.get("DENSEBENCH_ZOO") or Path(platformdirs.user_data_dir("densebench")) / "zoo")


def config_file() -> Path:
    """Return the user's settings file: DENSEBENCH_CONFIG or config.toml in the user's config folder."""
    found = os.environ.get("DENSEBENCH_CONFIG")
    return Path(found) if found else Path(platformdirs.user_config_dir("densebench")) / "config.toml"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file, never half of one.

    Raises StorageError when the folder cannot be written or the disk is full; no partial file stays behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}). Free space or choose another folder, then run again: "
            "finished results are kept."
        ) from error
