"""Sweeps of `positional_effect` side by side: models or sizes in one grid, correlations over all of them.

Pure functions of result records and of the arrays that each sweep leaves beside its record (`best.npz`). Source of the
views: "Unsupervised Semantic Segmentation Facilitates Model Understanding" (POS), 2.4 and figures 1, 4, 6 and 9.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densebench.core.errors import UsageError
from densebench.core.regular import read
from densebench.core.text import elide, plain
from densebench.leaderboard.row import Table
from densebench.leaderboard.rows import tables_of
from densebench.results.schema import Record, settings_text
from densebench.results.store import ResultStore

if TYPE_CHECKING:
    from densebench.ops.information import Correlation

LONGEST = 20
"""Characters of a model name beside a grid."""
Points = dict[str, dict[str, list[tuple[float, float]]]]
NEEDED = frozenset({"images", "truth", "aggregate_truth", "classes", "palette"})
"""Arrays of a sweep that are of no single facet."""
CHARTS = {
    "positional_log_miou": ("mIoU over positional effect", "NMI", "log10 mIoU [%]"),
    "locality_positional": ("positional effect over locality", "I(K, Q) [nat], mean of heads", "NMI"),
}
"""Title and axes."""


@dataclass(frozen=True)
class Sweep:
    """One record of a sweep, and its arrays: small example pictures of each facet's best layer."""

    record: Record
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The name of the model."""
        return plain(self.record.model.name)


@dataclass(frozen=True, kw_only=True)
class BestRow:
    """The best layer of one facet of one model; the fields are the columns of `positional_study.csv`."""

    dataset: str
    data: str
    preset: str
    settings: str
    model: str
    facet: str
    layer: str
    """Counted from 1, such as "9/12"."""
    miou: float
    nmi: float
    nmi_excess: float


def find_sweeps(
    results: str | Path, records: Iterable[Record], report: Callable[[str], None]
) -> dict[Table, list[Sweep]]:
    """Return the sweeps among records by table (data, protocol, setting), one per model, the newest.

    `report` is told what is left off: a sweep whose facts are of another form, and pictures that are gone or of
    another form; the numbers of such a sweep stay.
    """
    store = ResultStore(results)
    newest: dict[tuple[Table, str], Record] = {}
    ordered = sorted(records, key=lambda record: (record.created, record.score_hash))
    for table, record in zip(tables_of(ordered), ordered, strict=True):
        if _is_sweep(record):
            if _readable(record):
                newest[table, record.model.name] = record
            else:
                report(f"{store.place(record)} is not a sweep of this version; left off the positional study.")
    found: dict[Table, list[Sweep]] = {}
    for (table, _), record in sorted(newest.items(), key=lambda entry: entry[0]):
        found.setdefault(table, []).append(Sweep(record, _arrays(store, record, report)))
    return found


def best_rows(sweeps: Sequence[Sweep]) -> list[BestRow]:
    """Return the best layer of every facet of every model (POS figure 4b), best mIoU first within a facet."""
    rows = [
        BestRow(
            dataset=plain(sweep.record.data.name),
            data=plain(sweep.record.data.label),
            preset=plain(sweep.record.protocol.preset),
            settings=plain(settings_text(sweep.record.protocol.settings)),
            model=sweep.model,
            facet=facet,
            layer=best["depth"],
            **{name: _row(sweep, facet, best["layer"])[name] for name in ("miou", "nmi", "nmi_excess")},
        )
        for sweep in sweeps
        for facet, best in sweep.record.facts["best"].items()
    ]
    order = list(dict.fromkeys(row.facet for row in rows))
    return sorted(rows, key=lambda row: (order.index(row.facet), -row.miou, row.model))


def points(sweeps: Sequence[Sweep]) -> Points:
    """Return what POS figure 9 plots, {quantity: {model: [(x, y)]}}: all layers and facets of all models.

    The ablation of the final norm is left out, and so are reads with mIoU 0, which has no logarithm; models without
    attention have no locality.
    """
    found: Points = {name: {} for name in CHARTS}
    for sweep in sweeps:
        local = sweep.record.facts["locality"].get("mean_of_heads")
        for row in sweep.record.facts["reads"]:
            if row["ablation"]:
                continue
            if row["miou"] > 0:
                point = (row["nmi"], math.log10(row["miou"]))
                found["positional_log_miou"].setdefault(sweep.model, []).append(point)
            if local and row["facet"] in ("key", "query"):
                found["locality_positional"].setdefault(sweep.model, []).append((local[row["layer"]], row["nmi"]))
    return found


def correlations(sweeps: Sequence[Sweep]) -> dict[str, Correlation]:
    """Return the correlations of `points` over all models together, which POS 3.3 reports as 0.70 and -0.59."""
    import torch

    from densebench.ops.information import correlation  # torch takes seconds to import

    found = {}
    for name, series in points(sweeps).items():
        pairs = torch.tensor([pair for pairs in series.values() for pair in pairs], dtype=torch.float64).view(-1, 2)
        found[name] = correlation(pairs[:, 0], pairs[:, 1])
    return found


def model_grid(sweeps: Sequence[Sweep], facet: str) -> bytes:
    """Return one facet's best layers as PNG: models below each other, the same images beside each other.

    The last column has the aggregated maps (POS figures 1 and 6). Models without the facet are left out.

    Raises UsageError where no model has it, or where the sweeps are of different datasets or images.
    """
    from densebench.figures import kit as figures

    shown = [sweep for sweep in sweeps if f"classes_{facet}" in sweep.arrays]
    if not shown:
        raise UsageError(f"none of {', '.join(s.model for s in sweeps)} has a sweep with pictures of facet {facet!r}.")
    datasets = sorted({sweep.record.data.name for sweep in shown})
    counts = sorted({len(sweep.arrays["images"]) for sweep in shown})
    if len(datasets) > 1 or len(counts) > 1 or len({sweep.record.data.val.digest for sweep in shown}) > 1:
        raise UsageError(
            f"a grid shows the same images for all models; these sweeps are of {', '.join(datasets)} with "
            f"{', '.join(map(str, counts))} examples. Compare sweeps of one dataset, run with one number of --pictures."
        )
    first = shown[0].arrays
    palette = [(int(r), int(g), int(b)) for r, g, b in first["palette"]]
    rows: dict[str, list[NDArray[np.uint8] | None]] = {
        "image": [*first["images"], None],
        "ground truth": [*(figures.colorize(m, palette) for m in first["truth"]), first["aggregate_truth"]],
    }
    for sweep in shown:
        name = f"{elide(sweep.model, LONGEST)}\n{facet} {sweep.record.facts['best'][facet]['depth']}"
        maps = [figures.colorize(m, palette) for m in sweep.arrays[f"classes_{facet}"]]
        rows[name] = [*maps, sweep.arrays[f"aggregate_{facet}"]]
    columns = ["" for _ in first["images"]] + ["all images"]
    return figures.picture_grid(rows, columns, (first["classes"].tolist(), palette, range(len(palette))))


def shared_facet(sweeps: Sequence[Sweep]) -> str | None:
    """Return the facet to show of all models: tokens, or else the first that has pictures; None where none has."""
    facets = [name.partition("_")[2] for sweep in sweeps for name in sweep.arrays if name.startswith("classes_")]
    return "token" if "token" in facets else next(iter(facets), None)


def _is_sweep(record: Record) -> bool:
    return record.protocol.name == "positional_effect" and "reads" in record.facts


def _row(sweep: Sweep, facet: str, layer: int) -> dict[str, Any]:
    rows = sweep.record.facts["reads"]
    return next(row for row in rows if (row["facet"], row["layer"], row["ablation"]) == (facet, layer, False))


def _readable(record: Record) -> bool:
    """Whether the facts are those that the tables and charts here read."""
    try:
        best_rows([Sweep(record)])
        points([Sweep(record)])
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return False
    return True


def _arrays(store: ResultStore, record: Record, report: Callable[[str], None]) -> dict[str, NDArray[Any]]:
    name = next((name for name in record.artifacts if name.endswith("best.npz")), None)
    if name is None:
        return {}  # a sweep without example pictures
    path = store.place(record).parent / name
    try:
        with np.load(io.BytesIO(read(path))) as arrays:
            found = dict(arrays)
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise whatever it leads them to
        report(f"{path} cannot be read ({error}); its model is missing in the grid of models.")
        return {}
    facets = {key.partition("_")[2] for key in found if key.startswith("classes_")}
    missing = (NEEDED | {f"aggregate_{facet}" for facet in facets}) - set(found)
    if missing:
        report(f"{path} lacks {', '.join(sorted(missing))}; its model is missing in the grid of models.")
        return {}
    return found
