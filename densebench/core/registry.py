"""One small typed registry for models, protocols, datasets and methods: lazy, extensible, helpful.

An entry is a string "module:attribute", imported on first use, so that listing names costs nothing. Installed
packages add entries through entry points of the registry's group (for example `densebench.protocols`).
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from densebench.core.errors import DensebenchError, PluginError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Registration:
    """Where a registered thing lives, and one line on what it is."""

    name: str
    target: str
    summary: str = ""
    config: str = ""
    """Where its settings are declared, importable in no time; "": only the thing itself knows."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name nobody registered, with the nearest known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Run `densebench list {kind}s` to see all {len(known)}.")


class Registry(Generic[T]):
    """Names of one kind of thing, each importable on first use.

    >>> PROTOCOLS = Registry("protocol", group="densebench.protocols")
    >>> PROTOCOLS.add("hummingbird", "densebench.protocols.hummingbird.protocol:Hummingbird", "in-context retrieval")
    """

    def __init__(self, kind: str, group: str, needs: Sequence[str] = ()) -> None:
        """`needs` are attributes that everything registered has: what a plugin offers may be anything."""
        self.kind = kind
        self.group = group
        self.needs = needs
        self.problems: list[str] = []
        """In a sentence each, what plugins wanted to register and could not; filled when names are first asked for."""
        self._entries: dict[str, Registration] = {}
        self._loaded: dict[str, T] = {}
        self._plugins_read = False

    def add(self, name: str, target: str | T, summary: str = "", config: str = "", *, replace: bool = False) -> None:
        """Register `target` ("module:attribute", or the object itself) under `name`.

        Raises UsageError for a name that another thing has, unless it is to be replaced, and for an object that lacks
        what everything of its kind has.
        """
        where = target if isinstance(target, str) else f"{getattr(target, '__module__', '?')}:{name}"
        taken = self._entries.get(name)
        if taken is not None and taken.target != where and not replace:
            raise UsageError(f"the {self.kind} {name!r} is registered already: {taken.target}. Choose another name.")
        if not isinstance(target, str) and (lacking := self._lacking(target)):
            raise UsageError(f"{reprlib.repr(target)} cannot be the {self.kind} {name!r}: {lacking}.")
        self._entries[name] = Registration(name, where, summary, config)
        self._loaded.pop(name, None)
        if not isinstance(target, str):
            self._loaded[name] = target

    def _lacking(self, found: object) -> str:
        """Return in words what a thing lacks to be of this kind, "" where nothing."""
        missing = [name for name in self.needs if not hasattr(found, name)]
        return f"it has no {', '.join(missing)}, as every {self.kind} has" if missing else ""

    def __getitem__(self, name: str) -> T:
        """Return what is registered under a name; raises UsageError for none, PluginError where its import fails."""
        self._read_plugins()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        if name not in self._loaded:
            self._loaded[name] = self._import(self._entries[name])
        return self._loaded[name]

    def config(self, name: str) -> type[Any] | None:
        """Return the type of a thing's settings without importing the thing, None where nobody said where it is."""
        if name not in self:
            raise unknown_name(self.kind, name, self._entries)
        module, _, attribute = self._entries[name].config.partition(":")
        return getattr(importlib.import_module(module), attribute) if module else None

    def _import(self, entry: Registration) -> T:
        module, _, attribute = entry.target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
            if lacking := self._lacking(found):
                raise TypeError(f"{reprlib.repr(found)}: {lacking}")
            return found
        except DensebenchError:
            raise
        except (Exception, SystemExit) as error:
            said = (str(error).splitlines() or [""])[0][:200]
            raise PluginError(
                f"the {self.kind} {entry.name!r} ({entry.summary or entry.target}) cannot be imported from "
                f"{entry.target}: {type(error).__name__}: {said}. Fix or uninstall what registers it."
            ) from error

    def __contains__(self, name: object) -> bool:
        self._read_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[Registration]:
        self._read_plugins()
        return iter(self._entries[name] for name in self._entries)

    def names(self) -> list[str]:
        """Return all registered names in the order they were added."""
        return [entry.name for entry in self]

    def match(self, patterns: Iterable[str]) -> list[str]:
        """Expand names and wildcards (`dinov2*`) in order, without repeats; unknown ones raise."""
        found: dict[str, None] = {}
        for pattern in patterns:
            hits = fnmatch.filter(self.names(), pattern) if any(c in pattern for c in "*?[") else [pattern]
            if not hits or hits[0] not in self:
                raise unknown_name(self.kind, pattern, self.names())
            found.update(dict.fromkeys(hits))
        return list(found)

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        try:
            points = list(entry_points(group=self.group))
        except Exception as error:  # of another package, whose files are damaged
            self.problems.append(
                f"installed packages cannot be asked for {self.kind}s ({error}); their own are missing."
            )
            return
        for point in points:
            source = f"from {point.dist.name if point.dist else 'a plugin'}"
            taken = self._entries.get(point.name)
            if taken is None:
                self._entries[point.name] = Registration(point.name, point.value, source)
            elif taken.target != point.value:
                self.problems.append(
                    f"the {self.kind} {point.name!r} {source} is left out: the name is taken by {taken.target}."
                )
