"""A Docker engine, and an image whose job is the miniature."""

import os
import shutil
import subprocess

import pytest
import sagemaker_training.errors
import six

from launching import REPOSITORY, STUB_JOB

BASE_IMAGES = ("python-local:3.11-slim-bookworm", "python:3.11-slim-bookworm")
STUB_IMAGE = f"position-trainer-launch-test:{os.getpid()}"  # of this run, which removes it
STUB_TRAIN = """#!/usr/bin/env python
import pathlib, runpy, sys
sys.path.insert(0, '/program')
own = pathlib.Path('/opt/ml/input/data/code/mine.py')
if own.exists():
    runpy.run_path(str(own), run_name='__main__')
else:
    import stub_job
    stub_job.main()
"""


def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def engine():
    if not shutil.which("docker") or docker("info").returncode:
        pytest.skip("no Docker engine answers (DOCKER_HOST)")


@pytest.fixture(scope="session")
def stub_image(engine, tmp_path_factory):
    """An image whose `train` is the miniature, or mine.py in a channel `code`; made in a second."""
    base = next((name for name in BASE_IMAGES if not docker("image", "inspect", name).returncode), None)
    if base is None:
        pytest.skip(f"none of the images {', '.join(BASE_IMAGES)} is here")
    folder = tmp_path_factory.mktemp("image")
    (folder / "stub_job.py").write_text(STUB_JOB)
    shutil.copytree(REPOSITORY / "container" / "ml", folder / "ml")
    (folder / "sagemaker_training").mkdir()  # what ml.platform.job needs of the toolkit, with what that needs
    shutil.copy(sagemaker_training.errors.__file__, folder / "sagemaker_training")
    shutil.copy(six.__file__, folder)
    (folder / "train").write_text(STUB_TRAIN)
    (folder / "train").chmod(0o755)
    (folder / "Dockerfile").write_text(
        f'FROM {base}\nENV PYTHONUNBUFFERED=1 PATH=/program:$PATH\nCOPY . /program\nCMD ["train"]\n'
    )
    built = docker("build", "--quiet", "--tag", STUB_IMAGE, str(folder))
    assert built.returncode == 0, built.stderr
    yield STUB_IMAGE
    docker("image", "rm", "--force", STUB_IMAGE)
