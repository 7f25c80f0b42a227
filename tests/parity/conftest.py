"""Where the golden vectors of the tests lie; tests/golden/README.md says where they come from."""

from pathlib import Path

import pytest


@pytest.fixture
def golden_dir() -> Path:
    return Path(__file__).parents[1] / "golden"
