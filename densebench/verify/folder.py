"""Going through a folder of golden vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from densebench.core.errors import UsageError
from densebench.ops import faiss_calls
from densebench.verify.golden import Golden, GoldenCheck, GoldenError, read_arrays
from densebench.verify.kinds import find_kind, missing_arrays

SHIPPED = Path(__file__).parent / "vectors"
"""The small set that comes with the package; its README says what it is made of."""
NO_CHECK = "no check for this kind"


@dataclass
class FileReport:
    """What was found of one file."""

    file: str
    title: str = ""
    findings: list[GoldenCheck] = field(default_factory=list)
    problem: str = ""
    """Why there are no findings, or no more of them."""
    unused: list[str] = field(default_factory=list)
    """Arrays that no comparison looks at."""

    @property
    def ok(self) -> bool:
        """Whether there is something to compare, and all of it is within its tolerance."""
        return not self.problem and bool(self.findings) and all(finding.ok for finding in self.findings)

    @property
    def worst(self) -> GoldenCheck | None:
        """The finding nearest to its tolerance, or farthest beyond it; among equals the widest tolerance."""
        return max(self.findings, key=lambda f: (f.ratio, f.deviation, f.tolerance), default=None)


def list_files(folder: Path | None) -> list[Path]:
    """Return the ``.npz`` files of a folder in order, or the one file given; the shipped ones for None.

    Raises:
        UsageError: there is no such folder, or nothing in it.
    """
    folder = SHIPPED if folder is None else folder
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Give one with .npz files, or none for the set that is shipped.")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise UsageError(f"{folder}: no .npz file in it. Give a folder of golden vectors, or none for the shipped set.")
    return files


def pick_backends(asked: str, device: str) -> tuple[str, ...]:
    """Return the search backends to verify: the one asked for, or all exact ones that run here.

    Raises:
        UsageError: there is no such device, or the backend asked for is not installed or does not run on it.
    """
    try:
        reason = faiss_calls.why_not(torch.device(device))
    except RuntimeError as error:
        raise UsageError(f"--device {device}: torch knows no such device. Use auto, cpu or cuda.") from error
    if asked == "all":
        return ("torch",) if reason else ("torch", "faiss")
    if asked == "faiss" and reason:
        raise UsageError(f"--backend faiss: {reason}, or use --backend torch.")
    return (asked,)


def verify(files: list[Path], device: str = "cpu", backends: tuple[str, ...] = ("torch",)) -> Iterator[FileReport]:
    """Yield a report per file."""
    for path in files:
        yield verify_file(path, device, backends)


def verify_file(path: Path, device: str = "cpu", backends: tuple[str, ...] = ("torch",)) -> FileReport:
    """Return what the installed numerics make of one file."""
    report = FileReport(path.name)
    try:
        golden = Golden(path.stem, read_arrays(path), device, backends)
        kind = find_kind(path.stem, golden.names)
        if kind is None:
            report.problem = NO_CHECK
            return report
        report.title = kind.title
        missing = missing_arrays(kind, golden.names)
        if missing:
            plural = "arrays are" if len(missing) > 1 else "array is"
            report.problem = f"{len(missing)} {plural} missing: {', '.join(missing)}"
            return report
        for finding in kind.check(golden):
            report.findings.append(finding)
        report.unused = sorted(golden.names - golden.used)
    except GoldenError as error:
        report.problem = str(error)
    except Exception as error:  # arrays may hold anything; what they break is this file's fault, others go on
        report.problem = f"stopped by {type(error).__name__}: {error}"
    return report
