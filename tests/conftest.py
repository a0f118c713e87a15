"""Fixtures that every test may use."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A shell's background command ignores it, and so would what the tests start and send a Ctrl-C to.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["browser", "kydb_servers", "launching"]

IMAGE = os.environ.get("POSITION_TRAINER_TEST_IMAGE") or "position-trainer:test"
_REPOSITORY = Path(__file__).resolve().parents[1]
_SHARED = Path(os.environ.get("POSITION_TRAINER_SHARED") or Path(__file__).resolve().parents[2] / "shared")


@pytest.fixture(scope="session")
def shared():
    """The folder with real prices and reference values, which the project does not ship."""
    if not (_SHARED / "golden").is_dir():
        pytest.skip(f"real prices and golden values are not at {_SHARED} (set POSITION_TRAINER_SHARED)")
    return _SHARED


@pytest.fixture(scope="session")
def image():
    """The image, built from the checkout."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers (DOCKER_HOST); .ci/run starts one where it can")
    built = subprocess.run(
        ["make", "--silent", "image", f"IMAGE={IMAGE}"], cwd=_REPOSITORY, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return IMAGE
