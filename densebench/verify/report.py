"""What `densebench verify` prints: one line per file, or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from densebench.verify.folder import FileReport
from densebench.verify.golden import GoldenCheck

HEAD = ("file", "what", "worst", "deviation", "tolerance", "")


def lines(reports: Sequence[FileReport]) -> list[str]:
    """Return a table with one line per file, and a last line that counts."""
    rows = [HEAD, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, summary(reports)]


def summary(reports: Sequence[FileReport]) -> str:
    """Return how many files are ok, such as ``80 of 80 ok``."""
    return f"{sum(report.ok for report in reports)} of {len(reports)} ok"


def complaints(report: FileReport) -> list[str]:
    """Return all that is wrong with a file, one line each: its table line shows the worst only."""
    wrong = [
        f"{f.what}: off by {_deviation(f)}, tolerance {_tolerance(f)}{_note(f)}" for f in report.findings if not f.ok
    ]
    return [f"{report.file}: {text}" for text in [*wrong, *([report.problem] if report.problem else [])]]


def as_json(reports: Sequence[FileReport], device: str, backends: Sequence[str]) -> str:
    """Return each comparison of each file. A deviation that is not a number (shapes differ, NaN) is null."""
    record = {
        "device": device,
        "backends": list(backends),
        "ok": sum(report.ok for report in reports),
        "of": len(reports),
        "files": [
            {
                "file": report.file,
                "what": report.title,
                "ok": report.ok,
                "problem": report.problem or None,
                "findings": [_finding(finding) for finding in report.findings],
                "unused": report.unused,
            }
            for report in reports
        ],
    }
    return json.dumps(record, indent=1)


def _finding(finding: GoldenCheck) -> dict[str, str | float | bool | None]:
    return {
        "what": finding.what,
        "deviation": finding.deviation if math.isfinite(finding.deviation) else None,
        "tolerance": finding.tolerance,
        "ok": finding.ok,
        "note": finding.note,
    }


def _row(report: FileReport) -> tuple[str, ...]:
    verdict = "ok" if report.ok else "NOT OK"
    if report.problem:
        verdict += f": {report.problem}"
    worst = report.worst
    if worst is None:
        return report.file, report.title or "?", "-", "-", "-", verdict
    if not worst.ok and not report.problem:
        verdict += _note(worst)
    return report.file, report.title, worst.what, _deviation(worst), _tolerance(worst), verdict


def _deviation(finding: GoldenCheck) -> str:
    return f"{finding.deviation:.1e}" if finding.deviation else "0"


def _tolerance(finding: GoldenCheck) -> str:
    return f"{finding.tolerance:.0e}" if finding.tolerance else "exact"


def _note(finding: GoldenCheck) -> str:
    return f" ({finding.note})" if finding.note else ""
