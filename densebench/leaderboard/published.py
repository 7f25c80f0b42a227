"""What the papers print: `published.csv`, one value per row, with the table it stands in.

The file is facts, transcribed. `quantity`, its coordinates `at_...`, `protocol`, `dataset` and `preset` are our names,
so that a row lines up with a result; the preset is the one with the paper's setting, followed by what departs from it
("paper + input_size=448"). `also` names other tables of the paper with the same value, `note` what the table leaves
open. `docs/results.md` lists the few names that the code does not have.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.results.schema import Coordinate, Key, metric_key, metric_label

FILE = Path(__file__).with_name("published.csv")
COORDINATES: Mapping[str, Callable[[str], Coordinate]] = {
    "fraction": str,
    "clusters": int,
    "head": str,
    "alpha": float,
    "facet": str,
}
"""Those that the file has columns for, empty where a metric has none."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One number of one table; the fields but `printed` are the columns of `published.csv`, each coordinate its own."""

    paper: str
    table: str
    also: tuple[str, ...] = ()
    """Other tables of the paper that print the same value."""
    model: str
    backbone: str
    """Empty where the paper does not say."""
    zoo_name: str = ""
    """The catalogue's name of this very model; empty where it has none, or the paper leaves open which it is."""
    protocol: str
    dataset: str
    preset: str
    quantity: str
    at: Mapping[str, Coordinate]
    """Such as {"fraction": "1/8"}, from the column `at_fraction`."""
    value: float
    """In the unit of our metric: percent points, metres for RMSE, a plain number for AbsRel and delta."""
    printed: str
    """The value with the decimals of the paper."""
    note: str

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table of the paper that prints the value."""
        return self.table, *self.also

    @property
    def key(self) -> Key:
        """Which metric it is."""
        return metric_key(self.quantity, self.at)

    @property
    def metric(self) -> str:
        """What tables call it: "miou@1/8"."""
        return metric_label(self.quantity, self.at)

    @property
    def variant(self) -> str:
        """What an ablation changes of the model, "HSIC instead of CKA"; mostly empty."""
        return self.model.partition(", ")[2]

    @property
    def label(self) -> str:
        """The model with its backbone."""
        return f"{self.model} {self.backbone}".strip()

    @property
    def source(self) -> str:
        """Where the number is printed: "PaKA, table 1"."""
        return f"{self.paper}, table {self.table}" if self.table[:1].isdigit() else f"{self.paper}, {self.table}"


def published_rows(protocol: str | None = None, dataset: str | None = None) -> tuple[PublishedRow, ...]:
    """Return the published values of a protocol and a dataset (None: of all), in the order of the file.

    >>> [row.value for row in published_rows("overclustering", "voc") if row.label == "PaKA ViT-S/14"]
    [21.3, 74.5, 76.5]
    """
    return tuple(
        row
        for row in _read()
        if (protocol is None or row.protocol == protocol) and (dataset is None or row.dataset == dataset)
    )


@functools.cache
def _read() -> tuple[PublishedRow, ...]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return tuple(map(_row, csv.DictReader(file)))


def _row(line: dict[str, Any]) -> PublishedRow:
    at = {name: kind(line.pop(f"at_{name}")) for name, kind in COORDINATES.items() if line[f"at_{name}"]}
    words = {name: text for name, text in line.items() if not name.startswith("at_")}
    also = tuple(filter(None, line["also"].split(";")))
    return PublishedRow(**{**words, "also": also, "at": at, "value": float(line["value"]), "printed": line["value"]})
