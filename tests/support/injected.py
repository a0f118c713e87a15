"""A script run again for each system call that it makes in a folder, with that call failing (by strace)."""

import collections
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CONTAINER = Path(__file__).resolve().parents[2] / "container"
ERRORS = {
    "write": "ENOSPC",
    "fsync": "EIO",
    "openat": "ENOSPC",
    "rename": "EROFS",
    "mkdir": "ENOSPC",
    "unlink": "EROFS",
}


def failing_calls(script: str, folder: Path, prepare, syscalls=tuple(ERRORS)) -> Iterator[tuple[str, int, str, str]]:
    """Runs a Python script on a folder again and again, each time with one more of its system calls failing.

    Args:
        script: Python code; finds the folder in sys.argv[1].
        folder: what it works in. Calls on other paths, such as Python's own imports, never fail.
        prepare: called before each run, to bring the folder into its first state.
        syscalls: which calls fail, each with its error of `ERRORS`.

    Yields:
        (the call that failed, the script's return code, standard output, standard error) of each run.
    """
    if not shutil.which("strace"):
        pytest.skip("strace is not installed (apt-get install strace)")
    trace = folder.parent / "strace.txt"
    for number, syscall in _calls(script, folder, prepare, syscalls, trace):
        prepare()
        options = ("-e", f"inject={syscall}:error={ERRORS[syscall]}:when={number}")
        done = _traced(script, folder, (syscall,), trace, options)
        injected = [line for line in trace.read_text().splitlines() if "(INJECTED)" in line]
        assert len(injected) == 1 and str(folder) in injected[0], f"another call failed: {injected}"
        yield injected[0], done.returncode, done.stdout, done.stderr


def _calls(script, folder, prepare, syscalls, trace) -> list[tuple[int, str]]:
    """(n, system call) of each call on the folder that a run without faults makes; n counts all calls of the kind."""
    prepare()
    done = _traced(script, folder, syscalls, trace, ())
    assert done.returncode == 0, done.stderr
    seen, found = collections.Counter(), []
    for line in trace.read_text().splitlines():
        if call := re.match(r"(\w+)\(", line):
            seen[call[1]] += 1
            if str(folder) in line:
                found.append((seen[call[1]], call[1]))
    assert found, "the script did nothing in the folder"
    return found


def _traced(script, folder, syscalls, trace, options):
    # `make coverage` measures processes that are started, by system calls of its own, which differ from run to run.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [
            *("strace", "--decode-fds=path", "--string-limit=0", "-o", trace, "-e", f"trace={','.join(syscalls)}"),
            *options,
            *(sys.executable, "-c", script, folder),
        ],
        env=environment | {"PYTHONPATH": str(CONTAINER), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and "Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace processes here (ptrace is not permitted)")
    return done
