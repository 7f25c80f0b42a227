"""What an installed densebench holds, and what it says it needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = ("import_module", "find_spec", "importorskip", "__import__")
"""Functions that take the name of a module."""
TWINS = {"faiss-cpu": "faiss", "faiss-gpu-cuvs": "faiss"}
"""Modules of distributions that exclude each other."""
COMMANDS = {
    "pytest-xdist": "pytest -n", "ruff": "ruff check", "mypy": "mypy", "import-linter": "lint-imports",
    "mkdocs": "mkdocs build",
}  # fmt: skip
"""How the Makefile uses distributions that no line imports."""
PLUGINS = {"mkdocstrings-python": "mkdocstrings:"}
"""How mkdocs.yml uses others."""


@cache
def imported(*folders: str) -> dict[str, Path]:
    """Return the modules of others that the code in some folders imports, in functions too, each with a file."""
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in _modules(node):
                found.setdefault(name.split(".")[0], path)
    own = {"densebench", "tests", *(path.stem for folder in folders for path in (ROOT / folder).glob("*.py"))}
    return {name: path for name, path in found.items() if name not in own | sys.stdlib_module_names}


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = getattr(node.func, "attr", getattr(node.func, "id", None))
        return [str(node.args[0].value)] if function in ASKED else []
    return []


def declared(*extras: str) -> set[str]:
    """Return the distributions of some extras, and of the plain install where none is named."""
    parts = [PROJECT["optional-dependencies"][extra] for extra in extras] or [PROJECT["dependencies"]]
    return {_canonical(re.split(r"[^\w.-]", text)[0]) for part in parts for text in part}


def modules_of(distributions: Iterable[str]) -> dict[str, set[str]]:
    """Return the modules that each distribution brings; one that this machine cannot have is taken by its name."""
    brought: dict[str, set[str]] = {}
    for module, owners in packages_distributions().items():
        for owner in map(_canonical, owners):
            brought.setdefault(owner, set()).add(module)
    return {name: brought.get(name, {TWINS.get(name, name.replace("-", "_"))}) for name in distributions}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


EXTRAS = sorted(set(PROJECT["optional-dependencies"]) - {"dev", "docs"})
"""Extras that the package imports; the others are tools."""


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_nothing_is_declared_that_the_package_does_not_import(extra: str) -> None:
    used = imported("densebench")
    modules = modules_of(declared(*[extra] if extra else []))
    assert [name for name, brought in modules.items() if not brought & set(used)] == []


def test_nothing_is_declared_for_tests_that_they_do_not_use() -> None:
    used, makefile = imported("tests", "benchmarks"), (ROOT / "Makefile").read_text()
    for name, brought in modules_of(declared("dev")).items():
        if name in COMMANDS:
            assert COMMANDS[name] in makefile
        elif name in PLUGINS:
            assert PLUGINS[name] in (ROOT / "mkdocs.yml").read_text()
        elif name.endswith("-stubs"):
            assert name.removesuffix("-stubs") in declared()  # types of a library for mypy
        else:
            assert brought & set(used), f"{name} is declared and never imported"


@pytest.mark.parametrize(
    ("folders", "extras"), [(("densebench",), EXTRAS), (("tests", "benchmarks"), [*EXTRAS, "dev"])]
)
def test_nothing_is_imported_that_is_not_declared(folders: tuple[str, ...], extras: list[str]) -> None:
    known = set().union(*modules_of(declared() | declared(*extras)).values())
    assert {name: path for name, path in imported(*folders).items() if name not in known} == {}


def test_the_plain_install_imports_every_module_of_the_package_that_loads_no_extra() -> None:
    """Extras are imported in functions, where their absence is an error that says what to install."""
    optional = set().union(*modules_of(declared(*EXTRAS)).values())
    for path in sorted((ROOT / "densebench").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = {name.split(".")[0] for name in _modules(node)}
            assert not names & optional, f"{path} imports {names & optional} at its top"


def test_every_distribution_is_pinned_once() -> None:
    """`make test` installs the same everywhere; twice pinned is once wrong."""
    pinned = [_canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()]
    assert len(pinned) == len(set(pinned))
    assert declared() | declared("cpu", "gpu", "communities", "nyu", "page", "dev") <= set(pinned)


def test_a_wheel_holds_every_file_of_the_package() -> None:
    """Weights, cards and tables that code reads are matched by the patterns of package data, which skip folders."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["densebench"]
    package = ROOT / "densebench"
    shipped = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    files = {p for p in package.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts}
    assert package / "model_zoo" / "weights" / "pico" / "weights.safetensors" in files
    assert files == shipped


def test_the_tools_of_an_extra_are_there_for_tests_too() -> None:
    assert declared("docs") <= declared("dev")


def test_the_citation_is_of_this_version_and_licence() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    cited = dict(re.findall(r"^([\w-]+): (\S.*)$", text, re.M))
    assert cited["cff-version"] == "1.2.0"
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert {"message", "title", "type"} <= cited.keys()
    assert re.findall(r"^  - name: (.*)$", text, re.M) == ["densebench contributors"]
