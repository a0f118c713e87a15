"""Docker as a place: the same request in a container of the image."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
import sagemaker_training.errors
import six

from launching import REPOSITORY, STUB_JOB

BASE_IMAGES = ("python-local:3.11-slim-bookworm", "python:3.11-slim-bookworm")
STUB_IMAGE = "position-trainer-launch-test"


def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def engine():
    if not shutil.which("docker") or docker("info").returncode:
        pytest.skip("no Docker engine answers (DOCKER_HOST)")


@pytest.fixture(scope="session")
def stub_image(engine, tmp_path_factory):
    """An image whose `train` is the miniature, made in a second."""
    base = next((name for name in BASE_IMAGES if not docker("image", "inspect", name).returncode), None)
    if base is None:
        pytest.skip(f"none of the images {', '.join(BASE_IMAGES)} is here")
    folder = tmp_path_factory.mktemp("image")
    (folder / "stub_job.py").write_text(STUB_JOB)
    shutil.copytree(REPOSITORY / "container" / "ml", folder / "ml")
    (folder / "sagemaker_training").mkdir()  # what ml.platform.job needs of the toolkit, with what that needs
    shutil.copy(sagemaker_training.errors.__file__, folder / "sagemaker_training")
    shutil.copy(six.__file__, folder)
    (folder / "train").write_text(
        "#!/usr/bin/env python\nimport sys\nsys.path.insert(0, '/program')\nimport stub_job\nstub_job.main()\n"
    )
    (folder / "train").chmod(0o755)
    (folder / "Dockerfile").write_text(
        f'FROM {base}\nENV PYTHONUNBUFFERED=1 PATH=/program:$PATH\nCOPY . /program\nCMD ["train"]\n'
    )
    built = docker("build", "--quiet", "--tag", STUB_IMAGE, str(folder))
    assert built.returncode == 0, built.stderr
    yield STUB_IMAGE
    docker("image", "rm", "--force", STUB_IMAGE)


@pytest.fixture
def options(launch, stub_image):
    return ["--on", "docker", "--image", stub_image, "--network-isolation", *launch.stub]


def test_a_job_sees_and_leaves_the_same_as_in_a_process(launch, options):
    out = launch("train", *options, "--name", "one")
    assert "one: Completed" in out
    launch("train", *launch.stub, "--name", "two")
    in_container, in_process = (launch.record(name, "output/data/seen.json") for name in ("one", "two"))
    for name in ("parameters", "data"):
        assert in_container[name] == in_process[name]
    assert launch.record("one", "model/metrics.json") == launch.record("two", "model/metrics.json")
    assert launch.record("one")["FinalMetricDataList"] == launch.record("two")["FinalMetricDataList"]
    for path in (launch.runs / "one").rglob("*"):
        assert path.stat().st_uid == os.getuid()


def test_the_reason_of_a_failure_is_the_same_as_in_a_process(launch, options):
    out = launch("train", *options, "--set", "optimizer=sgd", expect=1)
    assert out.rstrip().splitlines()[-1] == "AlgorithmError: sgd is not for me, exit code: 1"


def test_an_image_that_is_not_there_is_told(launch, options):
    out = launch("train", *options, "--image", "localhost:1/no/such:image", expect=1)
    assert re.match(
        r"ClientError: there is no image localhost:1/no/such:image here \(`make image` builds it, .*: \S+",
        out.rstrip().splitlines()[-1],
    )


def test_ctrl_c_stops_the_container_cleanly(launch, options):
    process = launch.start("train", *options, "--set", "epochs=600", "--env", "STUB_SECONDS=0.05", "--name", "one")
    launch.wait_for(lambda: b"epoch=2/" in (launch.runs / "one" / "job.log").read_bytes())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert launch.record("one")["TrainingJobStatus"] == "Stopped"
    assert len(launch.record("one", "model/metrics.json")["epochs"]) >= 2
    assert docker("ps", "--all", "--quiet", "--filter", "name=^one$").stdout == ""


def test_a_search_in_containers(launch, options):
    found = json.loads(launch("tune", *options, "--name", "t", "--max-jobs", 2, "--max-parallel", 2, "--json"))
    assert [trial["TrainingJobStatus"] for trial in found["Trials"]] == ["Completed"] * 2


def test_the_image_and_the_process_train_alike_to_the_last_digit(launch, image):
    for place in ("local", "docker"):
        launch(
            "train",
            "--on",
            place,
            "--image",
            image,
            "--name",
            place,
            "--sample-rows",
            4000,
            "--set",
            "lookback=60",
            "--set",
            "nodes=32",
            "--set",
            "epochs=2",
        )
    logs = [
        [
            line.split(" windows_per_second")[0]
            for line in (launch.runs / place / "job.log").read_text().splitlines()
            if line.startswith("epoch=")
        ]
        for place in ("local", "docker")
    ]
    assert len(logs[0]) == 2
    assert logs[0] == logs[1]
