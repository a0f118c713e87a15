"""`push` looks at an image before it sends gigabytes that no instance of SageMaker can run."""

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from image import refuse_wrong_platform
from launch import main


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Stands in for docker: answers `image inspect` and fails at everything else."""

    def answer(platform):
        program = tmp_path / "docker"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" = image ] || exit 9\n'
            + (f"echo {platform}\n" if platform else "echo No such image: mine >&2\nexit 1\n")
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return tmp_path / "calls"

    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "told"),
    [
        ("linux/arm64", "is for linux/arm64, and SageMaker's instances are linux/amd64; build it with: docker build "
         "--platform linux/amd64 --tag mine .\n"),
        ("windows/amd64", "is for windows/amd64, and"),
        ("", "cannot be looked at: No such image: mine; `make image` builds it\n"),
    ],
)  # fmt: skip
def test_an_image_that_sagemaker_cannot_run_is_not_pushed(docker, platform, told):
    calls = docker(platform)
    result = CliRunner().invoke(main, ["push", "--image", "mine", "--region", "eu-west-1"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"error: the image mine {told}" in result.stderr
    assert len(calls.read_text().splitlines()) == 1  # docker was asked, and nothing else


@pytest.mark.slow
def test_an_image_of_linux_on_amd64_passes(docker):
    docker("linux/amd64")
    refuse_wrong_platform("mine")


@pytest.mark.slow
def test_a_real_engine_answers_in_that_form():
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers (DOCKER_HOST)")
    names = subprocess.run(["docker", "images", "--quiet"], capture_output=True, text=True, check=True).stdout.split()
    if not names:
        pytest.skip("the engine has no image")
    refuse_wrong_platform(names[0])
