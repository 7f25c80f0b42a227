"""Reading the golden vectors; tests/golden/README.md says where they come from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked ``golden("a_*")`` once per matching file, as its ``vectors``."""
    mark = metafunc.definition.get_closest_marker("golden")
    if mark is None:
        return
    files = sorted(GOLDEN.glob(f"{mark.args[0]}.npz"))
    if not files:
        raise pytest.UsageError(f"no golden file matches {mark.args[0]}")
    metafunc.parametrize("vectors", files, ids=lambda path: path.stem, indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(pattern): run once per golden file that matches")


def read(path: Path) -> dict[str, Tensor]:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@pytest.fixture
def vectors(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return read(request.param)


@pytest.fixture
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture
def close() -> Callable[[Tensor, Tensor, float], None]:
    """Compare with rtol = atol, as the golden README states tolerances."""

    def check(found: Tensor, expected: Tensor, tolerance: float) -> None:
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)

    return check
