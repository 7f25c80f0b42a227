"""Settings as pages show them: each field with its default, what it takes, and the sentence written below it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from densebench.core.bounds import words
from densebench.core.config import Preset, field_types


def meanings(config: type) -> dict[str, str]:
    """Return the sentences below a config's fields in its source; what a subclass says of a field goes first."""
    found: dict[str, str] = {}
    for each in reversed(config.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        except (OSError, TypeError, SyntaxError):  # a builtin, or what has no source
            continue
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ):
                    found[name] = " ".join(said.split())
    return found


def setting_lines(config: type, width: int = 118) -> Iterator[str]:
    """Yield a line for each field of a config, `name = default: what it takes`, and below it what it means."""
    types, said = field_types(config), meanings(config)
    for field in dataclasses.fields(config):
        yield f"{field.name} = {shown(field.default)}: {words(types[field.name])}"
        yield from textwrap.wrap(said.get(field.name, ""), width, initial_indent="    ", subsequent_indent="    ")


def preset_lines(presets: Mapping[str, Preset]) -> Iterator[str]:
    """Yield a line for each preset: what differs from the defaults, and the source."""
    for name, preset in presets.items():
        changes = ", ".join(f"{field}={shown(value)}" for field, value in preset.settings.items()) or "the defaults"
        yield f"  {name}: {changes}. Source: {preset.source}"


def shown(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_quoted, value))}]"
    return str(value) if isinstance(value, str) else _quoted(value)


def _quoted(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, (str, Path)) else repr(value)
