"""A suite as requests: one for each of its cells, with the models, images and machine of the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from densebench.core.errors import UsageError
from densebench.datasets import DATASETS, resolve_dataset
from densebench.protocols import PROTOCOLS
from densebench.runner.request import Request, checked
from densebench.suites import Suite, SuiteCell, load_suite


def requests_of(request: Request) -> list[Request]:
    """Return what a request asks for as requests that are checked: itself, or one per cell of its suite.

    `model` replaces the suite's own models; `protocol` and `dataset` choose among its cells, and `seed` replaces the
    seeds of all of them. Raises UsageError for what a suite decides and a request must not, and for no cell at all.
    """
    if not request.suite:
        return [checked(request)]
    suite = load_suite(request.suite)
    for name, given in (
        ("preset", request.preset),
        ("set", request.settings),
        ("train-dataset", request.train_dataset),
    ):
        if given:
            raise UsageError(
                f"--{name} does not go with --suite, which says it for each cell. Write a suite of your own: copy what "
                f"`densebench show suite {suite.name} --toml` prints into FILE.toml, change it, give --suite FILE.toml."
            )
    protocols = None if request.everything else set(PROTOCOLS.match(request.protocol))
    datasets = DATASETS.match(resolve_dataset(name) for name in request.dataset)
    found = [
        checked(each)
        for cell in suite.cells
        if protocols is None or cell.protocol in protocols
        for each in _of(cell, request, datasets)
    ]
    if not found:
        raise UsageError(
            f"suite {suite.name} has no cell of {', '.join((*request.protocol, *datasets))}; it has {_cells(suite)}."
        )
    return found


def _of(cell: SuiteCell, request: Request, datasets: list[str]) -> Iterator[Request]:
    """Yield the requests of a cell: one for the datasets that train on themselves, one for each that does not."""
    pairs: dict[str, list[str]] = {}
    for name in cell.datasets or datasets:
        train, arrow, val = name.partition("->")
        if not datasets or (val or train) in datasets:
            pairs.setdefault(train if arrow else "", []).append(val or train)
    if not cell.datasets and not datasets:
        pairs[""] = []
    for train, names in pairs.items():
        yield replace(
            request,
            suite="",
            model=request.model or cell.models,
            protocol=(cell.protocol,),
            dataset=tuple(names),
            train_dataset=train,
            preset=cell.preset,
            settings={cell.protocol: cell.settings} if cell.settings else {},
            seed=cell.seeds if request.seed == (0,) else request.seed,
        )


def _cells(suite: Suite) -> str:
    return "; ".join(f"{cell.protocol} on {', '.join(cell.datasets) or 'what is ready'}" for cell in suite.cells)
