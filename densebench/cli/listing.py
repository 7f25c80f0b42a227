"""What `list`, `show` and `data` print."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from densebench.cli import suites
from densebench.cli.ready import dataset_status
from densebench.cli.settings_page import preset_lines, setting_lines
from densebench.core.errors import DatasetError, DensebenchError
from densebench.core.progress import Progress
from densebench.datasets import DATASETS, load_dataset, resolve_dataset
from densebench.datasets.dataset import DenseDataset, data_root
from densebench.datasets.tools.checks import check
from densebench.datasets.user.images import load_images
from densebench.datasets.user.toml import is_whole
from densebench.protocols import PROTOCOLS


def rows(kind: str, pattern: str, results: Path, root: Path | None = None) -> list[tuple[str, str]]:
    """Return (name, summary) of everything of a kind whose name matches; datasets lie below the data root."""
    found = {
        "models": lambda: _models(pattern),
        "protocols": _protocols,
        "datasets": lambda: _datasets(pattern, root),
        "methods": _methods,
        "segmenters": _segmenters,
        "suites": lambda: suites.rows(root),
        "results": lambda: _results(results),
    }
    every = found[kind]()
    return [(name, summary) for name, summary in every if fnmatch.fnmatch(name, pattern)]


def _models(pattern: str) -> Iterator[tuple[str, str]]:
    from densebench.model_zoo import FAMILIES, MODELS
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.catalog.pages import status
    from densebench.model_zoo.zoo import read_card, zoo_folders, zoo_names

    folders = zoo_folders()
    for name in zoo_names():
        if name not in folders:
            yield name, f"no weights here; '{name}?random' or `densebench train`"
        elif fnmatch.fnmatch(name, pattern):
            try:
                read_card(name)
                yield name, "ready"
            except DensebenchError as error:
                yield name, f"broken: {error}"
    for name, entry in ENTRIES.items():
        if name not in folders and fnmatch.fnmatch(name, pattern):
            yield name, f"{status(entry)}; {entry.title}"
    for registered in MODELS:
        yield registered.name, registered.summary
    if pattern.startswith("timm/"):
        import timm

        for name in sorted(timm.list_models("*vit*") + timm.list_pretrained("*vit*")):
            yield f"timm/{name}", "weights from the hub" if "." in name else "architecture"
    else:
        for family in FAMILIES:
            if family.name != "zoo":
                yield family.summary.split(": ")[0], family.summary.partition(": ")[2]


def _protocols() -> Iterator[tuple[str, str]]:
    for entry in PROTOCOLS:
        yield entry.name, entry.summary


def _datasets(pattern: str, root: Path | None) -> Iterator[tuple[str, str]]:
    for entry in DATASETS:
        if fnmatch.fnmatch(entry.name, pattern):
            yield entry.name, f"{dataset_status(entry.name, root)}; {entry.summary}"


def plugin_problems(kind: str) -> list[str]:
    """Return in a sentence each what plugins wanted to register of a kind and could not."""
    return {"protocols": PROTOCOLS.problems, "datasets": DATASETS.problems}.get(kind, [])


def _methods() -> Iterator[tuple[str, str]]:
    from densebench.methods import METHODS

    for entry in METHODS:
        yield entry.name, entry.summary


def _segmenters() -> Iterator[tuple[str, str]]:
    from densebench.methods import SEGMENTERS

    for entry in SEGMENTERS:
        yield entry.name, entry.summary


def _results(folder: Path) -> Iterator[tuple[str, str]]:
    from densebench.results.store import ResultStore

    for record in ResultStore(folder).records():
        if isinstance(record, DensebenchError):
            yield "unreadable", str(record)
            continue
        main = ", ".join(f"{m.label} {m.value:.4g}" for m in record.metrics if m.main)
        seed = f", seed {record.seed}" if record.seed else ""
        yield (
            f"{record.model.name}/{record.protocol.name}/{record.data.label}",
            f"{record.score_hash}  {record.protocol.label}{seed}: {main}",
        )


def page(kind: str, name: str, weights: Path | None = None) -> str:
    """Return a page of text on one model, protocol, dataset or method; `weights` are a model's."""
    if kind == "model":
        return _model_page(name, weights)
    pages = {"protocol": _protocol_page, "dataset": _dataset_page, "method": _method_page}
    return pages[kind](name)


