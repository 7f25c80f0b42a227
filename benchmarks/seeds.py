"""A base against its post-trained models, over training seeds: the tables of docs/methods.md.

Run by hand: `python benchmarks/seeds.py RESULTS BASE NAME ...`. The seeds of NAME are the models NAME, NAME-1, NAME-2
and so on in the results folder. A cell is the mean over them and the half-width of its 95 % interval over training
seeds (Student's t); the base has one training, so its interval is the one over images that its record states.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections import defaultdict

from scipy.stats import t

from densebench.leaderboard.row import Row
from densebench.leaderboard.rows import leaderboard_rows, select


def over_seeds(rows: list[Row]) -> str:
    """Return mean, half-width of the 95 % interval of the mean, and number of trainings."""
    values, digits = [row.value for row in rows], 2 if rows[0].unit == "%" else 3
    if len(values) < 2:
        return f"{values[0]:.{digits}f} (1)"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.{digits}f} ± {half:.{digits}f} ({len(values)})"


def over_images(row: Row) -> str:
    """Return a value with the interval over images, or over images and draws, of its record."""
    digits = 2 if row.unit == "%" else 3
    if row.ci95_low is None or row.ci95_high is None:
        return f"{row.value:.{digits}f}"
    return f"{row.value:.{digits}f} [{row.ci95_low:.{digits}f}, {row.ci95_high:.{digits}f}]"


def main(results: str, base: str, *names: str) -> None:
    """Print one Markdown table per dataset, protocol and preset."""
    found: dict[tuple[str, str, str], dict[str, dict[str, list[Row]]]] = {}
    for row in leaderboard_rows(select(results).records):
        family = base if row.model == base else re.sub(r"-\d+$", "", row.model)
        if row.main and family in (base, *names):
            table = found.setdefault(row.table, defaultdict(lambda: defaultdict(list)))
            table[row.metric][family].append(row)
    for place, metrics in found.items():
        print(f"\n{' / '.join(place)}\n\n| metric | {base} | " + " | ".join(names) + " |")
        print("|---|" + "---|" * (1 + len(names)))
        for metric, rows in metrics.items():
            cells = [over_images(rows[base][0]) if rows[base] else "-"]
            cells += [over_seeds(rows[name]) if rows[name] else "-" for name in names]
            print(f"| {metric} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        print(__doc__)  # `make bench` runs every script here as it is
    else:
        main(*sys.argv[1:])
