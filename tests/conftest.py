"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

pytest_plugins = ["browser", "kydb_servers", "launching"]

_SHARED = Path(os.environ.get("POSITION_TRAINER_SHARED") or Path(__file__).resolve().parents[2] / "shared")


@pytest.fixture(scope="session")
def shared():
    """The folder with real prices and reference values, which the project does not ship."""
    if not (_SHARED / "golden").is_dir():
        pytest.skip(f"real prices and golden values are not at {_SHARED} (set POSITION_TRAINER_SHARED)")
    return _SHARED
