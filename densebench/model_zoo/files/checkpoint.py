"""Weights as their authors publish them, onto an architecture of ours: every key accounted for, no code run.

A `Published` block says where in the file the weights lie, what precedes their names, what else the file may hold and
in which layout the names are. What the block does not allow is an error: a missing, unexpected or misshapen key is
named, and nothing is loaded in part.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fnmatch
import inspect
import io
import pathlib
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from densebench.core.errors import ModelError
from densebench.model_zoo.files.published import Published
from densebench.model_zoo.files.wrappers import find_network, sentence

State = dict[str, Tensor]

SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    collections.defaultdict,
    list,
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # its name before numpy 2, and since
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")),
]
"""What a checkpoint may name beside torch's own: training code keeps its arguments in a Namespace, folders among them,
its curves in lists by name, and DINO's, with all that is built on it, the learning rate of an optimiser as a number
of numpy."""


def read(path: Path) -> Any:
    """Return what a safetensors or torch file holds: a state dict, or dicts around it.

    Raises ModelError for a file that is absent, torn, no checkpoint, or that would run code when read.
    """
    if path.is_dir():
        raise ModelError(f"weights {path} are a folder; give the file in it.")
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist.")
    _refuse_shards(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}).") from error
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` where it came from.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{path} is a web page, not the weights; the download needed a login or a confirmation.")
    try:
        if head[8:9] == b"{":  # after the length of the header, its JSON
            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles: what they hold is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None and not (head[:1] == b"\x80" and head[1:2] > b"\x02"):
            raise _torn(path, error) from error
        what = named[1] if named else "pickle that torch did not write"
        raise ModelError(
            f"{path} holds a {what}, which runs code of its own when it is read; only tensors are. "
            "Where you trust the file, save its state dict alone with safetensors and give that with --weights."
        ) from error
    except Exception as error:  # what a torn file raises depends on the byte where it ends
        raise _torn(path, error) from error


def _refuse_shards(path: Path) -> None:
    """Raise ModelError for one of the files that a large checkpoint is cut into, and for their index."""
    shard = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)", path.name)
    index = path.name if path.name.endswith(".index.json") else f"{shard[1]}{shard[4]}.index.json" if shard else ""
    if not index or (shard and int(shard[3]) == 1):
        return
    what = f"shard {int(shard[2])} of {int(shard[3])} of a checkpoint" if shard else "the index of shards"
    raise ModelError(
        f"{path} is {what}{f', whose index is {index}' if shard else ''}. Save all shards as one file and give that: "
        "`save_pretrained(FOLDER, max_shard_size='1TB')` of transformers writes one."
    )


def _torn(path: Path, error: Exception) -> ModelError:
    """Return what to say of a file that cannot be read: what it is, where that shows, else what stopped the reader."""
    with path.open("rb") as file:
        head = file.read(9)
    reason = (str(error).splitlines() or [""])[0].partition(". ")[0][:160] or type(error).__name__
    if head[:2] != b"PK" and head[:1] != b"\x80" and head[8:] != b"{":
        reason = "neither safetensors nor a file of torch.save"
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("/data.pkl") for name in names):
            return ModelError(f"{path} is an archive of {_some(names)}; unpack it and give the file of weights in it.")
    return ModelError(f"{path} is not a readable checkpoint ({reason}). Was the download cut short?")


def arrange(found: Any, published: Published, where: str) -> tuple[State, list[str]]:
    """Return the weights of a file under the names of the architecture, and which keys were left out.

    Raises ModelError, with what the file holds, where the block's entry or prefix is not there.
    """
    state = _entry(found, published.entry, where)
    prefix = _prefix(state, published.prefix, where)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = [key for key in state if not key.startswith(prefix)]
    if outside and not published.others:
        raise ModelError(
            f"{where} holds {len(outside)} keys without the prefix {prefix!r} ({_some(outside)}); expected none. "
            "Is it the checkpoint of another model?"
        )
    dropped = [key for key in inside if any(fnmatch.fnmatch(key, pattern) for pattern in published.drop)]
    kept = {key: value for key, value in inside.items() if key not in dropped}
    return _dinov2(kept) if published.layout == "dinov2" else kept, outside + [prefix + key for key in dropped]


def arrange_own(
    found: Any, published: Published, entry: str, own: Mapping[str, Tensor], where: str
) -> tuple[State, list[str], str]:
    """Return what `arrange` does of a file that the user gives, and what is to be said of it.

    A file that is not wrapped as the published one is, perhaps one of the user's own training, is searched for the
    network (`densebench.model_zoo.files.wrappers`); its layout is the published one's. Raises ModelError as both do.
    """
    strict = None
    if not entry:
        with contextlib.suppress(ModelError):
            strict = arrange(found, published, where)
            if strict[0].keys() & own.keys():
                return *strict, ""  # as published, perhaps with some key too few or too many
    try:
        network, others = find_network(found, entry, own, where)
        if network is None:
            return *arrange(found, published, where), ""  # raises what is wrong
        state, left_out = arrange(network.inner, replace(published, entry="", prefix=""), where)
    except ModelError:
        if strict is None:
            raise
        return *strict, ""
    left_out = network.outer + left_out
    return state, left_out, sentence(network, others, left_out, where)


def _entry(found: Any, entry: str, where: str) -> Mapping[str, Tensor]:
    """Return the dict of tensors that lies under `entry`; one that ends in ? may be absent."""
    name, optional = entry.removesuffix("?"), entry.endswith("?")
    if name and isinstance(found, Mapping) and (name in found or not optional):
        if name not in found:
            raise ModelError(f"{where} has no entry {name!r}; it holds {_some(found)}.")
        found = found[name]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        holds = _some(found) if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise ModelError(f"{where} holds no dict of tensors{f' under {name!r}' if name else ''}, but {holds}.")
    return found


def _prefix(state: Mapping[str, Tensor], pattern: str, where: str) -> str:
    """Return what precedes the names of the backbone: `pattern`, with * for one component and ** for any number."""
    if "*" not in pattern:
        if pattern and not any(key.startswith(pattern) for key in state):
            raise ModelError(f"no key in {where} begins with {pattern!r}; it holds {_some(state)}.")
        return pattern
    regex = re.escape(pattern).replace(r"\*\*", r"(?:[^.]+\.)*").replace(r"\*", r"[^.]+")
    anchor = "patch_embed.proj.weight"
    found = [key.removesuffix(anchor) for key in state if re.fullmatch(regex + re.escape(anchor), key)]
    if len(found) != 1:
        what = "nothing before" if not found else f"{len(found)} prefixes ({_some(found)}) before"
        raise ModelError(f"{where} has {what} {anchor!r} that fits {pattern!r}; expected one. It holds {_some(state)}.")
    return found[0]


def fit(net: nn.Module, state: Mapping[str, Tensor], name: str, where: str, assign: bool = False) -> None:
    """Load a state dict whose keys and shapes are exactly the net's; raises ModelError that names the others.

    `assign` puts the tensors themselves into the net, which may then be on the meta device; they become float32.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        holds = f"a dict of {_some(state)}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise ModelError(
            f"{where} holds {holds}; expected the tensors of {name} by name. "
            "Save its state dict alone with safetensors and give that."
        )
    own = net.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in sorted(own.keys() & state.keys())
        if own[k].shape != state[k].shape
    ]
    mistyped = [
        f"{k} {str(state[k].dtype).removeprefix('torch.')}"
        for k in sorted(own.keys() & state.keys())
        if own[k].is_floating_point() and not state[k].is_floating_point()
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen, "quantised": mistyped}
    lost = [k for k, v in state.items() if not v.is_meta and v.isnan().any()]
    if lost and not any(found.values()):
        raise ModelError(f"{where} holds NaN in {_some(lost)}: its training diverged, or the file is torn.")
    problems = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in found.items() if keys]
    if problems:
        raise ModelError(
            f"{where} does not hold the weights of {name}: of {len(own)} expected keys, {'; '.join(problems)}. "
            "Is it a checkpoint of another architecture?"
        )
    if assign:
        state = {k: v.to(own[k].dtype) for k, v in state.items()}
    net.load_state_dict(state, assign=assign)


