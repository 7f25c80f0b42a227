"""What `list` and `show` say of the catalogue, without a network and without torch."""

from __future__ import annotations

from collections.abc import Iterator

from densebench.core.download import offline
from densebench.model_zoo.catalog.entry import CatalogEntry
from densebench.model_zoo.files.fetch import hub_file, local_file, recorded_digest
from densebench.model_zoo.files.published import Published


def status(entry: CatalogEntry) -> str:
    """Return whether an entry is ready, fetchable, to be made, or to be fetched by hand."""
    if local_file(entry.name) or (entry.hub and hub_file(entry.hub)):
        return "ready"
    if entry.make:
        return f"make it with `{entry.make}`"
    if entry.file and not entry.file.url:
        return f"by hand from {entry.file.page}, then --weights FILE"
    return "fetchable, but DENSEBENCH_OFFLINE is set" if offline() else "fetchable"


def page(entry: CatalogEntry) -> str:
    """Return all that the catalogue knows of an entry, one fact per line."""
    return "\n".join(f"{key}: {value}" for key, value in _facts(entry) if value not in ("", None))


def _facts(entry: CatalogEntry) -> Iterator[tuple[str, object]]:
    net = entry.architecture
    yield "name", entry.name
    yield "title", entry.title
    yield "status", status(entry)
    yield "source", f"Hugging Face {entry.hub}, by timm" if entry.hub else entry.file.url if entry.file else ""
    if entry.hub:
        here = hub_file(entry.hub)
        yield "revision", here.parent.name if here else "main: the newest when it is fetched"
    if entry.file:
        yield "page", entry.file.page
        yield "sha256", entry.file.sha256 or _recorded(entry) or "none known; that of the first fetch is recorded"
        yield "keys", _keys(entry, entry.file)
        yield "left out", ", ".join((*entry.file.drop, *(["other modules"] if entry.file.others else [])))
        yield "inferred, not stated anywhere", entry.file.inferred
    arguments = ", ".join(f"{key}={value}" for key, value in net.kwargs.items())
    yield "architecture", f"{net.timm}({arguments})" if net.timm else entry.adapter
    yield "patch", entry.patch
    yield "prefix tokens", entry.prefix
    yield "mean", net.mean
    yield "std", net.std
    yield "interpolation", net.interpolation
    yield "native size", net.native_size
    yield "position embeddings", entry.embedding
    yield "positions on other grids", net.positions
    yield "training data", entry.data
    yield "objective", entry.objective
    yield "category in POS", entry.paradigm
    yield "licence", entry.licence
    yield "citation", entry.citation
    yield "notes", entry.notes


def _keys(entry: CatalogEntry, file: Published) -> str:
    """Return whose names the keys are, and what lies around them."""
    names = "its own" if entry.adapter == "capi" else {"timm": "timm's", "dinov2": "DINOv2's"}[file.layout]
    around = [f"entry {file.entry.replace('?', ', where there is one')}"] if file.entry else []
    if file.prefix:
        around.append(f"prefix {file.prefix}" + " (* is one component, ** any number)" * ("*" in file.prefix))
    return "; ".join([f"{names} names", *around])


def _recorded(entry: CatalogEntry) -> str:
    """Return the digest that was recorded when the file of an entry was fetched."""
    path = local_file(entry.name)
    found = recorded_digest(path) if path else ""
    return f"{found} (of the first fetch; none was known)" if found else ""
