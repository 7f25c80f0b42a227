"""From a name of the catalogue to a backbone: find or fetch the file, arrange its keys, load every one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from densebench.core.errors import MissingWeightsError, UsageError
from densebench.model_zoo.adapters.building import build, wrap
from densebench.model_zoo.adapters.capi import Capi, CapiBackbone, random_capi
from densebench.model_zoo.architecture import Architecture
from densebench.model_zoo.backbone import Backbone
from densebench.model_zoo.catalog.entry import CatalogEntry
from densebench.model_zoo.families import ModelSpec
from densebench.model_zoo.files.checkpoint import arrange, arrange_own, fit, grid_of, read
from densebench.model_zoo.files.fetch import HUB_FILES, ask_hub, fetch, hub_address, is_web, local_file, mirror
from densebench.model_zoo.files.published import Published


def load_entry(entry: CatalogEntry, spec: ModelSpec) -> Backbone:
    """Return a backbone of the catalogue with its published weights, those of a local file, or random ones.

    Raises ModelError where nobody published weights (it names the command that makes them), where they cannot be
    fetched, or where a file does not hold exactly them; UsageError for options that mean nothing here.
    """
    told: dict[str, Any] = {"licence": entry.licence, "citation": entry.citation}
    architecture = entry.architecture
    if spec.positions and (entry.hub or entry.adapter != "timm"):
        raise UsageError(f"?pos goes with checkpoints in the layout of DINO or DINOv2; {entry.name} is none.")
    if entry.hub:
        return _from_hub(entry, spec, **told)
    architecture = replace(architecture, positions=spec.positions or architecture.positions)
    if spec.random:
        seed = spec.random_seed or 0
        net: Any = random_capi(seed) if entry.adapter == "capi" else build(architecture, seed)
    else:
        net, told["notes"] = _filled(entry, spec, architecture)
    if entry.adapter == "capi":
        return CapiBackbone(net, spec.text, **told)
    return wrap(net, spec.text, architecture, **told)


def _filled(entry: CatalogEntry, spec: ModelSpec, architecture: Architecture) -> tuple[Any, dict[str, Any]]:
    """Return the net with the weights of the entry's file in it, and notes: which keys of the file it does without."""
    path = spec.weights or published_file(entry)
    found = read(path)
    left_out, said = list[str](), ""
    with torch.device("meta"):  # nothing is drawn that the file replaces anyway
        net: Any = Capi() if entry.adapter == "capi" else build(architecture)
        rules = entry.file or Published()
        if isinstance(found, dict) and found.keys() == net.state_dict().keys():
            state = found  # converted before, or named alike
        elif spec.weights is None:
            state, left_out = arrange(found, rules, path.name)
        else:
            state, left_out, said = arrange_own(found, rules, spec.entry, net.state_dict(), path.name)
        side = grid_of(state, 0 if "reg_token" in state else entry.prefix)
        if side is not None and side * entry.patch != architecture.native_size:
            # the file's own grid, so that position embeddings are interpolated once, when an image asks for it
            net = build(replace(architecture, kwargs={**architecture.kwargs, "img_size": side * entry.patch}))
    fit(net, state, spec.text, path.name, assign=True)
    return net, {"left out": left_out, **({"loading": (said,)} if said else {})}


def published_file(entry: CatalogEntry) -> Path:
    """Return the local file of an entry, fetched if need be."""
    found = local_file(entry.name) if entry.make or (entry.file and not entry.file.url) else None
    if found is not None:
        return found
    if entry.make:
        raise MissingWeightsError(
            f"nobody published the weights of {entry.name}; make them with `{entry.make}`.", entry.name
        )
    assert entry.file is not None
    if not entry.file.url:
        raise MissingWeightsError(
            f"{entry.name} can only be fetched by hand, from {entry.file.page}. Give the file with --weights FILE, "
            f"or put it into the folder DENSEBENCH_WEIGHTS as {entry.name}.pth.",
            entry.name,
        )
    return fetch(entry.name, entry.file.url, entry.file.sha256)


def _from_hub(entry: CatalogEntry, spec: ModelSpec, **told: Any) -> Backbone:
    """Return a model whose weights timm's hub has, through the adapter over timm; a local file comes first."""
    from densebench.model_zoo.adapters import sam, timm

    weights = spec.weights
    if weights is None and not spec.random:
        if local_file(entry.name) or is_web(mirror()):
            weights = fetch(entry.name, f"{hub_address()}/{entry.hub}/resolve/main/{HUB_FILES[0]}")
        else:
            ask_hub(
                entry.name,
                entry.hub,
                f"Put its {HUB_FILES[0]} into the folder DENSEBENCH_WEIGHTS as {entry.name}.safetensors, "
                "or give --weights FILE.",
            )
    there = replace(spec, family="timm", name=entry.architecture.timm, weights=weights)
    return (sam if entry.adapter == "sam" else timm).load(there, entry.architecture.kwargs, **told)
