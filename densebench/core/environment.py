"""The machine: which device to use, and what a result has to say about versions, hardware and memory."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from densebench.core.errors import UsageError
from densebench.core.machine import processor
from densebench.core.package import PACKAGE, __version__


def pick_device(asked: str) -> str:
    """Return the device to run on: as asked, or the best there is."""
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {asked}: no CUDA device answers. Use --device cpu or auto.")
    try:
        torch.zeros(1, device=asked).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises any of them for what is not there
        raise UsageError(f"--device {asked}: no such device here. Use auto, cpu, cuda, cuda:0, ...") from None
    return asked


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where there are none."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return (named or [str(number) for number in range(count)])[:count]


def environment(device: str) -> dict[str, str]:
    """Return versions, git commit and hardware, as text."""
    found = {"densebench": __version__, "python": platform.python_version()}
    libraries = ("torch", "torchvision", "timm", "numpy", "pillow", "faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "scann")
    for package in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    found["device"] = device
    found["cpu"] = processor()
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
    return found | _git()


def _git() -> dict[str, str]:
    """Return commit and state of the checkout the package runs from; nothing for an installed package."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit, changed = (
            subprocess.run(["git", "-C", root, *args], capture_output=True, text=True, timeout=10, check=True).stdout
            for args in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
        return {"git": commit.strip(), "git_state": "changed" if changed.strip() else "clean"}
    return {}


def available_memory() -> int | None:
    """Return bytes of main memory that can be taken now, None where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return None


class PeakMemory:
    """Peak resident memory of this process since `reset`, where Linux can tell; else since its start."""

    def reset(self) -> None:
        """Start anew."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> tuple[int, int]:
        """Return peak bytes of main memory and of GPU memory."""
        gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1]), gpu
        import resource

        scale = 1 if platform.system() == "Darwin" else 1024
        return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, gpu
