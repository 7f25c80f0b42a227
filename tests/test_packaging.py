"""What an installed densebench holds."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_wheel_holds_every_file_of_the_package() -> None:
    """Weights, cards and tables that code reads are matched by the patterns of package data, which skip folders."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["densebench"]
    package = ROOT / "densebench"
    shipped = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    files = {p for p in package.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts}
    assert package / "model_zoo" / "weights" / "pico" / "weights.safetensors" in files
    assert files == shipped
