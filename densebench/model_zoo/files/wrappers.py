"""What training code wraps around a network's weights: dicts in dicts, prefixes of names, several networks in a file.

Which of them is meant is said with `FILE@ENTRY`, keys of dicts and then the beginning of names, joined by dots:
`checkpoint.pth@student`, `last.ckpt@state_dict.teacher`. Without it there is one rule: of several networks of the same
kind the averaged one is taken (a teacher, an EMA), as their authors evaluate it, before any other, and a student last;
where that does not single out one, all are named and none is taken. What was taken and left out is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from densebench.core.errors import ModelError

ANCHOR = "patch_embed.proj.weight"
"""What nearly every ViT has, under this name, whoever names the rest."""
DEEPEST = 3
"""Dicts in dicts that are looked into."""
WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that torch.compile, FSDP and checkpointing put in, at any place."""
CHUNKED = re.compile(r"(?<![^.])blocks\.\d+\.(?=\d+\.)")
"""DINOv2's code may train its blocks in chunks, whose numbers come before theirs."""
AVERAGED, TRAINED = {"teacher", "ema"}, {"student"}


@dataclass(frozen=True)
class Network:
    """Weights of one network in a file: those of the dict at `path` whose names begin with `prefix`."""

    path: tuple[str, ...]
    prefix: str
    state: Mapping[str, Tensor]
    """The whole dict; names as they are in the file, but for what wrappers put in."""

    @property
    def name(self) -> str:
        """What to write after @ to ask for it; "" for the file as a whole."""
        return ".".join([*self.path, self.prefix]).rstrip(".")

    @property
    def rank(self) -> int:
        """0 for an average of weights, 2 for what is averaged, 1 for all else."""
        words = set(re.split(r"[._]", self.name.lower()))
        return 0 if words & AVERAGED else 2 if words & TRAINED else 1

    @property
    def inner(self) -> dict[str, Tensor]:
        """Its weights under its own names."""
        return {key.removeprefix(self.prefix): v for key, v in self.state.items() if key.startswith(self.prefix)}

    @property
    def outer(self) -> list[str]:
        """What else is in the same dict."""
        return [key for key in self.state if not key.startswith(self.prefix)]


def find_network(found: Any, entry: str, own: Mapping[str, Tensor], where: str) -> tuple[Network | None, list[str]]:
    """Return the network of a file that is meant, and what else of the kind the file holds.

    Args:
        found: what `checkpoint.read` returned.
        entry: where to look, "" = everywhere.
        own: the weights of the net to be filled, by name.
        where: the file, for messages.

    Returns None where no dict in the file has the net's first weights: it is of another layout. Raises ModelError where
    the entry is not there, or several networks are and none of them is the one to take.
    """
    every = list(_networks(found, own))
    if entry:
        chosen = [each for each in every if f"{each.name}.".startswith(f"{entry}.")]
        # a dict of another layout, which the caller may know
        chosen = chosen or [Network(path, "", state) for path, state in _dicts(found) if ".".join(path) == entry]
        if not chosen:
            raise ModelError(f"{where} has no weights of this network under {entry!r}; {_options(every, found)}.")
    else:
        chosen = every
    if not chosen:
        return None, []
    best = [each for each in chosen if each.rank == min(other.rank for other in chosen)]
    if len(best) > 1:
        raise ModelError(
            f"{where} holds {len(best)} networks that may be meant; name one after the file: "
            f"{', '.join(f'@{each.name}' for each in best[:6])}."
        )
    return best[0], [each.name or "the names without a prefix" for each in every if each is not best[0]]


def enter(found: Any, entry: str, where: str) -> Any:
    """Return what lies in a file under keys joined by dots, which may hold dots of their own; "" = the file.

    Raises ModelError, with what is there, where they do not lead to a dict.
    """
    if not entry:
        return found
    every = {".".join(path): found for path, found in _all_dicts(found)}
    if entry not in every:
        raise ModelError(f"{where} has no entry {entry!r}; it has {', '.join(f'@{key}' for key in every if key)}.")
    return every[entry]


def sentence(network: Network, others: list[str], left_out: list[str], where: str) -> str:
    """Return what is to be said of a choice, "" where there was none: the file is the network's and nothing more."""
    if not network.name:
        return ""
    beside = [f"@{other}" for other in others] + ([f"{len(left_out)} tensors beside it"] if left_out else [])
    return f"{where}: took the weights under '{network.name}'" + (f"; left out {', '.join(beside)}." if beside else ".")


def _networks(found: Any, own: Mapping[str, Tensor]) -> Iterator[Network]:
    """Yield every network of a kind in a file."""
    anchor = ANCHOR if ANCHOR in own else next(iter(own), "")
    chunks = not any(CHUNKED.search(key) for key in own)
    for path, state in _dicts(found):
        named = {WRAPPED.sub("", key): value for key, value in state.items()}
        if chunks:
            named = {CHUNKED.sub("blocks.", key): value for key, value in named.items()}
        prefixes = [key.removesuffix(anchor) for key in named if f".{key}".endswith(f".{anchor}")]
        for prefix in prefixes:
            outer = [each for each in prefixes if each != prefix and prefix.startswith(each)]
            if any(prefix.removeprefix(each) + anchor in own for each in outer):
                continue  # a part of a network, as later stages have of their own
            if anchor == ANCHOR or 2 * sum(prefix + each in named for each in own) >= len(own):
                yield Network(path, prefix, named)


def _dicts(found: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    """Yield the tensors by name of a dict and of the dicts in it, with the keys that lead there."""
    for where, each in _all_dicts(found):
        tensors = {key: value for key, value in each.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors:
            yield where, tensors


def _all_dicts(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield a dict and the dicts in it, with the keys that lead there."""
    if not isinstance(found, Mapping):
        return
    yield path, found
    if len(path) < DEEPEST:
        for key, value in found.items():
            if isinstance(key, str):
                yield from _all_dicts(value, (*path, key))


def _options(every: list[Network], found: Any) -> str:
    """Return what a file has to offer instead of an entry that is not there."""
    named = ", ".join(f"@{each.name}" if each.name else "(the file as a whole)" for each in every[:6])
    holds = ", ".join(str(key) for key in list(found)[:4]) if isinstance(found, Mapping) else type(found).__name__
    return f"it has {named}" if named else f"it holds {holds}"
