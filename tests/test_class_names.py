"""A class name means one thing in the package."""

import ast
from collections import defaultdict
from pathlib import Path

import densebench

ALIKE = {"Strict"}
"""Defined more than once with one meaning: a pydantic model that refuses what it does not know."""


def test_no_two_classes_have_one_name():
    root = Path(densebench.__file__).parent
    found = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(f"{path.relative_to(root)}:{node.lineno}")
    assert len(found) > 300
    assert {name: places for name, places in found.items() if len(places) > 1 and name not in ALIKE} == {}
