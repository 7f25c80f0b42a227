"""Types of settings with their bounds: declared once at a field, checked by pydantic, printed in words.

>>> words(Count | None)
'a whole number of at least 1, or none'
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Gt(0), Le(1)]
"""Of a whole, of which none would leave nothing."""
Chance = Annotated[float, Ge(0), Le(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
Auto = Literal["auto"]
"""Beside the type of a setting that depends on model, data or machine: `Protocol.resolve` puts a value in its place."""
AtLeastOne = MinLen(1)
"""Of a tuple: `Annotated[tuple[Count, ...], AtLeastOne]`."""

NOUNS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", ""),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
    type(None): ("none", ""),
}
BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return what a union consists of, and any other type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def bare(hint: Any) -> Any:
    """Return a type without its bounds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def is_tuple(hint: Any) -> bool:
    """Return whether a type is a tuple of some kind."""
    return get_origin(bare(hint)) is tuple


def limits(hint: Any) -> str:
    """Return the bounds of a number in words, such as "at least 0 and below 1"; "" where there are none."""
    bounds = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return " and ".join(f"{BOUNDS[type(b)][1]} {getattr(b, BOUNDS[type(b)][0])}" for b in bounds if type(b) in BOUNDS)


def _told(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the types of a union without None where "none" is one of its choices, the same word to a user."""
    is_choice = any(get_origin(each) is Literal and "none" in get_args(each) for each in kinds)
    return tuple(each for each in kinds if not (is_choice and each is type(None)))


def words(hint: Any, several: bool = False) -> str:
    """Return what a type takes, in words: choices, bounds and how many."""
    if len(found := _told(alternatives(hint))) > 1:
        *firsts, last = (words(each, several) for each in found)
        return f"{', '.join(firsts)}{' or' if several else ', or'} {last}"
    plain = bare(found[0])
    if get_origin(plain) is Literal:
        *choices, last = map(repr, get_args(plain))
        return ", ".join([*choices, last]) if several or not choices else f"{', '.join(choices)} or {last}"
    if is_tuple(hint):
        items = get_args(plain)
        named = words(items[0], several=True)
        if items[-1] is not Ellipsis:
            return f"{len(items)} {named}"
        some = "one or more" if AtLeastOne in get_args(hint)[1:] else "any number"
        return f"{some}{' of' if get_origin(bare(items[0])) is Literal or some != 'one or more' else ''} {named}"
    noun = NOUNS.get(plain, (getattr(plain, "__name__", str(plain)),) * 2)[several]
    bounds = limits(hint)
    return f"{noun} {'of ' if bounds.startswith('at') else ''}{bounds}".strip()


PICTURES = 6
"""Examples in each picture of a record where nothing else is asked for."""
MOST_PICTURES = 64
"""More in one picture cannot be seen, and are too wide to be drawn."""
