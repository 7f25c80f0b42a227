"""A training log as a picture: one panel per logged quantity over the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from densebench.figures.png import png

COLUMNS = 3
LOGARITHMIC = ("lr", "grad_norm")


def curves(lines: Sequence[str], name: str) -> bytes:
    """Return a PNG of a run's log.

    Args:
        lines: of log.jsonl, each a JSON object with `step` and numbers; quantities may be missing from some.
        name: of the run.
    """
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    others = {"step", "seconds", "preset"}
    names = sorted({key for row in rows for key in row} - others, key=lambda key: (key != "loss", key))
    n_rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(3.3 * COLUMNS, 2.2 * n_rows + 0.3), layout="constrained")
    panels = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
    for panel, key in zip(panels, names, strict=False):
        at = [(row["step"], row[key]) for row in rows if key in row]
        panel.plot([x for x, _ in at], [y for _, y in at], color="#0072B2", linewidth=1.1)
        panel.set_title(key.replace("_", " "), fontsize=9)
        panel.set_xlabel("step", fontsize=7)
        panel.tick_params(labelsize=7, which="both")
        panel.grid(color="#e4e4e4", linewidth=0.6)
        if key in LOGARITHMIC and all(y > 0 for _, y in at):
            panel.set_yscale("log")
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    figure.suptitle(name, fontsize=10)
    return png(figure)