def grid_of(state: Mapping[str, Tensor], prefix_tokens: int) -> int | None:
    """Return the side of the grid that position embeddings (1, prefix_tokens + side^2, D) were trained on.

    None where there are none, or their grid is not square.
    """
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return None
    side = round((positions.shape[1] - prefix_tokens) ** 0.5)
    return side if side > 0 and side**2 == positions.shape[1] - prefix_tokens else None


def _dinov2(state: State) -> State:
    """Return names of DINOv2's code (Oquab et al. 2023; Darcet et al. 2024) as timm has them.

    Blocks may lie in chunks. Gated MLPs have other names. Registers come without positions in timm, and with them the
    class token, whose position is then added to it once and for all.
    """
    renames = ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."), (r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))
    named = {}
    for key, value in state.items():
        for old, new in renames:
            key = re.sub(old, new, key)
        named[key] = value
    if {"register_tokens", "cls_token", "pos_embed"} <= named.keys():
        named["reg_token"] = named.pop("register_tokens")
        named["cls_token"] = named["cls_token"] + named["pos_embed"][:, :1]
        named["pos_embed"] = named["pos_embed"][:, 1:]
    return named


def by_timm(found: Any, net: nn.Module) -> tuple[Any, list[str]]:
    """Return a file's weights under the names of a timm net, and which keys were left out.

    These are the classifier's, and what RADIO has beside its backbone. The file is one of timm's hub, or of the
    authors, whose layout timm itself converts. What timm cannot convert, or would change beyond its names, comes back
    as it is; `fit` then says what is wrong with it.
    """
    heads = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    named = found
    if isinstance(found, dict) and {key for key in found if not str(key).startswith(heads)} != net.state_dict().keys():
        named = _converted(found, net)
    if not isinstance(named, Mapping):
        return named, []
    classifier = [key for key in named if str(key).startswith(heads)]
    others = [key for key in found if re.match(r"radio_model\.(?!model\.(patch_generator|blocks)\.)", str(key))]
    return {key: value for key, value in named.items() if key not in classifier}, classifier + others


