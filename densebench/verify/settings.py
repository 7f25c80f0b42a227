"""Settings that a file does not store: its name says them, or they are found by trying."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from densebench.verify.golden import GoldenCheck

CHOICES: dict[str, tuple[str, ...]] = {
    "network": ("bitonic", "odd_even"),
    "distribution": ("logistic_phi", "logistic", "cauchy"),  # the first that a name holds: one is part of another
    "similarity": ("cosine", "euclidean"),
}


def candidates(name: str, *settings: str) -> Iterator[dict[str, Any]]:
    """Yield the settings that a file of that name may have been made with: one set where the name says them all.

    A name says a setting by holding its value anywhere; ``oddeven`` is ``odd_even``. What it does not say may be
    anything, the published value first.
    """
    flat = name.lower().replace("-", "_").replace("oddeven", "odd_even")
    open_to = []
    for setting in settings:
        said = next((choice for choice in CHOICES[setting] if choice in flat), None)
        open_to.append((said,) if said else CHOICES[setting])
    for values in product(*open_to):
        yield dict(zip(settings, values, strict=True))


def closest(attempts: Iterable[tuple[dict[str, Any], list[GoldenCheck]]]) -> list[GoldenCheck]:
    """Return the findings of the first attempt without fault, or else of the one that comes nearest.

    Settings that are wrong miss tolerances by orders of magnitude, so trying cannot make wrong numerics look right.
    """
    best: tuple[tuple[int, float], list[GoldenCheck]] | None = None
    for settings, findings in attempts:
        wrong = sum(not finding.ok for finding in findings)
        score = wrong, max((finding.ratio for finding in findings), default=0.0)
        if best is None or score < best[0]:
            said = ", ".join(settings.values())
            best = score, [replace(f, note="; ".join(filter(None, (f.note, said)))) for f in findings]
        if not wrong:
            break
    return best[1] if best else []