def _model_page(name: str, weights: Path | None) -> str:
    from densebench.model_zoo import load_model
    from densebench.model_zoo.catalog import ENTRIES
    from densebench.model_zoo.catalog.pages import page, status
    from densebench.model_zoo.zoo import read_card, zoo_folders

    lines = []
    if name in ENTRIES and name not in zoo_folders():
        lines = [page(ENTRIES[name]), ""]
        if weights is None and status(ENTRIES[name]) != "ready":
            return lines[0]
    backbone = load_model(name, weights)
    lines += [f"{f.name}: {getattr(backbone.info, f.name)}" for f in dataclasses.fields(backbone.info)]
    lines.append(f"parameters: {sum(p.numel() for p in backbone.parameters()) / 1e6:.2f} M")
    lines.append(f"weights_sha256: {backbone.weights_digest()}")
    if name in zoo_folders():
        lines += [f"card.{key}: {value}" for key, value in read_card(name).items()]
    return "\n".join(lines)


def _protocol_page(name: str) -> str:
    protocol = PROTOCOLS[name]()
    module = sys.modules[type(protocol).__module__]
    lines = [f"{protocol.title} (version {protocol.version})", "", (module.__doc__ or "").strip(), "", "Settings:"]
    lines += [f"  {line}" for line in setting_lines(protocol.config)]
    lines += ["", "Presets:", *preset_lines(protocol.presets), "", "Metrics:"]
    lines += [
        f"  {m.label} [{m.unit}], {'higher' if m.higher_is_better else 'lower'} is better: {m.meaning}"
        for m in protocol.metrics
    ]
    return "\n".join(lines)


def _dataset_page(name: str) -> str:
    info = DATASETS[resolve_dataset(name)].info
    lines = [f"{info.title} ({info.name})", f"ground truth: {', '.join(sorted(info.targets)) or 'none, images alone'}"]
    if info.classes:
        lines += [f"classes ({info.n_classes}): {', '.join(info.classes)}", f"ignored labels: {info.ignored}"]
    lines += [f"split {split}: {f'{n} images as published' if n else 'any'}" for split, n in info.splits.items()]
    lines += [f"licence: {info.licence}", f"citation: {info.citation}"]
    return "\n".join([*lines, f"how to get it: {info.how_to_get}"])


def _method_page(name: str) -> str:
    from densebench.methods import METHODS

    method: Any = METHODS[name]
    module = sys.modules[method.__module__]
    lines = [(module.__doc__ or "").strip(), "", "Settings:"]
    lines += [f"  {line}" for line in setting_lines(method.Config)]
    return "\n".join([*lines, "", "Presets:", *preset_lines(method.Config.presets)])


def data_where(name: str, root: Path | None) -> str:
    """Return where a dataset is, or how to get it."""
    name = resolve_dataset(name)
    info = DATASETS[name].info
    lines = [f"data root: {data_root(root) or 'none given; use --data-root DIR or set DENSEBENCH_DATA'}"]
    found: dict[str, list[str]] = {}
    for split in info.splits:
        try:
            said = f"{len(load_dataset(name, split, root))} images"
        except DatasetError as error:
            said = str(error).partition(f" {info.how_to_get}")[0]  # which comes last, once
        except Exception as error:
            said = f"it raised {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        found.setdefault(said, []).append(split)
    lines += [f"{', '.join(splits)}: {said}" for said, splits in found.items()]
    return "\n".join([*lines, f"how to get it: {info.how_to_get}"])


def data_report(name: str, root: Path | None, split: str | None) -> int:
    """Check splits of a dataset, or what else `--data` takes, print what was found, and return the exit code."""
    parts: list[Callable[[], DenseDataset]] = [partial(load_images, name, split, root)]
    if name in DATASETS or is_whole(name):
        name = resolve_dataset(name)
        info = DATASETS[name].info
        splits = [split] if split else dict.fromkeys((info.train, info.val))
        parts = [partial(load_dataset, name, part, root) for part in splits]
    clean = True
    for load in parts:
        try:
            data = load()
        except DatasetError as error:
            print(f"  problem: {error}", file=sys.stderr)
            clean = False
            continue
        report = check(data, Progress())
        of_published = "as published" if report.n_images == report.n_published else f"of {report.n_published} published"
        counted = f" ({of_published})" if data.info.name in DATASETS and report.n_published else ""
        digest = report.digest[:16] or "none"
        print(f"{data.info.name} {data.split}: {report.n_images} images{counted}, digest {digest}")
        total = max(sum(report.pixels.values()), 1)
        for label, pixels in report.pixels.items():
            print(f"  {label:<16} {100 * pixels / total:6.2f} % of pixels  {report.images[label]:6d} images")
        if report.depth:
            print(f"  depth {report.depth[0]:.2f} to {report.depth[1]:.2f} m in {report.measured} pixels")
        if report.objects:
            print(f"  {report.objects} objects with {report.points} keypoints that are seen")
        for note in report.notes:
            print(f"  note: {note}", file=sys.stderr)
        for problem in report.problems:
            print(f"  problem: {problem}", file=sys.stderr)
        clean = clean and not report.problems
    return 0 if clean else 1
