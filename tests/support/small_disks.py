"""Small disks, mounted over a folder, to be filled up."""

import contextlib
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def mounted(path, *options):
    """A tmpfs over a folder."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "none", path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here (it needs privileges): {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(folder, leave=0):
    """Takes the rest of a small disk, but for so many bytes."""
    with (folder / "filler").open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(0, shutil.disk_usage(folder).free - leave)))
        file.flush()
