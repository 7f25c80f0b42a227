"""What this machine is called in records; nothing but the standard library is imported."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path


def processor() -> str:
    """Return the processor's name with the number of its cores: "AMD EPYC 7763, 64 cores"."""
    return f"{_name()}, {os.cpu_count()} cores"


def _name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