def _converted(found: dict[Any, Any], net: nn.Module) -> Any:
    """Return what timm makes of a file whose names are not the net's; the file itself where that is no mere renaming.

    Timm resamples positions and patch embeddings to other sizes, and leaves out the biases of DINOv3 (0 in its files).
    """
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return found
    more = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it leaves out
            named = convert(found, net, **more)
    except Exception:  # what it makes of a file of another architecture has many types
        return found
    inner = [value for value in found.values() if isinstance(value, dict)]
    own = {str(key): value for part in (found, *inner) for key, value in part.items() if isinstance(value, Tensor)}
    sizes = {value.numel() for value in own.values()}
    convolutions = {value.numel() for value in own.values() if value.ndim == 4} or sizes
    resampled = any(
        key in named and named[key].numel() not in known
        for key, known in (("pos_embed", sizes), ("patch_embed.proj.weight", convolutions))
    )
    if resampled or not named.keys() & net.state_dict().keys():
        return found
    if not any(key.endswith(("qkv.bias", "q_bias")) for key in named):
        return found if any(value.any() for key, value in own.items() if key.endswith("qkv.bias")) else named
    return named


def _some(keys: Iterable[Any]) -> str:
    every = [str(key) for key in keys]
    return ", ".join(every[:3]) + (", ..." if len(every) > 3 else "")
