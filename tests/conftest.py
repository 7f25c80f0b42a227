"""Every test has its own cache, zoo and settings; none reads the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two test processes share two cores
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in ("CACHE", "ZOO", "CONFIG"):
        monkeypatch.setenv(f"DENSEBENCH_{name}", str(home / name.lower()))
    for name in ("DATA", "OFFLINE", "WEIGHTS"):
        monkeypatch.delenv(f"DENSEBENCH_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and weights; tests that need it are skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared/data (real images and weights), which is not beside this checkout")
    return SHARED / "data"
