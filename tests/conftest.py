"""Fixtures that every test may use, and the two kinds of tests: fast ones and slow ones.

A slow test starts a process, a server, a container or a browser, or trains for long. All of end_to_end/ is marked slow,
and so is a test whose fixtures make it slow; others are marked by hand (`@pytest.mark.slow`). A test that is not marked
and starts a process fails.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# A shell's background command ignores it, and so would what the tests start and send a Ctrl-C to.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["browser", "kydb_servers", "launching"]

IMAGE = os.environ.get("POSITION_TRAINER_TEST_IMAGE") or "position-trainer:test"
_REPOSITORY = Path(__file__).resolve().parents[1]
_SHARED = Path(os.environ.get("POSITION_TRAINER_SHARED") or Path(__file__).resolve().parents[2] / "shared")

_SLOW_FIXTURES = {"launch", "browser", "aws", "redis_address", "image", "engine"}
_SERVED_BACKENDS = {"redis", "s3", "dynamodb", "s3rver", "dynalite"}


def pytest_collection_modifyitems(items):
    """Marks slow tests, and puts the files of those first.

    A file goes to one process, so that the files which take long are begun with and short ones fill up the end.
    """
    end_to_end = Path(__file__).with_name("end_to_end")
    for item in items:
        fixtures = set(item.fixturenames)
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        served = any(isinstance(value, str) and value in _SERVED_BACKENDS for value in parameters)
        if end_to_end in item.path.parents or fixtures & _SLOW_FIXTURES or served:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (end_to_end not in item.path.parents, item.path not in slow))


_current = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from _being_run(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _being_run(item))


def _being_run(item):
    """Notes which test is run; a teardown is left out, which may be that of a fixture that slow tests shared."""
    global _current
    _current = item
    try:
        return (yield)
    finally:
        _current = None


def _refuse_processes_of_fast_tests(event, _):
    starts = event in ("subprocess.Popen", "os.posix_spawn", "os.fork")
    if starts and _current and not _current.get_closest_marker("slow"):
        raise AssertionError(f"{_current.nodeid} starts a process: mark it with @pytest.mark.slow")


sys.addaudithook(_refuse_processes_of_fast_tests)


@pytest.fixture(scope="session")
def shared():
    """The folder with real prices and reference values, which the project does not ship."""
    if not (_SHARED / "golden").is_dir():
        pytest.skip(f"real prices and golden values are not at {_SHARED}: set POSITION_TRAINER_SHARED to their folder")
    return _SHARED


@pytest.fixture(scope="session")
def image():
    """The image, built from the checkout."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers: install Docker or set DOCKER_HOST")
    built = subprocess.run(
        ["make", "--silent", "image", f"IMAGE={IMAGE}"], cwd=_REPOSITORY, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return IMAGE
